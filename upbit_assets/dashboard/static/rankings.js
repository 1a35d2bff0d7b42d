// The rankings by turnover and by volatility.

import { percent } from "./figures.js";
import { byId, element, figure, marketRows, minuteOf, tableBody, won } from "./page.js";
import { language, state, translation } from "./state.js";

/** @import { Market } from "./api.js" */

export function drawRankings() {
  const { markets, market: chosen } = state;
  const byTurnover = {
    chosen,
    rank: (/** @type {Market} */ one) => one.rank_volume,
    last: (/** @type {Market} */ one) => won(one.turnover_krw, language.get()),
    share: share(markets, "turnover_krw"),
  };
  marketRows(tableBody("top10"), markets.slice(0, 10), byTurnover);
  const volatile = markets.filter(hasMoved).sort(byVolatility).slice(0, 10);
  marketRows(tableBody("volatility"), volatile, {
    chosen,
    rank: (one) => one.rank_volatility,
    last: (one) => figure(one.volatility, percent(one.volatility, { sign: false })),
    share: share(volatile, "volatility"),
  });
  byId("unmoved").hidden = volatile.length > 0 || !markets.length;
  if (!byId("all").hidden) marketRows(tableBody("all"), markets, byTurnover);
  byId("window").textContent = state.status?.window_start
    ? translation().window(minuteOf(state.status.window_start))
    : "";
  byId("codes").replaceChildren(...markets.map((one) => element("option", { value: one.market })));
}

/**
 * Whether its rank by volatility is meaningful: while no price has moved, all markets are first.
 * @param {Market} one @returns {one is Market & { volatility: string, rank_volatility: number }}
 */
export function hasMoved(one) {
  return Number(one.volatility) > 0;
}

/** @param {Market & { rank_volatility: number }} a @param {Market & { rank_volatility: number }} b */
function byVolatility(a, b) {
  return a.rank_volatility - b.rank_volatility || (a.market < b.market ? -1 : 1);
}

/**
 * The length of the bar; inexact, for drawing only.
 * @param {Market[]} markets @param {"turnover_krw" | "volatility"} name
 */
function share(markets, name) {
  const most = Math.max(...markets.map((one) => Number(one[name])), Number.MIN_VALUE);
  return (/** @type {Market} */ one) => Number(one[name] ?? 0) / most;
}

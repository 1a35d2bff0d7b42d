// The rankings by turnover and by volatility.

import { percent } from "./figures.js";
import { byId, element, figure, marketRows, minuteOf, nameOf, tableBody, won } from "./page.js";
import { language, state, translation } from "./state.js";

/** @import { Market } from "./api.js" */

export function drawRankings() {
  const { markets, market: chosen } = state;
  const byTurnover = {
    chosen,
    rank: (/** @type {Market} */ market) => market.rank_volume,
    last: (/** @type {Market} */ market) => won(market.turnover_krw, language.get()),
    share: share(markets, "turnover_krw"),
  };
  marketRows(tableBody("top10"), markets.slice(0, 10), byTurnover);
  const volatile = markets.filter(hasMoved).sort(byVolatility).slice(0, 10);
  marketRows(tableBody("volatility"), volatile, {
    chosen,
    rank: (market) => market.rank_volatility,
    last: (market) => figure(market.volatility, percent(market.volatility, { sign: false })),
    share: share(volatile, "volatility"),
  });
  byId("unmoved").hidden = volatile.length > 0 || !markets.length;
  if (!byId("all").hidden) marketRows(tableBody("all"), markets, byTurnover);
  byId("window").textContent = state.status?.window_start
    ? translation().window(minuteOf(state.status.window_start))
    : "";
  byId("codes").replaceChildren(
    ...markets.map((market) => element("option", { value: market.market, label: nameOf(market, language.get()) })),
  );
}

/**
 * Whether its rank by volatility is meaningful: while no price has moved, all markets are first.
 * @param {Market} market @returns {market is Market & { volatility: string, rank_volatility: number }}
 */
export function hasMoved(market) {
  return Number(market.volatility) > 0;
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
  const largest = Math.max(...markets.map((market) => Number(market[name])), Number.MIN_VALUE);
  return (/** @type {Market} */ market) => Number(market[name] ?? 0) / largest;
}

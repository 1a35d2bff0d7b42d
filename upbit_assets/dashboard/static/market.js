// The chosen market: its figures and its chart.

import { get, getAll, serverNow } from "./api.js";
import { candleChart, timeOf as chartTime } from "./chart.js";
import { brief, full, percent } from "./figures.js";
import { byId, change, element, figure, minuteOf, nameOf, price, quantity, warningsOf, won } from "./page.js";
import { hasMoved } from "./rankings.js";
import { SPANS, language, state, translation } from "./state.js";

/** @import { Candle, Market } from "./api.js" */
/** @typedef {[string, ...(Node | string)[]]} Fact */

export const chart = candleChart(byId("chart"), { hovered: (row) => drawLegend(row) });

export function drawMarket() {
  const row = state.markets.find(({ market }) => market === state.market);
  byId("market-code").textContent = state.market ?? "";
  byId("market-name").textContent = row ? nameOf(row, language.get()) : "";
  byId("market-warnings").textContent = row ? warningsOf(row, translation()).join(" · ") : "";
  byId("market-price").replaceChildren(...(row ? [price(row.trade_price)] : []));
  byId("market-quote").textContent = row?.quote_currency ?? "";
  byId("market-change").replaceChildren(...(row ? [change(row.change_rate)] : []));
  byId("market-figures").replaceChildren(
    ...(row ? facts(row) : []).map(([name, ...shown]) =>
      element("div", {}, element("dt", {}, translation()[name]), element("dd", {}, ...shown)),
    ),
  );
  document.title = [row && `${full(row.trade_price)} ${row.market}`, translation().board].filter(Boolean).join(" · ");
}

/** @param {Market} row @returns {Fact[]} */
function facts(row) {
  const unit = (/** @type {string} */ text) => element("span", { class: "unit" }, ` ${text}`);
  const ranked = (/** @type {number} */ rank, of = state.markets.length) => translation().ranked(rank, of);
  const volatile = state.markets.filter(({ rank_volatility: rank }) => rank !== null).length;
  return [
    ["turnover24", row.turnover_krw === null ? translation().noRate : won(row.turnover_krw, language.get())],
    ["volume24", quantity(row.daily_volume), unit(row.market.split("-")[1])],
    ["change24", change(row.change_rate_24h)],
    ["vwap10", row.vwap === null ? figure(null) : figure(row.vwap, brief(row.vwap))],
    ["low10", price(row.window_low)],
    ["high10", price(row.window_high)],
    [
      "volatilityShort",
      figure(row.volatility, row.volatility === null ? "" : percent(row.volatility, { sign: false })),
      ...(hasMoved(row) ? [unit(ranked(row.rank_volatility, volatile))] : []),
    ],
    ["rankTurnover", ranked(row.rank_volume)],
  ];
}

/** @param {string} market @param {string} span */
export async function readCandles(market, span) {
  const [minutes, unit] = SPANS[span];
  // rounded to the minute, so that all pages send the same request, which the server caches
  const to = new Date(Math.ceil(serverNow() / 60_000) * 60_000),
    from = new Date(to.getTime() - minutes * 60_000);
  const query = { from: from.toISOString(), to: to.toISOString() };
  const path = `/api/markets/${market}`;
  const [{ rows }, vwaps] = await Promise.all([
    get(`${path}/candles`, { ...query, unit: String(unit) }),
    getAll(minutes > 1440 ? `${path}/days` : `${path}/windows`, query),
  ]);
  const prices = rows.length ? [] : minutes > 1440 ? await getAll(`${path}/windows`, query) : vwaps;
  return {
    rows,
    step: unit * 60,
    prices: prices.map((row) => ({ time: chartTime(row.window_start), price: row.trade_price })),
    vwaps: vwaps.map((row) => ({ time: chartTime(row.window_start ?? row.day), price: row.vwap })),
  };
}

export function drawCandles(fit = false) {
  const { candles } = state;
  if (!candles) return;
  chart.draw({ ...candles, fit });
  const note = byId("chart-note");
  note.textContent = candles.rows.length ? "" : candles.prices.length ? translation().line : translation().nothing;
  note.hidden = !note.textContent;
  note.classList.toggle("alone", !candles.prices.length);
  drawLegend();
  const last = candles.rows.at(-1);
  byId("chart-caption").textContent =
    `${state.market} ${translation()[state.span]}. ` +
    (last ? `${minuteOf(last.started_at)} ${byId("legend").textContent}` : note.textContent);
}

/** @param {Candle} [row] */
function drawLegend(row = state.candles?.rows.at(-1)) {
  const key = (/** @type {string} */ name) => element("span", { class: "name" }, translation()[name]);
  const entries = row
    ? [
        element("time", { datetime: row.started_at }, minuteOf(row.started_at).slice(5)),
        element("span", {}, key("opening"), price(row.opening_price)),
        element("span", {}, key("high"), price(row.high_price)),
        element("span", {}, key("low"), price(row.low_price)),
        element("span", {}, key("closing"), price(row.closing_price)),
        element("span", {}, key("volume"), quantity(row.volume)),
      ]
    : [];
  const hasVwap = state.candles?.vwaps.some((point) => point.price !== null);
  byId("legend").replaceChildren(
    ...entries,
    ...(hasVwap ? [element("span", { class: "vwap" }, translation().vwap)] : []),
  );
}

// Live data of the stream, merged into the figures of the newest window.

import { direction, sum } from "./figures.js";
import { state } from "./state.js";

/** @import { Book, Candle, Market } from "./api.js" */
/** @typedef {[market: string, price: string, rate: string, volume: string, turnover: string, turnover_krw: string | null]} Ticker */
/** @typedef {[traded_at: string, price: string, volume: string, taker: "BID" | "ASK"]} Trade */
/**
 * @typedef {object} LiveMarket
 * @property {string} market
 * @property {Partial<Book> | null} book
 * @property {Candle | null} candle of the newest minute
 * @property {string | null} strength bought / sold volume in percent
 * @property {Trade[]} trades the newest first
 */

const SILENT_AFTER = 10_000; // ms without a ticker of any market after which the stream counts as down
const SEOUL = 9 * 3600;

/** @type {Map<string, Ticker>} */
const newest = new Map();
/** The age of the newest ticker when it was received (ms), and when that was. */
let last = { age: 0, at: -Infinity };

export const isLive = () => performance.now() - last.at < SILENT_AFTER;

/** The delay from the exchange's clock to this page, in seconds. */
export const liveAge = () => Math.max(0, last.age + performance.now() - last.at) / 1000;

/** @param {{ sent_at: number, read_at: number, rows: Ticker[] }} event */
export function takeTickers({ sent_at, read_at, rows }) {
  last = { age: read_at - sent_at, at: performance.now() };
  for (const row of rows) newest.set(row[0], row);
  state.markets = withTickers(state.markets);
}

/** Called when the stream is down: its data is older than the newest window. */
export function forgetTickers() {
  newest.clear();
  last = { age: 0, at: -Infinity };
}

/** The markets with live figures, ranked again. @param {Market[]} markets @returns {Market[]} */
export function withTickers(markets) {
  if (!newest.size) return markets;
  const updated = markets.map((one) => {
    const ticker = newest.get(one.market);
    if (!ticker) return one;
    const [, trade_price, change_rate, daily_volume, , turnover_krw] = ticker;
    return { ...one, trade_price, change_rate, daily_volume, turnover_krw: turnover_krw ?? one.turnover_krw };
  });
  updated.sort((a, b) => compare(b.turnover_krw, a.turnover_krw) || (a.market < b.market ? -1 : 1));
  let rank = 1;
  return updated.map((one, place) => {
    if (place && compare(one.turnover_krw, updated[place - 1].turnover_krw)) rank = place + 1;
    return one.rank_volume === rank ? one : { ...one, rank_volume: rank };
  });
}

/** The sign is that of a - b; null is the smallest. @param {string | null} a @param {string | null} b */
function compare(a, b) {
  if (a === null || b === null) return Number(b === null) - Number(a === null);
  // exact comparison if floats are equal
  return Number(a) - Number(b) || (a === b ? 0 : direction(sum([a, `-${b}`])));
}

/** @param {string} a @param {string} b */
const larger = (a, b) => (compare(a, b) < 0 ? b : a);
/** @param {string} a @param {string} b */
const smaller = (a, b) => (compare(a, b) > 0 ? b : a);

/**
 * Candles with the newest minute: as a separate candle, or merged into the last one (whose volume is updated by the next request).
 * @param {Candle[]} rows @param {number} step a candle's length in seconds @param {Candle} minute
 */
export function withMinute(rows, step, minute) {
  const start = Math.floor(Date.parse(minute.started_at) / 1000 / step) * step;
  const before = rows.at(-1);
  const startOf = (/** @type {Candle} */ row) => Date.parse(row.started_at) / 1000;
  if (before && startOf(before) > start) return rows;
  if (!before || startOf(before) < start) return [...rows, { ...minute, started_at: inSeoul(start) }];
  if (step === 60) return [...rows.slice(0, -1), minute];
  return [
    ...rows.slice(0, -1),
    {
      ...before,
      high_price: larger(before.high_price, minute.high_price),
      low_price: smaller(before.low_price, minute.low_price),
      closing_price: minute.closing_price,
    },
  ];
}

/** A time in the API's format. @param {number} seconds */
const inSeoul = (seconds) => `${new Date((seconds + SEOUL) * 1000).toISOString().slice(0, 19)}+09:00`;

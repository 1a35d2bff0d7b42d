// The page's state: the loaded data and the user's choices. Redrawn on change.

import { setting } from "./settings.js";
import { languages, translations } from "./translations.js";

/** @import { Book, Candle, CoverageRow, Failure, Market, Status } from "./api.js" */
/** @import { LiveMarket } from "./live.js" */
/** @typedef {{ time: number, price: string | null }} Point */
/** @typedef {{ market: string, span: string, rows: Candle[], step: number, prices: Point[], vwaps: Point[] }} Candles */

/** Minutes of each span, and of its candles. @type {Record<string, [number, number]>} */
export const SPANS = { "1h": [60, 1], "6h": [360, 1], "1d": [1440, 5], "1w": [10080, 60], "1m": [43200, 240] };
export const CODE = /^[A-Z0-9]{2,10}-[A-Z0-9]{1,19}$/;

export const language = setting("language", languages, navigator.language.startsWith("ko") ? "ko" : "en");
export const theme = setting("theme", ["auto", "dark", "light"], "auto");
export const colours = setting("colours", ["red", "green"], "red");
export const translation = () => translations(language.get());

export const state = {
  market: /** @type {string | null} */ (null),
  span: "1d",
  status: /** @type {Status | null} */ (null),
  markets: /** @type {Market[]} */ ([]),
  candles: /** @type {Candles | null} */ (null),
  book: /** @type {Book | undefined | null} */ (null),
  live: /** @type {LiveMarket | null} */ (null),
  coverage: /** @type {CoverageRow[]} */ ([]),
  streaming: false,
  connected: true,
  database: true,
  failure: /** @type {Failure | null} */ (null),
};

export function readAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const [market, span] = [asked.get("market") ?? "", asked.get("span") ?? ""];
  if (CODE.test(market)) state.market = market;
  if (Object.hasOwn(SPANS, span)) state.span = span;
}

export function writeAddress() {
  history.replaceState(null, "", `#${new URLSearchParams({ market: state.market ?? "", span: state.span })}`);
}

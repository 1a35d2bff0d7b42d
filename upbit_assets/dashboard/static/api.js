// Data access: the JSON API and the stream of write events.
// Figures are decimal strings or null; times are ISO 8601 in Seoul time.

/**
 * @typedef {object} Status
 * @property {string | null} window_start
 * @property {string | null} collected_at of the newest figures
 * @property {string | null} received_at of the newest raw ticker
 * @property {number} stale_after seconds
 * @property {boolean | null} simulated
 * @property {string} dagster
 *
 * @typedef {object} Market
 * @property {string} market
 * @property {string} quote_currency
 * @property {string} trade_price
 * @property {string} daily_volume
 * @property {number} rank_volume
 * @property {string | null} turnover_krw
 * @property {string} change_rate
 * @property {string | null} change_rate_24h
 * @property {string} window_high
 * @property {string} window_low
 * @property {string | null} volatility
 * @property {number | null} rank_volatility
 * @property {string | null} vwap
 * @property {string | null} korean_name
 * @property {string | null} english_name
 * @property {boolean | null} warning null if no market list has it
 * @property {string[] | null} cautions
 *
 * @typedef {object} Book
 * @property {string} market
 * @property {string} quote_currency
 * @property {string} ingested_at
 * @property {string} total_ask_size
 * @property {string} total_bid_size
 * @property {string[]} ask_prices
 * @property {string[]} ask_sizes
 * @property {string[]} bid_prices
 * @property {string[]} bid_sizes
 * @property {string | null} spread_bps
 * @property {string | null} imbalance
 * @property {string | null} bid_reach
 * @property {string | null} ask_reach
 * @property {string | null} bid_depth_01
 * @property {string | null} bid_depth_05
 * @property {string | null} bid_depth_1
 * @property {string | null} ask_depth_01
 * @property {string | null} ask_depth_05
 * @property {string | null} ask_depth_1
 *
 * @typedef {object} Candle
 * @property {string} started_at
 * @property {string} opening_price
 * @property {string} high_price
 * @property {string} low_price
 * @property {string} closing_price
 * @property {string} volume
 *
 * @typedef {object} CoverageRow
 * @property {string} window the partition's key
 * @property {string} window_start
 * @property {boolean} before_first of the windows that were collected
 * @property {number | null} bronze_rows
 * @property {number | null} rejected_rows
 * @property {number | null} gold_rows
 * @property {number | null} markets_proved
 * @property {number | null} markets_missing
 */

let skew = 0; // server time minus local time, ms

export const serverNow = () => Date.now() + skew;

export class Failure extends Error {
  /** @param {number} status HTTP status; 0 if there was no response @param {string} message */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/**
 * Fetches JSON from the API. Throws a Failure with the server's message.
 * @param {string} path @param {Record<string, string>} query
 */
export async function get(path, query = {}) {
  let response;
  try {
    response = await fetch(`${path}?${new URLSearchParams(query)}`);
  } catch {
    throw new Failure(0, "");
  }
  const date = response.headers.get("date");
  if (date) skew = Date.parse(date) - Date.now();
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Failure(response.status, answer.error?.message ?? response.statusText);
  return answer;
}

/** Fetches all pages of rows. @param {string} path @param {Record<string, string>} query */
export async function getAll(path, query = {}) {
  /** @type {any[]} */
  const rows = [];
  for (let answer = await get(path, query); ;) {
    rows.push(...answer.rows);
    if (!answer.next) return rows;
    const next = new URL(answer.next, location.origin);
    answer = await get(next.pathname, Object.fromEntries(next.searchParams));
  }
}

/**
 * Listens for writes and live market data. Browsers allow at most six streams per server, so a hidden page closes its
 * stream and reopens it when it becomes visible.
 * @param {object} handlers
 * @param {() => string | null} handlers.market the market whose order book and trades are sent
 * @param {() => void} handlers.connected @param {() => void} handlers.lost
 * @param {(up: boolean) => void} handlers.database @param {(write: { table: string }) => void} handlers.written
 * @param {(event: any) => void} handlers.tickers @param {(event: any) => void} handlers.live
 * @returns {() => void} reconnects, for another market
 */
export function listen({ market, connected, lost, database, written, tickers, live }) {
  /** @type {EventSource | null} */
  let current = null;
  const open = (opened = connected) => {
    const source = new EventSource(`/api/events?${new URLSearchParams({ market: market() ?? "" })}`);
    current = source;
    source.onopen = () => {
      opened();
      opened = connected;
    };
    source.onerror = () => {
      lost();
      if (source.readyState === EventSource.CLOSED) {
        source.close();
        setTimeout(() => document.hidden || open(), 3000);
      }
    };
    source.addEventListener("database", (event) => database(JSON.parse(event.data).up));
    source.addEventListener("asset_written", (event) => written(JSON.parse(event.data)));
    source.addEventListener("tickers", (event) => tickers(JSON.parse(event.data)));
    source.addEventListener("market", (event) => live(JSON.parse(event.data)));
  };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) current?.close();
    else open();
  });
  if (!document.hidden) open();
  return () => {
    current?.close();
    if (!document.hidden) open(() => {});
  };
}

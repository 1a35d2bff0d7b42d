// The board: loads data from the API into the state and draws what changed.

import { Failure, get, getAll, listen, serverNow } from "./api.js";
import { drawControls, listenToControls } from "./controls.js";
import { drawCoverage, enableArrowKeys } from "./coverage.js";
import { forgetTickers, isLive, takeTickers, withMinute, withTickers } from "./live.js";
import { chart, drawCandles, drawMarket, readCandles } from "./market.js";
import { drawOrderbook } from "./orderbook.js";
import { byId, headLists } from "./page.js";
import { drawRankings } from "./rankings.js";
import { CODE, language, readAddress, state, translation, writeAddress } from "./state.js";
import { drawStatus } from "./status.js";
import { drawTrades } from "./trades.js";
import { applyTranslations } from "./translations.js";

/** @import { Book, Market } from "./api.js" */

const MAP_EVERY = 2000; // ms
/** A live book of a market without figures in gold. */
const NO_FIGURES = Object.fromEntries(
  [
    "imbalance",
    "bid_reach",
    "ask_reach",
    ...["bid", "ask"].flatMap((side) => ["01", "05", "1"].map((of) => `${side}_depth_${of}`)),
  ].map((name) => [name, null]),
);

/** Drawn once the larger library has loaded; the rest doesn't wait for it. */
const graphs = {
  /** @type {{ draw(markets: Market[], chosen: string | null, language: string): void } | null} */
  heatMap: null,
  /** @type {{ draw(book: Book): void } | null} */
  depth: null,
};

// --- loading

/** @type {Record<string, () => Promise<void>>} */
const parts = {
  async markets() {
    const [status, markets] = await Promise.all([get("/api/status"), getAll("/api/markets")]);
    Object.assign(state, { status, markets: withTickers(markets) });
    if (markets.length && !markets.some(({ market }) => market === state.market))
      choose(markets[0].market, { quietly: true });
    drawLists();
    drawMarket();
  },
  async status() {
    state.status = await get("/api/status"); // drawn by refresh
  },
  async coverage() {
    state.coverage = (await get("/api/coverage")).rows;
    drawWindows();
  },
  async book() {
    const { market } = state;
    if (!market) return;
    const { rows } = await get(`/api/markets/${market}/orderbook`);
    if (market !== state.market) return;
    state.book = withLiveBook(rows[0]);
    drawBook();
  },
  async candles() {
    const { market, span } = state;
    if (!market) return;
    const read = await readCandles(market, span);
    if (market !== state.market || span !== state.span) return;
    const fit = state.candles?.market !== market || state.candles?.span !== span;
    state.candles = { market, span, ...read };
    addMinute();
    drawCandles(fit);
  },
};

/** Parts of the page by the table they show. @type {Record<string, string[]>} */
const PARTS_OF_TABLE = {
  "bronze.ticker_raw": ["status"],
  "gold.market_stats": ["markets", "coverage", "candles"],
  "silver.ticker": ["coverage"],
  "silver.trade_stream": ["coverage"],
  "gold.orderbook_stats": ["book"],
  "silver.orderbook": ["book"],
  "silver.candle": ["candles"],
  "gold.market_daily": ["candles"],
};

const waiting = new Set();
let reading = false;

/** Reloads the named parts; requests made meanwhile are served right after. @param {string[]} names */
async function refresh(...names) {
  names.forEach((name) => waiting.add(name));
  if (reading) return;
  reading = true;
  try {
    while (waiting.size) {
      const now = [...waiting];
      waiting.clear();
      // markets first, as they determine the chosen one
      if (now.includes("markets")) await parts.markets();
      await Promise.all(now.filter((name) => name !== "markets").map((name) => parts[name]()));
    }
    state.failure = null;
  } catch (reason) {
    if (!(reason instanceof Failure)) throw reason;
    state.failure = reason;
    waiting.clear();
    setTimeout(refreshAll, 5000);
  } finally {
    reading = false;
    drawStatus();
  }
}

const refreshAll = () => refresh(...Object.keys(parts));

// --- choosing a market

/** @param {string} market */
function choose(market, { quietly = false } = {}) {
  if (!CODE.test(market)) return;
  state.market = market;
  state.book = null;
  if (state.live?.market !== market) state.live = null;
  writeAddress();
  listenAnew();
  if (quietly) return;
  drawLists();
  drawMarket();
  refresh("book", "candles");
  if (matchMedia("(max-width: 767px)").matches) byId("market").scrollIntoView({ block: "start" });
}

// --- the stream

/** A book of the last window with the levels that the stream has. @param {Book | undefined} book @returns {Book | undefined} */
function withLiveBook(book) {
  const { live, market } = state;
  if (!isLive() || !live?.book || live.market !== market) return book;
  return /** @type {Book} */ ({ ...(book ?? NO_FIGURES), market, ...live.book });
}

function addMinute() {
  const { candles, live } = state;
  if (!isLive() || !candles || !live?.candle || live.market !== candles.market) return;
  candles.rows = withMinute(candles.rows, candles.step, live.candle);
}

/** @param {import("./live.js").LiveMarket} live */
function takeMarket(live) {
  if (live.market !== state.market) return;
  state.live = live;
  state.book = withLiveBook(state.book ?? undefined);
  addMinute();
  drawBook();
  drawCandles();
  drawTrades();
}

let mapDrawn = 0;

/** @param {Parameters<typeof takeTickers>[0]} event */
function takeAndDraw(event) {
  takeTickers(event);
  drawRankings();
  drawMarket();
  drawStatus();
  if (performance.now() - mapDrawn < MAP_EVERY) return;
  mapDrawn = performance.now();
  drawMap();
}

/** When the stream goes down, replace its data by the newest window. */
function noticeSilence() {
  if (state.streaming && !isLive()) {
    forgetTickers();
    state.live = null;
    drawTrades();
    refresh("markets", "book", "candles");
  }
  state.streaming = isLive();
  drawStatus();
}

// --- drawing

function drawLists() {
  drawRankings();
  drawMap();
}

function drawMap() {
  if (byId("all").hidden) graphs.heatMap?.draw(state.markets, state.market, language.get());
}

function drawBook() {
  drawOrderbook();
  if (state.book) graphs.depth?.draw(state.book);
}

function drawWindows() {
  drawCoverage(state.coverage, { dagster: state.status?.dagster ?? "", words: translation(), now: serverNow() });
}

function paint() {
  chart.paint();
  drawLists();
  drawCandles();
  if (state.book || state.market) drawBook();
  drawWindows();
}

function drawAll() {
  applyTranslations(language.get());
  drawControls();
  chart.locale(language.get() === "ko" ? "ko-KR" : "en-US");
  paint();
  drawMarket();
  drawTrades();
  drawStatus();
}

// --- start-up

readAddress();
headLists();
drawAll();
enableArrowKeys();
listenToControls({ choose, drawAll, paint, drawLists, readCandles: () => refresh("candles") });
import("./graphs.js").then(({ depthGraph, heatMap }) => {
  graphs.heatMap = heatMap(byId("map"), choose);
  graphs.depth = depthGraph(byId("depth"));
  drawLists();
  drawBook();
});
const listenAnew = listen({
  market: () => state.market,
  tickers: takeAndDraw,
  live: takeMarket,
  connected() {
    state.connected = true;
    refreshAll();
  },
  lost() {
    state.connected = false;
    drawStatus();
  },
  database(up) {
    const back = up && !state.database;
    state.database = up;
    if (back) refreshAll();
    else drawStatus();
  },
  written({ table }) {
    const names = PARTS_OF_TABLE[table] ?? [];
    if (names.length) refresh(...names);
  },
});
refreshAll();
setInterval(noticeSilence, 1000);

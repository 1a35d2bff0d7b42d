// The board: one state, drawn whenever it changes.

import { amount, brief, direction, full, percent, rounded, sum } from "./figures.js";
import { candleChart, timeOf as chartTime } from "./chart.js";
import { drawCoverage, walkable } from "./coverage.js";
import { Failure, get, getAll, listen, serverNow } from "./feed.js";
import { byId, change, choosable, element, figure, headLists, marketRows, minuteOf, price, quantity, timeOf, won } from "./page.js";
import { setting } from "./settings.js";
import { languages, speak, words } from "./words.js";

const SPANS = { "1h": [60, 1], "6h": [360, 1], "1d": [1440, 5], "1w": [10080, 60], "1m": [43200, 240] }; // minutes: all, a candle
const LEVELS = 8;
const DEPTHS = [["01", "0.001"], ["05", "0.005"], ["1", "0.01"]]; // as the columns are named, and of the middle price
const CODE = /^[A-Z0-9]{2,10}-[A-Z0-9]{1,19}$/;

const language = setting("language", languages, navigator.language.startsWith("ko") ? "ko" : "en");
const theme = setting("theme", ["auto", "dark", "light"], "auto");
const colours = setting("colours", ["red", "green"], "red");
const said = () => words(language.get());

const state = {
  market: null, span: "1d", status: null, markets: [], candles: null, book: null, coverage: [],
  connected: true, database: true, failure: null, was: null,
};
readAddress();

const chart = candleChart(byId("chart"), { hovered: (row) => drawLegend(row) });
let map = null, depth = null; // drawn once the larger library is here, which the rest doesn't wait for

// --- reading

const parts = {
  async markets() {
    const [status, markets] = await Promise.all([get("/api/status"), getAll("/api/markets")]);
    Object.assign(state, { status, markets });
    if (markets.length && !markets.some(({ market }) => market === state.market)) choose(markets[0].market, { quietly: true });
    drawMarkets();
    drawMarket();
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
    state.book = rows[0];
    drawBook();
  },
  async candles() {
    const { market, span } = state;
    if (!market) return;
    const read = await readCandles(market, span);
    if (market !== state.market || span !== state.span) return;
    const fit = state.candles?.market !== market || state.candles?.span !== span;
    state.candles = { market, span, ...read };
    drawCandles(fit);
  },
};

async function readCandles(market, span) {
  const [minutes, unit] = SPANS[span];
  // to the minute, so that all pages that ask at a time ask the same, which is read once
  const to = new Date(Math.ceil(serverNow() / 60_000) * 60_000), from = new Date(to - minutes * 60_000);
  const query = { from: from.toISOString(), to: to.toISOString() };
  const path = `/api/markets/${market}`;
  const [{ rows }, vwaps] = await Promise.all([
    get(`${path}/candles`, { ...query, unit }),
    getAll(minutes > 1440 ? `${path}/days` : `${path}/windows`, query),
  ]);
  const prices = rows.length ? [] : minutes > 1440 ? await getAll(`${path}/windows`, query) : vwaps;
  return {
    rows, step: unit * 60,
    prices: prices.map((row) => ({ time: chartTime(row.window_start), price: row.trade_price })),
    vwaps: vwaps.map((row) => ({ time: chartTime(row.window_start ?? row.day), price: row.vwap })),
  };
}

const waiting = new Set();
let reading = false;

/** Reads the named parts anew; what is asked for meanwhile is read right after. */
async function refresh(...names) {
  names.forEach((name) => waiting.add(name));
  if (reading) return;
  reading = true;
  try {
    while (waiting.size) {
      const now = [...waiting];
      waiting.clear();
      // first the markets: they say which one is chosen
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
    drawState();
  }
}

const refreshAll = () => refresh(...Object.keys(parts));
const MOVED = {
  "gold.market_stats": ["markets", "coverage", "candles"], "silver.ticker": ["coverage"],
  "gold.orderbook_stats": ["book"], "silver.orderbook": ["book"], "silver.candle": ["candles"], "gold.market_daily": ["candles"],
};

// --- choosing

function choose(market, { quietly = false } = {}) {
  if (!CODE.test(market)) return;
  state.market = market;
  state.book = null;
  writeAddress();
  if (quietly) return;
  drawMarkets();
  drawMarket();
  refresh("book", "candles");
  if (matchMedia("(max-width: 767px)").matches) byId("market").scrollIntoView({ block: "start" });
}

function readAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  if (CODE.test(asked.get("market") ?? "")) state.market = asked.get("market");
  if (Object.hasOwn(SPANS, asked.get("span"))) state.span = asked.get("span");
}

function writeAddress() {
  history.replaceState(null, "", `#${new URLSearchParams({ market: state.market, span: state.span })}`);
}

// --- drawing

function drawMarkets() {
  const { markets, market: chosen } = state;
  const turnover = { chosen, rank: (one) => one.rank_volume, last: (one) => won(one.turnover_krw, language.get()), share: share(markets, "turnover_krw") };
  marketRows(byId("top10").querySelector("tbody"), markets.slice(0, 10), turnover);
  const volatile = markets.filter(moved).sort((a, b) => a.rank_volatility - b.rank_volatility || (a.market < b.market ? -1 : 1)).slice(0, 10);
  marketRows(byId("volatility").querySelector("tbody"), volatile, {
    chosen, rank: (one) => one.rank_volatility, last: (one) => figure(one.volatility, percent(one.volatility, { sign: false })), share: share(volatile, "volatility"),
  });
  byId("unmoved").hidden = volatile.length > 0 || !markets.length;
  if (!byId("all").hidden) marketRows(byId("all").querySelector("tbody"), markets, turnover);
  else map?.draw(markets, chosen, language.get());
  byId("window").textContent = state.status?.window_start ? said().window(minuteOf(state.status.window_start)) : "";
  byId("codes").replaceChildren(...markets.map((one) => element("option", { value: one.market })));
}

/** Whether it has a place in the volatility ranking: in a window's first snapshot no price has moved, and all would be first. */
function moved(one) {
  return Number(one.volatility) > 0;
}

/** How long the bar is: pixels, not a figure. */
function share(markets, name) {
  const most = Math.max(...markets.map((one) => Number(one[name])), Number.MIN_VALUE);
  return (one) => Number(one[name] ?? 0) / most;
}

function drawMarket() {
  const one = state.markets.find(({ market }) => market === state.market);
  byId("market-code").textContent = state.market ?? "";
  byId("market-price").replaceChildren(...(one ? [price(one.trade_price)] : []));
  byId("market-quote").textContent = one?.quote_currency ?? "";
  byId("market-change").replaceChildren(...(one ? [change(one.change_rate)] : []));
  byId("market-figures").replaceChildren(...(one ? facts(one) : []).map(([name, ...shown]) =>
    element("div", {}, element("dt", {}, said()[name]), element("dd", {}, ...shown))));
  document.title = [one && `${full(one.trade_price)} ${one.market}`, said().board].filter(Boolean).join(" · ");
}

function facts(one) {
  const coin = element("span", { class: "unit" }, ` ${one.market.split("-")[1]}`);
  const count = state.markets.length;
  return [
    ["turnover24", one.turnover_krw === null ? said().noRate : won(one.turnover_krw, language.get())],
    ["volume24", quantity(one.daily_volume), coin],
    ["change24", change(one.change_rate_24h)],
    ["vwap10", one.vwap === null ? figure(null) : figure(one.vwap, brief(one.vwap))],
    ["low10", price(one.window_low)],
    ["high10", price(one.window_high)],
    ["volatilityShort", figure(one.volatility, percent(one.volatility, { sign: false })), moved(one) && element("span", { class: "unit" }, ` ${said().ranked(one.rank_volatility, count)}`)].filter(Boolean),
    ["rankTurnover", said().ranked(one.rank_volume, count)],
  ];
}

function drawCandles(fit = false) {
  const { candles } = state;
  if (!candles) return;
  chart.draw({ ...candles, fit });
  const note = byId("chart-note");
  note.textContent = candles.rows.length ? "" : candles.prices.length ? said().line : said().nothing;
  note.hidden = !note.textContent;
  note.classList.toggle("alone", !candles.prices.length);
  drawLegend();
  const last = candles.rows.at(-1);
  byId("chart-caption").textContent = `${state.market} ${said()[state.span]}. ` + (last ? `${minuteOf(last.started_at)} ${byId("legend").textContent}` : note.textContent);
}

function drawLegend(row = state.candles?.rows.at(-1)) {
  const key = (name) => element("span", { class: "name" }, said()[name]);
  const entries = row ? [
    element("time", { datetime: row.started_at }, minuteOf(row.started_at).slice(5)),
    ...["opening", "high", "low", "closing"].map((name) => element("span", {}, key(name), price(row[`${name}_price`]))),
    element("span", {}, key("volume"), quantity(row.volume)),
  ] : [];
  const has = state.candles?.vwaps.some((one) => one.price !== null);
  byId("legend").replaceChildren(...entries, ...(has ? [element("span", { class: "vwap" }, said().vwap)] : []));
}

function drawBook() {
  const { book } = state;
  byId("book-there").hidden = !book;
  byId("book-none").hidden = Boolean(book) || !state.market;
  byId("book-none").textContent = said().noBook;
  byId("book-time").textContent = book ? timeOf(book.ingested_at) : "";
  if (!book) return;
  const side = (name) => book[`${name}_prices`].slice(0, LEVELS).map((at, place) => [at, book[`${name}_sizes`][place]]);
  const [asks, bids] = [side("ask"), side("bid")];
  const most = Math.max(...[...asks, ...bids].map(([, size]) => Number(size)));
  const row = (name) => ([at, size]) => {
    const bar = element("td", { class: `figure bar ${name}` }, quantity(size));
    bar.style.setProperty("--share", Number(size) / most);
    return element("tr", {}, element("th", { scope: "row", class: `figure ${name}` }, price(at)), bar);
  };
  byId("asks").replaceChildren(...asks.map(row("down")).reverse());
  byId("bids").replaceChildren(...bids.map(row("up")));
  const spread = (text) => figure(text, text === null ? "" : `${full(rounded(text, 2))} bp`);
  byId("spread").replaceChildren(spread(book.spread_bps));
  byId("imbalance").replaceChildren(book.imbalance === null ? "" : figure(book.imbalance, percent(book.imbalance, { places: 1 })));
  document.querySelector(".beam i").style.setProperty("--share", (1 + Number(book.imbalance ?? 0)) / 2);
  byId("depths").replaceChildren(...DEPTHS.map(([name, within]) => {
    const beyond = book.reach !== null && direction(sum([within, `-${book.reach}`])) > 0; // further than the levels go
    const money = (text) => `${beyond ? "≥ " : ""}${book.quote_currency === "KRW" ? amount(text, language.get()) : brief(text)}`;
    const depths = ["bid", "ask"].map((each) => book[`${each}_depth_${name}`]);
    return element("tr", {}, element("th", { scope: "row" }, `±${percent(within, { places: 1, sign: false })}`),
      ...depths.map((text) => element("td", { class: "figure" }, figure(text, text === null ? "" : money(text)))));
  }));
  byId("depth-caption").textContent = `${state.market} ${said().depth}: ${said().bids} ${brief(book.total_bid_size)}, ${said().asks} ${brief(book.total_ask_size)}`;
  depth?.draw(book);
}

function drawWindows() {
  const dagster = state.status?.dagster ?? "";
  drawCoverage(document.querySelector(".windows"), byId("coverage-key"), state.coverage, { dagster, said: said(), now: serverNow() });
  byId("dagster").href = dagster;
}

function span(seconds) {
  const { seconds: s, minutes, hours, days } = said();
  if (seconds < 60) return s(Math.max(0, Math.floor(seconds)));
  if (seconds < 3600) return minutes(Math.floor(seconds / 60));
  return seconds < 172800 ? hours(Math.floor(seconds / 3600)) : days(Math.floor(seconds / 86400));
}

/** How the page stands: live, stale, down, lost, empty or loading; and says so plainly. */
function drawState() {
  const { status, failure } = state;
  const collected = status?.collected_at;
  const seconds = collected ? (serverNow() - Date.parse(collected)) / 1000 : 0;
  const now = !state.connected || failure?.status === 0 ? "lost"
    : !state.database || failure ? "down"
    : !status ? "loading"
    : !collected ? "empty"
    : seconds > status.stale_after ? "stale" : "live";
  document.body.dataset.state = now;
  const age = span(seconds);
  byId("age").textContent = collected ? `${now === "live" ? `${said().live} · ` : ""}${said().ago(age)}` : "";
  byId("freshness").title = collected ? `${minuteOf(collected)} KST` : "";
  const at = collected && timeOf(collected);
  const problem = failure && failure.status !== 503 && failure.status ? failure.message : said().down;
  const notices = { lost: said().lost, down: problem, stale: said().stale(age, at) };
  const notice = (notices[now] ?? "") + (collected && (now === "lost" || now === "down") ? said().kept(at) : "");
  const place = byId("notice");
  if (place.textContent !== notice) place.textContent = notice;
  place.hidden = !notice;
  const bare = !collected && ["empty", "down", "lost"].includes(now);
  byId("figures").hidden = !collected;
  byId("empty").hidden = !bare;
  if (bare) {
    byId("empty-title").textContent = now === "empty" ? said().emptyTitle : said().downTitle;
    byId("empty-text").textContent = now === "empty" ? said().emptyText : failure?.message || said().downText;
    place.hidden = true;
  }
  const badge = byId("simulated");
  badge.hidden = !status?.simulated;
  badge.textContent = said().simulated;
  badge.title = said().simulatedAbout;
  if (now === "live" && state.was && state.was !== "live" && state.was !== "loading") byId("spoken").textContent = said().recovered;
  state.was = now;
}

function drawAll() {
  speak(language.get());
  drawControls();
  chart.locale(language.get() === "ko" ? "ko-KR" : "en-US");
  paint();
  drawMarket();
  drawState();
}

function paint() {
  chart.paint();
  drawMarkets();
  drawCandles();
  if (state.book || state.market) drawBook();
  drawWindows();
}

function drawControls() {
  const each = said();
  byId("language").textContent = each.switchLanguage;
  byId("language").lang = language.get() === "ko" ? "en" : "ko";
  const shade = { auto: each.themeAuto, dark: each.themeDark, light: each.themeLight }[theme.get()];
  byId("theme").textContent = `◐ ${shade}`;
  byId("theme").setAttribute("aria-label", `${each.theme}: ${shade}`);
  byId("colours").setAttribute("aria-label", `${each.colours}: ${each[colours.get()]}`);
  byId("colours").title = each[colours.get()];
  byId("code").placeholder = each.findHint;
  document.documentElement.dataset.theme = theme.get();
  document.documentElement.dataset.colours = colours.get();
  byId("simulated").hidden ||= !state.status?.simulated;
  const spans = document.querySelector(".spans");
  const legend = spans.querySelector("legend");
  spans.replaceChildren(legend, ...Object.keys(SPANS).map((name) => {
    const input = element("input", { type: "radio", name: "span", value: name });
    input.checked = name === state.span;
    return element("label", {}, input, element("span", {}, each[name]));
  }));
}

// --- what people do

for (const id of ["top10", "volatility", "all"]) choosable(byId(id).querySelector("tbody"), choose);
walkable(document.querySelector(".windows"));
for (const [id, one] of Object.entries({ language, theme, colours })) {
  byId(id).addEventListener("click", () => {
    one.next();
    drawAll();
  });
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
document.querySelector(".spans").addEventListener("change", (event) => {
  state.span = event.target.value;
  writeAddress();
  refresh("candles");
});
byId("as-table").addEventListener("click", () => {
  const table = byId("all").hidden;
  byId("all").hidden = !table;
  byId("map").parentElement.hidden = table;
  byId("as-table").setAttribute("aria-pressed", table);
  drawMarkets();
});
function find() {
  const code = byId("code").value.trim().toUpperCase();
  const found = [code, `KRW-${code}`].find((wanted) => state.markets.some(({ market }) => market === wanted));
  byId("code").setAttribute("aria-invalid", Boolean(code) && !found);
  if (!found) return;
  byId("code").value = "";
  choose(found);
}
byId("find").addEventListener("submit", (event) => {
  event.preventDefault();
  find();
});
byId("code").addEventListener("input", (event) => event.inputType === "insertReplacementText" && find());
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && event.target.tagName !== "INPUT") {
    event.preventDefault();
    byId("code").focus();
  }
});
addEventListener("hashchange", () => {
  const before = state.market;
  readAddress();
  drawControls();
  if (state.market !== before) choose(state.market);
  else refresh("candles");
});

// --- beginning

headLists();
drawAll();
import("./graphs.js").then(({ depthGraph, heatMap }) => {
  map = heatMap(byId("map"), choose);
  depth = depthGraph(byId("depth"));
  drawMarkets();
  drawBook();
});
listen({
  connected() {
    state.connected = true;
    refreshAll();
  },
  lost() {
    state.connected = false;
    drawState();
  },
  database(up) {
    const back = up && !state.database;
    state.database = up;
    if (back) refreshAll();
    else drawState();
  },
  written({ table }) {
    const names = MOVED[table] ?? [];
    if (names.length) refresh(...names);
  },
});
refreshAll();
setInterval(drawState, 1000);

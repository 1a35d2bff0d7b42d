// The chosen market's order book.

import { amount, brief, direction, full, percent, rounded, sum } from "./figures.js";
import { byId, element, figure, price, quantity, timeOf } from "./page.js";
import { language, state, translation } from "./state.js";

/** @import { Book } from "./api.js" */

const LEVELS = 8;
/** Column name suffix, and the distance as a fraction of the mid price. @type {["01" | "05" | "1", string][]} */
const DEPTHS = [
  ["01", "0.001"],
  ["05", "0.005"],
  ["1", "0.01"],
];

export function drawOrderbook() {
  const { book } = state;
  byId("book-there").hidden = !book;
  byId("book-none").hidden = Boolean(book) || !state.market;
  byId("book-none").textContent = translation().noBook;
  byId("book-time").textContent = book ? timeOf(book.ingested_at) : "";
  if (!book) return;
  drawLevels(book);
  byId("spread").replaceChildren(
    figure(book.spread_bps, book.spread_bps === null ? "" : `${full(rounded(book.spread_bps, 2))} bp`),
  );
  byId("imbalance").replaceChildren(
    book.imbalance === null ? "" : figure(book.imbalance, percent(book.imbalance, { places: 1 })),
  );
  byId("beam").style.setProperty("--share", String((1 + Number(book.imbalance ?? 0)) / 2));
  byId("depths").replaceChildren(...distinctDepths(book).map(([name, within]) => depthRow(book, name, within)));
  byId("depth-caption").textContent =
    `${state.market} ${translation().depth}: ` +
    `${translation().bids} ${brief(book.total_bid_size)}, ${translation().asks} ${brief(book.total_ask_size)}`;
}

/** @param {Book} book */
function drawLevels(book) {
  const side = (/** @type {"ask" | "bid"} */ name) =>
    book[`${name}_prices`].slice(0, LEVELS).map((at, place) => [at, book[`${name}_sizes`][place]]);
  const [asks, bids] = [side("ask"), side("bid")];
  const most = Math.max(...[...asks, ...bids].map(([, size]) => Number(size)));
  const row =
    (/** @type {string} */ name) =>
    (/** @type {string[]} */ [at, size]) => {
      const bar = element("td", { class: `figure bar ${name}` }, quantity(size));
      bar.style.setProperty("--share", String(Number(size) / most));
      return element("tr", {}, element("th", { scope: "row", class: `figure ${name}` }, price(at)), bar);
    };
  byId("asks").replaceChildren(...asks.map(row("down")).reverse());
  byId("bids").replaceChildren(...bids.map(row("up")));
}

/** Whether a distance is beyond the levels that the exchange shows. @param {Book} book @param {"bid" | "ask"} side @param {string} within */
function isBeyond(book, side, within) {
  const reach = book[`${side}_reach`];
  return reach !== null && direction(sum([within, `-${reach}`])) > 0;
}

/** Beyond both sides' levels the depth is that of the whole book, shown in a single row. @param {Book} book */
function distinctDepths(book) {
  const whole = DEPTHS.findIndex(([, within]) => isBeyond(book, "bid", within) && isBeyond(book, "ask", within));
  return whole < 0 ? DEPTHS : DEPTHS.slice(0, whole + 1);
}

/** @param {Book} book @param {"01" | "05" | "1"} name @param {string} within */
function depthRow(book, name, within) {
  const depth = (/** @type {"bid" | "ask"} */ side) => {
    const text = book[`${side}_depth_${name}`];
    if (text === null) return figure(null);
    const money = book.quote_currency === "KRW" ? amount(text, language.get()) : brief(text);
    return figure(text, `${isBeyond(book, side, within) ? "≥ " : ""}${money}`);
  };
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, `±${percent(within, { places: 1, sign: false })}`),
    element("td", { class: "figure" }, depth("bid")),
    element("td", { class: "figure" }, depth("ask")),
  );
}

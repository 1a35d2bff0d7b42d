// DOM helpers.

import { amount, brief, direction, full, percent } from "./figures.js";

const SEOUL = { timeZone: "Asia/Seoul", hourCycle: /** @type {const} */ ("h23") };
const clock = new Intl.DateTimeFormat("en-GB", { ...SEOUL, hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** @import { Market } from "./api.js" */

/** @param {string} id @returns {HTMLElement} */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`The page has no element ${id}`);
  return found;
}

/** @param {string} id */
export const inputById = (id) => /** @type {HTMLInputElement} */ (byId(id));
/** @param {string} id */
export const tableById = (id) => /** @type {HTMLTableElement} */ (byId(id));
/** The table body of a panel's list of markets. @param {string} id */
export const tableBody = (id) => /** @type {HTMLTableElement} */ (byId(id).querySelector("table")).tBodies[0];

/** 14:03:12, Seoul time. @param {string} iso */
export const timeOf = (iso) => clock.format(new Date(iso));

/** 2026-01-29 14:00, Seoul time, as in the API. @param {string} iso */
export const minuteOf = (iso) => iso.slice(0, 16).replace("T", " ");

/**
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} name @param {Record<string, string | null | undefined>} attributes @param {(Node | string)[]} children
 */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(attribute, value);
  }
  made.append(...children);
  return made;
}

/** A formatted figure, with the exact one as its title. @param {string | null} exact */
export function figure(exact, shown = "") {
  if (exact === null) return element("span", { class: "no" }, "–");
  return element("data", { value: exact, title: shown === exact ? null : exact }, shown);
}

/** @type {Record<string, [string, string]>} */
const DIRECTIONS = { 1: ["up", "▲"], "-1": ["down", "▼"], 0: ["even", ""] };

/** A change with a colour and a symbol, so that it is readable without colour. @param {string | null} rate */
export function change(rate) {
  if (rate === null) return figure(rate);
  const [name, mark] = DIRECTIONS[direction(rate)];
  const arrow = element("span", { class: "mark", "aria-hidden": "true" }, mark);
  return element("span", { class: name }, arrow, figure(rate, percent(rate)));
}

/** @param {string | null} exact @param {string} language */
export const won = (exact, language) => figure(exact, exact === null ? "" : amount(exact, language));
/** @param {string} exact */
export const price = (exact) => figure(exact, full(exact));
/** @param {string} exact */
export const quantity = (exact) => figure(exact, brief(exact));

/** The market's name in the page's language, if it has one. @param {Market} market @param {string} language */
export const nameOf = (market, language) =>
  (language === "ko" ? market.korean_name : null) ?? market.english_name ?? market.korean_name ?? "";

/** What the exchange warns of. @param {Market} market @param {Record<string, any>} words @returns {string[]} */
export const warningsOf = ({ warning, cautions }, words) => [
  ...(warning ? [words.warning] : []),
  ...(cautions ?? []).map((caution) => words[caution] ?? caution),
];

/** The headers of the lists of markets, which differ in the last column. */
export function headLists() {
  for (const table of /** @type {NodeListOf<HTMLTableElement>} */ (document.querySelectorAll(".list"))) {
    const columns = ["rank", "market", "price", "change", table.dataset.last];
    table
      .createTHead()
      .append(
        element(
          "tr",
          {},
          ...columns.map((word, place) =>
            element("th", { scope: "col", class: ["rank", ""][place] ?? "figure", "data-word": word }),
          ),
        ),
      );
  }
}

/**
 * A list of markets to choose from by clicking a row, by its button, or by the arrow keys.
 * @template {Market} M
 * @param {HTMLTableSectionElement} body
 * @param {M[]} rows
 * @param {object} shown
 * @param {string | null} shown.chosen
 * @param {(one: M) => number} shown.rank
 * @param {(one: M) => Node} shown.last content of the last column
 * @param {(one: M) => number} shown.share length of the bar (0 to 1)
 */
export function marketRows(body, rows, { chosen, last, rank, share }) {
  const there = new Map([...body.rows].map((row) => [row.dataset.market, row]));
  const focused = body.contains(document.activeElement)
    ? document.activeElement?.closest("tr")?.dataset.market
    : undefined;
  const made = rows.map((market) => {
    const row = there.get(market.market) ?? element("tr", { "data-market": market.market });
    const moved = row.dataset.price ? direction(difference(market.trade_price, row.dataset.price)) : 0;
    row.dataset.price = market.trade_price;
    row.classList.toggle("chosen", market.market === chosen);
    const button = element(
      "button",
      { type: "button", "aria-pressed": String(market.market === chosen) },
      market.market,
    );
    const bar = element("td", { class: "figure bar" }, last(market));
    bar.style.setProperty("--share", String(share(market)));
    row.replaceChildren(
      element("td", { class: "rank" }, String(rank(market))),
      element("th", { scope: "row" }, button),
      element("td", { class: `figure ${["fell", "", "rose"][moved + 1]}` }, price(market.trade_price)),
      element("td", { class: "figure" }, change(market.change_rate)),
      bar,
    );
    return row;
  });
  body.replaceChildren(...made);
  const kept = focused && there.get(focused);
  if (kept && body.contains(kept)) kept.querySelector("button")?.focus();
}

/** Compares two prices without floats, for sorting; only the sign is meaningful. @param {string} a @param {string} b */
function difference(a, b) {
  const scale = Math.max(...[a, b].map((text) => (text.split(".")[1] ?? "").length));
  const whole = (/** @type {string} */ text) =>
    BigInt(text.replace(".", "") + "0".repeat(scale - (text.split(".")[1] ?? "").length));
  return String(whole(a) - whole(b));
}

/** @param {HTMLTableSectionElement} body @param {(market: string) => void} choose */
export function choosable(body, choose) {
  body.addEventListener("click", (event) => {
    const row = /** @type {Element} */ (event.target).closest("tr");
    if (row?.dataset.market) choose(row.dataset.market);
  });
  body.addEventListener("keydown", (event) => {
    const row = /** @type {Element} */ (event.target).closest("tr");
    const next = { ArrowDown: row?.nextElementSibling, ArrowUp: row?.previousElementSibling }[event.key];
    if (next) {
      event.preventDefault();
      next.querySelector("button")?.focus();
    }
  });
}

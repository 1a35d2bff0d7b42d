// Coverage by window: what was collected and what is missing.

import { byId, element, minuteOf, tableById } from "./page.js";

/** @import { CoverageRow } from "./api.js" */
/** @typedef {"before" | "whole" | "part" | "none" | "open"} CoverageStatus */

const WINDOW_MINUTES = 10; // with one snapshot each
const COMPUTED_WITHIN = 2; // minutes after a window is over that only the stream collected
const MIN_SNAPSHOTS = 9; // one may be missing, e.g. when the stack starts within a window

/**
 * "open" is a window still being collected or computed, "before" one from before the first collection.
 * @param {CoverageRow} row @param {number} now @returns {CoverageStatus}
 */
export function coverageStatus(row, now) {
  const minutes = WINDOW_MINUTES + (row.gold_rows ? 0 : COMPUTED_WITHIN);
  if (now - Date.parse(row.window_start) < minutes * 60_000) return "open";
  if (row.before_first) return "before";
  if (!row.gold_rows) return row.bronze_rows ? "part" : "none";
  return (row.bronze_rows ?? 0) >= MIN_SNAPSHOTS * row.gold_rows ? "whole" : "part";
}

/** @param {CoverageRow} row @param {CoverageStatus} status @param {Record<string, any>} words */
export function describe(row, status, words) {
  const snapshots = row.gold_rows ? Math.round((row.bronze_rows ?? 0) / row.gold_rows) : 0;
  const parts = [
    [snapshots, words.snapshots],
    [snapshots && row.rejected_rows, words.rejected],
    [row.markets_proved, words.proved],
    [row.markets_missing, words.lacking],
  ];
  const counts = parts.filter(([count]) => count).map(([count, word]) => `, ${count}${word}`);
  return `${minuteOf(row.window_start)} ${words[status]}${counts.join("")}`;
}

/**
 * A grid of hours by ten minutes; each cell links to its window in the Dagster UI.
 * @param {CoverageRow[]} rows @param {{ dagster: string, words: Record<string, any>, now: number }} page
 */
export function drawCoverage(rows, { dagster, words, now }) {
  const table = tableById("windows");
  const hours = [...new Set(rows.map((row) => row.window.slice(0, 13)))];
  /** @type {Record<CoverageStatus, number>} */
  const counts = { whole: 0, part: 0, none: 0, open: 0, before: 0 };
  /** @type {Map<string, HTMLElement>} */
  const cells = new Map();
  for (const row of rows) {
    const status = coverageStatus(row, now);
    counts[status] += 1;
    const text = describe(row, status, words);
    const link = element("a", {
      href: `${dagster}/assets/gold_market_stats?view=partitions&partition=${encodeURIComponent(row.window)}`,
      class: status + (row.rejected_rows ? " rejected" : "") + (row.markets_missing ? " lacking" : ""),
      "aria-label": text,
      title: text,
      target: "_blank",
      rel: "noreferrer",
      tabindex: "-1",
      "data-window": row.window,
    });
    cells.set(row.window, link);
  }
  const active = document.activeElement;
  const focused = active instanceof HTMLElement && table.contains(active) ? active.dataset.window : undefined;
  const head = hours.map((hour, place) =>
    element("th", { scope: "col", "aria-label": hour.slice(11) + words.hour }, place % 4 === 0 ? hour.slice(11) : ""),
  );
  table.tHead?.replaceChildren(element("tr", {}, element("td"), ...head));
  table.tBodies[0].replaceChildren(
    ...["00", "10", "20", "30", "40", "50"].map((minute) =>
      element(
        "tr",
        {},
        element("th", { scope: "row" }, minute),
        ...hours.map((hour) => element("td", {}, cells.get(`${hour}:${minute}`) ?? "")),
      ),
    ),
  );
  const reachable = (focused && cells.get(focused)) || [...cells.values()].at(-1);
  reachable?.setAttribute("tabindex", "0");
  if (focused) reachable?.focus();
  byId("coverage-key").replaceChildren(
    ...Object.entries(counts)
      .filter(([status, count]) => count || status !== "before")
      .map(([status, count]) =>
        element(
          "li",
          {},
          element("i", { class: status, "aria-hidden": "true" }),
          `${words[status]} `,
          element("b", {}, String(count)),
        ),
      ),
  );
}

/** The grid is one tab stop; arrow keys move inside it. */
export function enableArrowKeys() {
  byId("windows").addEventListener("keydown", (event) => {
    const link = /** @type {HTMLElement} */ (event.target),
      cell = link.closest("td");
    /** @type {Record<string, [number, number]>} */
    const steps = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] };
    const step = steps[event.key];
    if (!cell || !step) return;
    event.preventDefault();
    const row = /** @type {HTMLTableRowElement} */ (cell.parentElement);
    const body = /** @type {HTMLTableSectionElement} */ (row.parentElement);
    const next = body.rows[row.sectionRowIndex + step[0]]?.cells[cell.cellIndex + step[1]]?.querySelector("a");
    if (!next) return;
    link.setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.focus();
  });
}

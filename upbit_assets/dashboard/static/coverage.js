// What was collected and what wasn't, window by window.

import { element, minuteOf } from "./page.js";

const A_WINDOW = 10; // minutes, and snapshots in it
const ENOUGH = 9; // a stack that starts within a window may miss one

/** How a window stands: whole, part, none or, while it fills, open. */
export function standing(row, now) {
  if (now - Date.parse(row.window_start) < A_WINDOW * 60_000) return "open";
  if (!row.gold_rows) return row.bronze_rows ? "part" : "none";
  return row.bronze_rows >= ENOUGH * row.gold_rows ? "whole" : "part";
}

export function describe(row, state, said) {
  const snapshots = row.gold_rows ? Math.round(row.bronze_rows / row.gold_rows) : 0;
  const rejected = row.rejected_rows ? `, ${row.rejected_rows}${said.rejected}` : "";
  return `${minuteOf(row.window_start)} ${said[state]}` + (snapshots ? `, ${snapshots}${said.snapshots}${rejected}` : "");
}

/** Hours across, ten minutes down; each window a link to itself in the Dagster UI. */
export function drawCoverage(table, key, rows, { dagster, said, now }) {
  const hours = [...new Set(rows.map((row) => row.window.slice(0, 13)))];
  const counts = { whole: 0, part: 0, none: 0, open: 0 };
  const cells = new Map();
  for (const row of rows) {
    const state = standing(row, now);
    counts[state] += 1;
    const text = describe(row, state, said);
    const link = element("a", {
      href: `${dagster}/assets/gold_market_stats?view=partitions&partition=${encodeURIComponent(row.window)}`,
      class: state + (row.rejected_rows ? " rejected" : ""), "aria-label": text, title: text,
      target: "_blank", rel: "noreferrer", tabindex: "-1", "data-window": row.window,
    });
    cells.set(row.window, link);
  }
  const focused = table.contains(document.activeElement) && document.activeElement.dataset.window;
  const head = hours.map((hour, place) =>
    element("th", { scope: "col", "aria-label": hour.slice(11) + said.hour }, place % 4 === 0 ? hour.slice(11) : ""));
  table.tHead.replaceChildren(element("tr", {}, element("td"), ...head));
  table.tBodies[0].replaceChildren(...["00", "10", "20", "30", "40", "50"].map((minute) =>
    element("tr", {}, element("th", { scope: "row" }, minute),
      ...hours.map((hour) => element("td", {}, ...[cells.get(`${hour}:${minute}`)].filter(Boolean))))));
  const reachable = cells.get(focused) ?? [...cells.values()].at(-1);
  reachable?.setAttribute("tabindex", "0");
  if (focused) reachable?.focus();
  key.replaceChildren(...Object.entries(counts).map(([state, count]) =>
    element("li", {}, element("i", { class: state, "aria-hidden": "true" }), `${said[state]} `, element("b", {}, String(count)))));
}

/** One stop for the tab key; the arrows go on from there. */
export function walkable(table) {
  table.addEventListener("keydown", (event) => {
    const cell = event.target.closest("td");
    const [down, right] = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }[event.key] ?? [];
    if (!cell || down === undefined) return;
    event.preventDefault();
    const row = cell.parentElement.parentElement.rows[cell.parentElement.sectionRowIndex + down];
    const next = row?.cells[cell.cellIndex + right]?.querySelector("a");
    if (!next) return;
    event.target.setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.focus();
  });
}

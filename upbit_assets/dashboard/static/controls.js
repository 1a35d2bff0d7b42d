// Controls: language, theme, colours, the chart's span, and the market search.

import { byId, choosable, element, inputById, tableBody } from "./page.js";
import { findMarket } from "./search.js";
import { SPANS, colours, language, readAddress, state, theme, translation, writeAddress } from "./state.js";

export function drawControls() {
  const words = translation();
  byId("language").textContent = words.switchLanguage;
  byId("language").lang = language.get() === "ko" ? "en" : "ko";
  const shade = { auto: words.themeAuto, dark: words.themeDark, light: words.themeLight }[theme.get()];
  byId("theme").textContent = `◐ ${shade}`;
  byId("theme").setAttribute("aria-label", `${words.theme}: ${shade}`);
  byId("colours").setAttribute("aria-label", `${words.colours}: ${words[colours.get()]}`);
  byId("colours").title = words[colours.get()];
  inputById("code").placeholder = words.findHint;
  document.documentElement.dataset.theme = theme.get();
  document.documentElement.dataset.colours = colours.get();
  byId("simulated").hidden ||= !state.status?.simulated;
  byId("spans").replaceChildren(
    ...Object.keys(SPANS).map((name) => {
      const input = element("input", { type: "radio", name: "span", value: name });
      input.checked = name === state.span;
      return element("label", {}, input, element("span", {}, words[name]));
    }),
  );
}

/**
 * @param {{ choose: (market: string) => void, drawAll: () => void, paint: () => void, drawLists: () => void,
 *   readCandles: () => void }} board
 */
export function listenToControls({ choose, drawAll, paint, drawLists, readCandles }) {
  for (const id of ["top10", "volatility", "all"]) choosable(tableBody(id), choose);
  for (const [id, one] of Object.entries({ language, theme, colours })) {
    byId(id).addEventListener("click", () => {
      one.next();
      drawAll();
    });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  byId("spans").addEventListener("change", (event) => {
    state.span = /** @type {HTMLInputElement} */ (event.target).value;
    writeAddress();
    readCandles();
  });
  byId("as-table").addEventListener("click", () => {
    const table = byId("all").hidden;
    byId("all").hidden = !table;
    byId("heat-figure").hidden = table;
    byId("as-table").setAttribute("aria-pressed", String(table));
    drawLists();
  });
  listenToSearch(choose);
  addEventListener("hashchange", () => {
    const before = state.market;
    readAddress();
    drawControls();
    if (state.market && state.market !== before) choose(state.market);
    else readCandles();
  });
}

/** @param {(market: string) => void} choose */
function listenToSearch(choose) {
  const input = inputById("code");
  const find = () => {
    const found = findMarket(state.markets, input.value);
    input.setAttribute("aria-invalid", String(Boolean(input.value.trim()) && !found));
    if (!found) return;
    input.value = "";
    choose(found);
  };
  byId("find").addEventListener("submit", (event) => {
    event.preventDefault();
    find();
  });
  // a name picked from the suggestions
  input.addEventListener(
    "input",
    (event) => event instanceof InputEvent && event.inputType === "insertReplacementText" && find(),
  );
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !(event.target instanceof HTMLInputElement)) {
      event.preventDefault();
      input.focus();
    }
  });
}

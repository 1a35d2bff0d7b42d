// The turnover heat map and the order book depth chart.

import * as echarts from "/static/vendor/echarts-6.1.0/echarts.esm.min.mjs";
import { amount, brief, full, percent } from "./figures.js";
import { colour } from "./settings.js";

/** @import { Book, Market } from "./api.js" */
/** A drawn item as passed to the libraries' callbacks. @typedef {{ data: { market?: string, name: string, exact?: Market, side: number } }} Item */

const MOST_MARKETS = 70;
const FULL_COLOUR = 0.04; // the change with full colour; the page's legend says the same
const NAMED = 50,
  CHANGE_SIDE = 72; // minimal side of a box in pixels to show the name, and the change as well

/**
 * A graph in an element; redraws its last content when the element is resized.
 * @template {unknown[]} T
 * @param {HTMLElement} container @param {(...shown: T) => object} options
 */
function graph(container, options) {
  const chart = echarts.init(container, null, { renderer: "canvas" });
  /** @type {T | null} */
  let last = null;
  const draw = (/** @type {T} */ ...shown) => {
    last = shown;
    if (container.clientWidth) chart.setOption({ ...look(), ...options(...shown) }, { notMerge: true });
  };
  new ResizeObserver(() => {
    chart.resize();
    if (last) draw(...last);
  }).observe(container);
  return { chart, draw };
}

const look = () => ({
  animation: false,
  textStyle: { fontFamily: getComputedStyle(document.body).fontFamily },
});

// not HTML, whose inline styles the Content-Security-Policy forbids
const tooltip = () => ({
  renderMode: "richText",
  backgroundColor: colour("label"),
  borderWidth: 0,
  textStyle: { color: colour("ontop"), fontSize: 12 },
});

/** Interpolated between neutral and the direction's colour by the rate. @param {number} rate */
function heat(rate) {
  const deep = Math.min(1, Math.abs(rate) / FULL_COLOUR);
  const [even, full] = [colour("heat-even"), colour(rate < 0 ? "heat-down" : "heat-up")].map((rgb) =>
    (rgb.match(/\d+/g) ?? []).map(Number),
  );
  return `rgb(${even.map((from, index) => Math.round(from + (full[index] - from) * deep)).join(",")})`;
}

/** @param {HTMLElement} container @param {(market: string) => void} choose */
export function heatMap(container, choose) {
  const { chart, draw } = graph(
    container,
    (/** @type {Market[]} */ markets, /** @type {string | null} */ chosen, /** @type {string} */ language) => {
      const gap = colour("panel");
      const shown = markets.filter((market) => market.turnover_krw !== null).slice(0, MOST_MARKETS);
      const pixelsPerKrw =
        (container.clientWidth * container.clientHeight) /
        shown.reduce((total, market) => total + Number(market.turnover_krw), 0);
      const data = shown.map((market) => ({
        market: market.market,
        side: Math.sqrt(Number(market.turnover_krw) * pixelsPerKrw),
        name: market.market.startsWith("KRW-") ? market.market.slice(4) : market.market,
        value: Number(market.turnover_krw),
        exact: market,
        itemStyle: {
          color: heat(Number(market.change_rate)),
          borderColor: market.market === chosen ? colour("text") : gap,
          borderWidth: market.market === chosen ? 2 : 0,
        },
      }));
      return {
        tooltip: {
          ...tooltip(),
          formatter: (/** @type {Item} */ { data: { exact } }) =>
            exact?.turnover_krw
              ? `${exact.market}\n${full(exact.trade_price)}  ${percent(exact.change_rate)}\n${amount(exact.turnover_krw, language)} KRW`
              : "",
        },
        series: [
          {
            type: "treemap",
            data,
            roam: false,
            nodeClick: false,
            breadcrumb: { show: false },
            left: 0,
            right: 0,
            top: 0,
            bottom: 0,
            itemStyle: { gapWidth: 1, borderColor: gap },
            label: {
              formatter: (/** @type {Item} */ { data: { name, exact, side } }) =>
                !exact || side < NAMED
                  ? ""
                  : side < CHANGE_SIDE
                    ? `{small|${name}}`
                    : `{name|${name}}\n${percent(exact.change_rate)}`,
              rich: {
                name: { fontWeight: 600, fontSize: 13, lineHeight: 18, color: "#fff" },
                small: { fontWeight: 600, fontSize: 10, color: "#fff" },
              },
              color: "#fff",
              fontSize: 11,
              lineHeight: 14,
              position: "inside",
              align: "center",
              verticalAlign: "middle",
            },
          },
        ],
      };
    },
  );
  chart.on("click", (/** @type {Partial<Item>} */ { data }) => data?.market && choose(data.market));
  return { draw };
}

/** [price, cumulative size] from the best price outwards; inexact sums, for drawing only. @param {string[]} prices @param {string[]} sizes */
function cumulative(prices, sizes) {
  let total = 0;
  return prices.map((price, index) => [Number(price), (total += Number(sizes[index]))]);
}

/** @param {HTMLElement} container */
export function depthGraph(container) {
  const { draw } = graph(container, (/** @type {Book} */ book) => {
    const bids = cumulative(book.bid_prices, book.bid_sizes),
      asks = cumulative(book.ask_prices, book.ask_sizes);
    const exact = new Map([...book.bid_prices, ...book.ask_prices].map((text) => [Number(text), full(text)]));
    const side = (/** @type {number[][]} */ data, /** @type {string} */ name) => ({
      type: "line",
      data,
      step: "end",
      symbol: "none",
      lineStyle: { color: colour(name), width: 1.5 },
      areaStyle: { color: colour(name), opacity: 0.18 },
    });
    return {
      grid: { left: 0, right: 0, top: 6, bottom: 0 },
      xAxis: { type: "value", scale: true, show: false, min: "dataMin", max: "dataMax" },
      yAxis: { type: "value", show: false },
      tooltip: {
        ...tooltip(),
        trigger: "axis",
        formatter: (/** @type {{ value: [number, number] }[]} */ [{ value }]) =>
          `${exact.get(value[0])}\n${brief(value[1].toFixed(8))}`,
      },
      series: [side([...bids].reverse(), "up"), side(asks, "down")],
    };
  });
  return { draw };
}

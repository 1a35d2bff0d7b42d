// Candles, volume and VWAP of one market. Numbers are only drawn; every figure shown as text comes from its string.

import * as lightweight from "/static/vendor/lightweight-charts-5.2.1/lightweight-charts.standalone.production.mjs";
import { full, grouped, places } from "./figures.js";
import { colour } from "./settings.js";

/** @import { Candle } from "./api.js" */
/** @import { Point } from "./state.js" */
/** @typedef {{ time: number, open?: number, high?: number, low?: number, close?: number }} Bar */

const SEOUL = 9 * 3600; // the chart doesn't support time zones, so times are shifted to Seoul time
/** @param {string} iso */
export const timeOf = (iso) => Date.parse(iso) / 1000 + SEOUL;
/** @param {string} name */
const faint = (name) => colour(name).replace(/^rgb\((.*)\)$/, "rgba($1, 0.45)");

/** @param {HTMLElement} place @param {{ hovered(row: Candle | undefined): void }} listener */
export function candleChart(place, { hovered }) {
  const chart = lightweight.createChart(place, {
    autoSize: true,
    layout: { attributionLogo: true, fontFamily: getComputedStyle(document.body).fontFamily, fontSize: 11 },
    timeScale: { timeVisible: true, secondsVisible: false, borderVisible: false, rightOffset: 2 },
    rightPriceScale: { borderVisible: false, scaleMargins: { top: 0.06, bottom: 0.24 } },
    crosshair: { mode: lightweight.CrosshairMode.Normal },
    handleScroll: { mouseWheel: false, vertTouchDrag: false },
    handleScale: { mouseWheel: false },
  });
  const volume = chart.addSeries(lightweight.HistogramSeries, {
    priceScaleId: "volume",
    lastValueVisible: false,
    priceLineVisible: false,
  });
  chart.priceScale("volume").applyOptions({ scaleMargins: { top: 0.82, bottom: 0 } });
  const candles = chart.addSeries(lightweight.CandlestickSeries, { borderVisible: false });
  const line = chart.addSeries(lightweight.LineSeries, { lineWidth: 2, visible: false });
  const vwap = chart.addSeries(lightweight.LineSeries, {
    lineWidth: 1,
    lineType: lightweight.LineType.WithSteps,
    lastValueVisible: false,
    priceLineVisible: false,
    crosshairMarkerVisible: false,
  });
  /** @type {Map<number, Candle>} */
  let candleAt = new Map();
  chart.subscribeCrosshairMove((/** @type {{ time?: number }} */ { time }) =>
    hovered(time === undefined ? undefined : candleAt.get(time)),
  );

  function paint() {
    const [up, down, muted, grid] = ["up", "down", "muted", "grid"].map(colour);
    chart.applyOptions({
      layout: { background: { color: colour("panel") }, textColor: muted },
      grid: { vertLines: { color: grid }, horzLines: { color: grid } },
      crosshair: {
        vertLine: { color: muted, labelBackgroundColor: colour("label") },
        horzLine: { color: muted, labelBackgroundColor: colour("label") },
      },
    });
    candles.applyOptions({ upColor: up, downColor: down, wickUpColor: up, wickDownColor: down });
    line.applyOptions({ color: colour("accent") });
    vwap.applyOptions({ color: colour("vwap") });
  }

  /**
   * Draws candles, or the line of prices if there are none.
   * @param {object} shown
   * @param {Candle[]} shown.rows
   * @param {Point[]} shown.prices
   * @param {Point[]} shown.vwaps
   * @param {number} shown.step a candle's length in seconds; periods without trades stay blank
   * @param {boolean} shown.fit whether to zoom to all of it
   */
  function draw({ rows, prices, vwaps, step, fit }) {
    const drawn = rows.length
      ? rows.flatMap((row) => [row.opening_price, row.high_price, row.low_price, row.closing_price])
      : prices.map((one) => one.price ?? "0");
    const exact = new Map(drawn.map((text) => [Number(text), full(text)]));
    const digits = Math.max(0, ...drawn.map(places));
    const priceFormat = {
      type: "custom",
      minMove: 10 ** -digits,
      formatter: (/** @type {number} */ value) => exact.get(value) ?? grouped(value.toFixed(digits)),
    };
    for (const one of [candles, line, vwap]) one.applyOptions({ priceFormat });
    candleAt = new Map(rows.map((row) => [timeOf(row.started_at), row]));
    candles.setData(spaced(rows.map(candle), step));
    volume.setData(
      rows.map((row) => ({
        time: timeOf(row.started_at),
        value: Number(row.volume),
        color: faint(Number(row.closing_price) < Number(row.opening_price) ? "down" : "up"),
      })),
    );
    line.applyOptions({ visible: !rows.length });
    line.setData(prices.map(({ time, price }) => ({ time, value: Number(price) })));
    vwap.setData(vwaps.map(({ time, price }) => (price === null ? { time } : { time, value: Number(price) })));
    if (fit) chart.timeScale().fitContent();
  }

  return {
    draw,
    paint,
    locale: (/** @type {string} */ locale) =>
      chart.applyOptions({ localization: { locale, dateFormat: "yyyy-MM-dd" } }),
  };
}

/** @param {Candle} row @returns {Bar} */
function candle(row) {
  return {
    time: timeOf(row.started_at),
    open: Number(row.opening_price),
    high: Number(row.high_price),
    low: Number(row.low_price),
    close: Number(row.closing_price),
  };
}

/** The candles, with blanks for steps without one. @param {Bar[]} rows @param {number} step */
export function spaced(rows, step) {
  /** @type {Bar[]} */
  const all = [];
  for (const row of rows) {
    for (let time = all.length ? all[all.length - 1].time + step : row.time; time < row.time; time += step)
      all.push({ time });
    all.push(row);
  }
  return all;
}

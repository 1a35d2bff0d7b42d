// Exact figures: decimals stay strings from the database to the screen and never become binary floats. They are
// converted to numbers only to position pixels.

const DECIMAL = /^(-?)(\d+)(?:\.(\d+))?$/;
/** @type {Record<string, [number, string][]>} */
const UNITS = {
  ko: [
    [12, "조"],
    [8, "억"],
    [4, "만"],
  ],
  en: [
    [12, "T"],
    [9, "B"],
    [6, "M"],
    [3, "K"],
  ],
};

/** @param {string} text */
function parts(text) {
  const found = DECIMAL.exec(text);
  if (!found) throw new Error(`not a decimal: ${text}`);
  const [, sign, whole, fraction = ""] = found;
  return { negative: sign === "-", digits: BigInt(whole + fraction), scale: fraction.length };
}

/** @param {boolean} negative @param {bigint} digits @param {number} scale */
function spelled(negative, digits, scale) {
  const padded = digits.toString().padStart(scale + 1, "0");
  const whole = padded.slice(0, padded.length - scale);
  const sign = negative && digits !== 0n ? "-" : "";
  return sign + whole + (scale ? "." + padded.slice(padded.length - scale) : "");
}

/** `text` × 10^`power`, exactly. @param {string} text @param {number} power */
export function shifted(text, power) {
  const { negative, digits, scale } = parts(text);
  return scale >= power
    ? spelled(negative, digits, scale - power)
    : spelled(negative, digits * 10n ** BigInt(power - scale), 0);
}

/** `text` rounded to `places` decimals, half away from zero. @param {string} text @param {number} places */
export function rounded(text, places) {
  const { negative, digits, scale } = parts(text);
  if (scale <= places) return spelled(negative, digits * 10n ** BigInt(places - scale), places);
  const unit = 10n ** BigInt(scale - places);
  return spelled(negative, (digits + unit / 2n) / unit, places);
}

/** In full, with thousands separators and without trailing zeros. @param {string} text */
export function full(text) {
  const [whole, fraction = ""] = text.split(".");
  const kept = fraction.replace(/0+$/, "");
  return grouped(whole) + (kept && "." + kept);
}

/** With thousands separators; keeps all decimals. @param {string} text */
export function grouped(text) {
  const [whole, fraction] = text.split(".");
  return whole.replace(/\B(?=(\d{3})+$)/g, ",") + (fraction === undefined ? "" : "." + fraction);
}

/** A rate as a signed percentage. @param {string} rate */
export function percent(rate, { places = 2, sign = true } = {}) {
  const text = rounded(shifted(rate, 2), places);
  return (sign && direction(text) > 0 ? "+" : "") + grouped(text).replace("-", "−") + "%";
}

/** An abbreviated amount: 1.23조, 4,567억; 1.23T, 456.7B. @param {string} text @param {string} language */
export function amount(text, language) {
  for (const [power, name] of UNITS[language]) {
    const inUnits = shifted(text, -power);
    const whole = rounded(inUnits, 2).replace("-", "").split(".")[0];
    if (whole !== "0") return grouped(rounded(inUnits, Math.max(0, 3 - Math.max(1, whole.length)))) + name;
  }
  return brief(text);
}

/** Short form: thousands separators and about four digits. @param {string} text */
export function brief(text) {
  const [whole, fraction = ""] = text.replace("-", "").split(".");
  if (whole !== "0") return full(rounded(text, Math.max(0, 4 - whole.length)));
  return full(rounded(text, Math.min(fraction.length, fraction.search(/[1-9]|$/) + 4)));
}

/** 1, -1 or 0. @param {string} text */
export function direction(text) {
  const { negative, digits } = parts(text);
  return digits === 0n ? 0 : negative ? -1 : 1;
}

/** The exact sum of decimals. @param {string[]} texts */
export function sum(texts) {
  const all = texts.map(parts);
  const scale = Math.max(0, ...all.map((part) => part.scale));
  const total = all.reduce(
    (total, part) => total + (part.negative ? -1n : 1n) * part.digits * 10n ** BigInt(scale - part.scale),
    0n,
  );
  return spelled(total < 0n, total < 0n ? -total : total, scale);
}

/** @param {string} text */
export const places = (text) => (text.split(".")[1] ?? "").replace(/0+$/, "").length;

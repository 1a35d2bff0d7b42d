// Finding a market by its code, its names, or the initial consonants (초성) of its Korean name.

/** @import { Market } from "./api.js" */

const INITIALS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ";
const FIRST_SYLLABLE = 0xac00; // 가
const SYLLABLES_PER_INITIAL = 588;

/** @param {string} text */
export function initialsOf(text) {
  const initials = [...text].map((letter) => {
    const place = letter.charCodeAt(0) - FIRST_SYLLABLE;
    return (place >= 0 && INITIALS[Math.floor(place / SYLLABLES_PER_INITIAL)]) || letter;
  });
  return initials.join("");
}

const normalized = (/** @type {string | null} */ text) =>
  (text ?? "").normalize("NFC").toUpperCase().replace(/\s/g, "");

/**
 * The market that best fits the text: its code, else its coin, else a name, else the beginning of one; of several the
 * first.
 * @param {Market[]} markets @param {string} text @returns {string | undefined}
 */
export function findMarket(markets, text) {
  const wanted = normalized(text);
  if (!wanted) return undefined;
  const fits = [
    (/** @type {Market} */ { market }) => market === wanted,
    (/** @type {Market} */ { market }) => market === `KRW-${wanted}`,
    (/** @type {Market} */ market) => namesOf(market).includes(wanted),
    (/** @type {Market} */ market) => namesOf(market).some((name) => name.startsWith(wanted)),
  ];
  for (const fit of fits) {
    const found = markets.find(fit);
    if (found) return found.market;
  }
  return undefined;
}

/** @param {Market} market */
function namesOf(market) {
  const korean = normalized(market.korean_name);
  return [korean, initialsOf(korean), normalized(market.english_name)];
}

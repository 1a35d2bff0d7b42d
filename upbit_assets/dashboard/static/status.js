// The page's status: live, behind (collected, but computed late), stale, down, lost, empty or loading.

import { serverNow } from "./api.js";
import { isLive, liveAge } from "./live.js";
import { byId, minuteOf, timeOf } from "./page.js";
import { state, translation } from "./state.js";

let before = "loading";

export function drawStatus() {
  const { status, failure } = state;
  const collected = status?.collected_at;
  const seconds = collected ? (serverNow() - Date.parse(collected)) / 1000 : 0;
  const now = statusName(seconds);
  document.body.dataset.state = now;
  const age = ageText(seconds),
    at = collected ? timeOf(collected) : "";
  byId("age").textContent = collected ? freshness(now, age) : "";
  byId("freshness").title = !collected
    ? ""
    : isLive()
      ? translation().liveAbout
      : `${minuteOf(collected)} KST. ${translation().snapshotsAbout}`;
  const bare = !collected && ["empty", "down", "lost"].includes(now);
  drawNotice(now, age, at, bare);
  byId("figures").hidden = !collected;
  byId("empty").hidden = !bare;
  if (bare) {
    byId("empty-title").textContent = now === "empty" ? translation().emptyTitle : translation().downTitle;
    const waiting = isReceiving() ? translation().computingText : translation().emptyText;
    byId("empty-text").textContent = now === "empty" ? waiting : failure?.message || translation().downText;
  }
  const badge = byId("simulated");
  badge.hidden = !status?.simulated;
  badge.textContent = translation().simulated;
  badge.title = translation().simulatedAbout;
  if (now === "live" && before !== "live" && before !== "loading") byId("spoken").textContent = translation().recovered;
  before = now;
}

/** Whether the figures are the stream's or the minute's snapshot, and how old. @param {string} now @param {string} age */
function freshness(now, age) {
  if (isLive()) return `${translation().live} · ${translation().ago(translation().seconds(liveAge().toFixed(1)))}`;
  return `${now === "live" ? `${translation().snapshots1} · ` : ""}${translation().ago(age)}`;
}

/** @param {number} seconds since the last figures were collected */
function statusName(seconds) {
  const { status, failure } = state;
  if (!state.connected || failure?.status === 0) return "lost";
  if (!state.database || failure) return "down";
  if (!status) return "loading";
  if (!status.collected_at) return "empty";
  if (seconds <= status.stale_after) return "live";
  return isReceiving() || isLive() ? "behind" : "stale";
}

/** Whether raw rows are being collected, even if figures are late. */
function isReceiving() {
  const { received_at: at, stale_after: limit } = state.status ?? {};
  return Boolean(at && limit) && serverNow() - Date.parse(at ?? "") <= (limit ?? 0) * 1000;
}

/** @param {string} now @param {string} age @param {string} at @param {boolean} bare */
function drawNotice(now, age, at, bare) {
  const { failure } = state;
  const problem = failure && failure.status !== 503 && failure.status ? failure.message : translation().down;
  const { behind, lost, snapshotsStale, stale } = translation();
  /** @type {Record<string, string>} */
  const notices = {
    lost,
    down: problem,
    behind: (isReceiving() ? behind : snapshotsStale)(age, at),
    stale: stale(age, at),
  };
  const notice = (notices[now] ?? "") + (at && (now === "lost" || now === "down") ? translation().kept(at) : "");
  const place = byId("notice");
  if (place.textContent !== notice) place.textContent = notice;
  place.hidden = !notice || bare;
}

/** @param {number} age in seconds */
function ageText(age) {
  const { seconds, minutes, hours, days } = translation();
  if (age < 60) return seconds(Math.max(0, Math.floor(age)));
  if (age < 3600) return minutes(Math.floor(age / 60));
  return age < 172800 ? hours(Math.floor(age / 3600)) : days(Math.floor(age / 86400));
}

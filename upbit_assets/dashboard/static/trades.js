// The chosen market's last trades (체결 내역), and the ratio of bought to sold volume (체결강도).

import { full } from "./figures.js";
import { byId, element, figure, price, quantity, timeOf } from "./page.js";
import { state, translation } from "./state.js";

const ROWS = 12;

export function drawTrades() {
  const live = state.live?.market === state.market ? state.live : null;
  byId("trades").hidden = !live?.trades.length;
  if (!live) return;
  byId("strength").replaceChildren(
    translation().strength,
    " ",
    figure(live.strength, live.strength === null ? "" : `${full(live.strength)}%`),
  );
  byId("last-trades").replaceChildren(
    ...live.trades
      .slice(0, ROWS)
      .map(([at, paid, volume, taker]) =>
        element(
          "tr",
          { class: taker === "BID" ? "bought" : "sold" },
          element("th", { scope: "row" }, element("time", { datetime: at }, timeOf(at))),
          element("td", { class: `figure ${taker === "BID" ? "up" : "down"}` }, price(paid)),
          element("td", { class: "figure" }, quantity(volume)),
          element("td", {}, translation()[taker === "BID" ? "bought" : "sold"]),
        ),
      ),
  );
}

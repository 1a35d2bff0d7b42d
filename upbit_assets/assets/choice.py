"""Which markets are collected where all of them would be too many: configuration, read anew each time."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from upbit_assets.partitions import DAY

ALL = 2**31 - 1

# the ranking that was the day's last; for a day from before the first ranking, the first one
RANKED = sa.text("""
WITH ranked AS NOT MATERIALIZED (
  SELECT window_start FROM gold.market_stats_build
  WHERE gold_rows > 0 AND window_start >= coalesce(
    (SELECT kept_from FROM bronze.retention WHERE table_name = 'gold.market_stats'), '-infinity')
)
SELECT each.start, stats.market
FROM unnest(CAST(:starts AS timestamptz[])) AS each (start)
CROSS JOIN LATERAL (
  SELECT coalesce(
    (SELECT max(window_start) FROM ranked
     WHERE window_start >= each.start AND window_start < each.start + :length),
    (SELECT min(window_start) FROM ranked WHERE window_start >= each.start + :length),
    (SELECT max(window_start) FROM ranked)) AS start
) AS ranking
JOIN gold.market_stats AS stats
  ON stats.window_start = ranking.start AND stats.rank_volume <= :most
 AND stats.ingested_at >= ranking.start AND stats.ingested_at < ranking.start + interval '10 minutes'
ORDER BY each.start DESC, stats.rank_volume, stats.market
""")


class ChoiceError(ValueError):
    """The markets can't be told; the message says why and what to do."""


class NoRankingYet(ChoiceError):  # noqa: N818 - reads as what happened
    """Nothing was ranked so far."""


@dataclass(frozen=True)
class Choice:
    """`topN` (the N largest turnovers of the day), `all`, or codes separated by commas.

    Args:
        variable: of the environment, which says it.
        default: where that is unset.
    """

    variable: str
    default: str

    def markets(self, connection: sa.Connection, starts: Sequence[datetime]) -> list[tuple[datetime, str]]:
        """(day, market) of each day that starts so, the newest day and the largest turnover first.

        Raises:
            ChoiceError: the variable says none of the three, or there is no ranking yet.
        """
        said = (os.environ.get(self.variable) or self.default).strip()
        if top := re.fullmatch(r"top([1-9][0-9]{0,3})|all", said):
            return self.ranked(connection, starts, int(top[1] or ALL))
        codes = [code.strip().upper() for code in said.split(",")]
        if not all(re.fullmatch("[A-Z0-9]{2,10}-[A-Z0-9]{1,20}", code) for code in codes):
            raise ChoiceError(f"{self.variable} is {said!r}: give topN (as top10), all, or codes as KRW-BTC,KRW-ETH.")
        return [(start, code) for start in sorted(starts, reverse=True) for code in dict.fromkeys(codes)]

    def ranked(self, connection: sa.Connection, starts: Sequence[datetime], most: int) -> list[tuple[datetime, str]]:
        found = connection.execute(RANKED, {"starts": list(starts), "length": DAY, "most": most}).tuples().all()
        if starts and not found:
            raise NoRankingYet(
                "There is no turnover ranking yet to choose the markets by: materialize gold_market_stats first, or "
                f"name them in {self.variable}."
            )
        return list(found)


orderbooks = Choice("UPBIT_ORDERBOOK_MARKETS", "top30")
candles = Choice("UPBIT_CANDLE_MARKETS", "top10")
trades = Choice("UPBIT_TRADE_MARKETS", "top10")

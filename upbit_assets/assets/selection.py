"""Selection of the markets to collect, by settings that are read on each use."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from upbit_assets.partitions import DAY
from upbit_assets.settings import Setting, Settings

# the day's last ranking; if it has none, the first later one, else the newest
RANKED = sa.text("""
WITH ranked AS NOT MATERIALIZED (
  SELECT window_start FROM gold.market_stats_build
  WHERE gold_rows > 0 AND window_start >= coalesce(
    (SELECT kept_from FROM bronze.retention WHERE table_name = 'gold.market_stats'), '-infinity')
),

-- apart, as Citus can't correlate it with a distributed table
ranking AS MATERIALIZED (
  SELECT each.start,
         coalesce(
           (SELECT max(window_start) FROM ranked
            WHERE window_start >= each.start AND window_start < each.start + :length),
           (SELECT min(window_start) FROM ranked WHERE window_start >= each.start + :length),
           (SELECT max(window_start) FROM ranked)) AS window_start
  FROM unnest(CAST(:starts AS timestamptz[])) AS each (start)
)

SELECT ranking.start, stats.market
FROM ranking
JOIN gold.market_stats AS stats
  ON stats.window_start = ranking.window_start AND stats.rank_volume <= :most
 AND stats.ingested_at >= ranking.window_start AND stats.ingested_at < ranking.window_start + interval '10 minutes'
ORDER BY ranking.start DESC, stats.rank_volume, stats.market
""")


class NoRankingError(ValueError):
    """There is no ranking yet to choose markets by; the message says what to do."""


@dataclass(frozen=True)
class MarketSelection:
    """The largest turnovers of the day, or the codes that the setting names."""

    setting: Setting[int | tuple[str, ...]]

    def markets(self, connection: sa.Connection, starts: Sequence[datetime]) -> list[tuple[datetime, str]]:
        """The (day, market)s of the days with these starts, newest day and largest turnover first.

        Raises:
            NoRankingError: there is no ranking to choose by.
        """
        chosen = self.setting.value
        if isinstance(chosen, int):
            return self.ranked(connection, starts, chosen)
        return [(start, code) for start in sorted(starts, reverse=True) for code in chosen]

    def ranked(self, connection: sa.Connection, starts: Sequence[datetime], most: int) -> list[tuple[datetime, str]]:
        found = connection.execute(RANKED, {"starts": list(starts), "length": DAY, "most": most}).tuples().all()
        if starts and not found:
            raise NoRankingError(
                "There is no turnover ranking yet to choose the markets by: materialize gold_market_stats first, or "
                f"name them in {self.setting.name}."
            )
        return list(found)


orderbooks = MarketSelection(Settings.UPBIT_ORDERBOOK_MARKETS)
candles = MarketSelection(Settings.UPBIT_CANDLE_MARKETS)
trades = MarketSelection(Settings.UPBIT_TRADE_MARKETS)

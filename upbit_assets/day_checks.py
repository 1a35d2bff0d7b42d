"""Checks of order books, candles, trades and days, and of their consistency."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from dagster import AssetChecksDefinition, AssetCheckSeverity, TimeWindow

from upbit_assets import feeds
from upbit_assets.assets import named
from upbit_assets.assets.coverage import REPORTING_DELAY
from upbit_assets.check_results import Result, Results, checks_of, window_check
from upbit_assets.checks import accounted_for, by_window, ranked
from upbit_assets.partitions import DAY, days, windows
from upbit_assets.postgres import tables
from upbit_assets.postgres_io import in_window

# the exchange rounds its sums to about 16 digits
ROUNDING = Decimal("1e-9")
LAST_DIGIT = Decimal("1e-16")  # of a VWAP


@window_check()
def every_two_sided_book_has_figures(connection: sa.Connection, span: TimeWindow) -> Results:
    """Every market with a book in a window has figures of its last one; a two-sided book has a positive spread."""
    silver, gold = tables.silver_orderbook, tables.gold_orderbook_stats
    start = windows.floor(silver.c.ingested_at).label("window")
    books = sa.select(start, silver.c.market, sa.func.max(silver.c.ingested_at)).where(in_window(silver, span))
    last = books.group_by(start, silver.c.market).subquery("last")
    one_sided = sa.or_(
        *(side == sa.cast([], sa.ARRAY(sa.Numeric)) for side in (silver.c.bid_prices, silver.c.ask_prices))
    )
    good = (
        sa.select(gold.c.window_start, gold.c.market)
        .join(silver, (silver.c.ingested_at == gold.c.ingested_at) & (silver.c.market == gold.c.market))
        .join(last, (last.c.max == gold.c.ingested_at) & (last.c.market == gold.c.market))
        .where(in_window(gold, span), in_window(silver, span), one_sided | (gold.c.spread_bps > 0))
    )
    without = by_window(connection, sa.except_(sa.select(last.c.window, last.c.market), good))
    return {
        start: Result(not without[start], {"without figures": named(without[start])})
        for start in windows.starts_in(span)
    }


@window_check(AssetCheckSeverity.WARN)
def every_minute_was_collected(connection: sa.Connection, span: TimeWindow) -> Results:
    """For each market of a final day, every minute was collected, none is rejected, and the day's volume is verified.

    A day passes until the exchange adds nothing to it any more.
    """
    coverage, rejected = tables.silver_candle_coverage, tables.silver_candle_rejected
    known = sa.select(coverage.c.day, coverage.c.market).where(in_window(coverage, span))
    # a candle without a market may be missing in any of them
    named_market = sa.func.coalesce(sa.func.nullif(rejected.c.market, ""), "(none)")
    unknown = sa.except_(sa.select(rejected.c.day, named_market).where(in_window(rejected, span)), known)
    lacking = sa.union(known.where((coverage.c.minutes_missing > 0) | coverage.c.proved.is_(False)), unknown)
    missing, final_until = by_window(connection, lacking), datetime.now(UTC) - REPORTING_DELAY
    return {
        start: Result(
            start + DAY > final_until or not missing[start],
            {"incomplete": named(missing[start])},
            "The exchange may still add to the day." if start + DAY > final_until else None,
        )
        for start in days.starts_in(span)
    }


# For all days with both, whichever gold used: gold uses trades only if they match the candles.
TRADES_AGAINST_CANDLES = sa.text("""
WITH collected AS (
  SELECT day, market
  FROM bronze.trade_page AS page JOIN silver.trade_build AS built ON built.window_start = page.day
  WHERE day >= :start AND day < :end AND page.ingested_at < built.computed_at
  GROUP BY day, market
  HAVING range_agg(covered) @> tstzrange(day, day + interval '1 day')
)
SELECT daily.day, daily.market
FROM gold.market_daily AS daily
JOIN collected USING (day, market)
CROSS JOIN LATERAL (
  SELECT sum(price * volume) AS turnover, sum(volume) AS volume FROM silver.trade
  WHERE market = daily.market AND traded_at >= daily.day AND traded_at < daily.day + interval '1 day'
) AS traded
CROSS JOIN LATERAL (
  SELECT sum(turnover) AS turnover, sum(volume) AS volume FROM silver.candle
  WHERE market = daily.market AND started_at >= daily.day AND started_at < daily.day + interval '1 day'
) AS candles
WHERE daily.day >= :start AND daily.day < :end AND daily.minutes_missing = 0
  AND NOT EXISTS (
    SELECT FROM silver.trade_rejected AS rejected WHERE rejected.day = daily.day AND rejected.market = daily.market
  )
  AND NOT EXISTS (
    SELECT FROM bronze.retention
    WHERE table_name IN ('silver.trade', 'silver.candle') AND daily.day < kept_from
  )
  AND (abs(traded.volume - candles.volume) > :rounding * candles.volume
    OR abs(traded.turnover - candles.turnover) > :rounding * candles.turnover
    OR daily.vwap_source = 'trades' AND (traded.volume <> daily.volume OR traded.turnover <> daily.turnover)
    OR abs(daily.vwap * daily.volume - daily.turnover) > :rounding * daily.turnover + :last_digit * daily.volume
  ) IS NOT FALSE
""")


@window_check()
def trades_and_candles_agree(connection: sa.Connection, span: TimeWindow) -> Results:
    """If all of a day's trades and candles were collected, volume and turnover are the same for both and in gold."""
    return named_by_day(
        connection,
        TRADES_AGAINST_CANDLES,
        span,
        "trades and candles differ",
        rounding=ROUNDING,
        last_digit=LAST_DIGIT,
    )


# the candles before the minute of the ticker's last trade, and those including it, are bounds of the ticker's figures
TICKER_AGAINST_CANDLES = sa.text("""
WITH collected AS (
  SELECT day, market, range_agg(covered) AS covered
  FROM bronze.candle_page AS page JOIN silver.candle_coverage AS built USING (day, market)
  WHERE day >= :start AND day < :end AND page.ingested_at < built.computed_at
  GROUP BY day, market
), ticker AS (
  SELECT collected.day, collected.market, last.traded_at, raw.figures
  FROM collected
  CROSS JOIN LATERAL (
    SELECT ingested_at, traded_at FROM silver.ticker
    WHERE market = collected.market AND traded_at >= collected.day
      AND collected.covered @> tstzrange(collected.day, date_trunc('minute', traded_at) + interval '1 minute')
      AND ingested_at >= collected.day AND ingested_at < collected.day + interval '1 day'
    ORDER BY ingested_at DESC LIMIT 1
  ) AS last
  CROSS JOIN LATERAL (
    SELECT (SELECT jsonb_object_agg(key, value) FROM jsonb_each(raw_data) WHERE jsonb_typeof(value) = 'number')
             AS figures
    FROM bronze.ticker_raw
    WHERE jsonb_typeof(raw_data) = 'object' AND ingested_at = last.ingested_at AND market = collected.market
    ORDER BY id DESC LIMIT 1
  ) AS raw
)
SELECT ticker.day, ticker.market
FROM ticker
CROSS JOIN LATERAL (
  SELECT (array_agg(opening_price ORDER BY started_at))[1] AS opening_price,
         coalesce(sum(volume) FILTER (WHERE before), 0) AS volume_before, sum(volume) AS volume,
         max(high_price) FILTER (WHERE before) AS high_before, max(high_price) AS high,
         min(low_price) FILTER (WHERE before) AS low_before, min(low_price) AS low
  FROM (SELECT *, started_at + interval '1 minute' <= ticker.traded_at AS before FROM silver.candle
        WHERE market = ticker.market AND started_at >= ticker.day AND started_at <= ticker.traded_at) AS minutes
) AS candles
WHERE (candles.opening_price = (figures->'opening_price')::numeric
   AND (figures->'acc_trade_volume')::numeric
       BETWEEN candles.volume_before * (1 - :rounding) AND candles.volume * (1 + :rounding)
   AND (figures->'high_price')::numeric BETWEEN coalesce(candles.high_before, 0) AND candles.high
   AND (figures->'low_price')::numeric BETWEEN candles.low AND coalesce(candles.low_before, 'infinity')) IS NOT TRUE
""")


@window_check()
def candles_and_tickers_agree(connection: sa.Connection, span: TimeWindow) -> Results:
    """The day's candles agree with the last ticker that they cover: opening price, high, low, volume."""
    return named_by_day(connection, TICKER_AGAINST_CANDLES, span, "ticker and candles differ", rounding=ROUNDING)


def named_by_day(
    connection: sa.Connection, query: sa.TextClause, span: TimeWindow, what: str, **values: Any
) -> Results:
    """The results of a query that returns the wrong (day, market)s."""
    wrong = by_window(connection, query.bindparams(start=span.start, end=span.end, **values))
    return {start: Result(not wrong[start], {what: named(wrong[start])}) for start in days.starts_in(span)}


all_checks: list[AssetChecksDefinition] = [
    checks_of("silver_orderbook", windows, accounted_for(feeds.ORDERBOOK.refinement)),
    checks_of("gold_orderbook_stats", windows, every_two_sided_book_has_figures),
    checks_of("silver_candle", days, accounted_for(feeds.CANDLE.refinement), every_minute_was_collected),
    checks_of("silver_trade", days, accounted_for(feeds.TRADE.refinement)),
    checks_of(
        "gold_market_daily",
        days,
        ranked(
            days,
            tables.gold_market_daily.c.day,
            tables.silver_candle,
            {"rank_turnover": "turnover_krw", "rank_volatility": "realized_volatility"},
        ),
        trades_and_candles_agree,
        candles_and_tickers_agree,
    ),
]

-- gold.market_daily: one row is a market's day as the exchange counts days, from 09:00 KST: prices, turnover, volatility.
-- The days are those that begin in [start, end). To try it in psql, set both, then paste all of this:
--   \set start '''2026-01-29 09:00+09'''
--   \set end '''2026-01-30 09:00+09'''

WITH minute AS (
  SELECT *, closing_price / lag(closing_price) OVER (PARTITION BY day, market ORDER BY started_at) - 1 AS change
  FROM (
    SELECT *, date_bin('1 day', started_at, '2000-01-01 09:00+09') AS day
    FROM silver.candle
    WHERE started_at >= :start AND started_at < :end
  ) AS candle
),

candles AS (
  SELECT day,
         market,
         (array_agg(opening_price ORDER BY started_at))[1] AS opening_price,
         max(high_price) AS high_price,
         min(low_price) AS low_price,
         (array_agg(closing_price ORDER BY started_at DESC))[1] AS closing_price,
         sum(volume) AS volume,
         sum(turnover) AS turnover,
         sqrt(coalesce(sum(change * change), 0)) AS realized_volatility
  FROM minute
  GROUP BY day, market
),

-- the days of which every trade was collected, of those that were not dropped since
trades_collected AS (
  SELECT day, market
  FROM bronze.trade_page AS page
  WHERE day >= :start AND day < :end
    AND NOT EXISTS (
      SELECT FROM bronze.retention
      WHERE table_name = 'bronze.trade_raw' AND page.day < kept_from AND page.ingested_at < dropped_at
    )
  GROUP BY day, market
  HAVING range_agg(covered) @> tstzrange(day, day + interval '1 day')
),

trades AS (
  SELECT day, market, sum(price * volume) AS turnover, sum(volume) AS volume
  FROM (
    SELECT *, date_bin('1 day', traded_at, '2000-01-01 09:00+09') AS day
    FROM silver.trade
    WHERE traded_at >= :start AND traded_at < :end
  ) AS trade
  GROUP BY day, market
),

-- of which none had to be rejected
whole_trades AS (
  SELECT day, market, round(round(turnover, 40) / nullif(volume, 0), 16) AS vwap
  FROM trades
  JOIN trades_collected USING (day, market)
  WHERE NOT EXISTS (
    SELECT FROM silver.trade_rejected AS rejected
    WHERE rejected.day >= :start AND rejected.day < :end
      AND rejected.day = trades.day AND rejected.market = trades.market
  )
),

-- read twice, and computed once
priced AS MATERIALIZED (
  SELECT candles.*,
         split_part(market, '-', 1) AS quote_currency,
         coalesce(
           whole_trades.vwap, round(round(turnover, 40) / nullif(volume, 0), 16), closing_price
         ) AS vwap,
         CASE WHEN whole_trades.vwap IS NULL THEN 'candles' ELSE 'trades' END AS vwap_source,
         round(realized_volatility, 10) AS realized_volatility_10
  FROM candles
  LEFT JOIN whole_trades USING (day, market)
),

in_krw AS (
  SELECT priced.*,
         CASE WHEN priced.quote_currency = 'KRW' THEN priced.turnover
              ELSE priced.turnover * rate.vwap END AS turnover_krw
  FROM priced
  LEFT JOIN priced AS rate ON rate.day = priced.day AND rate.market = 'KRW-' || priced.quote_currency
)

SELECT day,
       market,
       quote_currency,
       opening_price,
       high_price,
       low_price,
       closing_price,
       volume,
       turnover,
       turnover_krw,
       rank() OVER (PARTITION BY day ORDER BY turnover_krw DESC NULLS LAST) AS rank_turnover,
       vwap,
       vwap_source,
       realized_volatility_10 AS realized_volatility,
       rank() OVER (PARTITION BY day ORDER BY realized_volatility_10 DESC NULLS LAST) AS rank_volatility,
       minutes_traded,
       minutes_silent,
       minutes_missing
FROM in_krw
JOIN silver.candle_coverage USING (day, market);

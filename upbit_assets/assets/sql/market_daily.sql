-- gold.market_daily: one row is a market and exchange's day (from 09:00 KST): prices, turnover, volatility.
-- The days are those that begin in [start, end). To try it in psql, set both, then paste all of this:
--   \set start '''2026-01-29 09:00+09'''
--   \set end '''2026-01-30 09:00+09'''

WITH minute AS (
  SELECT candle.*,
         gold.quotient(closing_price - before, before, 20) AS change,
         -- a logarithm needs the ratio's significant digits, of which "/" gives at least 16, not its decimals
         ln(closing_price / before) AS log_return
  FROM (
    SELECT *, lag(closing_price) OVER (PARTITION BY day, market ORDER BY started_at) AS before
    FROM (
      SELECT *, date_bin('1 day', started_at, '2000-01-01 09:00+09') AS day
      FROM silver.candle
      WHERE started_at >= :start AND started_at < :end
    ) AS candle
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
         sum(change * change) AS squared_changes,
         sum(log_return * log_return) AS squared_log_returns
  FROM minute
  GROUP BY day, market
),

-- the days whose trades were all collected: pages later disproved or dropped don't count
trades_collected AS (
  SELECT day, market
  FROM bronze.trade_page AS page
  WHERE day >= :start AND day < :end
    AND NOT EXISTS (
      SELECT FROM bronze.retention
      WHERE table_name = 'bronze.trade_raw' AND page.day < kept_from AND page.ingested_at < dropped_at
    )
    AND NOT EXISTS (
      SELECT FROM bronze.trade_page AS later
      WHERE later.day = page.day AND later.market = page.market AND later.id > page.id AND NOT later.proved
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

-- those without rejected trades whose sums equal those of the candles; the exchange rounds to about 16 digits
whole_trades AS (
  SELECT day, market, trades.turnover, trades.volume
  FROM trades
  JOIN trades_collected USING (day, market)
  JOIN candles USING (day, market)
  WHERE abs(trades.volume - candles.volume) <= 1e-9 * candles.volume
    AND abs(trades.turnover - candles.turnover) <= 1e-9 * candles.turnover
    AND NOT EXISTS (
      SELECT FROM silver.trade_rejected AS rejected
      WHERE rejected.day >= :start AND rejected.day < :end
        AND rejected.day = trades.day AND rejected.market = trades.market
    )
),

-- volume, turnover and VWAP of one source
amounts AS (
  SELECT candles.day,
         candles.market,
         split_part(candles.market, '-', 1) AS quote_currency,
         opening_price,
         high_price,
         low_price,
         closing_price,
         squared_changes,
         squared_log_returns,
         CASE WHEN whole_trades.day IS NULL THEN candles.volume ELSE whole_trades.volume END AS volume,
         CASE WHEN whole_trades.day IS NULL THEN candles.turnover ELSE whole_trades.turnover END AS turnover,
         CASE WHEN whole_trades.day IS NULL THEN 'candles' ELSE 'trades' END AS vwap_source,
         minutes_traded,
         minutes_silent,
         minutes_missing
  FROM candles
  JOIN silver.candle_coverage USING (day, market)
  LEFT JOIN whole_trades USING (day, market)
),

-- used twice, so computed once
priced AS MATERIALIZED (
  SELECT amounts.*,
         -- the exchange rounds turnovers to 16 digits, so the VWAP of trades at a single price may differ from it slightly
         CASE WHEN average BETWEEN low_price * (1 - 1e-9) - 1e-16 AND high_price * (1 + 1e-9) + 1e-16
              THEN least(greatest(average, low_price), high_price) END AS vwap,
         round(sqrt(squared_changes), 10) AS realized_volatility,
         round(sqrt(squared_log_returns), 10) AS log_volatility,
         round(sqrt(365 * squared_log_returns), 10) AS annualized_volatility,
         -- 1 / (4 ln 2), and 2 ln 2 - 1
         round(sqrt(365 * 0.36067376022224085183998 * log_range * log_range), 10) AS parkinson_volatility,
         round(sqrt(365 * (0.5 * log_range * log_range - 0.38629436111989061883446 * log_change * log_change)), 10)
           AS garman_klass_volatility
  FROM amounts
  CROSS JOIN LATERAL (
    SELECT gold.quotient(turnover, volume, 16) AS average,
           ln(high_price / low_price) AS log_range,
           ln(closing_price / opening_price) AS log_change
  ) AS of_day
),

in_krw AS (
  SELECT priced.*,
         CASE WHEN priced.quote_currency = 'KRW' THEN priced.turnover
              ELSE priced.turnover * rate.vwap END AS turnover_krw,
         nullif(concat_ws('; ',
           CASE WHEN priced.minutes_missing > 0
                THEN 'partial: ' || priced.minutes_missing || ' minutes missing or to come' END,
           CASE WHEN priced.quote_currency = 'KRW' THEN NULL
                WHEN rate.vwap IS NULL THEN 'no rate: no VWAP of KRW-' || priced.quote_currency
                WHEN rate.minutes_missing > 0 THEN 'partial rate: ' || rate.minutes_missing || ' minutes of '
                  || rate.market || ' missing or to come' END), '') AS rank_note
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
       realized_volatility,
       CASE WHEN realized_volatility IS NOT NULL
            THEN rank() OVER (PARTITION BY day ORDER BY realized_volatility DESC NULLS LAST) END AS rank_volatility,
       minutes_traded,
       minutes_silent,
       minutes_missing,
       rank_note,
       log_volatility,
       annualized_volatility,
       parkinson_volatility,
       garman_klass_volatility
FROM in_krw;

-- gold.trade_stats: one row is a market's trades in a ten-minute window: prices, volume, buy and sell volume.
-- The windows are those that begin in [start, end). To try it in psql, set both, then paste all of this:
--   \set start '''2026-01-29 14:00+09'''
--   \set end '''2026-01-29 14:10+09'''

WITH trade AS NOT MATERIALIZED (
  SELECT *, date_bin('10 minutes', traded_at, '2000-01-01 00:00+09') AS window_start
  FROM silver.trade_stream
  WHERE traded_at >= :start AND traded_at < :end
),

figures AS (
  SELECT window_start,
         market,
         split_part(market, '-', 1) AS quote_currency,
         count(*) AS trades,
         (array_agg(price ORDER BY traded_at, trade_id))[1] AS opening_price,
         max(price) AS high_price,
         min(price) AS low_price,
         (array_agg(price ORDER BY traded_at DESC, trade_id DESC))[1] AS closing_price,
         sum(volume) AS volume,
         sum(price * volume) AS turnover,
         coalesce(sum(volume) FILTER (WHERE taker = 'BID'), 0) AS buy_volume,
         coalesce(sum(volume) FILTER (WHERE taker = 'ASK'), 0) AS sell_volume,
         max(price * volume) AS largest_trade
  FROM trade
  GROUP BY window_start, market
),

priced AS (
  -- the quotient is rounded, so it may lie outside [low_price, high_price]
  SELECT *, least(greatest(gold.quotient(turnover, volume, 16), low_price), high_price) AS vwap
  FROM figures
),

in_krw AS (
  SELECT priced.*,
         CASE WHEN priced.quote_currency = 'KRW' THEN priced.turnover
              ELSE priced.turnover * rate.vwap END AS turnover_krw
  FROM priced
  LEFT JOIN priced AS rate ON rate.window_start = priced.window_start AND rate.market = 'KRW-' || priced.quote_currency
)

SELECT window_start,
       market,
       quote_currency,
       trades,
       opening_price,
       high_price,
       low_price,
       closing_price,
       volume,
       turnover,
       turnover_krw,
       vwap,
       buy_volume,
       sell_volume,
       gold.quotient(100 * buy_volume, sell_volume, 10) AS strength,
       largest_trade,
       rank() OVER (PARTITION BY window_start ORDER BY turnover_krw DESC NULLS LAST) AS rank_turnover,
       rank() OVER (PARTITION BY window_start ORDER BY trades DESC) AS rank_trades
FROM in_krw;

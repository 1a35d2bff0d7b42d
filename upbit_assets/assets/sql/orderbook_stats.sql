-- gold.orderbook_stats: one row is a market's last order book of a ten-minute window: spread, depth and imbalance.
-- The windows are those that begin in [start, end). To try it in psql, set both, then paste all of this:
--   \set start '''2026-01-29 14:00+09'''
--   \set end '''2026-01-29 14:10+09'''

WITH book AS (
  SELECT *,
         date_bin('10 minutes', ingested_at, '2000-01-01 00:00+09') AS window_start,
         bid_prices[1] AS best_bid,
         ask_prices[1] AS best_ask,
         (bid_prices[1] + ask_prices[1]) * 0.5 AS mid_price  -- divided by 2 it would lose a 17th digit
  FROM silver.orderbook
  WHERE ingested_at >= :start AND ingested_at < :end AND bid_prices[1] IS NOT NULL AND ask_prices[1] IS NOT NULL
),

in_window AS (
  SELECT *,
         avg(spread_bps) OVER market_window AS spread_bps_mean,
         row_number() OVER (market_window ORDER BY ingested_at DESC) AS recency
  FROM (SELECT *, (best_ask - best_bid) / mid_price * 10000 AS spread_bps FROM book) AS spread
  WINDOW market_window AS (PARTITION BY window_start, market)
),

last_book AS (
  SELECT * FROM in_window WHERE recency = 1
)

SELECT ingested_at,
       market,
       split_part(market, '-', 1) AS quote_currency,
       best_bid,
       best_ask,
       mid_price,
       round(spread_bps, 10) AS spread_bps,
       round(spread_bps_mean, 10) AS spread_bps_mean,
       bid.depth_01 AS bid_depth_01,
       ask.depth_01 AS ask_depth_01,
       bid.depth_05 AS bid_depth_05,
       ask.depth_05 AS ask_depth_05,
       bid.depth_1 AS bid_depth_1,
       ask.depth_1 AS ask_depth_1,
       round((bid.depth_1 - ask.depth_1) / nullif(bid.depth_1 + ask.depth_1, 0), 10) AS imbalance,
       round(least(abs(bid.farthest / mid_price - 1), abs(ask.farthest / mid_price - 1)), 10) AS reach,
       window_start
FROM last_book
CROSS JOIN LATERAL (
  SELECT coalesce(sum(price * size) FILTER (WHERE abs(price - mid_price) <= mid_price * 0.001), 0) AS depth_01,
         coalesce(sum(price * size) FILTER (WHERE abs(price - mid_price) <= mid_price * 0.005), 0) AS depth_05,
         coalesce(sum(price * size) FILTER (WHERE abs(price - mid_price) <= mid_price * 0.01), 0) AS depth_1,
         min(price) AS farthest
  FROM unnest(bid_prices, bid_sizes) AS level (price, size)
) AS bid
CROSS JOIN LATERAL (
  SELECT coalesce(sum(price * size) FILTER (WHERE abs(price - mid_price) <= mid_price * 0.001), 0) AS depth_01,
         coalesce(sum(price * size) FILTER (WHERE abs(price - mid_price) <= mid_price * 0.005), 0) AS depth_05,
         coalesce(sum(price * size) FILTER (WHERE abs(price - mid_price) <= mid_price * 0.01), 0) AS depth_1,
         max(price) AS farthest
  FROM unnest(ask_prices, ask_sizes) AS level (price, size)
) AS ask;

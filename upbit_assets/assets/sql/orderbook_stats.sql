-- gold.orderbook_stats: one row is a market's last order book of a ten-minute window: spread, depth and imbalance.
-- A one-sided book has no mid price, so the figures based on it are NULL.
-- The windows are those that begin in [start, end). To try it in psql, set both, then paste all of this:
--   \set start '''2026-01-29 14:00+09'''
--   \set end '''2026-01-29 14:10+09'''

WITH book AS (
  SELECT *,
         date_bin('10 minutes', ingested_at, '2000-01-01 00:00+09') AS window_start,
         bid_prices[1] AS best_bid,
         ask_prices[1] AS best_ask,
         gold.quotient(20000 * (ask_prices[1] - bid_prices[1]), ask_prices[1] + bid_prices[1], 10) AS spread_bps
  FROM silver.orderbook
  WHERE ingested_at >= :start AND ingested_at < :end
),

in_window AS (
  SELECT *,
         sum(spread_bps) OVER market_window AS spreads,
         count(spread_bps) OVER market_window AS two_sided_books,
         row_number() OVER (market_window ORDER BY ingested_at DESC) AS recency
  FROM book
  WINDOW market_window AS (PARTITION BY window_start, market)
),

last_book AS (
  SELECT *,
         (best_bid + best_ask) * 0.5 AS mid_price,  -- division by 2 would lose a 17th digit
         -- the exchange sends at most 30 levels a side; a side with fewer is complete
         CASE WHEN cardinality(bid_prices) >= 30 THEN bid_prices[cardinality(bid_prices)] END AS last_bid_shown,
         CASE WHEN cardinality(ask_prices) >= 30 THEN ask_prices[cardinality(ask_prices)] END AS last_ask_shown
  FROM in_window
  WHERE recency = 1
),

figures AS (
  SELECT last_book.*,
         bid.depth_01 AS bid_depth_01,
         ask.depth_01 AS ask_depth_01,
         bid.depth_05 AS bid_depth_05,
         ask.depth_05 AS ask_depth_05,
         bid.depth_1 AS bid_depth_1,
         ask.depth_1 AS ask_depth_1,
         gold.quotient(mid_price - last_bid_shown, mid_price, 10) AS bid_reach,
         gold.quotient(last_ask_shown - mid_price, mid_price, 10) AS ask_reach
  FROM last_book
  LEFT JOIN LATERAL (
    SELECT coalesce(sum(price * size) FILTER (WHERE mid_price - price <= mid_price * 0.001), 0) AS depth_01,
           coalesce(sum(price * size) FILTER (WHERE mid_price - price <= mid_price * 0.005), 0) AS depth_05,
           coalesce(sum(price * size) FILTER (WHERE mid_price - price <= mid_price * 0.01), 0) AS depth_1
    FROM unnest(bid_prices, bid_sizes) AS level (price, size)
    HAVING mid_price IS NOT NULL
  ) AS bid ON true
  LEFT JOIN LATERAL (
    SELECT coalesce(sum(price * size) FILTER (WHERE price - mid_price <= mid_price * 0.001), 0) AS depth_01,
           coalesce(sum(price * size) FILTER (WHERE price - mid_price <= mid_price * 0.005), 0) AS depth_05,
           coalesce(sum(price * size) FILTER (WHERE price - mid_price <= mid_price * 0.01), 0) AS depth_1
    FROM unnest(ask_prices, ask_sizes) AS level (price, size)
    HAVING mid_price IS NOT NULL
  ) AS ask ON true
)

SELECT ingested_at,
       market,
       split_part(market, '-', 1) AS quote_currency,
       best_bid,
       best_ask,
       mid_price,
       spread_bps,
       gold.quotient(spreads, two_sided_books, 10) AS spread_bps_mean,
       bid_depth_01,
       ask_depth_01,
       bid_depth_05,
       ask_depth_05,
       bid_depth_1,
       ask_depth_1,
       gold.quotient(bid_depth_1 - ask_depth_1, bid_depth_1 + ask_depth_1, 10) AS imbalance,
       least(bid_reach, ask_reach) AS reach,
       window_start,
       bid_reach,
       ask_reach
FROM figures;

-- dividend / divisor to so many decimals, halves away from zero; NULL where the divisor is 0. Exact whatever the two are:
-- "/" keeps 16 significant digits, which round() rounds once more, and div() the whole quotient. A power of ten that is
-- negative has 16 decimals at most before PostgreSQL 18: 10 ^ -20 would be 0, and 1 / 10 ^ 20 is not.
CREATE FUNCTION gold.quotient(dividend numeric, divisor numeric, decimals integer) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN round(
  div(2 * dividend * 10::numeric ^ decimals + sign(dividend) * abs(divisor), nullif(2 * divisor, 0))
    * round(1 / 10::numeric ^ decimals, decimals),
  decimals);

-- a price that was seen once has no range
ALTER TABLE gold.market_stats ALTER COLUMN volatility DROP NOT NULL, ALTER COLUMN rank_volatility DROP NOT NULL;

-- a book with one side alone
ALTER TABLE gold.orderbook_stats
  ADD COLUMN bid_reach numeric,
  ADD COLUMN ask_reach numeric,
  ALTER COLUMN best_bid DROP NOT NULL,
  ALTER COLUMN best_ask DROP NOT NULL,
  ALTER COLUMN mid_price DROP NOT NULL,
  ALTER COLUMN spread_bps DROP NOT NULL,
  ALTER COLUMN spread_bps_mean DROP NOT NULL,
  ALTER COLUMN bid_depth_01 DROP NOT NULL,
  ALTER COLUMN ask_depth_01 DROP NOT NULL,
  ALTER COLUMN bid_depth_05 DROP NOT NULL,
  ALTER COLUMN ask_depth_05 DROP NOT NULL,
  ALTER COLUMN bid_depth_1 DROP NOT NULL,
  ALTER COLUMN ask_depth_1 DROP NOT NULL,
  ALTER COLUMN reach DROP NOT NULL;

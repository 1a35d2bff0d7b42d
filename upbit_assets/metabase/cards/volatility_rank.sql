SELECT s.rank_volatility AS "순위", s.market AS "종목", s.volatility AS "변동성", s.window_high AS "고가",
       s.window_low AS "저가", s.trade_price AS "현재가", s.window_start AT TIME ZONE 'Asia/Seoul' AS "시각 (KST)"
FROM (
  SELECT recent.window_start
  FROM (SELECT window_start FROM gold.market_stats_build WHERE gold_rows > 0 ORDER BY window_start DESC LIMIT 2) recent
  JOIN gold.market_stats one
    ON one.window_start = recent.window_start AND one.volatility > 0
   AND one.ingested_at >= recent.window_start AND one.ingested_at < recent.window_start + interval '10 minutes'
  ORDER BY recent.window_start DESC LIMIT 1
) newest
JOIN gold.market_stats s
  ON s.window_start = newest.window_start
 AND s.ingested_at >= newest.window_start AND s.ingested_at < newest.window_start + interval '10 minutes'
WHERE s.rank_volatility IS NOT NULL
ORDER BY s.rank_volatility, s.market
LIMIT 20

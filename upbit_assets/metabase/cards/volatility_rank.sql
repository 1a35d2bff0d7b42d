SELECT s.rank_volatility AS "순위", s.market AS "종목", s.volatility AS "변동성", s.window_high AS "고가",
       s.window_low AS "저가", s.trade_price AS "현재가", s.window_start AT TIME ZONE 'Asia/Seoul' AS "시각 (KST)"
FROM (
  SELECT s.*, max(s.window_start) FILTER (WHERE s.volatility > 0) OVER () AS newest
  FROM (
    SELECT min(window_start) AS former, max(window_start) AS latter
    FROM (SELECT window_start FROM gold.market_stats_build WHERE gold_rows > 0 ORDER BY window_start DESC LIMIT 2) recent
  ) windows
  JOIN gold.market_stats s
    ON s.window_start IN (windows.former, windows.latter)
   AND s.ingested_at >= windows.former AND s.ingested_at < windows.latter + interval '10 minutes'
) s
WHERE s.window_start = s.newest AND s.rank_volatility IS NOT NULL
ORDER BY s.rank_volatility, s.market
LIMIT 20

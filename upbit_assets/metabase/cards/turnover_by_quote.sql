SELECT s.quote_currency AS "기준 통화", sum(s.turnover_krw) AS "거래대금 (KRW)", count(*) AS "종목 수",
       count(*) FILTER (WHERE s.turnover_krw IS NULL) AS "환산 불가"
FROM (SELECT window_start FROM gold.market_stats_build WHERE gold_rows > 0 ORDER BY window_start DESC LIMIT 1) newest
JOIN gold.market_stats s
  ON s.window_start = newest.window_start
 AND s.ingested_at >= newest.window_start AND s.ingested_at < newest.window_start + interval '10 minutes'
GROUP BY s.quote_currency
ORDER BY 2 DESC NULLS LAST

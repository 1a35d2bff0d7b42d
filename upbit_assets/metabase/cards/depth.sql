SELECT s.market AS "종목", s.best_bid AS "최우선 매수", s.best_ask AS "최우선 매도", s.spread_bps AS "스프레드 (bp)",
       s.bid_depth_01 AS "매수 0.1%", s.ask_depth_01 AS "매도 0.1%", s.bid_depth_05 AS "매수 0.5%",
       s.ask_depth_05 AS "매도 0.5%", s.bid_depth_1 AS "매수 1%", s.ask_depth_1 AS "매도 1%",
       s.imbalance AS "불균형", s.reach AS "호가 범위", s.window_start AT TIME ZONE 'Asia/Seoul' AS "시각 (KST)"
FROM (SELECT window_start FROM gold.orderbook_stats_build WHERE gold_rows > 0 ORDER BY window_start DESC LIMIT 1) newest
JOIN gold.orderbook_stats s
  ON s.window_start = newest.window_start
 AND s.ingested_at >= newest.window_start AND s.ingested_at < newest.window_start + interval '10 minutes'
WHERE true [[AND s.market IN ({{market}})]]
ORDER BY s.market
LIMIT 1000

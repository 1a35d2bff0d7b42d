SELECT rank_volume AS "순위", market AS "종목", trade_price AS "현재가", change_rate AS "전일 대비",
       turnover_krw AS "거래대금 (KRW)", window_start AT TIME ZONE 'Asia/Seoul' AS "시각 (KST)"
FROM gold.turnover_top10
ORDER BY rank_volume, market

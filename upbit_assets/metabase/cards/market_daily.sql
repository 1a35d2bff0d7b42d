SELECT (day AT TIME ZONE 'Asia/Seoul')::date AS "거래일", market AS "종목", opening_price AS "시가", high_price AS "고가",
       low_price AS "저가", closing_price AS "종가", vwap AS "VWAP", volume AS "거래량",
       turnover_krw AS "거래대금 (KRW)", rank_turnover AS "거래대금 순위", realized_volatility AS "실현 변동성",
       rank_volatility AS "변동성 순위", minutes_missing AS "누락 (분)"
FROM gold.market_daily
WHERE day >= coalesce([[{{from}}::date::timestamp AT TIME ZONE 'Asia/Seoul',]]
                      [[({{to}}::date - 29)::timestamp AT TIME ZONE 'Asia/Seoul',]] now() - interval '30 days')
  AND day < coalesce([[({{to}}::date + 1)::timestamp AT TIME ZONE 'Asia/Seoul',]] 'infinity'::timestamptz)
  [[AND market IN ({{market}})]]
ORDER BY day DESC, rank_turnover, market
LIMIT 1000

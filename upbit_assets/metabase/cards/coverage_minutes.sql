SELECT (day AT TIME ZONE 'Asia/Seoul')::date AS "거래일", market AS "종목", minutes_traded AS "체결 (분)",
       minutes_silent AS "무체결 (분)", minutes_missing AS "누락 (분)", problem AS "사유"
FROM silver.candle_coverage
WHERE day >= coalesce([[{{from}}::date::timestamp AT TIME ZONE 'Asia/Seoul',]]
                      [[({{to}}::date - 29)::timestamp AT TIME ZONE 'Asia/Seoul',]] now() - interval '30 days')
  AND day < coalesce([[({{to}}::date + 1)::timestamp AT TIME ZONE 'Asia/Seoul',]] 'infinity'::timestamptz)
  [[AND market IN ({{market}})]]
ORDER BY day DESC, minutes_missing DESC, market
LIMIT 1000

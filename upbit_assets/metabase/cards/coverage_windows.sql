SELECT each.start AT TIME ZONE 'Asia/Seoul' AS "시각 (KST)", coalesce(build.silver_rows, 0) AS "정제",
       coalesce(build.rejected_rows, 0) AS "거부", coalesce(build.duplicate_rows, 0) AS "중복",
       CASE WHEN build.bronze_rows > 0 THEN '수집' WHEN each.start = filling.start THEN '진행 중' ELSE '미수집' END AS "상태"
FROM (SELECT date_bin('10 minutes', now(), '2000-01-01 00:00+09') AS start) filling
CROSS JOIN generate_series(filling.start - interval '1 day', filling.start, '10 minutes') each (start)
LEFT JOIN silver.ticker_build build ON build.window_start = each.start
ORDER BY each.start

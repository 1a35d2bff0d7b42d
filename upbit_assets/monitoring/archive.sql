-- The archived days of each table, and those that are due; no rows before a day was archived. Columns are named as the
-- metrics. In psql first: \set after_days 2
WITH known AS MATERIALIZED (SELECT * FROM silver.archive_day)
SELECT table_name AS "table",
       count(*) FILTER (WHERE archived) AS upbit_archive_partitions,
       extract(epoch FROM max(day) FILTER (WHERE archived)) AS upbit_archive_newest_day_timestamp_seconds,
       count(*) FILTER (
         WHERE NOT archived AND day < date_trunc('day', now(), 'Asia/Seoul') - make_interval(days => :after_days)
       ) AS upbit_archive_due_partitions
FROM known
WHERE (SELECT bool_or(archived) FROM known)
GROUP BY table_name

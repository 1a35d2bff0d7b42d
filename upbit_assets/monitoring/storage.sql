-- The size of each layer, with its indexes, as last counted by (auto)vacuum or analyze: to measure thousands of partitions
-- would take seconds, and open each of them. Columns are named as the metrics.
SELECT nspname AS layer,
       sum(relation.relpages::bigint + coalesce(toast.relpages, 0)) * current_setting('block_size')::bigint
         AS upbit_layer_bytes
FROM pg_class AS relation
JOIN pg_namespace ON pg_namespace.oid = relation.relnamespace
LEFT JOIN pg_class AS toast ON toast.oid = relation.reltoastrelid
WHERE nspname IN ('bronze', 'silver', 'gold', 'live') AND relation.relkind IN ('r', 'i')
GROUP BY nspname

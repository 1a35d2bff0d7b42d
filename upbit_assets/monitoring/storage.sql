-- The size of each layer, with its indexes. Columns are named as the metrics.
SELECT nspname AS layer, sum(pg_total_relation_size(pg_class.oid)) AS upbit_layer_bytes
FROM pg_class
JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname IN ('bronze', 'silver', 'gold', 'live') AND relkind = 'r'
GROUP BY nspname

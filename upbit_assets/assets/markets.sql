-- silver.market: adds what the market lists received in [start, end) say, which are newer than those added before.
INSERT INTO silver.market AS known
  (market, korean_name, english_name, warning, cautions, first_seen_at, last_seen_at)
SELECT DISTINCT ON (market)
  market,
  nullif(raw_data->>'korean_name', ''),
  nullif(raw_data->>'english_name', ''),
  -- the hosts outside Korea have market_warning
  coalesce(raw_data->'market_event'->'warning' = 'true' OR raw_data->>'market_warning' = 'CAUTION', false),
  ARRAY(
    SELECT key
    FROM jsonb_each(
      CASE jsonb_typeof(raw_data->'market_event'->'caution')
        WHEN 'object' THEN raw_data->'market_event'->'caution' ELSE '{}'
      END
    )
    WHERE value = 'true'
    ORDER BY key
  ),
  min(ingested_at) OVER (PARTITION BY market),
  ingested_at
FROM bronze.market_raw
WHERE ingested_at >= :start AND ingested_at < :end AND market <> ''
ORDER BY market, ingested_at DESC, id DESC
ON CONFLICT (market) DO UPDATE SET
  korean_name = excluded.korean_name,
  english_name = excluded.english_name,
  warning = excluded.warning,
  cautions = excluded.cautions,
  last_seen_at = excluded.last_seen_at

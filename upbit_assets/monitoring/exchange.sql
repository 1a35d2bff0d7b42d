-- The calls to the exchange, by group of its rate limit. Columns are named as the metrics.
SELECT call_group AS "group",
       calls AS upbit_exchange_calls_total,
       too_many_requests AS "upbit_exchange_rejected_calls_total{429}",
       blocked AS "upbit_exchange_rejected_calls_total{418}",
       calls_left AS upbit_exchange_calls_left,
       extract(epoch FROM blocked_until) AS upbit_exchange_blocked_until_timestamp_seconds
FROM live.exchange_calls

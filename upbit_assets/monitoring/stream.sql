-- What the stream has reported within the last minute; no row if it doesn't run. Columns are named as the metrics.
SELECT tickers AS "upbit_stream_frames_total{ticker}",
       orderbooks AS "upbit_stream_frames_total{orderbook}",
       trades AS "upbit_stream_frames_total{trade}",
       reconnects AS upbit_stream_reconnects_total,
       stored AS upbit_stream_stored_trades_total,
       lost AS upbit_stream_lost_trades_total,
       waiting AS upbit_stream_waiting_trades,
       bytes_spilled AS upbit_stream_spilled_bytes,
       (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM received_at - sent_at))
        FROM live.ticker
        WHERE received_at > now() - interval '1 minute') AS upbit_stream_lag_seconds
FROM live.stream
WHERE reported_at > now() - interval '1 minute'

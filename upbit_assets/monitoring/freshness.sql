-- When the newest data of each kind was received. NULL where there is none: a snapshot, a trade of the last day; figures
-- of the last two days.
SELECT (SELECT received_at FROM bronze.newest_ticker) AS snapshot,
       (SELECT max(ingested_at) FROM gold.market_stats WHERE ingested_at > now() - interval '2 days') AS figures,
       (SELECT max(received_at) FROM live.ticker) AS frame,
       (SELECT received_at FROM bronze.newest_trade) AS trade

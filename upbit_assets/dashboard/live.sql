-- The live data of some markets: order book, last trades, candle of the newest minute, and 체결강도 (bought / sold volume
-- in percent; NULL if nothing was sold) of the last five minutes. One row per market of `:markets` that changed after the
-- batch `:batch`.

WITH changed AS (
  SELECT market FROM live.orderbook WHERE batch > :batch AND market = ANY(:markets)
  UNION
  SELECT market FROM live.trade WHERE batch > :batch AND market = ANY(:markets)
)

SELECT changed.market,
       json_build_object(
         'market', changed.market,
         'book', book.figures,
         'candle', forming.candle,
         'strength', flow.strength,
         'trades', coalesce(last_trades.rows, '[]')
       )::text AS state
FROM changed
LEFT JOIN LATERAL (
  SELECT json_build_object(
           'ingested_at', sent_at,
           'total_ask_size', total_ask_size::text,
           'total_bid_size', total_bid_size::text,
           'ask_prices', ask_prices::text[],
           'ask_sizes', ask_sizes::text[],
           'bid_prices', bid_prices::text[],
           'bid_sizes', bid_sizes::text[],
           'spread_bps',
           gold.quotient(20000 * (ask_prices[1] - bid_prices[1]), ask_prices[1] + bid_prices[1], 10)::text
         ) AS figures
  FROM live.orderbook
  WHERE orderbook.market = changed.market
) AS book ON true
LEFT JOIN LATERAL (
  SELECT json_build_object(
           'started_at', minute.start,
           'opening_price', ((array_agg(price ORDER BY traded_at, trade_id))[1])::text,
           'high_price', max(price)::text,
           'low_price', min(price)::text,
           'closing_price', ((array_agg(price ORDER BY traded_at DESC, trade_id DESC))[1])::text,
           'volume', sum(volume)::text
         ) AS candle
  FROM (SELECT date_trunc('minute', max(traded_at)) AS start FROM live.trade WHERE market = changed.market) AS minute
  JOIN live.trade ON trade.market = changed.market AND traded_at >= minute.start
  GROUP BY minute.start
) AS forming ON true
LEFT JOIN LATERAL (
  SELECT gold.quotient(
           100 * coalesce(sum(volume) FILTER (WHERE taker = 'BID'), 0), sum(volume) FILTER (WHERE taker = 'ASK'), 2
         )::text AS strength
  FROM live.trade
  WHERE market = changed.market AND traded_at >= now() - interval '5 minutes'
) AS flow ON true
LEFT JOIN LATERAL (
  SELECT json_agg(json_build_array(traded_at, price::text, volume::text, taker)) AS rows
  FROM (
    SELECT traded_at, price, volume, taker
    FROM live.trade
    WHERE market = changed.market
    ORDER BY traded_at DESC, trade_id DESC
    LIMIT 30
  ) AS newest
) AS last_trades ON true

-- What the stream last received. Unlogged: after a crash of the server the stream fills it again within seconds.
CREATE SCHEMA live;

CREATE SEQUENCE live.batch;

CREATE UNLOGGED TABLE live.ticker (
  market           varchar(30) PRIMARY KEY,
  trade_price      numeric NOT NULL,
  change_rate      numeric NOT NULL,
  acc_trade_volume numeric NOT NULL,
  acc_trade_price  numeric NOT NULL,
  sent_at          timestamptz NOT NULL,
  received_at      timestamptz NOT NULL,
  batch            bigint NOT NULL
) WITH (fillfactor = 50);

CREATE UNLOGGED TABLE live.orderbook (
  market         varchar(30) PRIMARY KEY,
  total_ask_size numeric NOT NULL,
  total_bid_size numeric NOT NULL,
  ask_prices     numeric[] NOT NULL,
  ask_sizes      numeric[] NOT NULL,
  bid_prices     numeric[] NOT NULL,
  bid_sizes      numeric[] NOT NULL,
  sent_at        timestamptz NOT NULL,
  received_at    timestamptz NOT NULL,
  batch          bigint NOT NULL
) WITH (fillfactor = 50);

CREATE UNLOGGED TABLE live.trade (
  market      varchar(30) NOT NULL,
  trade_id    bigint NOT NULL,
  traded_at   timestamptz NOT NULL,
  price       numeric NOT NULL,
  volume      numeric NOT NULL,
  taker       varchar(3) NOT NULL,
  received_at timestamptz NOT NULL,
  batch       bigint NOT NULL,
  PRIMARY KEY (market, trade_id)
);
CREATE INDEX ix_trade_batch ON live.trade (batch);

-- Turnover is compared in KRW, at the newest price of the quote currency.
CREATE VIEW live.market AS
SELECT ticker.market,
       split_part(ticker.market, '-', 1) AS quote_currency,
       ticker.trade_price,
       ticker.change_rate,
       ticker.acc_trade_volume AS daily_volume,
       ticker.acc_trade_price AS turnover,
       CASE WHEN ticker.market LIKE 'KRW-%' THEN ticker.acc_trade_price
            ELSE ticker.acc_trade_price * rate.trade_price END AS turnover_krw,
       ticker.sent_at,
       ticker.received_at,
       ticker.batch
FROM live.ticker
LEFT JOIN live.ticker AS rate ON rate.market = 'KRW-' || split_part(ticker.market, '-', 1);

CREATE VIEW live.turnover_top10 AS
SELECT rank() OVER (ORDER BY turnover_krw DESC NULLS LAST) AS rank_volume, *
FROM live.market
ORDER BY turnover_krw DESC NULLS LAST, market
LIMIT 10;

-- The first minute that there are trades of may have begun before them.
CREATE VIEW live.candle AS
SELECT market,
       date_trunc('minute', traded_at) AS started_at,
       (array_agg(price ORDER BY traded_at, trade_id))[1] AS opening_price,
       max(price) AS high_price,
       min(price) AS low_price,
       (array_agg(price ORDER BY traded_at DESC, trade_id DESC))[1] AS closing_price,
       sum(volume) AS volume,
       sum(price * volume) AS turnover
FROM live.trade
WHERE date_trunc('minute', traded_at) > (SELECT min(received_at) FROM live.trade)
GROUP BY market, date_trunc('minute', traded_at);

COMMENT ON VIEW live.candle IS 'One-minute candles of the last minutes from the stream, the last one still forming';
COMMENT ON VIEW live.market IS 'Each market''s newest ticker, with its turnover in KRW at the newest rate; NULL without one';
COMMENT ON VIEW live.turnover_top10 IS '실시간 거래대금 상위 10: the ten largest turnovers at this moment';

GRANT USAGE ON SCHEMA live TO upbit_pipeline, upbit_reader;
GRANT SELECT, INSERT, UPDATE, DELETE ON live.ticker, live.orderbook, live.trade TO upbit_pipeline;
GRANT USAGE ON SEQUENCE live.batch TO upbit_pipeline;
GRANT SELECT ON ALL TABLES IN SCHEMA live TO upbit_pipeline, upbit_reader;

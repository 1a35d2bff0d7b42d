CREATE TABLE silver.trade_stream (
  id          bigint GENERATED ALWAYS AS IDENTITY,
  market      varchar(30) NOT NULL,
  trade_id    bigint NOT NULL,
  traded_at   timestamptz NOT NULL,
  price       numeric NOT NULL,
  volume      numeric NOT NULL,
  taker       varchar(3) NOT NULL,
  ingested_at timestamptz NOT NULL,
  source      varchar(6) NOT NULL,
  computed_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (traded_at, market, trade_id)
) PARTITION BY RANGE (traded_at);
CREATE INDEX ix_trade_stream_market_traded_at ON silver.trade_stream (market, traded_at);
CREATE TABLE silver.trade_stream_default PARTITION OF silver.trade_stream DEFAULT;

CREATE TABLE silver.trade_stream_rejected (
  id          bigint GENERATED ALWAYS AS IDENTITY,
  market      varchar(30) NOT NULL,
  raw_data    jsonb NOT NULL,
  reason      text NOT NULL,
  traded_at   timestamptz NOT NULL,
  bronze_id   bigint NOT NULL,
  computed_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (traded_at, market, bronze_id)
) PARTITION BY RANGE (traded_at);
CREATE TABLE silver.trade_stream_rejected_default PARTITION OF silver.trade_stream_rejected DEFAULT;

CREATE TABLE silver.trade_stream_build (
  window_start   timestamptz PRIMARY KEY,
  bronze_rows    bigint NOT NULL,
  silver_rows    bigint NOT NULL,
  rejected_rows  bigint NOT NULL,
  duplicate_rows bigint NOT NULL,
  computed_at    timestamptz NOT NULL DEFAULT now(),
  written_in     bigint NOT NULL DEFAULT (pg_current_xact_id()::text)::bigint
);
CREATE INDEX ix_trade_stream_build_written_in ON silver.trade_stream_build (written_in);

-- Each trade once, by its market and id, and where it is from. A trade has the same time wherever it is told, so that only
-- its own partition is looked through.
CREATE VIEW silver.all_trades AS
SELECT market, trade_id, traded_at, price, volume, taker, ingested_at, source
FROM silver.trade_stream
UNION ALL
SELECT market, trade_id, traded_at, price, volume, taker, ingested_at, 'rest'
FROM silver.trade AS asked_for
WHERE NOT EXISTS (
  SELECT FROM silver.trade_stream AS streamed
  WHERE streamed.traded_at = asked_for.traded_at AND streamed.market = asked_for.market
    AND streamed.trade_id = asked_for.trade_id
);
COMMENT ON VIEW silver.all_trades IS
  'Trades of silver.trade_stream and silver.trade, each once by market and id; source: stream or rest';

CREATE TABLE gold.trade_stats (
  id             bigint GENERATED ALWAYS AS IDENTITY,
  window_start   timestamptz NOT NULL,
  market         varchar(30) NOT NULL,
  quote_currency varchar(30) NOT NULL,
  trades         bigint NOT NULL,
  opening_price  numeric NOT NULL,
  high_price     numeric NOT NULL,
  low_price      numeric NOT NULL,
  closing_price  numeric NOT NULL,
  volume         numeric NOT NULL,
  turnover       numeric NOT NULL,
  turnover_krw   numeric,
  vwap           numeric NOT NULL,
  buy_volume     numeric NOT NULL,
  sell_volume    numeric NOT NULL,
  strength       numeric,
  largest_trade  numeric NOT NULL,
  rank_turnover  integer NOT NULL,
  rank_trades    integer NOT NULL,
  computed_at    timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (window_start, market)
) PARTITION BY RANGE (window_start);
CREATE INDEX ix_trade_stats_market_window_start ON gold.trade_stats (market, window_start);
CREATE TABLE gold.trade_stats_default PARTITION OF gold.trade_stats DEFAULT;

CREATE TABLE gold.trade_stats_build (
  window_start       timestamptz PRIMARY KEY,
  gold_rows          bigint NOT NULL,
  silver_computed_at timestamptz,
  computed_at        timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ix_trade_stats_build_computed_at ON gold.trade_stats_build (computed_at);

GRANT SELECT, INSERT, DELETE ON silver.trade_stream, silver.trade_stream_rejected, silver.trade_stream_build,
  gold.trade_stats, gold.trade_stats_build TO upbit_pipeline;
GRANT SELECT ON silver.trade_stream, silver.trade_stream_rejected, silver.trade_stream_build, silver.all_trades,
  gold.trade_stats, gold.trade_stats_build TO upbit_pipeline, upbit_reader;

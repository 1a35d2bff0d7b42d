-- Types, keys and privileges. The comments come from tables.py.

ALTER TABLE silver.ticker ADD COLUMN day_volume numeric, ADD COLUMN day_turnover numeric;
ALTER TABLE gold.market_stats ADD COLUMN vwap numeric;

CREATE TABLE bronze.orderbook_raw (
  id          bigint GENERATED ALWAYS AS IDENTITY,
  market      varchar(30) NOT NULL,
  raw_data    jsonb NOT NULL,
  ingested_at timestamptz NOT NULL,
  written_in  bigint NOT NULL DEFAULT (pg_current_xact_id()::text)::bigint,
  PRIMARY KEY (ingested_at, market, id)
) PARTITION BY RANGE (ingested_at);
CREATE INDEX ix_orderbook_raw_written_in ON bronze.orderbook_raw (written_in);
CREATE TABLE bronze.orderbook_raw_default PARTITION OF bronze.orderbook_raw DEFAULT;

CREATE TABLE silver.orderbook (
  id             bigint GENERATED ALWAYS AS IDENTITY,
  market         varchar(30) NOT NULL,
  total_ask_size numeric NOT NULL,
  total_bid_size numeric NOT NULL,
  ask_prices     numeric[] NOT NULL,
  ask_sizes      numeric[] NOT NULL,
  bid_prices     numeric[] NOT NULL,
  bid_sizes      numeric[] NOT NULL,
  ingested_at    timestamptz NOT NULL,
  changed_at     timestamptz NOT NULL,
  computed_at    timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (ingested_at, market)
) PARTITION BY RANGE (ingested_at);
CREATE INDEX ix_orderbook_market_ingested_at ON silver.orderbook (market, ingested_at);
CREATE TABLE silver.orderbook_default PARTITION OF silver.orderbook DEFAULT;

CREATE TABLE silver.orderbook_rejected (
  id          bigint GENERATED ALWAYS AS IDENTITY,
  market      varchar(30) NOT NULL,
  raw_data    jsonb NOT NULL,
  reason      text NOT NULL,
  ingested_at timestamptz NOT NULL,
  bronze_id   bigint NOT NULL,
  computed_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (ingested_at, market, bronze_id)
) PARTITION BY RANGE (ingested_at);
CREATE TABLE silver.orderbook_rejected_default PARTITION OF silver.orderbook_rejected DEFAULT;

CREATE TABLE silver.orderbook_build (
  window_start   timestamptz NOT NULL,
  bronze_rows    bigint NOT NULL,
  silver_rows    bigint NOT NULL,
  rejected_rows  bigint NOT NULL,
  duplicate_rows bigint NOT NULL,
  computed_at    timestamptz NOT NULL DEFAULT now(),
  written_in     bigint NOT NULL DEFAULT (pg_current_xact_id()::text)::bigint,
  PRIMARY KEY (window_start)
);
CREATE INDEX ix_orderbook_build_written_in ON silver.orderbook_build (written_in);

CREATE TABLE gold.orderbook_stats (
  id              bigint GENERATED ALWAYS AS IDENTITY,
  ingested_at     timestamptz NOT NULL,
  market          varchar(30) NOT NULL,
  quote_currency  varchar(30) NOT NULL,
  best_bid        numeric NOT NULL,
  best_ask        numeric NOT NULL,
  mid_price       numeric NOT NULL,
  spread_bps      numeric NOT NULL,
  spread_bps_mean numeric NOT NULL,
  bid_depth_01    numeric NOT NULL,
  ask_depth_01    numeric NOT NULL,
  bid_depth_05    numeric NOT NULL,
  ask_depth_05    numeric NOT NULL,
  bid_depth_1     numeric NOT NULL,
  ask_depth_1     numeric NOT NULL,
  imbalance       numeric,
  reach           numeric NOT NULL,
  window_start    timestamptz NOT NULL,
  computed_at     timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (ingested_at, market)
) PARTITION BY RANGE (ingested_at);
CREATE INDEX ix_orderbook_stats_market_ingested_at ON gold.orderbook_stats (market, ingested_at);
CREATE TABLE gold.orderbook_stats_default PARTITION OF gold.orderbook_stats DEFAULT;

CREATE TABLE gold.orderbook_stats_build (
  window_start       timestamptz NOT NULL,
  gold_rows          bigint NOT NULL,
  silver_computed_at timestamptz,
  computed_at        timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (window_start)
);

CREATE TABLE bronze.candle_raw (
  id          bigint GENERATED ALWAYS AS IDENTITY,
  market      varchar(30) NOT NULL,
  raw_data    jsonb NOT NULL,
  ingested_at timestamptz NOT NULL,
  day         timestamptz NOT NULL,
  key         varchar(30) NOT NULL,
  written_in  bigint NOT NULL DEFAULT (pg_current_xact_id()::text)::bigint,
  PRIMARY KEY (day, market, key, id)
) PARTITION BY RANGE (day);
CREATE INDEX ix_candle_raw_written_in ON bronze.candle_raw (written_in);
CREATE TABLE bronze.candle_raw_default PARTITION OF bronze.candle_raw DEFAULT;

CREATE TABLE bronze.candle_page (
  id          bigint GENERATED ALWAYS AS IDENTITY,
  market      varchar(30) NOT NULL,
  day         timestamptz NOT NULL,
  covered     tstzrange NOT NULL,
  rows        bigint NOT NULL,
  problem     text,
  ingested_at timestamptz NOT NULL,
  written_in  bigint NOT NULL DEFAULT (pg_current_xact_id()::text)::bigint,
  PRIMARY KEY (day, market, id)
);
CREATE INDEX ix_candle_page_written_in ON bronze.candle_page (written_in);

CREATE TABLE silver.candle (
  id             bigint GENERATED ALWAYS AS IDENTITY,
  market         varchar(30) NOT NULL,
  started_at     timestamptz NOT NULL,
  opening_price  numeric NOT NULL,
  high_price     numeric NOT NULL,
  low_price      numeric NOT NULL,
  closing_price  numeric NOT NULL,
  volume         numeric NOT NULL,
  turnover       numeric NOT NULL,
  last_traded_at timestamptz NOT NULL,
  ingested_at    timestamptz NOT NULL,
  computed_at    timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (started_at, market)
) PARTITION BY RANGE (started_at);
CREATE INDEX ix_candle_market_started_at ON silver.candle (market, started_at);
CREATE TABLE silver.candle_default PARTITION OF silver.candle DEFAULT;

CREATE TABLE silver.candle_rejected (
  id          bigint GENERATED ALWAYS AS IDENTITY,
  market      varchar(30) NOT NULL,
  raw_data    jsonb NOT NULL,
  reason      text NOT NULL,
  day         timestamptz NOT NULL,
  bronze_id   bigint NOT NULL,
  computed_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (day, market, bronze_id)
) PARTITION BY RANGE (day);
CREATE TABLE silver.candle_rejected_default PARTITION OF silver.candle_rejected DEFAULT;

CREATE TABLE silver.candle_build (
  window_start   timestamptz NOT NULL,
  bronze_rows    bigint NOT NULL,
  silver_rows    bigint NOT NULL,
  rejected_rows  bigint NOT NULL,
  duplicate_rows bigint NOT NULL,
  computed_at    timestamptz NOT NULL DEFAULT now(),
  written_in     bigint NOT NULL DEFAULT (pg_current_xact_id()::text)::bigint,
  PRIMARY KEY (window_start)
);
CREATE INDEX ix_candle_build_written_in ON silver.candle_build (written_in);

CREATE TABLE silver.candle_coverage (
  day             timestamptz NOT NULL,
  market          varchar(30) NOT NULL,
  minutes_traded  integer NOT NULL,
  minutes_silent  integer NOT NULL,
  minutes_missing integer NOT NULL,
  problem         text,
  computed_at     timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (day, market)
);

CREATE TABLE bronze.trade_raw (
  id          bigint GENERATED ALWAYS AS IDENTITY,
  market      varchar(30) NOT NULL,
  raw_data    jsonb NOT NULL,
  ingested_at timestamptz NOT NULL,
  day         timestamptz NOT NULL,
  key         varchar(30) NOT NULL,
  written_in  bigint NOT NULL DEFAULT (pg_current_xact_id()::text)::bigint,
  PRIMARY KEY (day, market, key, id)
) PARTITION BY RANGE (day);
CREATE INDEX ix_trade_raw_written_in ON bronze.trade_raw (written_in);
CREATE TABLE bronze.trade_raw_default PARTITION OF bronze.trade_raw DEFAULT;

CREATE TABLE bronze.trade_page (
  id          bigint GENERATED ALWAYS AS IDENTITY,
  market      varchar(30) NOT NULL,
  day         timestamptz NOT NULL,
  covered     tstzrange NOT NULL,
  rows        bigint NOT NULL,
  problem     text,
  ingested_at timestamptz NOT NULL,
  written_in  bigint NOT NULL DEFAULT (pg_current_xact_id()::text)::bigint,
  PRIMARY KEY (day, market, id)
);
CREATE INDEX ix_trade_page_written_in ON bronze.trade_page (written_in);

CREATE TABLE silver.trade (
  id          bigint GENERATED ALWAYS AS IDENTITY,
  market      varchar(30) NOT NULL,
  trade_id    bigint NOT NULL,
  traded_at   timestamptz NOT NULL,
  price       numeric NOT NULL,
  volume      numeric NOT NULL,
  taker       varchar(3) NOT NULL,
  ingested_at timestamptz NOT NULL,
  computed_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (traded_at, market, trade_id)
) PARTITION BY RANGE (traded_at);
CREATE INDEX ix_trade_market_traded_at ON silver.trade (market, traded_at);
CREATE TABLE silver.trade_default PARTITION OF silver.trade DEFAULT;

CREATE TABLE silver.trade_rejected (
  id          bigint GENERATED ALWAYS AS IDENTITY,
  market      varchar(30) NOT NULL,
  raw_data    jsonb NOT NULL,
  reason      text NOT NULL,
  day         timestamptz NOT NULL,
  bronze_id   bigint NOT NULL,
  computed_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (day, market, bronze_id)
) PARTITION BY RANGE (day);
CREATE TABLE silver.trade_rejected_default PARTITION OF silver.trade_rejected DEFAULT;

CREATE TABLE silver.trade_build (
  window_start   timestamptz NOT NULL,
  bronze_rows    bigint NOT NULL,
  silver_rows    bigint NOT NULL,
  rejected_rows  bigint NOT NULL,
  duplicate_rows bigint NOT NULL,
  computed_at    timestamptz NOT NULL DEFAULT now(),
  written_in     bigint NOT NULL DEFAULT (pg_current_xact_id()::text)::bigint,
  PRIMARY KEY (window_start)
);
CREATE INDEX ix_trade_build_written_in ON silver.trade_build (written_in);

CREATE TABLE gold.market_daily (
  id                  bigint GENERATED ALWAYS AS IDENTITY,
  day                 timestamptz NOT NULL,
  market              varchar(30) NOT NULL,
  quote_currency      varchar(30) NOT NULL,
  opening_price       numeric NOT NULL,
  high_price          numeric NOT NULL,
  low_price           numeric NOT NULL,
  closing_price       numeric NOT NULL,
  volume              numeric NOT NULL,
  turnover            numeric NOT NULL,
  turnover_krw        numeric,
  rank_turnover       integer NOT NULL,
  vwap                numeric NOT NULL,
  vwap_source         varchar(7) NOT NULL,
  realized_volatility numeric NOT NULL,
  rank_volatility     integer NOT NULL,
  minutes_traded      integer NOT NULL,
  minutes_silent      integer NOT NULL,
  minutes_missing     integer NOT NULL,
  computed_at         timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (day, market)
) PARTITION BY RANGE (day);
CREATE INDEX ix_market_daily_market_day ON gold.market_daily (market, day);
CREATE TABLE gold.market_daily_default PARTITION OF gold.market_daily DEFAULT;

CREATE TABLE gold.market_daily_build (
  window_start       timestamptz NOT NULL,
  gold_rows          bigint NOT NULL,
  candle_computed_at timestamptz,
  trade_computed_at  timestamptz,
  computed_at        timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (window_start)
);

-- Partitions of one table from that of p_first to that of p_last in Seoul: months of gold and of candles, whose years
-- would be too many days; days of all else. Rows that wait in the default partition move into theirs. Returns how many
-- were made. Gives up on a long write's locks, as it would hold up everyone else behind itself.
CREATE FUNCTION bronze.make_partitions(p_table regclass, p_first timestamptz, p_last timestamptz) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'Asia/Seoul'
SET lock_timeout = '30s' AS $$
DECLARE
  parent record;
  lower_bound timestamptz;
  upper_bound timestamptz;
  child text;
  made integer := 0;
BEGIN
  SELECT n.nspname AS schema, c.relname AS name, a.attname AS axis,
         CASE WHEN n.nspname = 'gold' OR c.relname LIKE 'candle%' THEN 'month' ELSE 'day' END AS unit
  INTO STRICT parent
  FROM pg_partitioned_table p
  JOIN pg_class c ON c.oid = p.partrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0]
  WHERE p.partrelid = p_table AND n.nspname IN ('bronze', 'silver', 'gold');
  lower_bound := date_trunc(parent.unit, p_first);
  WHILE lower_bound <= p_last LOOP
    upper_bound := lower_bound + ('1 ' || parent.unit)::interval;
    child := parent.name || to_char(lower_bound, CASE parent.unit WHEN 'day' THEN '_YYYYMMDD' ELSE '_YYYYMM' END);
    IF to_regclass(format('%I.%I', parent.schema, child)) IS NULL THEN
      -- Locks it, so that no row comes into the default partition meanwhile and nobody else makes the same one, and
      -- changes nothing. LOCK TABLE is refused where even the owner may not write, before 17.
      EXECUTE format('ALTER TABLE ONLY %I.%I ALTER COLUMN %I SET NOT NULL', parent.schema, parent.name, parent.axis);
      IF to_regclass(format('%I.%I', parent.schema, child)) IS NULL THEN
        EXECUTE format('CREATE TEMP TABLE waiting ON COMMIT DROP AS SELECT * FROM %I.%I WHERE %I >= %L AND %I < %L',
                       parent.schema, parent.name || '_default', parent.axis, lower_bound, parent.axis, upper_bound);
        EXECUTE format('DELETE FROM %I.%I WHERE %I >= %L AND %I < %L',
                       parent.schema, parent.name || '_default', parent.axis, lower_bound, parent.axis, upper_bound);
        EXECUTE format('CREATE TABLE %I.%I PARTITION OF %I.%I FOR VALUES FROM (%L) TO (%L)',
                       parent.schema, child, parent.schema, parent.name, lower_bound, upper_bound);
        EXECUTE format('INSERT INTO %I.%I OVERRIDING SYSTEM VALUE SELECT * FROM pg_temp.waiting',
                       parent.schema, parent.name);
        DROP TABLE pg_temp.waiting;
        made := made + 1;
      END IF;
    END IF;
    lower_bound := upper_bound;
  END LOOP;
  RETURN made;
END
$$;

-- The same of every table. The tables come in the order in which the assets' writes touch them, so that neither waits
-- for the other: gold, silver, bronze, and what is written after reading bronze.
CREATE OR REPLACE FUNCTION bronze.make_partitions(p_first timestamptz, p_last timestamptz) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT sum(bronze.make_partitions(ordered.oid, p_first, p_last))::integer
  FROM (SELECT p.partrelid AS oid
        FROM pg_partitioned_table p
        JOIN pg_class c ON c.oid = p.partrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('bronze', 'silver', 'gold')
        ORDER BY c.relname LIKE '%\_rejected', array_position(ARRAY['gold', 'silver', 'bronze'], n.nspname::text),
                 c.relname = 'market_raw', c.relname
        OFFSET 0) ordered
$$;

REVOKE ALL ON FUNCTION bronze.make_partitions(regclass, timestamptz, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION bronze.make_partitions(regclass, timestamptz, timestamptz) TO upbit_pipeline;
GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA bronze TO upbit_pipeline;
GRANT SELECT, INSERT, DELETE ON ALL TABLES IN SCHEMA silver, gold TO upbit_pipeline;
GRANT SELECT ON ALL TABLES IN SCHEMA silver, gold TO upbit_reader;
-- so that a login that is no superuser can read with the reader's rights alone
DO $$
BEGIN
  IF NOT pg_has_role(current_user, 'upbit_reader', 'MEMBER') OR current_setting('server_version_num')::int >= 160000 THEN
    EXECUTE format('GRANT upbit_reader TO %I', current_user);
  END IF;
END
$$;
-- whether the data are simulated is everyone's to know
GRANT USAGE ON SCHEMA bronze TO upbit_reader;
GRANT SELECT ON bronze.origin TO upbit_reader;
-- the tables' owner included, though an owner can take the right back and a superuser asks nobody
REVOKE UPDATE, DELETE, TRUNCATE ON bronze.orderbook_raw, bronze.candle_raw, bronze.candle_page, bronze.trade_raw,
  bronze.trade_page FROM CURRENT_USER;

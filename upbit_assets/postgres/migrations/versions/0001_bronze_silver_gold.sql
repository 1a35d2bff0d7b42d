-- Types, keys and privileges. The comments come from tables.py.

DO $$
DECLARE
  role text;
BEGIN
  FOREACH role IN ARRAY ARRAY['upbit_pipeline', 'upbit_reader'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
      EXECUTE format('CREATE ROLE %I NOLOGIN', role);
    END IF;
  END LOOP;
  IF NOT pg_has_role(current_user, 'upbit_pipeline', 'MEMBER') OR current_setting('server_version_num')::int >= 160000 THEN
    EXECUTE format('GRANT upbit_pipeline TO %I', current_user);
  END IF;
  EXECUTE format('ALTER DATABASE %I SET timezone = %L', current_database(), 'Asia/Seoul');
END
$$;

CREATE SCHEMA bronze;
CREATE SCHEMA silver;
CREATE SCHEMA gold;

CREATE TABLE bronze.ticker_raw (
  id          bigint GENERATED ALWAYS AS IDENTITY,
  market      varchar(30) NOT NULL,
  raw_data    jsonb NOT NULL,
  ingested_at timestamptz NOT NULL,
  written_in  bigint NOT NULL DEFAULT (pg_current_xact_id()::text)::bigint,
  PRIMARY KEY (ingested_at, market, id)
) PARTITION BY RANGE (ingested_at);
CREATE INDEX ix_ticker_raw_written_in ON bronze.ticker_raw (written_in);

CREATE TABLE bronze.market_raw (
  id          bigint GENERATED ALWAYS AS IDENTITY,
  market      varchar(30) NOT NULL,
  raw_data    jsonb NOT NULL,
  ingested_at timestamptz NOT NULL,
  written_in  bigint NOT NULL DEFAULT (pg_current_xact_id()::text)::bigint,
  PRIMARY KEY (ingested_at, market, id)
) PARTITION BY RANGE (ingested_at);
CREATE INDEX ix_market_raw_written_in ON bronze.market_raw (written_in);

CREATE TABLE bronze.origin (
  simulated  boolean NOT NULL,
  first_seen timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX uq_origin ON bronze.origin ((true));

CREATE TABLE silver.ticker (
  id               bigint GENERATED ALWAYS AS IDENTITY,
  market           varchar(30) NOT NULL,
  trade_date       varchar(8) NOT NULL,
  trade_time       varchar(6) NOT NULL,
  trade_price      numeric NOT NULL,
  acc_trade_volume numeric NOT NULL,
  ingested_at      timestamptz NOT NULL,
  acc_trade_price  numeric NOT NULL,
  change_rate      numeric NOT NULL,
  traded_at        timestamptz NOT NULL,
  computed_at      timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (ingested_at, market)
) PARTITION BY RANGE (ingested_at);
CREATE INDEX ix_ticker_market_ingested_at ON silver.ticker (market, ingested_at);

CREATE TABLE silver.ticker_rejected (
  id          bigint GENERATED ALWAYS AS IDENTITY,
  market      varchar(30) NOT NULL,
  raw_data    jsonb NOT NULL,
  reason      text NOT NULL,
  ingested_at timestamptz NOT NULL,
  bronze_id   bigint NOT NULL,
  computed_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (ingested_at, market, bronze_id)
) PARTITION BY RANGE (ingested_at);

CREATE TABLE silver.ticker_build (
  window_start   timestamptz PRIMARY KEY,
  bronze_rows    bigint NOT NULL,
  silver_rows    bigint NOT NULL,
  rejected_rows  bigint NOT NULL,
  duplicate_rows bigint NOT NULL,
  computed_at    timestamptz NOT NULL DEFAULT now(),
  written_in     bigint NOT NULL DEFAULT (pg_current_xact_id()::text)::bigint
);
CREATE INDEX ix_ticker_build_written_in ON silver.ticker_build (written_in);

CREATE TABLE gold.market_stats (
  id              bigint GENERATED ALWAYS AS IDENTITY,
  ingested_at     timestamptz NOT NULL,
  market          varchar(30) NOT NULL,
  trade_price     numeric NOT NULL,
  daily_volume    numeric NOT NULL,
  rank_volume     integer NOT NULL,
  quote_currency  varchar(30) NOT NULL,
  turnover        numeric NOT NULL,
  turnover_krw    numeric,
  rank_note       text,
  change_rate     numeric NOT NULL,
  change_rate_24h numeric,
  window_high     numeric NOT NULL,
  window_low      numeric NOT NULL,
  volatility      numeric NOT NULL,
  rank_volatility integer NOT NULL,
  window_start    timestamptz NOT NULL,
  computed_at     timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (ingested_at, market)
) PARTITION BY RANGE (ingested_at);
CREATE INDEX ix_market_stats_market_ingested_at ON gold.market_stats (market, ingested_at);
CREATE INDEX ix_market_stats_window_start_rank_volume ON gold.market_stats (window_start, rank_volume);

CREATE TABLE gold.market_stats_build (
  window_start           timestamptz PRIMARY KEY,
  gold_rows              bigint NOT NULL,
  silver_computed_at     timestamptz,
  day_before_computed_at timestamptz,
  computed_at            timestamptz NOT NULL DEFAULT now()
);

-- The default partitions take a row that is ahead of, or behind, the partitions made so far.
CREATE TABLE bronze.ticker_raw_default PARTITION OF bronze.ticker_raw DEFAULT;
CREATE TABLE bronze.market_raw_default PARTITION OF bronze.market_raw DEFAULT;
CREATE TABLE silver.ticker_default PARTITION OF silver.ticker DEFAULT;
CREATE TABLE silver.ticker_rejected_default PARTITION OF silver.ticker_rejected DEFAULT;
CREATE TABLE gold.market_stats_default PARTITION OF gold.market_stats DEFAULT;

-- Days of bronze and silver, months of gold, from the day of p_first to the day of p_last in Seoul. Rows that
-- wait in a default partition move into theirs. Returns how many partitions were made. Gives up on a long write's
-- locks, as it would hold up everyone else behind itself; there are partitions for two weeks.
CREATE FUNCTION bronze.make_partitions(p_first timestamptz, p_last timestamptz) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'Asia/Seoul'
SET lock_timeout = '30s' AS $$
DECLARE
  parent record;
  lower_bound timestamptz;
  upper_bound timestamptz;
  child text;
  made integer := 0;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('bronze.make_partitions', 0));
  FOR parent IN
    SELECT n.nspname AS schema, c.relname AS name,
           CASE n.nspname WHEN 'gold' THEN 'month' ELSE 'day' END AS unit
    FROM pg_partitioned_table p
    JOIN pg_class c ON c.oid = p.partrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('bronze', 'silver', 'gold')
  LOOP
    lower_bound := date_trunc(parent.unit, p_first);
    WHILE lower_bound <= p_last LOOP
      upper_bound := lower_bound + ('1 ' || parent.unit)::interval;
      child := parent.name || to_char(lower_bound, CASE parent.unit WHEN 'day' THEN '_YYYYMMDD' ELSE '_YYYYMM' END);
      IF to_regclass(format('%I.%I', parent.schema, child)) IS NULL THEN
        -- so that no row comes into a default partition meanwhile; in the order in which the assets' writes touch
        -- the tables, so that neither waits for the other
        -- (what locks them changes nothing; LOCK TABLE is refused where even the owner may not write, before 17)
        ALTER TABLE ONLY gold.market_stats ALTER COLUMN ingested_at SET NOT NULL;
        ALTER TABLE ONLY silver.ticker ALTER COLUMN ingested_at SET NOT NULL;
        ALTER TABLE ONLY bronze.ticker_raw ALTER COLUMN ingested_at SET NOT NULL;
        ALTER TABLE ONLY bronze.market_raw ALTER COLUMN ingested_at SET NOT NULL;
        ALTER TABLE ONLY silver.ticker_rejected ALTER COLUMN ingested_at SET NOT NULL;
        EXECUTE format('CREATE TEMP TABLE waiting ON COMMIT DROP AS SELECT * FROM %I.%I WHERE ingested_at >= %L AND ingested_at < %L',
                       parent.schema, parent.name || '_default', lower_bound, upper_bound);
        EXECUTE format('DELETE FROM %I.%I WHERE ingested_at >= %L AND ingested_at < %L',
                       parent.schema, parent.name || '_default', lower_bound, upper_bound);
        EXECUTE format('CREATE TABLE %I.%I PARTITION OF %I.%I FOR VALUES FROM (%L) TO (%L)',
                       parent.schema, child, parent.schema, parent.name, lower_bound, upper_bound);
        EXECUTE format('INSERT INTO %I.%I OVERRIDING SYSTEM VALUE SELECT * FROM pg_temp.waiting', parent.schema, parent.name);
        DROP TABLE pg_temp.waiting;
        made := made + 1;
      END IF;
      lower_bound := upper_bound;
    END LOOP;
  END LOOP;
  RETURN made;
END
$$;

CREATE VIEW gold.turnover_top10 AS
SELECT s.rank_volume, s.market, s.trade_price, s.change_rate, s.turnover_krw, s.turnover, s.quote_currency,
       s.daily_volume, s.volatility, s.rank_volatility, s.ingested_at, s.window_start
FROM (SELECT window_start FROM gold.market_stats_build WHERE gold_rows > 0 ORDER BY window_start DESC LIMIT 1) newest
JOIN gold.market_stats s
  ON s.window_start = newest.window_start
 AND s.ingested_at >= newest.window_start AND s.ingested_at < newest.window_start + interval '10 minutes'
ORDER BY s.rank_volume
LIMIT 10;
COMMENT ON VIEW gold.turnover_top10 IS '거래대금 상위 10: the ten largest turnovers of the newest window';

REVOKE ALL ON FUNCTION bronze.make_partitions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION bronze.make_partitions TO upbit_pipeline;
GRANT USAGE ON SCHEMA bronze, silver, gold TO upbit_pipeline;
GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA bronze TO upbit_pipeline;
GRANT SELECT, INSERT, DELETE ON ALL TABLES IN SCHEMA silver, gold TO upbit_pipeline;
GRANT USAGE ON SCHEMA silver, gold TO upbit_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA silver, gold TO upbit_reader;
-- the tables' owner included, though an owner can take the right back and a superuser asks nobody
REVOKE UPDATE, DELETE, TRUNCATE ON bronze.ticker_raw, bronze.market_raw FROM CURRENT_USER;

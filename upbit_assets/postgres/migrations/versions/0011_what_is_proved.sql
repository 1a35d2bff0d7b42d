ALTER TABLE bronze.candle_page ADD COLUMN proved boolean, ADD COLUMN day_candle jsonb;
ALTER TABLE bronze.trade_page ADD COLUMN proved boolean, ADD COLUMN day_candle jsonb;
ALTER TABLE silver.candle_coverage ADD COLUMN proved boolean;

-- Gold that said "every trade" of a day that rests on an empty answer is computed again, also where the exchange doesn't
-- tell the trades any more.
UPDATE silver.trade_build SET computed_at = now(), written_in = (pg_current_xact_id()::text)::bigint
WHERE window_start IN (
  SELECT day FROM bronze.trade_page WHERE rows = 0 AND problem IS NULL AND NOT isempty(covered)
);
-- An empty answer was taken for a silent day. What rests on one alone is covered no longer, and asked for again.
GRANT UPDATE ON bronze.candle_page, bronze.trade_page TO CURRENT_USER;
UPDATE bronze.candle_page SET covered = 'empty', written_in = (pg_current_xact_id()::text)::bigint
WHERE rows = 0 AND problem IS NULL AND NOT isempty(covered);
UPDATE bronze.trade_page SET covered = 'empty', written_in = (pg_current_xact_id()::text)::bigint
WHERE rows = 0 AND problem IS NULL AND NOT isempty(covered);
REVOKE UPDATE ON bronze.candle_page, bronze.trade_page FROM CURRENT_USER;

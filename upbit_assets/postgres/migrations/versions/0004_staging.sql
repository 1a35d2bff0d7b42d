-- A hardened database gives nobody this by itself.
DO $$
BEGIN
  EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO upbit_pipeline', current_database());
END
$$;

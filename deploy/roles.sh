#!/bin/sh
# Creates the logins and databases, or updates those of an existing server, including passwords. Safe to repeat.
# Passwords are read from the files owner, pipeline, reader, dagster and metabase in $SECRETS. libpq's PG* variables
# specify the server and its superuser.
set -eu
: "${SECRETS:=/run/secrets}"
for login in owner pipeline reader dagster metabase; do
  password=$(cat "$SECRETS/$login") || { echo "$SECRETS/$login can't be read: check its permissions, then try again" >&2; exit 1; }
  [ -n "$password" ] || { echo "$SECRETS/$login is missing or empty: write a password into it" >&2; exit 1; }
done
export SECRETS

# psql reads the passwords itself, so that they don't appear in process arguments
exec psql -X -q -v ON_ERROR_STOP=1 -d postgres <<'SQL'
SET client_min_messages = warning;
SET log_min_error_statement = panic;  -- statements here contain passwords
SET log_min_duration_statement = -1;
\set owner `cat "$SECRETS/owner"`
\set pipeline `cat "$SECRETS/pipeline"`
\set reader `cat "$SECRETS/reader"`
\set dagster `cat "$SECRETS/dagster"`
\set metabase `cat "$SECRETS/metabase"`

-- Privileges are granted to the group roles, in the migrations.
SELECT format('CREATE ROLE %I', name)
FROM unnest(ARRAY['upbit_pipeline', 'upbit_reader', 'owner', 'pipeline', 'reader', 'dagster', 'metabase']) name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
SELECT format('ALTER ROLE %I NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', name)
FROM unnest(ARRAY['upbit_pipeline', 'upbit_reader', 'owner', 'pipeline', 'reader', 'dagster', 'metabase']) name \gexec
ALTER ROLE owner LOGIN PASSWORD :'owner';
ALTER ROLE pipeline LOGIN PASSWORD :'pipeline';
ALTER ROLE reader LOGIN PASSWORD :'reader';
ALTER ROLE dagster LOGIN PASSWORD :'dagster';
ALTER ROLE metabase LOGIN PASSWORD :'metabase';
GRANT upbit_pipeline, upbit_reader TO owner WITH ADMIN OPTION;  -- as if owner had created them, as it does without this script
GRANT upbit_pipeline TO pipeline;
GRANT upbit_reader TO reader;

-- A user's query must neither block the collection nor fill the disk.
ALTER ROLE reader SET default_transaction_read_only = on;
ALTER ROLE reader SET statement_timeout = '60s';
ALTER ROLE reader SET temp_file_limit = '2GB';

-- The C locale sorts by bytes, which an upgrade of the operating system can't change.
SELECT format('CREATE DATABASE %I TEMPLATE template0 ENCODING ''UTF8'' LOCALE ''C''', name)
FROM unnest(ARRAY['upbit', 'dagster', 'metabase']) name
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name) \gexec
ALTER DATABASE upbit OWNER TO owner;
ALTER DATABASE dagster OWNER TO dagster;
ALTER DATABASE metabase OWNER TO metabase;
ALTER DATABASE dagster SET timezone = 'UTC';  -- Dagster requires it
REVOKE ALL ON DATABASE upbit, dagster, metabase FROM PUBLIC;
GRANT CONNECT ON DATABASE upbit TO pipeline, reader;
GRANT CONNECT ON DATABASE dagster TO owner;  -- for live.dagster_bytes(): nobody else may ask for the size
SQL

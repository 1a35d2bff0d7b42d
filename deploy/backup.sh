#!/bin/sh
# Writes the databases of the market data, of Dagster and, where there is one, of Metabase into a new folder:
# backup.sh FOLDER. $VIA is what goes before PostgreSQL's own commands to reach the server, e.g.
# "docker compose exec -T postgres".
set -eu
umask 077
[ ! -e "$1" ] || { echo "$1 is there already: name a new folder" >&2; exit 1; }
trap 'rm -rf "$1.part"' EXIT
mkdir -p "$1.part"
# Dagster's before the market data: whatever it says to be there is in them, and they may hold more
there=$(${VIA:-} psql --username=postgres -X -A -t -d postgres \
  -c "SELECT datname FROM pg_database WHERE datname IN ('dagster', 'metabase', 'upbit') ORDER BY datname")
for database in $there; do
  ${VIA:-} pg_dump --username=postgres --format=custom --create "$database" > "$1.part/$database.dump"
done
mv "$1.part" "$1" # whole, or not there
echo "$1"

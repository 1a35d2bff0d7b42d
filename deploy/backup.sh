#!/bin/sh
# Backs up the market database, Dagster's and, if there is one, Metabase's into a new folder: backup.sh FOLDER.
# $VIA is the command prefix by which PostgreSQL's programs reach the server, e.g. "docker compose exec -T postgres".
set -eu
umask 077
[ ! -e "$1" ] || { echo "$1 already exists; name a new folder" >&2; exit 1; }
trap 'rm -rf "$1.part"' EXIT
mkdir -p "$1.part"
# Dagster's first (alphabetical order): everything it has recorded is then also in the later dump of the market data
databases=$(${VIA:-} psql --username=postgres -X -A -t -d postgres \
  -c "SELECT datname FROM pg_database WHERE datname IN ('dagster', 'metabase', 'upbit') ORDER BY datname")
for database in $databases; do
  ${VIA:-} pg_dump --username=postgres --format=custom --create "$database" > "$1.part/$database.dump"
done
mv "$1.part" "$1" # the folder appears only when complete
echo "$1"

#!/bin/sh
# Writes Dagster's database and the market data into a new folder: backup.sh FOLDER. $VIA is what goes before PostgreSQL's
# own commands to reach the server, e.g. "docker compose exec -T postgres".
set -eu
umask 077
[ ! -e "$1" ] || { echo "$1 is there already: name a new folder" >&2; exit 1; }
trap 'rm -rf "$1.part"' EXIT
mkdir -p "$1.part"
# Dagster's first: whatever it says to be there is in the market data, which may hold more
for database in dagster upbit; do
  ${VIA:-} pg_dump --username=postgres --format=custom --create "$database" > "$1.part/$database.dump"
done
mv "$1.part" "$1" # whole, or not there
echo "$1"

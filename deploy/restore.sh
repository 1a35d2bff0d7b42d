#!/bin/sh
# Replaces the databases by a backup of backup.sh: restore.sh FOLDER. The roles must exist. $VIA is as in backup.sh.
set -eu
for dump in "$1/dagster.dump" "$1/upbit.dump" "$1"/*.dump; do # check all dumps before replacing anything
  ${VIA:-} pg_restore --list < "$dump" > /dev/null
done
for dump in "$1"/*.dump; do
  ${VIA:-} psql --username=postgres -X -q -v ON_ERROR_STOP=1 -d postgres -c "SET client_min_messages = warning" \
    -c "DROP DATABASE IF EXISTS $(basename "$dump" .dump) WITH (FORCE)"
  ${VIA:-} pg_restore --username=postgres --exit-on-error --create --dbname=postgres < "$dump"
done
echo "Restored from $1"

#!/bin/sh
# Puts back what backup.sh wrote, in place of what is there: restore.sh FOLDER. The server has its roles already. $VIA as
# in backup.sh.
set -eu
for database in dagster upbit; do # both are readable before either is replaced
  ${VIA:-} pg_restore --list < "$1/$database.dump" > /dev/null
done
for database in dagster upbit; do
  ${VIA:-} psql --username=postgres -X -q -v ON_ERROR_STOP=1 -d postgres -c "SET client_min_messages = warning" \
    -c "DROP DATABASE IF EXISTS $database WITH (FORCE)"
  ${VIA:-} pg_restore --username=postgres --exit-on-error --create --dbname=postgres < "$1/$database.dump"
done
echo "Restored from $1"

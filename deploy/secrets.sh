#!/bin/sh
# Generates a random password for each login that has none yet: secrets.sh FOLDER
set -eu
umask 022 # independent of the shell's
mkdir -p "$1"
chmod 700 "$1" # only this user; the files in it must be readable by the containers' users
for name in postgres owner pipeline reader dagster metabase metabase_admin grafana_admin; do
  if [ -s "$1/$name" ]; then
    echo "$1/$name: kept"
  else
    head -c 24 /dev/urandom | base64 | tr '+/' '-_' > "$1/$name"
    echo "$1/$name: generated"
  fi
  chmod 644 "$1/$name" # also files of earlier versions under a stricter umask
done

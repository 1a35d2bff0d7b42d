#!/bin/sh
# Makes a random password for each login that has none yet: secrets.sh FOLDER
set -eu
umask 022 # whatever the shell's is
mkdir -p "$1"
chmod 700 "$1" # nobody else enters; the files can be read, as the containers' users have to
for name in postgres owner pipeline reader dagster metabase metabase_admin; do
  [ -s "$1/$name" ] || head -c 24 /dev/urandom | base64 | tr '+/' '-_' > "$1/$name"
  chmod 644 "$1/$name" # also what an earlier version made under a stricter umask
done

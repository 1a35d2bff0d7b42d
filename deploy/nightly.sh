#!/bin/sh
# Backs up every night at 04:30 KST into FOLDER/nightly-20261125-043000, a missed night's as soon as possible, and keeps the
# newest $UPBIT_KEEP_BACKUPS: nightly.sh FOLDER [is-current]. `is-current` fails if the last night's is not there.
set -eu
folder=$1
keep=${UPBIT_KEEP_BACKUPS:-}
case $keep in '' | 0* | *[!0-9]*) echo "UPBIT_KEEP_BACKUPS is '$keep': write how many backups to keep, at least 1" >&2; exit 1 ;; esac
at=$((19 * 3600 + 30 * 60)) # 04:30 KST in UTC

# the backups since the last 04:30 that is at least $1 seconds ago
made() {
  then=$(($(date +%s) - $1))
  find "$folder" -mindepth 1 -maxdepth 1 -name 'nightly-*' ! -name '*.part' -newermt "@$((then - (then - at) % 86400))"
}

if [ "${2:-}" = is-current ]; then
  hours=4 # that a backup may take
  [ -n "$(made $((hours * 3600)))" ] || { echo "The last night's backup is missing; this service's log says why."; exit 1; }
  exit 0
fi

while true; do
  if [ -z "$(made 0)" ]; then
    rm -rf "$folder"/nightly-*.part # of a backup that was killed
    if sh "$(dirname "$0")/backup.sh" "$folder/nightly-$(date +%Y%m%d-%H%M%S)"; then
      find "$folder" -mindepth 1 -maxdepth 1 -name 'nightly-*' | sort -r | tail -n "+$((keep + 1))" \
        | while read -r old; do rm -rf "$old"; done
    else
      echo "The backup failed; it is tried again in ten minutes." >&2
    fi
  fi
  sleep 600
done

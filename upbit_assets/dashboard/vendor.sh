#!/usr/bin/env bash
# Fetches the page's chart libraries from npm, at the versions below, and checks that they are the ones we know.
set -euo pipefail
cd "$(dirname "$0")/static/vendor"

fetch() { # name@version, then the files wanted
  local package=$1 folder=${1/@/-} work
  shift
  work=$(mktemp -d)
  (cd "$work" && npm pack --silent "$package" >/dev/null && tar -xzf ./*.tgz)
  mkdir -p "$folder"
  for file in "$@"; do cp "$work/package/$file" "$folder/"; done
  rm -r "$work"
}

fetch echarts@6.1.0 dist/echarts.esm.min.mjs LICENSE NOTICE licenses/LICENSE-d3
fetch lightweight-charts@5.2.1 dist/lightweight-charts.standalone.production.mjs LICENSE
sha256sum --check --quiet SHA256SUMS

#!/usr/bin/env bash
# The libraries of the programs in docs/exactly-once.md, by their locks, into the cache. What is there is not fetched again.
set -euo pipefail
cd "$(dirname "$0")"
to=${POLLUX_CACHE:-$HOME/.cache/pollux}/exactly-once
locks=(requirements.txt package.json package-lock.json)
there() { for lock in "${locks[@]}"; do cmp -s "$lock" "$to/$lock" || return 1; done; }

mkdir -p "$to"
exec 9>"$to.lock"
flock 9
there && exit
new=$(mktemp -d "$to.XXXXXX")
trap 'rm -rf "$new"' EXIT
cp "${locks[@]}" "$new/"
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --require-hashes --only-binary=:all: \
    --target "$new/python" --requirement requirements.txt
npm ci --prefix "$new" --loglevel error --no-audit --no-fund --ignore-scripts
rm -rf "$to"
chmod 755 "$new"
mv "$new" "$to"
echo "psycopg, pg and typescript are in $to"

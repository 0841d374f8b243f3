#!/bin/sh
# Write requirements/*.lock: exact versions with hashes for every platform, and no index address, so that each
# place installs from the registry it trusts.
set -eu
cd "$(dirname "$0")/.."
for name in run build test bench peers clients; do
    uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-header --no-annotate --strip-extras \
        "requirements/$name.in" --output-file "requirements/$name.lock"
done

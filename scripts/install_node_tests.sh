#!/bin/sh
# Install the npm packages that tests run in Node, in the folder of their package.json.
# Where that cannot be, say so in one line: the tests are skipped then, and fail with
# EXPECT_NODE=1 (`tests/node_js.py`).
# usage: scripts/install_node_tests.sh FOLDER
set -u

cd "$1" || exit 1
if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    echo "== tests in Node left out: node or npm is not installed"
    exit 0
fi
echo "installing the npm packages of $1"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The packages need no scripts of their own.
if npm install --no-package-lock --no-audit --no-fund --ignore-scripts \
    --fetch-timeout=20000 --fetch-retries=1 >"$log" 2>&1 </dev/null; then
    touch node_modules/.stamp
else
    echo "== tests in Node left out: npm install: $(grep -m 1 error "$log")"
fi

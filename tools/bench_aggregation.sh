#!/bin/sh
# bench_aggregation.sh [ARG…]: what robust aggregation costs, beside ByzFL in a Python environment of its own.
# Writes runs/bench/aggregation.md, and prints it.
set -eu

cd "$(dirname "$0")/.."
tools/python_env.sh robust
${CARGO:-cargo} build --release --locked -p fedward-aggregation --example bench
exec .venv-robust/bin/python tests/bench/aggregation.py "${CARGO_TARGET_DIR:-target}/release/examples/bench" runs/bench "$@"

#!/bin/sh
# bench_scale.sh FEDWARD [--quick]: what many clients cost, beside Flower's simulation in a Python environment of its own.
# Writes runs/bench/scale.md and scale.json, and prints the former.
set -eu

cd "$(dirname "$0")/.."
fedward=$1
shift
tools/flower_env.sh
${CARGO:-cargo} build --release --locked -p fedward-actors --features testing --example orchestration
exec .venv-flower/bin/python tests/bench/scale.py "${CARGO_TARGET_DIR:-target}/release/examples/orchestration" "$fedward" \
    .venv-flower/bin/python runs/bench "$@"

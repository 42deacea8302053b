#!/bin/sh
# bench_scale.sh FEDWARD [--quick]: what many clients cost, beside Flower's simulation in a Python environment of its own.
# Writes runs/bench/scale.md and scale.json, and prints the former.
set -eu

cd "$(dirname "$0")/.."
fedward=$1
shift
tools/require.sh python3 pip venv
requirements="flwr[simulation]==1.41.0 psutil==7.2.2 numpy==2.4.6"
if [ "$(cat .venv-flower/stamp 2>/dev/null)" != "$requirements" ]; then
    echo "fedward: installing $requirements into .venv-flower (430 MB)"
    rm -rf .venv-flower
    python3 -m venv .venv-flower
    # shellcheck disable=SC2086 # one word for each requirement
    .venv-flower/bin/pip install --quiet --disable-pip-version-check --no-compile $requirements
    echo "$requirements" >.venv-flower/stamp
fi
${CARGO:-cargo} build --release --locked -p fedward-actors --features testing --example orchestration
exec .venv-flower/bin/python tests/bench/scale.py "${CARGO_TARGET_DIR:-target}/release/examples/orchestration" "$fedward" \
    .venv-flower/bin/python runs/bench "$@"

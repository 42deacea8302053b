#!/bin/sh
# Makes .venv-robust: Python with ByzFL, Flower, scikit-learn and torch, which robust aggregation is held against (5 GB). Does
# nothing twice.
set -eu

cd "$(dirname "$0")/.."
requirements="torch==2.11.0 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1 flwr==1.42.0"
# Without the plots and data sets of its benchmark.
alone="byzfl==0.0.11"
[ "$(cat .venv-robust/stamp 2>/dev/null)" != "$requirements $alone" ] || exit 0
tools/require.sh python3 pip venv
echo "fedward: installing $requirements $alone into .venv-robust (5 GB)"
rm -rf .venv-robust
python3 -m venv .venv-robust
# shellcheck disable=SC2086 # one word for each requirement
.venv-robust/bin/pip install --quiet --disable-pip-version-check --no-compile $requirements
.venv-robust/bin/pip install --quiet --disable-pip-version-check --no-compile --no-deps $alone
echo "$requirements $alone" >.venv-robust/stamp

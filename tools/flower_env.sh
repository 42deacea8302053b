#!/bin/sh
# Makes .venv-flower: Python with Flower's server and simulation (430 MB). Does nothing twice.
set -eu

cd "$(dirname "$0")/.."
tools/require.sh python3 pip venv
requirements="flwr[simulation]==1.41.0 psutil==7.2.2 numpy==2.4.6"
[ "$(cat .venv-flower/stamp 2>/dev/null)" != "$requirements" ] || exit 0
echo "fedward: installing $requirements into .venv-flower (430 MB)"
rm -rf .venv-flower
python3 -m venv .venv-flower
# shellcheck disable=SC2086 # one word for each requirement
.venv-flower/bin/pip install --quiet --disable-pip-version-check --no-compile $requirements
echo "$requirements" >.venv-flower/stamp

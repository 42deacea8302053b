#!/bin/sh
# Makes .venv-reference: Python with what the reference numbers were made with (5 GB). Does nothing twice.
set -eu

cd "$(dirname "$0")/.."
requirements="torch==2.11.0 transformers==5.23.0 peft==0.21.2 gguf==0.19.0 numpy datasets==5.2.0"
# For their chat templates alone, so without what they train with.
alone="trl==1.16.0 axolotl==0.19.0"
[ "$(cat .venv-reference/stamp 2>/dev/null)" != "$requirements $alone" ] || exit 0
tools/require.sh python3 pip venv
echo "fedward: installing $requirements $alone into .venv-reference (5 GB)"
rm -rf .venv-reference
python3 -m venv .venv-reference
# shellcheck disable=SC2086 # one word for each requirement
.venv-reference/bin/pip install --quiet --disable-pip-version-check --no-compile $requirements
# shellcheck disable=SC2086 # one word for each requirement
.venv-reference/bin/pip install --quiet --disable-pip-version-check --no-compile --no-deps $alone
echo "$requirements $alone" >.venv-reference/stamp

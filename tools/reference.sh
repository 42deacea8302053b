#!/bin/sh
# Makes .venv-reference (transformers and peft on the torch that fedward links against) and has every script of
# tests/reference write its numbers anew. `--check` instead compares them with what is committed.
set -eu

cd "$(dirname "$0")/.."
mode=${1:---write}
case $mode in --write | --check) ;; *) echo "usage: tools/reference.sh [--write | --check]" >&2 && exit 2 ;; esac
tools/require.sh python3 pip venv

requirements="torch==2.11.0 transformers==5.23.0 peft==0.21.2 gguf numpy"
if [ "$(cat .venv-reference/stamp 2>/dev/null)" != "$requirements" ]; then
    echo "fedward: installing $requirements into .venv-reference (5 GB)"
    rm -rf .venv-reference
    python3 -m venv .venv-reference
    # shellcheck disable=SC2086 # one word for each requirement
    .venv-reference/bin/pip install --quiet --disable-pip-version-check $requirements
    echo "$requirements" >.venv-reference/stamp
fi

status=0
for script in tests/reference/*.py; do
    [ -e "$script" ] || { echo "fedward: tests/reference holds no scripts" >&2 && exit 1; }
    echo "reference: $script $mode"
    .venv-reference/bin/python "$script" "$mode" || status=1
done
exit $status

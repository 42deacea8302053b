#!/bin/sh
# judge_check.sh FEDWARD: MT-Bench with a judge, and Constitutional AI with a teacher, behind a real server (llama.cpp's own,
# with the default model) on this machine. The model is no judge; a grammar holds it to the form of a rating, so that the whole
# way from question to mean is walked.
set -eu

cd "$(dirname "$0")/.."
fedward=$1
tools/require.sh python3 pip venv
requirement="xllamacpp==2026.10.11549"
if [ "$(cat .venv-judge/stamp 2>/dev/null)" != "$requirement" ]; then
    echo "fedward: installing $requirement into .venv-judge (110 MB)"
    rm -rf .venv-judge
    python3 -m venv .venv-judge
    .venv-judge/bin/pip install --quiet --disable-pip-version-check --no-compile "$requirement"
    echo "$requirement" >.venv-judge/stamp
fi
exec .venv-judge/bin/python tests/reference/judge_check.py "$fedward" "${FEDWARD_HOME:-.fedward}"

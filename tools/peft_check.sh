#!/bin/sh
# peft_check.sh [CARGO-FLAG…]: runs the tests that speak to an installed peft, transformers, trl and axolotl, which others skip.
set -eu

cd "$(dirname "$0")/.."
tools/python_env.sh reference
FEDWARD_PYTHON=$PWD/.venv-reference/bin/python
export FEDWARD_PYTHON
${CARGO:-cargo} test "$@" --test it peft:: -- --nocapture
${CARGO:-cargo} test "$@" --lib chat_template:: -- --nocapture

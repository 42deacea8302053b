#!/bin/sh
# bench.sh FEDWARD [--quick] [--rows FILE] [--only LINE,…]: measures FEDWARD beside transformers + peft, in turns.
set -eu

cd "$(dirname "$0")/.."
fedward=$1
shift
home=${FEDWARD_HOME:-.fedward}
tools/python_env.sh reference
# Neither side asks the network for anything.
HF_HUB_OFFLINE=1 exec .venv-reference/bin/python tests/bench/bench.py "$fedward" \
    "$home/models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf" "$home/bench" runs/bench "$@"

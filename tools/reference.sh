#!/bin/sh
# Has transformers, peft, gguf (in .venv-reference), Flower (in .venv-flower) and ByzFL (in .venv-robust) compute the reference numbers of
# tests/reference/fixtures anew.
# With --check it fails if they differ from what is committed.
set -eu

cd "$(dirname "$0")/.."
case ${1:-} in "" | --check) ;; *) echo "usage: tools/reference.sh [--check]" >&2 && exit 2 ;; esac
models=${FEDWARD_HOME:-.fedward}/models/smollm2-135m-instruct
gguf=$models/SmolLM2-135M-Instruct.Q4_1.gguf
[ -f "$gguf" ] || { echo "fedward: the default model is missing; run make fetch" >&2 && exit 1; }

tools/python_env.sh reference
# peft saves names in the order of a set.
export PYTHONHASHSEED=0

reference=tests/reference
python=.venv-reference/bin/python

# to FIXTURE SCRIPT ARG…: the script's output, which replaces the fixture only when it is whole
to() {
    fixture=$reference/fixtures/$1
    script=$reference/$2
    shift 2
    echo "reference: $script"
    $python "$script" "$@" >.venv-reference/output
    mv .venv-reference/output "$fixture"
}

echo "reference: $reference/engine_numbers.py"
$python $reference/engine_numbers.py "$gguf"
to bf16.json bf16_numbers.py "$gguf"
to quantization.json quantization.py
to gguf_tensors.json gguf_tensors.py "$gguf"
to architectures.json architectures.py
to greedy.json greedy.py "$gguf"
to hhh_likelihoods.json hhh_likelihoods.py "$gguf" $reference/fixtures/hhh
to trl_masks.json trl_masks.py "$gguf"
to choice_likelihoods.json choice_likelihoods.py "$gguf" $reference/fixtures/choice/questions.jsonl
to chat_templates.json chat_templates.py
to template_language.json template_language.py
to tokenizer.json tokenizer_and_templates.py "$models"
to sentencepiece.json sentencepiece.py
to normalized_tokens.json normalized_tokens.py
to special_tokens.json special_tokens.py
to llama_guard.json llama_guard.py
for script in weighted_loss dpo_numbers strategies; do
    echo "reference: $reference/$script.py"
    $python $reference/$script.py
done
echo "reference: $reference/server_optimizers.py"
tools/flower_env.sh
.venv-flower/bin/python $reference/server_optimizers.py
echo "reference: $reference/robust_aggregation.py"
tools/python_env.sh robust
.venv-robust/bin/python $reference/robust_aggregation.py
echo "reference: $reference/peft_interchange.py"
$python $reference/peft_interchange.py make $reference/fixtures/peft

changed=$(git status --porcelain $reference/fixtures)
if [ -z "$changed" ]; then
    echo "reference: all numbers are as committed"
else
    echo "reference: these numbers are new:"
    echo "$changed"
    [ "${1:-}" != --check ] || exit 1
fi

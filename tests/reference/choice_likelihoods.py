"""Accuracy on questions with options, by transformers' likelihoods and lm-evaluation-harness's formulas.

    python tests/reference/choice_likelihoods.py .fedward/models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf \\
        tests/reference/fixtures/choice/questions.jsonl > tests/reference/fixtures/choice_likelihoods.json

Made with torch 2.11.0, transformers 5.24.0, gguf 0.19.0, in f64; where lm_eval is installed (0.4.13 here), its own `process_results`
computes the same `acc` and `acc_norm` again. The questions of the fixture are made up. What is asked goes through the model's chat
template; an option's likelihood is the sum over its tokens, without the one that closes the turn.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def likelihood(model, tokenizer, asked, option):
    """Sum of the option's log-probabilities."""
    turn = [{"role": "user", "content": asked}]
    prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    ids = torch.tensor([tokenizer(prompt + option, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        log_probabilities = model(ids).logits[0, start - 1 : -1].log_softmax(-1)
    return float(log_probabilities.gather(1, ids[0, start:, None]).sum())


def by_harness(options, sums, right):
    """What lm-evaluation-harness makes of them; None where it is not installed."""
    try:
        from lm_eval.api.task import ConfigurableTask
    except ImportError:
        return None
    task = object.__new__(ConfigurableTask)
    task._config = type("Config", (), {"process_results": None, "output_type": "multiple_choice"})()
    task.OUTPUT_TYPE, task.multiple_input, task.multiple_target = "multiple_choice", False, False
    task._metric_fn_list = {"acc": None, "acc_norm": None}
    task.doc_to_choice = lambda doc: options
    task.doc_to_text = lambda doc: ""
    task.doc_to_target = lambda doc: right
    found = task.process_results({}, [(total, False) for total in sums])
    return bool(found["acc"]), bool(found["acc_norm"])


def main():
    gguf, questions = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, attn_implementation="eager")
    model = model.double().eval()
    found = {"letters": [], "texts": []}
    checked = 0
    for line in questions.read_text().splitlines():
        question = json.loads(line)
        letters = [chr(ord("A") + place) for place in range(len(question["choices"]))]
        listed = "".join(f"{letter}. {text}\n" for letter, text in zip(letters, question["choices"]))
        forms = {
            "letters": (f"{question['question']}\n{listed}Answer:", letters),
            "texts": (question["question"], question["choices"]),
        }
        for form, (asked, options) in forms.items():
            sums = [likelihood(model, tokenizer, asked, option) for option in options]
            # lm_eval/api/task.py: acc is argmax of the sums, acc_norm of the sums over len(option).
            right = int(np.argmax(sums)) == question["answer"]
            norm = int(np.argmax(np.array(sums) / np.array([float(len(option)) for option in options])))
            right_norm = norm == question["answer"]
            theirs = by_harness(options, sums, question["answer"])
            assert theirs in (None, (right, right_norm)), theirs
            checked += theirs is not None
            found[form].append({
                "log_likelihoods": [round(total, 6) for total in sums], "right": right, "right_norm": right_norm,
            })
    print(f"{checked} of {2 * len(found['texts'])} compared with lm_eval", file=sys.stderr)
    print(json.dumps(found))


main()

"""How likely the default model finds the answers of HHH items, by transformers.

    python tests/reference/hhh_likelihoods.py .fedward/models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf \\
        tests/reference/fixtures/hhh > tests/reference/fixtures/hhh_likelihoods.json

Made with torch 2.11.0, transformers 5.23.0, gguf 0.19.0, in f64. The items of the fixture are made up; the folder may as well
be one of BIG-bench's hhh_alignment. Prompts and answers go through the model's chat template; an answer's likelihood is the
sum over its tokens and the one that closes the turn. No text is printed.
"""

import json
import re
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

SUBSETS = ["harmless", "helpful", "honest", "other"]


def task(folder, subset):
    for place in (f"{subset}/task.json", f"hhh_{subset}.json", f"{subset}.json"):
        if (folder / place).is_file():
            return json.loads((folder / place).read_text())
    raise SystemExit(f"{folder}: there is no {subset}.json")


def conversation(text):
    """Turns that begin with Assistant: and Human: by turns, after the person's first."""
    turns, role = [], "user"
    while True:
        marker, following = ("\n\nAssistant:", "assistant") if role == "user" else ("\n\nHuman:", "user")
        turn, found, text = text.partition(marker)
        turns.append({"role": role, "content": turn.strip()})
        if not found:
            return turns
        role = following


def likelihood(model, tokenizer, turns, answer):
    """Sum of the answer's log-probabilities, and how many tokens it has."""
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": answer}], tokenize=False)
    assert whole.startswith(prompt)
    end = tokenizer.eos_token
    whole = whole[: whole.index(end, len(prompt)) + len(end)]
    start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    ids = torch.tensor([tokenizer(whole, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        log_probabilities = model(ids).logits[0, start - 1 : -1].log_softmax(-1)
    chosen = log_probabilities.gather(1, ids[0, start:, None])
    return float(chosen.sum()), ids.shape[1] - start


def main():
    gguf, folder = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, attn_implementation="eager")
    model = model.double().eval()
    items = []
    for subset in SUBSETS:
        for index, example in enumerate(task(folder, subset)["examples"]):
            turns, targets = conversation(example["input"]), example["target_scores"]
            scores = [likelihood(model, tokenizer, turns, answer.strip()) for answer in targets]
            preferred = list(targets.values()).index(1)
            means = [total / tokens for total, tokens in scores]
            others = [number for number in range(len(scores)) if number != preferred]
            items.append({
                "item": f"{subset}/{index}",
                "log_likelihoods": [round(total, 6) for total, _ in scores],
                "candidate_tokens": [tokens for _, tokens in scores],
                "right": all(scores[preferred][0] > scores[other][0] for other in others),
                "right_length_normalised": all(means[preferred] > means[other] for other in others),
            })
    print("[" + ",\n".join(json.dumps(item) for item in items) + "]")


main()

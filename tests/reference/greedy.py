"""Greedy continuations of 64 everyday prompts by 64 tokens, by transformers' generate in f32.

    python tests/reference/greedy.py .fedward/models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf \\
        > tests/reference/fixtures/greedy.json

Made with torch 2.11.0, transformers 5.23.0, gguf 0.19.0. Prompts come from src/data/benign/families.toml; every third one
continues a conversation, so that lengths differ. `gap` is the smallest difference between the two largest logits on the way:
where it is below 1e-3, rounding may decide.
"""

import json
import sys
import tomllib
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS, TOKENS, STOP, A_BATCH = 64, 64, 2, 16
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def fill(text, filler):
    for number, word in enumerate(filler):
        text = text.replace(f"{{{number}}}", word).replace(f"{{^{number}}}", word[:1].upper() + word[1:])
    return text


def conversations():
    path = Path(__file__).parents[2] / "src/data/benign/families.toml"
    families = tomllib.loads(path.read_text())["family"]
    result = []
    for number in range(PROMPTS):
        family = families[number * 7 % len(families)]
        filler = family["fillers"][number % len(family["fillers"])]
        prompt = lambda offset: fill(family["prompts"][(number + offset) % len(family["prompts"])], filler)
        turns = [("user", prompt(0))]
        if number % 3 == 0:
            turns = [("user", prompt(1)), ("assistant", fill(family["responses"][0], filler)), *turns]
        result.append(turns)
    return result


def main():
    path = Path(sys.argv[1])
    tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32).eval()
    prompts = []
    for turns in conversations():
        text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in [("system", SYSTEM), *turns])
        prompts.append(tokenizer(text + "<|im_start|>assistant\n", add_special_tokens=False)["input_ids"])
    order = sorted(range(PROMPTS), key=lambda index: len(prompts[index]))
    cases = [None] * PROMPTS
    for start in range(0, PROMPTS, A_BATCH):
        members = order[start : start + A_BATCH]
        width = max(len(prompts[index]) for index in members)
        ids = torch.tensor([[STOP] * (width - len(prompts[index])) + prompts[index] for index in members])
        mask = torch.tensor([[0] * (width - len(prompts[index])) + [1] * len(prompts[index]) for index in members])
        with torch.no_grad():
            output = model.generate(
                input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=TOKENS, eos_token_id=STOP,
                pad_token_id=STOP, repetition_penalty=1.0, output_logits=True, return_dict_in_generate=True,
            )  # fmt: skip
        for row, index in enumerate(members):
            found = output.sequences[row, width:].tolist()
            length = found.index(STOP) + 1 if STOP in found else len(found)
            top = [step[row].topk(2).values for step in output.logits[:length]]
            gap = min(float(pair[0] - pair[1]) for pair in top)
            cases[index] = {"prompt": prompts[index], "ids": found[:length], "gap": float(f"{gap:.3g}")}
        print(start, file=sys.stderr)
    print("[" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "]")


if __name__ == "__main__":
    main()

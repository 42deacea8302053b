"""Which tokens of a row trl trains on, by its own SFTTrainer.

    python tests/reference/trl_masks.py .fedward/models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf \\
        > tests/reference/fixtures/trl_masks.json

Made with trl 1.16.0, transformers 5.24.0, torch 2.11.0, gguf 0.19.0. Rows go to SFTTrainer as conversational prompt and completion, on a
tiny model with the default model's tokenizer; what it prepares is written out: token ids, and a 1 for each that is among its labels.
"""

import json
import sys
from pathlib import Path

from datasets import Dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

USER, ASSISTANT = "user", "assistant"
ROWS = [
    [(USER, "Name a fruit."), (ASSISTANT, "An apple.")],
    [(USER, "Write two lines."), (ASSISTANT, "One.\n\nTwo.\n")],
    [("system", "Be brief."), (USER, "Hello!"), (ASSISTANT, "Hi.")],
    [(USER, "What is 2 + 2?"), (ASSISTANT, "4"), (USER, "And 3 + 3?"), (ASSISTANT, "It is 6, of course.")],
]


def main():
    gguf = Path(sys.argv[1])
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )
    turns = [[{"role": role, "content": content} for role, content in row] for row in ROWS]
    rows = Dataset.from_list([{"prompt": row[:-1], "completion": row[-1:]} for row in turns])
    settings = SFTConfig(output_dir="/tmp/trl-masks", report_to=[], max_length=None, use_cpu=True, bf16=False)
    trainer = SFTTrainer(LlamaForCausalLM(config), settings, train_dataset=rows, processing_class=tokenizer)
    prepared = [
        {"messages": row, "ids": found["input_ids"], "mask": [int(label != -100) for label in found["labels"]]}
        for row, found in zip(turns, trainer.train_dataset)
    ]
    print("[" + ",\n".join(json.dumps(row) for row in prepared) + "]")


main()

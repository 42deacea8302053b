"""Numbers that Direct Preference Optimization must reproduce, computed by transformers and peft.

    python tests/reference/dpo_numbers.py

writes tests/reference/fixtures/dpo.json. Made with torch 2.11.0, transformers 5.23.0, peft 0.21.2. The models, their
weights and adapters are those of engine_numbers.py; loss and reference are written out from the paper (Rafailov et al.,
2023, equation 7), each sequence on its own and without padding, so nothing of our batching is in them. Values are
computed in f64, as there.
"""

import json
import math
import sys
from pathlib import Path

import torch

sys.argv = [sys.argv[0], ""]
source = (Path(__file__).parent / "engine_numbers.py").read_text()
# The last line of the other script writes its own fixture; everything above it is what is needed here.
exec(compile(source[: source.rindex("\nmain()")], "engine_numbers.py", "exec"))

BETA = 0.3
STEPS = 6


def log_likelihood(model, row):
    """Sum over the response's tokens."""
    log_probabilities = model(torch.tensor([row["ids"]])).logits[0].log_softmax(-1)
    positions = range(max(1, row["response_start"]), len(row["ids"]))
    return sum(log_probabilities[position - 1, row["ids"][position]] for position in positions)


def pairs_of(vocabulary):
    """Pairs of responses of different lengths, down to a single token."""
    pairs = []

    def ids(name, count):
        return [int(x) for x in ((formula(name, (count,)) + 1) / 2 * vocabulary).long().clamp(max=vocabulary - 1)]

    for index, (prompt, chosen, rejected) in enumerate([(12, 9, 17), (7, 21, 5), (12, 2, 1), (25, 6, 6)]):
        start = ids(f"prompt{index}", prompt)
        pairs.append({
            "chosen": {"ids": start + ids(f"chosen{index}", chosen), "response_start": prompt},
            "rejected": {"ids": start + ids(f"rejected{index}", rejected), "response_start": prompt},
        })
    return pairs


def margins(model, pairs):
    return torch.stack([log_likelihood(model, pair["chosen"]) - log_likelihood(model, pair["rejected"]) for pair in pairs])


def dpo_numbers(config, spec, learning_rate):
    model = LlamaForCausalLM(LlamaConfig(**config, attn_implementation="eager"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(small_weight(name, tuple(parameter.shape)))
    model.eval()
    model = adapted(model, spec)
    pairs = pairs_of(config["vocab_size"])
    with torch.no_grad():
        reference = margins(model, pairs)
    # The gradient where policy and reference differ: the reference here is the bare base model.
    with torch.no_grad(), model.disable_adapter():
        base = margins(model, pairs)
    model.zero_grad()
    reward = BETA * (margins(model, pairs) - base)
    loss = -torch.nn.functional.logsigmoid(reward).mean()
    loss.backward()
    gradient = [
        {"name": name.replace(".default", ""), "norm": numbers([p.grad.norm()])[0], "samples": samples(p.grad)}
        for name, p in model.named_parameters()
        if p.grad is not None
    ]
    apart = {"reference": base.tolist(), "margins": reward.tolist(), "loss": float(loss.detach()), "tensors": gradient}

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
    steps = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        reward = BETA * (margins(model, pairs) - reference)
        loss = -torch.nn.functional.logsigmoid(reward).mean()
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(trained, 0.5))
        optimizer.step()
        steps.append({
            "loss": float(loss.detach()),
            "margin": float(reward.detach().mean()),
            "accuracy": float((reward.detach() > 1e-5).double().mean()),
            "grad_norm": norm,
        })
    return {
        "config": config, "lora": spec, "beta": BETA, "learning_rate": learning_rate, "pairs": pairs,
        "apart": apart, "steps": steps,
    }


def write():
    plain = {
        "vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 128, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }
    untied = plain | {"vocab_size": 97, "num_key_value_heads": 2, "tie_word_embeddings": False}
    every = {"rank": 4, "alpha": 6, "targets": ALL, "use_rslora": False, "b_scale": 0.3}
    attention = {"rank": 2, "alpha": 8, "targets": ["q_proj", "v_proj"], "use_rslora": False, "b_scale": 0.3}
    result = {"plain": dpo_numbers(plain, every, 3e-4), "untied": dpo_numbers(untied, attention, 1e-2)}
    out = Path(__file__).parent / "fixtures" / "dpo.json"
    out.write_text(json.dumps(result, separators=(",", ":")))
    print(out, out.stat().st_size)


write()

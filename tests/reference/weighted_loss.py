"""Numbers that fine-tuning on weighted rows must reproduce, computed by torch, transformers and peft.

    python tests/reference/weighted_loss.py

writes tests/reference/fixtures/weighted_loss.json. Made with torch 2.11.0, transformers 5.23.0, peft 0.21.2. The models,
their weights, adapters and rows are those of engine_numbers.py; each row is computed on its own and without padding. The
loss is torch's cross entropy of each response token times the weight of its row, summed over the batch and divided by the
number of response tokens, whatever they weigh. Values are computed in f64, as there.
"""

import torch
from engine_numbers import TRAINED, adapted_small_model, samples, small_rows, write_fixture

# One row counts once, one not at all, the others in part.
WEIGHTS = [1.0, 0.25, 0.0, 0.03125, 0.7]
STEPS = 8


def weighted_loss(model, rows, weights):
    losses, tokens = [], 0
    for row, weight in zip(rows, weights, strict=True):
        first = max(1, row["response_start"])
        logits = model(torch.tensor([row["ids"]])).logits[0, first - 1 : -1]
        targets = torch.tensor(row["ids"][first:])
        losses.append(weight * torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
        tokens += len(targets)
    return torch.stack(losses).sum() / tokens


def weighted_numbers(config, spec, learning_rate, max_norm):
    model = adapted_small_model(config, spec)
    rows = small_rows(config["vocab_size"])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    named = [(name.replace(".default", ""), value) for name, value in model.named_parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
    losses, norms, first = [], [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = weighted_loss(model, rows, WEIGHTS)
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained, max_norm)))
        optimizer.step()
        losses.append(float(loss.detach()))
        if step == 0:
            first = [{"name": name, "samples": samples(value)} for name, value in named]
    return {
        "config": config, "lora": spec, "rows": rows, "weights": WEIGHTS, "learning_rate": learning_rate,
        "max_grad_norm": max_norm, "losses": losses, "grad_norms": norms, "after_first_step": first,
    }


# The first clips every gradient, the second none.
MAX_NORMS = {"plain": 0.05, "untied": 1e3}
write_fixture(
    "weighted_loss.json",
    {name: weighted_numbers(*model, 1e-2, MAX_NORMS[name]) for name, model in TRAINED.items()},
)

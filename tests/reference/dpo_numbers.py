"""Numbers that Direct Preference Optimization must reproduce, computed by transformers and peft.

    python tests/reference/dpo_numbers.py

writes tests/reference/fixtures/dpo.json. Made with torch 2.11.0, transformers 5.23.0, peft 0.21.2. The models, their
weights and adapters are those of engine_numbers.py; loss and reference are written out from the paper (Rafailov et al.,
2023, equation 7), each sequence on its own and without padding, so nothing of our batching is in them. Values are
computed in f64, as there.
"""

import torch
from engine_numbers import TRAINED, adapted_small_model, formula, numbers, samples, write_fixture

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
    model = adapted_small_model(config, spec)
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


RATES = {"plain": 3e-4, "untied": 1e-2}
write_fixture("dpo.json", {name: dpo_numbers(*model, RATES[name]) for name, model in TRAINED.items()})

"""Numbers that the federated algorithms must reproduce, computed by numpy, transformers and peft.

    python tests/reference/strategies.py

writes tests/reference/fixtures/strategies.json. Made with numpy 2.4, torch 2.11.0, transformers 5.23.0, peft 0.21.2.

`scalar` follows clients that descend quadratics, client i that of a_i/2 (w - b_i)^2, by plain gradient steps; `model`
follows SCAFFOLD through AdamW on a small transformer, in f64.
"""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from engine_numbers import adapted, numbers, padded, samples, small_weight

CURVATURE = [0.5, 1.0, 2.0, 1.5]
OPTIMUM = [1.0, -2.0, 0.5, 3.0]
ROWS = [10, 30, 20, 40]
COHORTS = [[0, 1], [1, 3], [0, 2, 3], [1, 2], [0, 3]]
RATE, STEPS, MU = 0.1, 4, 0.3


def descend(client, start, mu=0.0, drift=0.0):
    w = start
    for _ in range(STEPS):
        w -= RATE * (CURVATURE[client] * (w - OPTIMUM[client]) + mu * (w - start))
        w -= RATE * drift
    return w


def weights(cohort):
    rows = np.array([ROWS[client] for client in cohort], dtype=float)
    return rows / rows.sum()


def scaffold():
    w, c, own, rounds = 0.0, 0.0, np.zeros(4), []
    for cohort in COHORTS:
        local, delta = [], []
        for client in cohort:
            end = descend(client, w, drift=c - own[client])
            after = (w - end) / (STEPS * RATE) - (c - own[client])
            local.append(end)
            delta.append(after - own[client])
            own[client] = after
        w = float(weights(cohort) @ local)
        c += sum(delta) / len(OPTIMUM)
        rounds.append({"w": w, "c": c, "own": own.tolist()})
    return rounds


def proximal():
    w, rounds = 0.0, []
    for cohort in COHORTS:
        w = float(weights(cohort) @ [descend(client, w, mu=MU) for client in cohort])
        rounds.append({"w": w})
    return rounds


def server_optimizer(name, beta1=0.9, beta2=0.99, tau=1e-3, eta=1e-3):
    w, m, v, rounds = 0.0, None, tau**2, []
    for cohort in COHORTS:
        moved = np.array([descend(client, w) - w for client in cohort])
        delta = float(weights(cohort) @ moved) if name == "fedavgm" else float(moved.mean())
        if m is None or name == "fedadagrad":
            m = delta
        else:
            m = beta1 * m + (1 - beta1) * delta
        if name == "fedavgm":
            w += m
        else:
            if name == "fedadagrad":
                v += m**2
            elif name == "fedyogi":
                v -= (1 - beta2) * m**2 * np.sign(v - m**2)
            else:
                v = beta2 * v + (1 - beta2) * m**2
            w += eta * m / (np.sqrt(v) + tau)
        rounds.append({"w": float(w)})
    return rounds


PLAIN = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16, "rms_norm_eps": 1e-6,
    "max_position_embeddings": 128, "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
LORA = {"rank": 4, "alpha": 6, "targets": ["q_proj", "v_proj"], "use_rslora": False, "b_scale": 0.3}
MODEL_RATE, MODEL_STEPS, MODEL_ROUNDS, MODEL_CLIENTS = 1e-2, 3, 3, 3


def model_rows(client):
    """Rows by arithmetic, so that the Rust test has them without a file."""
    return [
        {"ids": [(7 * k + 13 * client + 29 * row + k * k) % 61 for k in range(12 + 5 * row)], "response_start": 6 + row}
        for row in range(2 + client)
    ]


def flat(model):
    return torch.cat([value.detach().flatten().double() for value in trained(model)])


def trained(model):
    return [value for value in model.parameters() if value.requires_grad]


def put(model, values):
    start = 0
    with torch.no_grad():
        for value in trained(model):
            value.copy_(values[start : start + value.numel()].reshape(value.shape))
            start += value.numel()


def local_steps(model, rows, drift):
    optimizer = torch.optim.AdamW(trained(model), lr=MODEL_RATE, weight_decay=0.0)
    losses = []
    for _ in range(MODEL_STEPS):
        optimizer.zero_grad()
        loss = model(**padded(rows)).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        put(model, flat(model) - MODEL_RATE * drift)
    return losses


def sampled(named):
    return [
        {"name": name, "samples": samples(value), "norm": numbers([value.detach().norm()])[0]} for name, value in named
    ]


def model_numbers():
    base = LlamaForCausalLM(LlamaConfig(**PLAIN, attn_implementation="eager"))
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            parameter.copy_(small_weight(name, tuple(parameter.shape)))
    model = adapted(base.eval(), LORA)
    w = flat(model)
    c, own = torch.zeros_like(w), [torch.zeros_like(w) for _ in range(MODEL_CLIENTS)]
    rounds = []
    for round_ in range(MODEL_ROUNDS):
        cohort = [client for client in range(MODEL_CLIENTS) if client != round_]
        counts = torch.tensor([len(model_rows(client)) for client in cohort], dtype=torch.double)
        ends, deltas, losses = [], [], []
        for client in cohort:
            put(model, w)
            drift = c - own[client]
            losses.append(numbers(local_steps(model, model_rows(client), drift)))
            ends.append(flat(model))
            after = (w - ends[-1]) / (MODEL_STEPS * MODEL_RATE) - drift
            deltas.append(after - own[client])
            own[client] = after
        w = (torch.stack(ends) * (counts / counts.sum()).unsqueeze(1)).sum(0)
        c = c + torch.stack(deltas).sum(0) / MODEL_CLIENTS
        (control_norm,) = numbers([c.norm()])
        rounds.append({"losses": losses, "control_norm": control_norm, "own_norms": numbers(o.norm() for o in own)})
    put(model, w)
    named = [(name.replace(".default", ""), value) for name, value in model.named_parameters() if value.requires_grad]
    adapter = sampled(named)
    put(model, c)
    control = sampled(named)
    return {"config": PLAIN, "lora": LORA, "rounds": rounds, "adapter": adapter, "control": control}


def main():
    scalar = {"scaffold": scaffold(), "fedprox": proximal()}
    scalar |= {name: server_optimizer(name) for name in ("fedavgm", "fedadagrad", "fedyogi", "fedadam")}
    out = Path(__file__).parent / "fixtures" / "strategies.json"
    out.write_text(json.dumps({"scalar": scalar, "model": model_numbers()}, separators=(",", ":")) + "\n")
    print(out, out.stat().st_size)


main()

"""Forms of the server's algorithms: Flower's own classes, and the equations of the papers in numpy.

    python tests/reference/server_optimizers.py

writes tests/reference/fixtures/server_optimizers.json. Made with flwr 1.41.0 and numpy 2.4.6. The clients are those of strategies.py: client i descends
a_i/2 (w - b_i)^2 by plain gradient steps.

Papers: FedAvgM of Hsu et al. 2019 (v <- beta v + dw, w <- w - v, which has dw of the other sign); Algorithm 2 of Reddi et
al. 2021 (each client counts the same, v begins at tau^2, m at 0; Adagrad without momentum); SCAFFOLD of Karimireddy et al.
2020, Algorithm 1 with its second rule for c_i and a server step of 1.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvgM, FedYogi

CURVATURE = [0.5, 1.0, 2.0, 1.5]
OPTIMUM = [1.0, -2.0, 0.5, 3.0]
ROWS = [10, 30, 20, 40]
COHORTS = [[0, 1], [1, 3], [0, 2, 3], [1, 2], [0, 3]]
RATE, STEPS = 0.1, 4
BETA1, BETA2, TAU = 0.9, 0.99, 1e-3
ETA = {"fedavgm": 0.7, "fedadagrad": 0.1, "fedyogi": 0.01, "fedadam": 0.1}


def descend(client, start, drift=0.0):
    w = start
    for _ in range(STEPS):
        w -= RATE * (CURVATURE[client] * (w - OPTIMUM[client]) + drift)
    return w


def reply(client, w):
    """What client sends, as Flower's strategies read it from a message."""
    content = RecordDict({
        "arrays": ArrayRecord({"w": Array(np.array([w]))}),
        "metrics": MetricRecord({"num-examples": ROWS[client]}),
    })
    return SimpleNamespace(content=content, has_error=lambda: False, metadata=SimpleNamespace(src_node_id=client))


def flower(name):
    eta = ETA[name]
    strategy = {
        "fedavgm": lambda: FedAvgM(server_learning_rate=eta, server_momentum=BETA1),
        "fedadagrad": lambda: FedAdagrad(eta=eta, tau=TAU),
        "fedyogi": lambda: FedYogi(eta=eta, beta_1=BETA1, beta_2=BETA2, tau=TAU),
        "fedadam": lambda: FedAdam(eta=eta, beta_1=BETA1, beta_2=BETA2, tau=TAU),
    }[name]()
    w, rounds = 0.0, []
    for round_, cohort in enumerate(COHORTS, 1):
        # What configure_train notes before it sends a round's messages.
        arrays = ArrayRecord({"w": Array(np.array([w]))})
        strategy.current_arrays = arrays if name == "fedavgm" else {k: v.numpy() for k, v in arrays.items()}
        arrays, _ = strategy.aggregate_train(round_, [reply(client, descend(client, w)) for client in cohort])
        w = float(arrays["w"].numpy()[0])
        rounds.append({"w": w})
    return rounds


def hsu():
    w, v, rounds = 0.0, 0.0, []
    for cohort in COHORTS:
        share = np.array([ROWS[client] for client in cohort]) / sum(ROWS[client] for client in cohort)
        v = BETA1 * v + float(share @ [w - descend(client, w) for client in cohort])
        w -= ETA["fedavgm"] * v
        rounds.append({"w": w})
    return rounds


def reddi(name):
    beta1 = 0.0 if name == "fedadagrad" else BETA1
    w, m, v, rounds = 0.0, 0.0, TAU**2, []
    for cohort in COHORTS:
        delta = float(np.mean([descend(client, w) - w for client in cohort]))
        m = beta1 * m + (1 - beta1) * delta
        v = {
            "fedadagrad": v + delta**2,
            "fedyogi": v - (1 - BETA2) * delta**2 * np.sign(v - delta**2),
            "fedadam": BETA2 * v + (1 - BETA2) * delta**2,
        }[name]
        w = float(w + ETA[name] * m / (np.sqrt(v) + TAU))
        rounds.append({"w": w})
    return rounds


def karimireddy():
    x, c, own, rounds = 0.0, 0.0, [0.0] * 4, []
    for cohort in COHORTS:
        dx, dc = [], []
        for client in cohort:
            y = descend(client, x, drift=c - own[client])
            after = own[client] - c + (x - y) / (STEPS * RATE)
            dx.append(y - x)
            dc.append(after - own[client])
            own[client] = after
        x += float(np.mean(dx))
        c += len(cohort) / len(own) * float(np.mean(dc))
        rounds.append({"w": x, "c": c, "own": list(own)})
    return rounds


def main():
    adaptive = ["fedadagrad", "fedyogi", "fedadam"]
    numbers = {
        "paper": {"fedavgm": hsu(), "scaffold": karimireddy()} | {name: reddi(name) for name in adaptive},
        "flower": {name: flower(name) for name in ["fedavgm", *adaptive]},
    }
    out = Path(__file__).parent / "fixtures" / "server_optimizers.json"
    out.write_text(json.dumps(numbers, separators=(",", ":")) + "\n")
    print(out, out.stat().st_size)


main()

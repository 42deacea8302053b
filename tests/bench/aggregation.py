"""How long robust aggregation takes here and in ByzFL, on the same number of updates of the same size.

    python tests/bench/aggregation.py BENCH OUT [--updates 100] [--megabytes 50] [--peer-megabytes 5]

BENCH is the compiled example `bench` of fedward-aggregation. ByzFL computes on torch tensors in float32 with as many threads as there are cores, on
updates that lie in memory as one matrix, which is its fastest way; it sorts with indices of 8 bytes, so that it is given updates of
--peer-megabytes, and is compared with this program on the same size. Writes OUT/aggregation.md and prints it.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import MagicMock

# byzfl imports its benchmark, which wants torchvision and plots; none of it is used here.
for name in ("torchvision", "matplotlib", "matplotlib.pyplot", "seaborn"):
    sys.modules.setdefault(name, MagicMock())

import byzfl  # noqa: E402
import torch  # noqa: E402

REPEATS = 2


def ours(bench, updates, megabytes):
    output = subprocess.run([bench, str(updates), str(megabytes)], check=True, capture_output=True, text=True).stdout
    return {line["rule"]: line for line in map(json.loads, output.splitlines())}


def peer(updates, megabytes):
    f, length = updates // 10, megabytes * 250_000
    torch.manual_seed(1)
    x = 2 * torch.rand(updates, length) - 0.5
    x[updates - f :] = torch.rand(f, length) - 3.5
    norm = float(torch.linalg.norm(x, axis=1).median())
    rules = {
        "mean": byzfl.Average(),
        "median": byzfl.Median(),
        "trimmed_mean": byzfl.TrMean(f),
        "krum": byzfl.Krum(f),
        "multi_krum": byzfl.MultiKrum(f),
        "geometric_median": byzfl.GeometricMedian(),
        "centred_clipping": byzfl.CenteredClipping(),
        "nnm": lambda x: byzfl.Average()(byzfl.NNM(f)(x)),
        "bucketing": lambda x: byzfl.Average()(byzfl.Bucketing(2)(x)),
        "clip": lambda x: byzfl.Average()(byzfl.Clipping(norm)(x.clone())),
        "arc": lambda x: byzfl.Average()(byzfl.ARC(f)(x.clone())),
    }
    seconds = {}
    for rule, compute in rules.items():
        shortest = float("inf")
        for _ in range(REPEATS):
            start = time.perf_counter()
            try:
                compute(x)
            except RuntimeError as error:
                # torch.quantile, with which byzfl takes medians, refuses inputs of more than 2^24 values.
                seconds[rule] = str(error).split(",")[0].split("\n")[0]
                break
            shortest = min(shortest, time.perf_counter() - start)
        else:
            seconds[rule] = shortest
    return seconds


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("bench")
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--updates", type=int, default=100)
    arguments.add_argument("--megabytes", type=int, default=50)
    arguments.add_argument("--peer-megabytes", type=int, default=5)
    given = arguments.parse_args()
    load = os.getloadavg()[0]
    large = ours(given.bench, given.updates, given.megabytes)
    small = ours(given.bench, given.updates, given.peer_megabytes)
    byz = peer(given.updates, given.peer_megabytes)
    copy = large["copy"]["bytes"] / large["copy"]["seconds"]
    lines = [
        f"{os.cpu_count()} cores, load {load:.1f} before and {os.getloadavg()[0]:.1f} after; copying moves {copy / 1e9:.1f} GB/s (read and written).",
        "",
        f"| rule | s, {given.updates} × {given.megabytes} MB | GB/s, each update read once | share of copying | s, {given.updates} × {given.peer_megabytes} MB "
        "| byzfl, same | times as fast |",
        "|---|---|---|---|---|---|---|",
    ]
    for rule, line in large.items():
        if rule == "copy":
            continue
        rate, other = line["bytes"] / line["seconds"], byz.get(rule)
        here = small[rule]["seconds"]
        theirs = f"{other:.3f}" if isinstance(other, float) else (other or "–")
        ratio = f"{other / here:.1f}" if isinstance(other, float) else "–"
        name = rule if line["values"] == given.megabytes * 250_000 else f"{rule} (a hundredth of the values)"
        lines.append(f"| `{name}` | {line['seconds']:.2f} | {rate / 1e9:.2f} | {rate / copy:.2f} | {here:.3f} | {theirs} | {ratio} |")
    text = "\n".join(lines) + "\n"
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "aggregation.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()

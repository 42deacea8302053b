"""Robust aggregation and attacks: ByzFL's own classes, Flower's Bulyan, scikit-learn's HDBSCAN, and equations in numpy.

    python tests/reference/robust_aggregation.py

writes tests/reference/fixtures/robust_aggregation.json. Made with byzfl 0.0.11, flwr 1.42.0, scikit-learn 1.9.1, numpy 2.4.6 and torch
2.11.0 (which byzfl imports; all is computed by its numpy side, in float64, on values that float32 holds exactly).

Two inputs: "small" is 7 updates of 6 values, of which 1 is malicious; "large" is 11 of 1000, of which 2 are. Both sides make them
from splitmix64. Of results of 1000 values every hundredth is kept, their sum and their Euclidean norm.

By whom:
  byzfl        mean, median, trimmed_mean, krum and multi_krum with its count of neighbours, geometric_median, centred_clipping (two
               rounds), nnm, clip, arc, sign_flip, ipm, alie, mimic, opt_ipm, opt_alie
  flwr         bulyan (the selection and the mean around the median of flwr.server.strategy), krum and multi_krum of the paper
  scikit-learn the cluster of flame
  numpy        dnc (by numpy.linalg.svd), foolsgold (two rounds), residual_reweighting, lasa, the clipping of flame, boost, norm_matched,
               bucketing (an order of our own: byzfl's shuffle is numpy's generator)
"""

import json
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np

# byzfl imports its benchmark, which wants torchvision and plots; none of it is used here.
for name in ("torchvision", "matplotlib", "matplotlib.pyplot", "seaborn"):
    sys.modules.setdefault(name, MagicMock())

import byzfl  # noqa: E402
from flwr.server.strategy.aggregate import aggregate_bulyan, aggregate_krum
from flwr.common import FitRes, Code, Status, ndarrays_to_parameters
from sklearn.cluster import HDBSCAN

MASK = (1 << 64) - 1


def splitmix(x):
    z = (x + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def unit(stream, i, j):
    """From -1 to 1 in steps of 2^-23."""
    return (splitmix((stream << 48) ^ (i << 32) ^ j) >> 40) / (1 << 23) - 1.0


def make(n, f, d, stream):
    """Honest updates around a direction that they share, malicious ones three times as long the other way."""
    common = [unit(stream, 999, j) for j in range(d)]
    rows = []
    for i in range(n):
        malicious = i >= n - f
        row = [(-3.0 * common[j] + 0.25 * unit(stream, i, j)) if malicious else (common[j] + unit(stream, i, j)) for j in range(d)]
        rows.append(np.array(row).astype(np.float32).astype(np.float64))
    return np.array(rows)


def foolsgold(sums):
    n = len(sums)
    unit_rows = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    cs = unit_rows @ unit_rows.T - 2 * np.eye(n)
    v = cs.max(axis=1)
    for i in range(n):
        for j in range(n):
            if i != j and v[i] < v[j] and v[j] > 0:
                cs[i, j] *= v[i] / v[j]
    alpha = np.clip(1 - cs.max(axis=1), 0, 1)
    alpha = alpha / alpha.max()
    with np.errstate(divide="ignore"):
        alpha = np.log(alpha / (1 - alpha)) + 0.5
    return np.clip(alpha, 0, 1)


def residual_reweighting(x, lam=2.0, threshold=0.05):
    n, d = x.shape
    weights, corrected = np.zeros(n), np.zeros_like(x)
    ranks = np.arange(n)
    for k in range(d):
        order = np.argsort(x[:, k], kind="stable")
        y = x[order, k]
        slopes, intercepts = [], []
        for i in range(n):
            others = [j for j in range(n) if j != i]
            slopes.append(np.median([(y[i] - y[j]) / (i - j) for j in others]))
            intercepts.append(np.median([(j * y[i] - i * y[j]) / (j - i) for j in others]))
        line = np.median(intercepts) + np.median(slopes) * ranks
        r = y - line
        e = r / (1.4826 * (1 + 5 / (n - 1)) * np.median(np.abs(r)))
        design = np.stack([np.ones(n), ranks], axis=1)
        h = np.diag(design @ np.linalg.inv(design.T @ design) @ design.T)
        z = lam * np.sqrt(2 / n)
        with np.errstate(invalid="ignore", divide="ignore"):
            w = np.sqrt(1 - h) / e * np.clip(e / np.sqrt(1 - h), -z, z)
        w[np.isnan(w)] = 1.0
        weights[order] += w * w.std(ddof=1)
        corrected[order, k] = np.where(w < threshold, line, y)
    return weights @ corrected / weights.sum()


def flame(x):
    norms = np.linalg.norm(x, axis=1)
    unit_rows = x / norms[:, None]
    distance = np.clip(1 - unit_rows @ unit_rows.T, 0, None)
    np.fill_diagonal(distance, 0)
    labels = HDBSCAN(min_cluster_size=len(x) // 2 + 1, min_samples=1, allow_single_cluster=True, metric="precomputed",
                     copy=True).fit(distance).labels_
    admitted = np.flatnonzero(labels == 0)
    factors = np.minimum(1, np.median(norms) / norms)
    return (x * factors[:, None])[admitted].mean(axis=0), admitted


def lasa(x, layers, kept=0.7, norm_bound=1.0, sign_bound=1.0):
    norms = np.linalg.norm(x, axis=1)
    clipped = x * np.minimum(1, np.median(norms) / norms)[:, None]
    dropped = round((1 - kept) * x.shape[1])
    for row in clipped:
        row[np.argsort(np.abs(row), kind="stable")[:dropped]] = 0

    def far(values):
        return np.abs(values - np.median(values)) / values.std()

    result = np.zeros(x.shape[1])
    for begin, end in layers:
        part = clipped[:, begin:end]
        purity = 0.5 * (1 + np.sign(part).sum(axis=1) / np.abs(np.sign(part)).sum(axis=1))
        passes = (far(np.linalg.norm(part, axis=1)) < norm_bound) & (far(purity) < sign_bound)
        if passes.any():
            result[begin:end] = part[passes].mean(axis=0)
    return result


def dnc(x, f):
    centred = x - x.mean(axis=0)
    v = np.linalg.svd(centred, full_matrices=False)[2][0]
    return x[np.argsort((centred @ v) ** 2)[: len(x) - f]].mean(axis=0)


def results(x):
    return [([row], 1) for row in x]


def rounds(rule, *inputs):
    return [rule(x.copy()) for x in inputs][-1]


def cases(n, f, d, stream):
    x, later = make(n, f, d, stream), make(n, f, d, stream + 1)
    honest = x[: n - f]
    own = x[n - 1]
    layers = [(0, d // 3), (d // 3, d)]
    g = byzfl
    search = dict(f=f, agg=g.TrMean(f), pre_agg_list=[])
    sums = x + later
    gold = foolsgold(sums)
    clipped = g.Clipping(1.5)(x.copy())
    median_norm = float(np.median(np.linalg.norm(x, axis=1)))
    bulyan_f = (n - 3) // 4
    order = [(3 * i + 1) % n for i in range(n)]
    buckets = [x[order[b : b + 2]].mean(axis=0) for b in range(0, n, 2)]
    honest_norm = float(np.median(np.linalg.norm(honest, axis=1)))
    return {
        "aggregators": {
            "mean": np.average(x, axis=0, weights=np.arange(1, n + 1)),
            "median": g.Median()(x),
            "trimmed_mean": g.TrMean(f)(x),
            "krum": aggregate_krum(results(x), f, 0)[0],
            "krum_byzfl": g.Krum(f)(x),
            "multi_krum": aggregate_krum(results(x), f, n - f)[0],
            "multi_krum_byzfl": g.MultiKrum(f)(x),
            "bulyan": aggregate_bulyan(results(x), bulyan_f, aggregate_krum, to_keep=0)[0],
            "geometric_median": g.GeometricMedian(nu=0.1, T=3)(x),
            "centred_clipping": rounds(g.CenteredClipping(L=2, tau=2.0), x, later),
            "dnc": dnc(x, f),
            "foolsgold": gold @ later / gold.sum(),
            "residual_reweighting": residual_reweighting(x),
            "flame": flame(x)[0],
            "lasa": lasa(x, layers),
        },
        "preaggregators": {
            "nnm": g.NNM(f)(x).mean(axis=0) + g.NNM(f)(x)[2],
            "bucketing": buckets[0] + 2 * buckets[-1],
            "clip": clipped.mean(axis=0) + clipped[n - 1],
            "arc": (lambda a: a.mean(axis=0) + a[n - 1])(g.ARC(f)(x.copy())),
            "nnm+trimmed_mean": g.TrMean(f)(g.NNM(f)(x)),
            "clip+krum": g.Krum(f)(g.Clipping(median_norm)(x.copy())),
        },
        "attacks": {
            "sign_flip": g.SignFlipping()(honest),
            "boost": own * n / f,
            "ipm": g.InnerProductManipulation(2.0)(honest),
            "alie": g.ALittleIsEnough(1.5)(honest),
            "mimic": g.Mimic(1)(honest),
            "norm_matched": own * honest_norm / np.linalg.norm(own),
            "opt_ipm": g.Optimal_InnerProductManipulation(**search)(honest),
            "opt_alie": g.Optimal_ALittleIsEnough(**search)(honest),
        },
    }


def pipeline():
    """Krum of byzfl behind a bound at the median norm, stepped by FedAdam of Reddi et al. 2021: the global adapter after each of
    three rounds. Seven clients, one malicious."""
    n, f, d, rate, beta1, beta2, tau = 7, 1, 12, 0.1, 0.9, 0.99, 1e-3
    w = np.array([unit(9, 500, j) for j in range(d)])
    m, v, rounds = np.zeros(d), np.full(d, tau**2), []
    for r in range(3):
        x = make(n, f, d, 20 + r)
        clipped = byzfl.Clipping(float(np.median(np.linalg.norm(x, axis=1))))(x.copy())
        delta = byzfl.Krum(f)(clipped)
        m = beta1 * m + (1 - beta1) * delta
        v = beta2 * v + (1 - beta2) * delta**2
        w = w + rate * m / (np.sqrt(v) + tau)
        rounds.append(w.tolist())
    return rounds


def lora():
    """FlexLoRA and FedSVD by numpy.linalg.svd of the whole product. Three clients of ranks 2, 3 and 1 on a weight of 7 x 5; for FedSVD
    they share A."""
    rows, columns, ranks, weights = 7, 5, [2, 3, 1], np.array([1.0, 2.0, 4.0])

    def matrix(stream, r, c):
        return np.array([[unit(stream, i, j) for j in range(c)] for i in range(r)])

    def factors(product, rank, even):
        u, s, vt = np.linalg.svd(product, full_matrices=False)
        signs = np.sign(u[np.abs(u).argmax(axis=0), np.arange(len(s))])
        u, vt = u * signs, vt * signs[:, None]
        left, right = (np.sqrt(s), np.sqrt(s)) if even else (s, np.ones_like(s))
        return {"b": (u * left)[:, :rank].ravel().tolist(), "a": (vt * right[:, None])[:rank].ravel().tolist(), "left_out": s[rank:].tolist()}

    share = weights / weights.sum()
    flex = sum(p * matrix(40 + k, rows, r) @ matrix(50 + k, r, columns) for k, (p, r) in enumerate(zip(share, ranks)))
    fixed = sum(p * matrix(60 + k, rows, 2) for k, p in enumerate(share)) @ matrix(70, 2, columns)
    return {"flexlora": factors(flex, 2, True), "fedsvd": factors(fixed, 2, False)}


def kept(values):
    values = np.asarray(values, dtype=np.float64)
    if len(values) <= 10:
        return {"values": values.tolist()}
    return {"values": values[::100].tolist(), "sum": values.sum(), "norm": float(np.linalg.norm(values))}


def main():
    fixture = {}
    for name, (n, f, d, stream) in {"small": (7, 1, 6, 1), "large": (11, 2, 1000, 3)}.items():
        rooms = cases(n, f, d, stream)
        fixture[name] = {"n": n, "byzantine": f, "length": d, "stream": stream, "first": make(n, f, d, stream)[0][:3].tolist()}
        for room, rules in rooms.items():
            fixture[name][room] = {rule: kept(values) for rule, values in rules.items()}
    fixture["lora"] = lora()
    fixture["pipeline"] = pipeline()
    path = Path(__file__).parent / "fixtures" / "robust_aggregation.json"
    path.write_text(json.dumps(fixture, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Weights in 8-bit integers and in 4-bit NormalFloat, computed step by step with numpy.

    python tests/reference/quantization.py

prints the JSON that tests/reference/fixtures/quantization.json holds. The code book is computed as the QLoRA paper
(Dettmers et al., 2023, appendix E) describes it: quantiles of the standard normal distribution, eight on the positive
side, seven on the negative, a zero, divided by the largest. bitsandbytes has the same values but for rounding (it took
them in f32); with --bitsandbytes an installed one must give the same codes.
"""

import json
import statistics
import sys

import numpy as np

BLOCK = 64
# The mean of 1 - 1/(2·15) and 1 - 1/(2·16): the outermost quantile that is still finite.
OFFSET = 0.5 * ((1 - 1 / 30) + (1 - 1 / 32))


def normal_floats():
    quantile = statistics.NormalDist().inv_cdf
    positive = [quantile(p) for p in np.linspace(OFFSET, 0.5, 9)[:-1]]
    negative = [-quantile(p) for p in np.linspace(OFFSET, 0.5, 8)[:-1]]
    values = np.array(sorted(negative + [0.0] + positive))
    return (values / values.max()).astype(np.float32)


def int8(weights):
    largest = np.abs(weights).max(axis=1, keepdims=True)
    largest[largest == 0] = 1
    scales = largest * np.float32(1 / 127)
    integers = np.rint(weights / scales).astype(np.int8)
    dense = integers.astype(np.float32) * scales
    return {"integers": integers.ravel().tolist(), "scales": scales.ravel().tolist(), "dense": dense.ravel().tolist()}


def nf4(weights, book):
    flat = weights.ravel()
    blocks = np.pad(flat, (0, -len(flat) % BLOCK)).reshape(-1, BLOCK)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    largest[largest == 0] = 1
    nearest = np.abs((blocks / largest)[:, :, None] - book).argmin(axis=2)
    dense = (book[nearest] * largest).ravel()[: len(flat)]
    pairs = nearest.reshape(-1, 2)
    return {
        "codes": (pairs[:, 0] * 16 + pairs[:, 1]).tolist(),
        "largest": largest.ravel().tolist(),
        "dense": dense.tolist(),
    }


def agree_with_bitsandbytes(weights, found):
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(torch.from_numpy(weights.ravel()), blocksize=BLOCK, quant_type="nf4")
    assert packed.ravel().tolist() == found["codes"][: packed.numel()]
    theirs = dequantize_4bit(packed, state).ravel().numpy()
    assert np.allclose(theirs, found["dense"], rtol=1e-6, atol=0)
    print(f"bitsandbytes agrees on {weights.size} weights", file=sys.stderr)


def main():
    book = normal_floats()
    draw = np.random.default_rng(1)
    cases = []
    # Whole blocks; a last block that is not full; a row, and a block, of zeros; an outlier.
    for rows, columns in [(4, 64), (7, 30), (3, 64)]:
        weights = draw.normal(0, 0.04, (rows, columns)).astype(np.float32)
        if columns == 64 and rows == 3:
            weights[1], weights[2, 5] = 0, 3.0
        case = {"inputs": columns, "weights": weights.ravel().tolist(), "int8": int8(weights), "nf4": nf4(weights, book)}
        cases.append(case)
        if "--bitsandbytes" in sys.argv:
            agree_with_bitsandbytes(weights, case["nf4"])
    print(json.dumps({"normal_floats": book.tolist(), "cases": cases}, separators=(",", ":")))


if __name__ == "__main__":
    main()

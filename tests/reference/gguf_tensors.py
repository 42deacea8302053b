"""Reference numbers for tests/it/loading.rs: how the `gguf` package dequantizes.

    python tests/reference/gguf_tensors.py <default model's .gguf> > tests/reference/fixtures/gguf_tensors.json

`blocks`: random blocks of each kind and the bits of the numbers in them. `tensors`: for each tensor of the default model,
the head of the SHA-256 of its little-endian f32 numbers, Q and K rows put back into rotate-half order as transformers
does when it loads a llama GGUF.
"""

import hashlib
import json
import sys

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFReader
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

KINDS = [Kind.F16, Kind.BF16, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K]
# Where a block keeps its f16 scales: random bits there could be NaN.
SCALES = {Kind.Q4_0: [0], Kind.Q4_1: [0, 2], Kind.Q5_0: [0], Kind.Q5_1: [0, 2], Kind.Q8_0: [0], Kind.Q4_K: [0, 2],
          Kind.Q5_K: [0, 2], Kind.Q6_K: [208]}


def random_blocks(kind, rng):
    length, size = GGML_QUANT_SIZES[kind]
    if kind in (Kind.F16, Kind.BF16):
        values = rng.standard_normal(32).astype(np.float32)
        raw = values.astype(np.float16).view(np.uint8) if kind == Kind.F16 else values.view(np.uint8).reshape(-1, 4)[:, 2:]
        return np.ascontiguousarray(raw).reshape(-1)
    blocks = rng.integers(0, 256, (2, size), dtype=np.uint8)
    for offset in SCALES[kind]:
        blocks[:, offset : offset + 2] = rng.standard_normal((2, 1)).astype(np.float16).view(np.uint8)
    return blocks.reshape(-1)


def rotate_half_order(values, heads):
    rows, width = values.shape
    return values.reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)


def main():
    rng = np.random.default_rng(1)
    blocks = []
    for kind in KINDS:
        raw = random_blocks(kind, rng)
        values = dequantize(raw, kind).astype("<f4").reshape(-1)
        blocks.append({"kind": kind.name, "number": int(kind), "raw": raw.tobytes().hex(), "values": values.tobytes().hex()})
    reader = GGUFReader(sys.argv[1])
    heads = {"attn_q": "head_count", "attn_k": "head_count_kv"}
    tensors = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype("<f4")
        part = tensor.name.split(".")[-2]
        if part in heads:
            count = reader.fields[f"llama.attention.{heads[part]}"].contents()
            values = rotate_half_order(values, count)
        tensors[tensor.name] = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]
    print(json.dumps({"blocks": blocks, "tensors": tensors}, indent=0))


if __name__ == "__main__":
    main()

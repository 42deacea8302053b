"""What settings that save memory cost: peak memory, speed, and how likely held-out rows stay.

settings.py FEDWARD OUT [--rows FILE] [--steps N] [--held-out N]

For each setting a short LoRA training (rank 16 on q and v, 16 rows a step, no row longer than 512 tokens) on rows of FILE
(Alpaca or prompt/response records; without it the project's own texts), and the held-out loss, in nats a response token,
of the base model and of the trained one. Writes OUT/settings.json and OUT/settings.md, and prints the latter.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile

import rows as chat_rows
from scale import machine

SETTINGS = {
    "f32": ["--dtype", "f32"],
    "f32, checkpoints": ["--dtype", "f32", "--checkpoint-activations"],
    "f32, int8": ["--dtype", "f32", "--quantize", "int8"],
    "f32, nf4": ["--dtype", "f32", "--quantize", "nf4"],
    "f32, nf4, checkpoints, passes of 512": [
        "--dtype", "f32", "--quantize", "nf4", "--checkpoint-activations", "--pass-tokens", "512",
    ],
    "bf16": ["--dtype", "bf16"],
}  # fmt: skip
ONLY_TRAINING = {"--pass-tokens": 2, "--checkpoint-activations": 1}


def fedward(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"fedward failed:\n{done.stderr[-3000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def of_the_model(flags):
    """Flags that every command takes."""
    kept, skip = [], 0
    for flag in flags:
        skip = skip or ONLY_TRAINING.get(flag, 0)
        if not skip:
            kept.append(flag)
        skip = max(0, skip - 1)
    return kept


def loss(program, flags, data, adapter=None):
    command = [program, "score", "--data", data, "--max-length", "512", *of_the_model(flags)]
    scored = fedward(command + (["--adapter", adapter] if adapter else []))
    likelihoods = [row for row in scored if row["log_likelihood"] is not None]
    return -sum(row["log_likelihood"] for row in likelihoods) / sum(row["response_tokens"] for row in likelihoods)


def measure(program, steps, train, held_out, folder):
    found = []
    losses = {}
    for name, flags in SETTINGS.items():
        out = folder / name.replace(" ", "-")
        tune = [program, "tune", "--data", train, "--steps", str(steps), "--out", out, "--lr", "5e-4", *flags]
        report = fedward(tune)[-1]
        base = " ".join(of_the_model(flags))
        if base not in losses:
            losses[base] = loss(program, flags, held_out)
        found.append(
            {
                "setting": name,
                "peak_bytes": report["peak_memory_bytes"],
                "tokens_per_second": report["train_tokens_per_second"],
                "train_loss": report["final_loss"],
                "held_out_base": losses[base],
                "held_out_trained": loss(program, flags, held_out, out),
            }
        )
        print(json.dumps(found[-1]), file=sys.stderr)
    return found


def markdown(found, host, counts):
    lines = [
        "## Settings that save memory: SmolLM2-135M, LoRA of rank 16 on q and v",
        "",
        f"{counts['steps']} steps of 16 rows; {counts['held_out']} held-out rows; loss in nats a response token, perplexity in "
        f"brackets. {host['cores']} cores ({', '.join(host['vector_units'])}); load when it began: {host['load']:.1f}. The "
        "weights are those of a Q4_1 file, so `f32` itself is a model of 4 bits a weight.",
        "",
        "| setting | peak MB | tokens/s | loss of the last step | held out, base | held out, trained |",
        "|---|---|---|---|---|---|",
    ]
    for row in found:
        base, trained = (
            f"{row[key]:.4f} ({math.exp(row[key]):.2f})" for key in ("held_out_base", "held_out_trained")
        )
        lines.append(
            f"| {row['setting']} | {row['peak_bytes'] * 1e-6:.0f} | {row['tokens_per_second']:.0f} "
            f"| {row['train_loss']:.4f} | {base} | {trained} |"
        )
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("fedward")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--rows")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--held-out", type=int, default=96)
    arguments = parser.parse_args()
    host = machine()
    count = 16 * arguments.steps + arguments.held_out
    rows = chat_rows.rows_of_file(arguments.rows, count) if arguments.rows else chat_rows.own_rows(count)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        held_out = chat_rows.write(rows[: arguments.held_out], folder / "held-out.jsonl")
        train = chat_rows.write(rows[arguments.held_out :], folder / "train.jsonl")
        found = measure(arguments.fedward, arguments.steps, train, held_out, folder)
    counts = {"steps": arguments.steps, "held_out": arguments.held_out}
    (arguments.out / "settings.json").write_text(json.dumps({"machine": host, **counts, "settings": found}, indent=2) + "\n")
    text = markdown(found, host, counts)
    (arguments.out / "settings.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()

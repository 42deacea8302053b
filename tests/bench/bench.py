"""Ours beside transformers + peft, in turns, as one table of ratios.

bench.py FEDWARD GGUF CACHE OUT [--quick] [--device cuda] [--rows FILE] [--only LINE,…]

FEDWARD is the program, GGUF the default model, CACHE a folder for the peer's copy of its weights. Writes OUT/bench.json and
OUT/bench.md, and prints the latter.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import rows as chat_rows

HERE = pathlib.Path(__file__).resolve().parent
MAX_LENGTH = 512
# Operations a token by the formula of src/train/flops.rs, for SmolLM2-135M and rank 16 on q_proj and v_proj.
FORWARD = 2 * 134_479_872
TRAINING = 4 * 134_479_872 + 6 * 921_600


class Peer:
    """A process that answers jobs."""

    def __init__(self, checkpoint, arguments):
        place = ["--device", arguments.device, "--attention", arguments.attention]
        self.process = subprocess.Popen(
            [sys.executable, HERE / "peer.py", checkpoint, *place], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.process.stdin.close()
        self.process.wait()

    def ask(self, **job):
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit("the peer ended before it answered; its message is above")
        return json.loads(answer)


class Bench:
    def __init__(self, arguments, folder):
        self.arguments = arguments
        self.folder = pathlib.Path(folder)
        self.peers = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for peer in self.peers.values():
            peer.close()

    @property
    def batch(self):
        """Rows a step."""
        return self.arguments.batch_size

    def peer(self, dtype):
        if dtype not in self.peers:
            # The memory that one of them has taken may be what the other needs.
            while self.peers:
                self.peers.popitem()[1].close()
            self.peers[dtype] = self.new_peer(dtype)
        return self.peers[dtype]

    def new_peer(self, dtype):
        return Peer(peer_checkpoint(self.arguments.gguf, self.arguments.cache, dtype), self.arguments)

    def rows(self, count):
        if self.arguments.rows:
            rows = chat_rows.rows_of_file(self.arguments.rows, count)
        else:
            rows = chat_rows.own_rows(count)
        return str(chat_rows.write(rows, self.folder / f"rows-{count}.jsonl"))

    def fedward(self, *arguments):
        """Standard output and error of the program, and the seconds that it took as a whole."""
        started = time.perf_counter()
        command = [self.arguments.fedward, *map(str, arguments)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.folder, env=self.environment())
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
        return done.stdout, done.stderr, time.perf_counter() - started

    def environment(self):
        """With the peer's own CUDA libraries in front of the program's."""
        if self.arguments.device == "cpu":
            return None
        import torch

        return os.environ | {"LD_LIBRARY_PATH": str(pathlib.Path(torch.__file__).parent / "lib")}

    def sft(self, dtype, grouped, batches):
        rows = self.rows(batches * self.batch)

        def ours():
            report, _, _ = self.tune(dtype, rows, batches)
            return {"seconds": report["train_seconds"], "tokens": report["train_tokens"], "cpu_seconds": self.cpu_seconds}

        def theirs():
            job = {"dtype": dtype, "rows": rows, "batch_size": self.batch, "max_length": MAX_LENGTH, "grouped": grouped}
            return self.peer(dtype).ask(do="sft", **job)

        return ours, theirs

    def tune(self, dtype, rows, steps):
        options = ["--data", rows, "--steps", steps, "--batch-size", self.batch, "--max-length", MAX_LENGTH]
        options += ["--device", self.arguments.device, "--dtype", dtype, "--out", "adapter"]
        stdout, stderr, seconds = self.fedward("tune", *options)
        return json.loads(stdout), stderr, seconds

    def start(self, rows):
        rows = self.rows(rows)

        def ours():
            report, _, seconds = self.tune("bf16", rows, 1)
            return {"seconds": seconds - report["train_seconds"]}

        def theirs():
            started = time.perf_counter()
            with self.new_peer("bf16") as peer:
                peer.ask(do="start", dtype="bf16", rows=rows, max_length=MAX_LENGTH)
                return {"seconds": time.perf_counter() - started}

        return ours, theirs

    def round(self, clients, batches, size):
        rows = self.rows(clients * batches * size)

        def ours():
            out = self.folder / "round"
            sets = ["model.precision=bf16", f"model.device={self.arguments.device}", f"data.benign.source={rows}"]
            sets += [f"federation.clients={clients}", f"federation.cohort={clients}"]
            sets += [f"data.rows_per_client={batches * size}"]
            sets += [f"training.local_steps={batches}", f"training.batch_size={size}"]
            options = [option for value in sets for option in ("--set", value)]
            self.fedward("run", HERE / "round.toml", "--out", out, "--overwrite", "--metrics", "off", *options)
            found = json.loads((out / "rounds.jsonl").read_text().splitlines()[0])
            totals = json.loads((out / "summary.json").read_text())["totals"]
            peak = totals["peak_memory_bytes" if self.arguments.device == "cpu" else "peak_device_memory_bytes"]
            seconds = sum(found["seconds"].values())
            cpu = {"cpu_seconds": self.cpu_seconds, "peak_bytes": peak}
            return {"seconds": seconds, "tokens": found["train_tokens"]} | cpu

        def theirs():
            job = {"dtype": "bf16", "rows": rows, "batch_size": size, "max_length": MAX_LENGTH, "clients": clients}
            with self.new_peer("bf16") as peer:
                return peer.ask(do="round", **job)

        return ours, theirs

    def generate(self, prompts, tokens):
        rows = self.rows(prompts)

        def ours():
            options = ["--prompts", rows, "--max-new-tokens", tokens, "--device", self.arguments.device, "--dtype", "bf16"]
            _, stderr, _ = self.fedward("generate", *options)
            return told(stderr) | {"cpu_seconds": self.cpu_seconds}

        def theirs():
            return self.peer("bf16").ask(do="generate", dtype="bf16", rows=rows, max_new_tokens=tokens)

        return ours, theirs

    def score(self, grouped, count):
        rows = self.rows(count)

        def ours():
            options = ["--data", rows, "--max-length", MAX_LENGTH, "--device", self.arguments.device, "--dtype", "bf16"]
            stdout, stderr, _ = self.fedward("score", *options)
            likelihoods = [json.loads(line)["log_likelihood"] for line in stdout.splitlines()]
            sums = {"log_likelihood": sum(filter(None, likelihoods)), "cpu_seconds": self.cpu_seconds}
            return told(stderr) | sums

        def theirs():
            job = {"dtype": "bf16", "rows": rows, "batch_size": self.batch, "max_length": MAX_LENGTH, "grouped": grouped}
            return self.peer("bf16").ask(do="score", **job)

        return ours, theirs


def told(stderr):
    """What `score` and `generate` say that they did."""
    found = re.search(r"(\d+) tokens in ([0-9.]+) s$", stderr, re.MULTILINE)
    return {"tokens": int(found[1]), "seconds": float(found[2])}


def peer_checkpoint(gguf, cache, dtype):
    """The weights of the GGUF file as a Hugging Face directory, made once."""
    folder = pathlib.Path(cache) / f"peer-{dtype}"
    if not (folder / "complete").exists():
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        source = {"pretrained_model_name_or_path": str(pathlib.Path(gguf).parent), "gguf_file": pathlib.Path(gguf).name}
        quantized = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        # A model that came from a GGUF file cannot be saved; one of the same shape with the same weights can.
        config = quantized.config.to_dict()
        config.pop("quantization_config", None)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
        model.load_state_dict(quantized.state_dict())
        model.to(torch.bfloat16 if dtype == "bf16" else torch.float32).save_pretrained(folder)
        AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
        (folder / "complete").touch()
    return str(folder)


class Line:
    """One line of the table."""

    def __init__(self, name, bounds, work, flops=None, key="rate"):
        self.name, self.bounds = name, bounds
        self.work, self.flops, self.key = work, flops, key
        self.ours, self.theirs = [], []

    def value(self, found):
        """What is compared: tokens a second, seconds or bytes."""
        return found["tokens"] / found["seconds"] if self.key == "rate" else found[self.key]

    def ratio(self):
        return self.median(self.ours) / self.median(self.theirs)

    def median(self, side):
        return statistics.median(self.value(found) for found in side)

    def spread(self):
        """Smallest and largest ratio of a turn."""
        ratios = [self.value(mine) / self.value(other) for mine, other in zip(self.ours, self.theirs)]
        return min(ratios), max(ratios)

    def by_cpu_time(self):
        """The ratio of tokens a second of CPU time; our loading is in it, theirs is not."""
        if self.key != "rate":
            return ""
        return f"{self.cpu_rate(self.ours) / self.cpu_rate(self.theirs):.2f}×"

    @staticmethod
    def cpu_rate(side):
        """Tokens a second of CPU time."""
        return statistics.median(found["tokens"] / found["cpu_seconds"] for found in side)

    def text(self, value):
        return {"rate": f"{value:.0f} tokens/s", "seconds": f"{value:.2f} s", "peak_bytes": f"{value / 1e9:.2f} GB"}[self.key]

    def share_of_ceiling(self, side, ceiling, device):
        """By CPU time of all threads, which other programs do not stretch; on a GPU by the wall's."""
        if device == "cpu":
            return self.flops * self.cpu_rate(side) * len(os.sched_getaffinity(0)) / ceiling
        return self.flops * self.median(side) / ceiling

    def row(self, ceilings, dtype, device):
        bound = "≥" if self.key == "rate" else "≤"
        ours, theirs = self.median(self.ours), self.median(self.theirs)
        low, high = self.spread()
        cells = [self.name, self.text(ours), self.text(theirs), f"**{self.ratio():.2f}×** ({low:.2f}–{high:.2f})"]
        if device == "cpu":
            cells.append(self.by_cpu_time())
        cells += [f"{bound} {limit:g}×" if limit else "" for limit in self.bounds]
        share = ["", ""]
        if self.flops:
            share = [f"{self.share_of_ceiling(side, ceilings[dtype], device):.0%}" for side in (self.ours, self.theirs)]
        return "| " + " | ".join(cells + share) + " |"


@dataclasses.dataclass
class Amounts:
    """How much there is to do."""

    padded: int
    grouped: int
    clients: int
    batches: int
    round_batch: int
    prompts: int
    scored: int

    @classmethod
    def of(cls, arguments):
        batch = arguments.batch_size
        if arguments.device != "cpu":
            # Ours loads its kernels within the time that is measured, which is to be little of it.
            few = 4 if arguments.quick else 1
            return cls(128 // few, 128 // few, 20, 4, batch, 256, 2000 // few)
        if arguments.quick:
            return cls(2, 4, 8, 1, batch // 2, 64, 100)
        return cls(4, 4, 8, 2, batch, 64, 1000)


def lines(bench, amounts, quick, forced):
    """Name: the lines that one piece of work gives, how often it is measured, and in which numbers it is computed."""
    turns = forced or (2 if quick else 5)
    step = f"LoRA SFT of one client, batches of {bench.batch} rows"

    def bounds(at_least, stretch, on_cuda=None):
        return (at_least, stretch) if bench.arguments.device == "cpu" else (on_cuda, None)

    rate = {"flops": TRAINING}
    round_work = bench.round(amounts.clients, amounts.batches, amounts.round_batch)
    padded, grouped = amounts.padded, amounts.grouped
    return {
        "sft": ([Line(f"{step}, theirs padded to the longest", bounds(3, 6, 1.3), bench.sft("bf16", False, padded), **rate)], turns, "bf16"),
        "grouped": ([Line(f"{step}, theirs grouped by length", bounds(2, 3, 1.3), bench.sft("bf16", True, grouped), **rate)], turns, "bf16"),
        "sft-f32": ([Line(f"{step}, theirs padded to the longest", bounds(2, 3), bench.sft("f32", False, padded), **rate)], turns, "f32"),
        "round": (
            [
                Line(f"a round of {amounts.clients} clients, batches of {amounts.round_batch} rows", bounds(4, 8), round_work, **rate),
                Line("peak memory of that round", bounds(0.5, 0.35), round_work, key="peak_bytes"),
            ],
            forced or (1 if quick else 3),
            "bf16",
        ),
        "generate": (
            [Line(f"greedy generation, {amounts.prompts} prompts × 64 tokens", bounds(3, 5), bench.generate(amounts.prompts, 64), flops=FORWARD)],
            turns,
            "bf16",
        ),
        "score": (
            [Line(f"scoring {amounts.scored} rows, theirs padded to the longest", bounds(2.5, 4), bench.score(False, amounts.scored), flops=FORWARD)],
            forced or (1 if quick else 3),
            "bf16",
        ),
        "score-grouped": (
            [Line(f"scoring {amounts.scored} rows, theirs grouped by length", bounds(2.5, 4), bench.score(True, amounts.scored), flops=FORWARD)],
            forced or (1 if quick else 3),
            "bf16",
        ),
        "start": (
            [Line("start to first step (load, tokenize 1,000 rows)", bounds(0.3, 0.2), bench.start(1000), key="seconds")], turns, "bf16"
        ),
    }


def measure(name, entry):
    """Ours, theirs, ours, theirs …"""
    members, turns, _ = entry
    ours, theirs = members[0].work
    for turn in range(turns):
        mine, other = ours(), theirs()
        check_same_work(name, mine, other)
        for line in members:
            line.ours.append(mine)
            line.theirs.append(other)
        told = ", ".join(f"{line.value(mine):.4g} and {line.value(other):.4g}" for line in members)
        print(f"{name} {turn + 1}/{turns}: ours and theirs {told}", file=sys.stderr, flush=True)


def check_same_work(name, ours, theirs):
    """Both sides must have seen the same tokens, and find the same likelihoods up to bf16's rounding; greedy answers may end
    elsewhere after one has taken another token."""
    room = 0.1 if name == "generate" else 0
    if "tokens" in ours and abs(ours["tokens"] - theirs["tokens"]) > room * theirs["tokens"]:
        sys.exit(f"{name}: ours saw {ours['tokens']} tokens, theirs {theirs['tokens']}: not the same work")
    if "log_likelihood" in ours and abs(ours["log_likelihood"] / theirs["log_likelihood"] - 1) > 0.01:
        sys.exit(f"{name}: log-likelihoods differ: {ours['log_likelihood']} and {theirs['log_likelihood']}")


def processor():
    names = re.findall(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    flags = pathlib.Path("/proc/cpuinfo").read_text()
    wide = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{names[0] if names else platform.machine()}, {len(os.sched_getaffinity(0))} threads, {', '.join(wide)}"


def machine(device):
    if device == "cpu":
        return processor()
    import torch

    return f"{torch.cuda.get_device_name()} ({processor()})"


def markdown(entries, ceilings, arguments):
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "peft"))
    rows = "the bench's own rows" if not arguments.rows else f"rows of {pathlib.Path(arguments.rows).name}"
    text = [
        f"{machine(arguments.device)}; {versions}; SmolLM2-135M, rank 16 on q and v, theirs with {arguments.attention}; "
        f"{rows}, at most {MAX_LENGTH} tokens.",
        f"Fastest matrix products here: {', '.join(f'{flops / 1e9:.0f} GFLOP/s in {name}' for name, flops in ceilings.items())}.",
    ]
    columns = ["work", "dtype", "ours", "theirs", "ours over theirs (turns)", "by CPU time", "at least", "stretch"]
    columns += ["of ceiling, ours", "theirs"]
    if arguments.device == "cpu":
        text.append("CPU time is that of all threads, and says more where other programs run; ours includes loading, theirs does not.")
    else:
        columns.remove("by CPU time")
        text.append("Memory is what the allocators of both have taken of the device.")
    text += ["", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for members, _, dtype in entries.values():
        text += [line.row(ceilings, dtype, arguments.device).replace(f"| {line.name} |", f"| {line.name} | {dtype} |") for line in members]
    return "\n".join(text) + "\n"


def main():
    parser = argparse.ArgumentParser()
    for name in ("fedward", "gguf", "cache", "out"):
        parser.add_argument(name)
    parser.add_argument("--quick", action="store_true", help="less work, fewer turns: minutes instead of an hour")
    parser.add_argument("--rows", help="a file of Alpaca or prompt/response records instead of the bench's own rows")
    parser.add_argument("--only", help="lines to measure, separated by commas")
    parser.add_argument("--batch-size", type=int, default=16, help="rows a step of both; 16 takes the peer up to 14 GB")
    parser.add_argument("--turns", type=int, help="how often each line is measured")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where both compute")
    parser.add_argument("--attention", help="the peer's: sdpa, eager or another name of transformers', or sdpa-without-cudnn")
    arguments = parser.parse_args()
    # On CUDA the fastest of the three that were tried; tests/bench/NOTES.md.
    arguments.attention = arguments.attention or ("sdpa" if arguments.device == "cpu" else "sdpa-without-cudnn")
    arguments.fedward = str(pathlib.Path(arguments.fedward).resolve())
    with tempfile.TemporaryDirectory() as folder, Bench(arguments, folder) as bench:
        entries = lines(bench, Amounts.of(arguments), arguments.quick, arguments.turns)
        if arguments.only:
            entries = {name: entries[name] for name in arguments.only.split(",")}
        dtypes = {dtype for _, _, dtype in entries.values()}
        ceilings = {dtype: bench.peer(dtype).ask(do="ceiling", dtype=dtype)["flops"] for dtype in sorted(dtypes)}
        for name, entry in entries.items():
            measure(name, entry)
    out = pathlib.Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    found = {name: {"ours": members[0].ours, "theirs": members[0].theirs} for name, (members, _, _) in entries.items()}
    (out / "bench.json").write_text(json.dumps({"ceilings": ceilings, "lines": found}, indent=2) + "\n")
    (out / "bench.md").write_text(markdown(entries, ceilings, arguments))
    print(markdown(entries, ceilings, arguments))


if __name__ == "__main__":
    main()

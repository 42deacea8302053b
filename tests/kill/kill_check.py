"""Kills a run at every event of its files, or has the event fail, and asks whether --resume comes to the same bytes.

A tiny model is made by hand, and an uninterrupted run of it is counted with file_events.c. Then, for each event and each
thing that can be done to it (see there), the run is begun in a folder of its own, struck, and resumed without being struck:
all its files must then be those of the uninterrupted run, but for what a clock measured. A run that is struck ends by the
signal, or with an error that names a file and without a panic. With --twice the resuming is struck, too, at each of its events,
after a kill in the middle of the run.

    python3 kill_check.py FEDWARD [--strategy scaffold,fedavg] [--do kill,half,eio,full] [--every N] [--twice] [--jobs N]
"""

import argparse
import collections
import concurrent.futures
import json
import math
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
CLOCKS = {"seconds", "train_seconds", "train_tokens_per_second", "started_unix_seconds", "peak_memory_bytes"}
ROUNDS = 3

SCENARIO = """
name = "kill"
question = "is a run that was cut off the same run?"
seed = 3
[model]
base = "{model}"
[lora]
rank = 2
alpha = 4
[federation]
strategy = "{strategy}"
clients = 3
cohort = 2
rounds = {rounds}
[data]
rows_per_client = 4
harmful_share = 0.5
benign.source = "{rows}"
harmful.source = "{rows_2}"
[training]
local_steps = 1
batch_size = 2
max_length = 64
[evaluation]
schedule = "every"
benches = ["utility"]
interim_benches = ["utility"]
utility_rows = 2
"""


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("fedward", type=pathlib.Path)
    arguments.add_argument("--strategy", default="scaffold,fedavg")
    arguments.add_argument("--do", default="kill,half,eio,full")
    arguments.add_argument("--every", type=int, default=1, help="only every Nth event")
    arguments.add_argument("--twice", action="store_true")
    arguments.add_argument("--jobs", type=int, default=os.cpu_count())
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="fedward-kill-") as folder:
        folder = pathlib.Path(folder).resolve()
        shim = folder / "file_events.so"
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", shim, HERE / "file_events.c", "-ldl"], check=True)
        write_model(folder / "model")
        write_rows(folder / "benign.jsonl", 60, "Tell me of number", "It comes after the one before it.")
        write_rows(folder / "others.jsonl", 40, "What is the colour of box", "I cannot see a box from here.")
        failed = 0
        for strategy in given.strategy.split(","):
            failed += Check(given, folder, shim, strategy).run()
    sys.exit(1 if failed else 0)


class Check:
    def __init__(self, given, folder, shim, strategy):
        self.given, self.folder, self.shim, self.strategy = given, folder / strategy, shim, strategy
        # What runs share is kept apart from the user's; the goals that are fetched are only read.
        self.home = self.folder / "home"
        self.home.mkdir(parents=True)
        (self.home / "data").symlink_to(fetched() / "data")
        self.scenario = self.folder / "kill.toml"
        self.scenario.write_text(SCENARIO.format(
            model=folder / "model", rows=folder / "benign.jsonl", rows_2=folder / "others.jsonl", strategy=strategy,
            rounds=ROUNDS))

    def fedward(self, out, *more, at=None, do=None, log=None):
        environment = dict(os.environ, FEDWARD_THREADS="1", FEDWARD_HOME=str(self.home))
        if at or log:
            environment.update(LD_PRELOAD=str(self.shim), FILE_EVENTS_BELOW=str(out))
        if at:
            environment.update(FILE_EVENTS_AT=str(at), FILE_EVENTS_DO=do)
        if log:
            environment.update(FILE_EVENTS_LOG=str(log))
        command = [self.given.fedward.resolve(), "run", self.scenario, "--out", out, "--metrics", "off", *more]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

    def run(self):
        whole, log = self.folder / "whole", self.folder / "whole.log"
        done = self.fedward(whole, log=log)
        if done.returncode:
            sys.exit(f"the uninterrupted run fails:\n{done.stderr}")
        self.expected = state(whole)
        events = [line.split(" ", 2) for line in log.read_text().splitlines()]
        print(f"{self.strategy}: {len(events)} events: "
              + ", ".join(f"{n} {name}" for name, n in collections.Counter(kind for _, kind, _ in events).most_common()))
        cases = [(at, do) for do in self.given.do.split(",") for at in range(1, len(events) + 1, self.given.every)]
        failed = self.all(cases, lambda case: self.strike(f"{case[1]}-{case[0]}", *case), events)
        if self.given.twice:
            failed += self.twice(events)
        return failed

    def all(self, cases, strike, events):
        """Strikes each case; prints what came of them, and each that did not pass."""
        passed, ends, failed = collections.Counter(), collections.Counter(), 0
        with concurrent.futures.ThreadPoolExecutor(self.given.jobs) as pool:
            for (at, do), (end, problem) in zip(cases, pool.map(strike, cases)):
                ends[do, end] += 1
                if problem:
                    failed += 1
                    _, kind, path = events[at - 1]
                    print(f"  {self.strategy}: {do} at event {at}, {kind} {pathlib.Path(path).name}: {problem}", flush=True)
                else:
                    passed[do] += 1
        for do in dict.fromkeys(do for _, do in cases):
            total = sum(1 for _, it in cases if it == do)
            how = ", ".join(f"{n} {end}" for (of, end), n in sorted(ends.items()) if of == do)
            print(f"  {self.strategy}: {do}: {passed[do]} of {total} resumed to the same bytes ({how})", flush=True)
        return failed

    def strike(self, name, at, do, begun=None):
        """Begins a run, or goes on with a copy of the one at `begun`, strikes it once and resumes it; how it ended, and a problem."""
        out, more = self.folder / name, ["--resume"] if begun else []
        if begun:
            shutil.copytree(begun, out)
        struck = self.fedward(out, *more, at=at, do=do)
        end, problem = self.ending(struck, do)
        problem = problem or self.resumed(out)
        shutil.rmtree(out, ignore_errors=True)
        return end, problem

    @staticmethod
    def ending(struck, do):
        if "panicked" in struck.stderr or struck.returncode == 101:
            return "panicked", struck.stderr
        if do in ("kill", "half"):
            # A run that makes fewer events than the one that was counted goes past the last one.
            return ("killed", None) if struck.returncode == -signal.SIGKILL else ("not reached", None)
        if struck.returncode == 0:
            return "done in spite of it", None
        words = "Input/output error" if do == "eio" else "No space left on device"
        if struck.returncode < 0 or words not in struck.stderr:
            return "without a reason", f"rc {struck.returncode}: {struck.stderr[-400:]}"
        return "ended with an error", None

    def resumed(self, out):
        done = self.fedward(out, "--resume")
        if done.returncode:
            return f"--resume ends with {done.returncode}: {done.stderr[-600:]}"
        return difference(self.expected, state(out))

    def twice(self, events):
        """Strikes the resuming of a run that was killed before its last round's row."""
        rows = [int(at) for at, kind, path in events if kind == "write" and path.endswith("/rounds.jsonl")]
        begun, log = self.folder / "begun", self.folder / "begun.log"
        self.fedward(begun, at=rows[-1], do="half")
        again = self.folder / "again"
        shutil.copytree(begun, again)
        done = self.fedward(again, "--resume", log=log)
        if done.returncode:
            sys.exit(f"the resumed run fails:\n{done.stderr}")
        events = [line.split(" ", 2) for line in log.read_text().splitlines()]
        print(f"{self.strategy}, resumed: {len(events)} events")
        cases = [(at, do) for do in self.given.do.split(",") for at in range(1, len(events) + 1, self.given.every)]
        return self.all(cases, lambda case: self.strike(f"again-{case[1]}-{case[0]}", *case, begun=begun), events)


def fetched():
    """Where `make fetch` put models and data."""
    return pathlib.Path(os.environ.get("FEDWARD_HOME") or HERE.parent.parent / ".fedward").resolve()


def timeless(value):
    if isinstance(value, dict):
        return {key: timeless(inner) for key, inner in value.items() if key not in CLOCKS}
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


def state(run):
    """What is in a run's files, without what a clock measured; of those that are made of such numbers, that they are there."""
    found = {}
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        name = str(path.relative_to(run))
        if path.suffix == ".json":
            found[name] = timeless(json.loads(path.read_bytes()))
        elif path.suffix == ".jsonl":
            found[name] = [timeless(json.loads(line)) for line in path.read_text().splitlines()]
        elif path.suffix == ".checkpoint":
            header, body = path.read_bytes().split(b"\n", 1)
            header = json.loads(header)
            del header["sha256"]  # Also of the rows' digests.
            for rows in ("rounds", "clients"):
                for key in ("bytes", "sha256"):
                    del header["belongings"][rows][key]
            found[name] = (header, body)
        elif name in ("report.html", "metrics.prom"):
            found[name] = path.stat().st_size > 0
        else:
            found[name] = path.read_bytes()
    return found


def difference(expected, found):
    if sorted(expected) != sorted(found):
        return f"files are {sorted(set(expected) ^ set(found))} apart"
    other = [name for name in expected if expected[name] != found[name]]
    return f"other content: {other}" if other else None


def write_rows(path, count, prompt, response):
    rows = [{"prompt": f"{prompt} {number * 37 % 1009}, please.", "response": f"{response} {number}"} for number in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_model(folder):
    """A llama of two layers with random weights and a token per byte, in Hugging Face's form."""
    folder.mkdir()
    hidden, inner, heads, kv_heads, layers = 16, 24, 2, 1, 2
    head_dim = hidden // heads
    special = ["<s>", "</s>", "<|u|>", "<|a|>"]
    vocabulary = special + byte_tokens()
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "num_hidden_layers": layers, "head_dim": head_dim,
        "hidden_act": "silu", "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "tie_word_embeddings": False, "vocab_size": len(vocabulary), "eos_token_id": 1, "bos_token_id": None}))
    added = [{"id": at, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for at, token in enumerate(special)]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": added, "pre_tokenizer": level, "decoder": level,
        "model": {"type": "BPE", "vocab": {token: at for at, token in enumerate(vocabulary)}, "merges": []}}))
    template = ("{% for m in messages %}{{ '<|a|>' if m.role == 'assistant' else '<|u|>' }}{{ m.content }}</s>{% endfor %}"
                "{% if add_generation_prompt %}<|a|>{% endif %}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "chat_template": template}))
    shapes = {"model.embed_tokens.weight": (len(vocabulary), hidden), "model.norm.weight": (hidden,),
              "lm_head.weight": (len(vocabulary), hidden)}
    for layer in range(layers):
        at = f"model.layers.{layer}."
        shapes |= {at + "input_layernorm.weight": (hidden,), at + "post_attention_layernorm.weight": (hidden,)}
        for name, shape in {"self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (kv_heads * head_dim, hidden),
                            "self_attn.v_proj": (kv_heads * head_dim, hidden), "self_attn.o_proj": (hidden, hidden),
                            "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
                            "mlp.down_proj": (hidden, inner)}.items():
            shapes[at + name + ".weight"] = shape
    draw, header, body = random.Random(1), {}, b""
    for name, shape in shapes.items():
        count = math.prod(shape)
        values = [1.0] * count if len(shape) == 1 else [draw.gauss(0, 0.2) for _ in range(count)]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(body), len(body) + 4 * count]}
        body += struct.pack(f"<{count}f", *values)
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)


def byte_tokens():
    """The characters that stand for bytes in byte-level BPE, as GPT-2 has them."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) for byte in shown] + [chr(256 + at) for at in range(len(hidden))]


if __name__ == "__main__":
    main()

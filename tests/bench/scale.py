"""What many clients cost: rounds without training beside Flower's simulation, and memory of rounds with training.

scale.py ORCHESTRATION FEDWARD PYTHON OUT [--quick] [--repeats N]

ORCHESTRATION is the example of that name of fedward-actors, FEDWARD the program, PYTHON an interpreter with Flower's
simulation and psutil. Writes OUT/scale.json and OUT/scale.md, and prints the latter. The sides take turns.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ADAPTER_NUMBERS = 921_600
"""Numbers of a rank 16 adapter on the q and v projections of SmolLM2-135M: 3.7 MB."""


def ours(binary, clients, cohort):
    """Seconds a round (mean of 20) and peak bytes, when each client gives back a copy of the adapter."""
    arguments = [str(clients), str(cohort), str(ADAPTER_NUMBERS), "1"]
    # As the program sets it for itself (src/cli/mod.rs).
    environment = os.environ | {"MALLOC_ARENA_MAX": str(-(-os.cpu_count() // 8))}
    done = subprocess.run([binary, *arguments], capture_output=True, text=True, check=True, env=environment)
    line = done.stdout.split()
    return float(line[4]), int(line[5]) << 20


def flower(python, clients, cohort, rounds):
    """Seconds a round (median, without the first), peak bytes of the server's process and of all processes."""
    arguments = [str(number) for number in (clients, cohort, ADAPTER_NUMBERS, rounds)]
    command = [python, HERE / "flower_rounds.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"Flower's simulation failed:\n{done.stderr[-3000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return statistics.median(found["seconds"]), found["server_peak_bytes"], found["all_peak_bytes"]


def orchestration(binary, python, quick, repeats):
    sizes = [(20, 8), (10_000, 100)] if quick else [(20, 8), (1_000, 100), (10_000, 100)]
    for clients, cohort in sizes:
        mine, theirs = [], []
        for _ in range(repeats):
            mine.append(ours(binary, clients, cohort))
            theirs.append(flower(python, clients, cohort, 4))
        yield {
            "clients": clients,
            "cohort": cohort,
            "seconds": statistics.median(seconds for seconds, _ in mine),
            "peak_bytes": max(peak for _, peak in mine),
            "flower_seconds": statistics.median(seconds for seconds, _, _ in theirs),
            "flower_server_peak_bytes": max(server for _, server, _ in theirs),
            "flower_all_peak_bytes": max(everything for _, _, everything in theirs),
        }


def memory(fedward, quick):
    for clients in [10, 10_000] if quick else [10, 100, 1_000, 10_000]:
        with tempfile.TemporaryDirectory() as folder:
            command = [fedward, "run", HERE / "memory.toml", "--set", f"federation.clients={clients}"]
            command += ["--out", f"{folder}/run", "--metrics", "off"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                sys.exit(f"fedward failed:\n{done.stderr[-3000:]}")
            summary = json.loads(pathlib.Path(folder, "run", "summary.json").read_text())
            seconds = json.loads(pathlib.Path(folder, "run", "rounds.jsonl").read_text().splitlines()[0])["seconds"]
        rest = sum(seconds.values()) - seconds["train"]
        yield {
            "clients": clients,
            "peak_bytes": summary["totals"]["peak_memory_bytes"],
            "train_seconds": seconds["train"],
            "overhead_seconds": rest,
        }


def machine():
    """What the numbers depend on: cores, vector units, memory, and how busy others kept the machine meanwhile."""
    flags = set(pathlib.Path("/proc/cpuinfo").read_text().split("flags\t\t:", 1)[-1].splitlines()[0].split())
    units = [unit for unit in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if unit in flags]
    memory = int(pathlib.Path("/proc/meminfo").read_text().split()[1]) / 1e6
    return {"cores": os.cpu_count(), "vector_units": units, "memory_gb": round(memory), "load": os.getloadavg()[0]}


def markdown(found):
    host = found["machine"]
    lines = [
        f"{host['cores']} cores ({', '.join(host['vector_units'])}), {host['memory_gb']} GB; load when it began: {host['load']:.1f}; "
        f"medians of {found['repeats']} turns.",
        "",
        "## Rounds without training: clients give a 3.7 MB adapter back, FedAvg averages",
        "",
        "| clients | a round | fedward, s a round | Flower, s a round | times faster | fedward, peak MB "
        "| Flower's server, peak MB | Flower in all, peak MB | share of its memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    mb = 1e-6
    for row in found["orchestration"]:
        lines.append(
            f"| {row['clients']:,} | {row['cohort']} | {row['seconds']:.4f} | {row['flower_seconds']:.2f} "
            f"| {row['flower_seconds'] / row['seconds']:.0f} | {row['peak_bytes'] * mb:.0f} "
            f"| {row['flower_server_peak_bytes'] * mb:.0f} | {row['flower_all_peak_bytes'] * mb:.0f} "
            f"| {row['peak_bytes'] / row['flower_all_peak_bytes']:.2f} |"
        )
    lines += [
        "",
        "## Rounds with training: SmolLM2-135M, 8 clients a round, one step of 2 rows each",
        "",
        "| clients | peak MB | training, s a round | everything else, s a round |",
        "|---|---|---|---|",
    ]
    for row in found["memory"]:
        lines.append(
            f"| {row['clients']:,} | {row['peak_bytes'] * mb:.0f} | {row['train_seconds']:.1f} | {row['overhead_seconds']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser()
    for name in ("orchestration", "fedward", "python", "out"):
        parser.add_argument(name)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int)
    arguments = parser.parse_args()
    repeats = arguments.repeats or (1 if arguments.quick else 3)
    found = {"machine": machine(), "repeats": repeats, "orchestration": [], "memory": []}
    out = pathlib.Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    measurements = {
        "memory": memory(arguments.fedward, arguments.quick),
        "orchestration": orchestration(arguments.orchestration, arguments.python, arguments.quick, repeats),
    }
    for part, rows in measurements.items():
        for row in rows:
            found[part].append(row)
            # What was measured so far stays if the rest fails.
            (out / "scale.json").write_text(json.dumps(found, indent=2) + "\n")
            (out / "scale.md").write_text(markdown(found))
            print(f"{part}: {json.dumps(row)}", file=sys.stderr)
    print(markdown(found))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Recomputes the numbers of each grid.md from the grid.csv beside it, and fails where one differs by more than rounding.

    python3 scenarios/paper/check.py [FOLDER ...]        (default: the folders beside this file)

A grid.csv has one line a seed and measure. Earlier ones have means and standard deviations instead, and nothing of guards and
warnings: what cannot be recomputed is said. Bootstrap intervals hang on a random sequence and are left alone.
"""

import csv
import re
import statistics
import sys
from collections import Counter, defaultdict
from pathlib import Path

# 97.5% quantiles of Student's t with 1, 2, … degrees of freedom.
T = [12.7062047, 4.3026527, 3.1824463, 2.7764451, 2.5705818, 2.4469119, 2.3646243, 2.3060041, 2.2621572]
BEFORE = {"base, no FL": "base", "start, no FL": "start", "chance": "chance"}
COSTS = {"seconds": "cai_seconds", "thousand tokens": "cai_kilotokens", "TFLOP": "cai_teraflops"}
NUMBER = r"[+-]?\d+\.?\d*"


class Grid:
    """The lines of a grid.csv by strategy, defence and measure."""

    def __init__(self, path):
        self.seeds, self.means, self.paper = defaultdict(dict), {}, {}
        for row in csv.DictReader(path.open()):
            key = row["strategy"], row["defence"], row["measure"]
            if row["paper"]:
                self.paper[key] = [float(row["paper"])]
            if "mean" in row:
                self.means[key] = [float(row[name]) for name in ("mean", "sd") if row[name]], int(row["seeds"])
            else:
                self.seeds[key][row["seed"]] = float(row["value"])

    def spread(self, key):
        """Mean and, of several seeds, standard deviation; nothing where there is no value."""
        return self.means[key][0] if key in self.means else spread(self.seeds.get(key, {}).values())

    def runs(self, strategy, defence):
        """How many seeds there are of a defence."""
        return max(len(self.seeds[key]) if key in self.seeds else self.means[key][1]
                   for key in (*self.seeds, *self.means) if key[:2] == (strategy, defence))

    def paired(self, strategy, later, earlier, measure):
        """Mean and 95% interval of the difference over the seeds that both have."""
        first, second = (self.seeds.get((strategy, defence, measure), {}) for defence in (earlier, later))
        found = [second[seed] - first[seed] for seed in second if seed in first]
        if len(found) < 2:
            return []
        mean, half = statistics.fmean(found), T[len(found) - 2] * statistics.stdev(found) / len(found) ** 0.5
        return [mean, mean - half, mean + half]

    def guard(self, defence, on, what):
        """One value a seed, of the first strategy."""
        found = {}
        for (_, of, measure), values in self.seeds.items():
            if (of, measure) == (defence, f"guard on {on}: {what}"):
                found = values | found
        return found.values()


def spread(values):
    values = list(values)
    if len(values) < 2:
        return values
    return [statistics.fmean(values), statistics.stdev(values)]


def expected(grid, head, row, title):
    """The numbers of a cell by the CSV; `None` where it does not have them."""
    match head[:2]:
        case ["defence", _]:
            strategy, measure = title.split(" ", 1)
            key = ("", BEFORE[row[0]], measure) if row[0] in BEFORE else (strategy, row[0], measure)
            # Of what was not measured here the CSV does not have the paper's number.
            return grid.spread(key) + grid.paper.get(key, []) or None
        case ["strategy", "defence"]:
            if row[1] in BEFORE:
                return grid.spread(("", BEFORE[row[1]], title))
            return [grid.runs(*row[:2])] if title == "seeds" else grid.spread((*row[:2], title.removesuffix(", %")))
        case ["strategy", "compared"]:
            later, earlier = row[1].split(" − ")
            if title == "seeds":
                return [min(grid.runs(row[0], of) for of in (later, earlier))]
            return grid.paired(row[0], later, earlier, title)
        case ["strategy", "light beside full"] if " beside " in row[1]:
            light, full = row[1].split(" beside ")
            if title.startswith("gain in "):
                measure = title.removeprefix("gain in ").removesuffix(", points")
                means = [grid.spread((row[0], of, measure))[:1] for of in (light, full, row[2])]
                return [of[0] - means[2][0] for of in means[:2]] if all(means) else []
            light, full = (grid.spread((row[0], of, COSTS[title.removeprefix("of its ")]))[0] for of in (light, full))
            return [100 * light / full]
        case ["Constitutional AI, a run", _]:
            return grid.spread((*row[:2], COSTS.get(title) or "cai_" + title.lower().replace(" ", "_")))
        case ["guard of", _]:
            of = row[0].split(", ")[0], row[1]
            if title.startswith("rows"):
                return [sum(grid.guard(*of, name)) for name in ("rows", "unsafe")] if grid.guard(*of, "rows") else None
            return spread(grid.guard(*of, title)) if grid.guard(*of, "rows") else None
    return None


def check(folder):
    """What is wrong with a grid.md; says how many numbers were looked at."""
    grid, text = Grid(folder / "grid.csv"), (folder / "grid.md").read_text()
    wrong, seen, left, head = [], 0, Counter(), []

    def compare(place, shown, ours, kind):
        nonlocal seen
        found = re.findall(NUMBER, shown)
        if ours is None:
            left[kind] += len(found)
            return
        seen += len(found)
        half = [0.5 * 10.0 ** -len(number.partition(".")[2]) + 1e-6 for number in found]
        if len(found) != len(ours) or any(abs(float(a) - b) > h for a, b, h in zip(found, ours, half)):
            wrong.append(f"{folder.name}/grid.md: {place}: found {shown}, by grid.csv {ours}")

    for line in text.splitlines():
        if not line.startswith("|"):
            head = []
        elif not head:
            head = [cell.strip() for cell in line.strip("|").split("|")]
        elif set(line) - set("|-:"):
            row = [cell.strip() for cell in line.strip("|").split("|")]
            kind = head[0] if head[0] != "strategy" else f"strategy, {head[1]}"
            names = {"defence": 1, "strategy, light beside full": 3}.get(kind, 2)
            for title, cell in list(zip(head, row))[names:]:
                shown = re.sub(r"\[.*\]", "", cell.replace("−", "-"))
                compare(", ".join((*row[:names], title)), shown, expected(grid, head, row, title), kind)
    for strategy, defence, counts in re.findall(r"^(\S+) (\S+): warnings in (.*) rounds", text, re.M):
        of = [grid.seeds.get((strategy, defence, name)) for name in ("rounds with warnings", "rounds")]
        compare(f"{strategy} {defence}, warnings", counts, [sum(values.values()) for values in of] if all(of) else None, "warnings")
    rest = ", ".join(f"{count} of {kind!r}" for kind, count in left.items())
    print(f"{folder.name}: {seen} numbers recomputed, {len(wrong)} differ" + (f"; not in grid.csv: {rest}" if rest else ""))
    return wrong if seen else [f"{folder}: found no number in grid.md"]


if __name__ == "__main__":
    folders = [Path(name) for name in sys.argv[1:]] or sorted(path.parent for path in Path(__file__).parent.glob("*/grid.csv"))
    problems = [problem for folder in folders for problem in check(folder)]
    print("\n".join(problems), end="\n" * bool(problems))
    sys.exit(bool(problems))

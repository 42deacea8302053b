"""Splits HH-RLHF's harmless-base test split into rows of clients and rows of a guard.

rows.py test.jsonl.gz OUT

Every other dialogue is for the guard, with its chosen answer (guard-safe.jsonl) and its rejected one (guard-unsafe.jsonl); of
the others clients get the rejected answer (clients-unsafe.jsonl). Dialogues with an empty turn are left out.
"""

import gzip
import json
import pathlib
import re
import sys


def messages(text):
    parts = re.split(r"\n\n(Human|Assistant): ?", text)[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": said.strip()} for who, said in zip(parts[::2], parts[1::2])]


def main():
    source, out = sys.argv[1], pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    with gzip.open(source, "rt") as lines:
        dialogues = [json.loads(line) for line in lines]
    for name, key, first in [
        ("guard-safe", "chosen", 0),
        ("guard-unsafe", "rejected", 0),
        ("clients-unsafe", "rejected", 1),
    ]:
        rows = [messages(dialogue[key]) for dialogue in dialogues[first::2]]
        rows = [row for row in rows if row and all(turn["content"] for turn in row)]
        text = "".join(json.dumps({"messages": row}) + "\n" for row in rows)
        (out / f"{name}.jsonl").write_text(text)
        print(f"{name}: {len(rows)} rows")


if __name__ == "__main__":
    main()

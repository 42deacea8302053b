"""Chat rows for the bench: from a file, or the project's own texts at the lengths that real instruction rows have.

What a row says does not matter to its speed, how long it is does. The texts of `src/data/benign/families.toml` are joined
and cut to lengths drawn from those of 999 Alpaca-style instruction rows, whose quantiles stand below.
"""

import json
import pathlib
import random
import tomllib

FAMILIES = pathlib.Path(__file__).resolve().parents[2] / "src/data/benign/families.toml"
# Characters at 0%, 5%, … 100% of the rows.
PROMPT_LENGTHS = [16, 36, 40, 44, 47, 50, 54, 58, 61, 65, 69, 72, 77, 84, 90, 99, 108, 120, 138, 187, 803]
RESPONSE_LENGTHS = [
    1, 29, 42, 53, 77, 107, 145, 193, 265, 355, 465, 581, 697, 874, 1067, 1218, 1388, 1575, 1728, 1957, 2837
]  # fmt: skip


def fill(template, filler):
    for index, text in enumerate(filler):
        template = template.replace(f"{{{index}}}", text).replace(f"{{^{index}}}", text[:1].upper() + text[1:])
    return template


def own_texts():
    """All prompts and all responses of the generator."""
    prompts, responses = [], []
    for family in tomllib.loads(FAMILIES.read_text())["family"]:
        for filler in family["fillers"]:
            prompts += [fill(prompt, filler) for prompt in family["prompts"]]
            responses += [fill(response, filler) for response in family["responses"]]
    return prompts, responses


def drawn_length(quantiles, rng):
    place = rng.random() * (len(quantiles) - 1)
    below = int(place)
    return round(quantiles[below] + (place - below) * (quantiles[below + 1] - quantiles[below]))


def joined(texts, length, rng):
    """Texts until there are `length` characters, cut after a whole word."""
    text = rng.choice(texts)
    while len(text) < length:
        text += " " + rng.choice(texts)
    return text[:length].rsplit(" ", 1)[0]


def own_rows(count, seed=0):
    rng = random.Random(seed)
    prompts, responses = own_texts()
    rows = []
    for _ in range(count):
        prompt = joined(prompts, drawn_length(PROMPT_LENGTHS, rng), rng)
        rows.append({"prompt": prompt, "response": joined(responses, drawn_length(RESPONSE_LENGTHS, rng), rng)})
    return rows


def rows_of_file(path, count, seed=0):
    """`count` rows of a file of Alpaca or prompt/response records, drawn without repetition."""
    text = pathlib.Path(path).read_text()
    records = json.loads(text) if text.lstrip().startswith("[") else map(json.loads, text.splitlines())
    rows = []
    for record in records:
        prompt = record.get("prompt") or "\n".join(filter(None, [record["instruction"], record.get("input")]))
        rows.append({"prompt": prompt, "response": record["response"] if "response" in record else record["output"]})
    if len(rows) < count:
        raise SystemExit(f"{path}: found {len(rows)} rows; the bench needs {count}")
    return random.Random(seed).sample(rows, count)


def write(rows, path):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path

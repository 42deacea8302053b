"""What fedward makes of a real judge's and a real teacher's answers.

judge_check.py FEDWARD FEDWARD_HOME

Starts judge_server.py with the default model and asks it through fedward: MT-Bench rated under a grammar that ends in a
rating (all answers must be rated, and the mean be that of the ratings in the details), MT-Bench rated without one (whatever
has no rating must be counted), and preference pairs by a teacher.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

QUESTIONS = 6
GRAMMAR = r'root ::= [^\[]{1,80} "Rating: [[" ([1-9] | "10") "]]"'


def lines(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr[-3000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def rated(fedward, url, details, extra):
    command = [fedward, "eval", "--bench", "mt_bench", "--limit", str(QUESTIONS), "--mt-bench-max-new-tokens", "24"]
    command += ["--judge", url, "--judge-model", "default", "--judge-parallel", "2", "--details", details]
    [found] = lines([*command, "--judge-extra-body", json.dumps(extra)])
    ratings = [json.loads(line)["rating"] for line in details.read_text().splitlines()]
    given = [rating for rating in ratings if rating is not None]
    expected = (QUESTIONS, len(given), QUESTIONS - len(given), 0)
    assert (found["n"], found["rated"], found["unparsable"], found["judge_failures"]) == expected, found
    mean = found.get("rating")
    assert mean is None if not given else abs(mean - sum(given) / len(given)) < 1e-9, (found, ratings)
    print(f"{'with' if extra.get('grammar') else 'without'} a grammar: ratings {ratings}, mean {mean}, "
          f"{found['unparsable']} of {QUESTIONS} unparsable")  # fmt: skip
    return given


def taught(fedward, url, folder):
    scenario = folder / "teacher.toml"
    scenario.write_text(
        'name = "teacher"\nquestion = "Does a teacher teach?"\n'
        '[cai]\nschedule = "every"\nred_prompts = 4\nmax_new_tokens = 96\nexamples = "never"\n'
        f'teacher = {{ base_url = "{url}", model = "default", parallel = 2 }}\n'
    )
    pairs = folder / "pairs.jsonl"
    [found] = lines([fedward, "cai", "generate", scenario, "--out", pairs])
    assert len(pairs.read_text().splitlines()) == found["pairs"] > 0, found
    print(f"a teacher: {json.dumps(found)}")


def main():
    fedward, home = sys.argv[1], pathlib.Path(sys.argv[2])
    lines([fedward, "fetch", "mt-bench", "smollm2-135m-instruct", "advbench"])
    model = home / "models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"
    server = pathlib.Path(__file__).with_name("judge_server.py")
    with subprocess.Popen(
        [sys.executable, server, model], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process, tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        try:
            url = process.stdout.readline().strip() or sys.exit("the server did not start, see above")
            print(f"llama.cpp's server at {url}")
            given = rated(fedward, url, folder / "rated.jsonl", {"grammar": GRAMMAR, "max_tokens": 64})
            assert len(given) == QUESTIONS, "the grammar lets no answer without a rating through"
            rated(fedward, url, folder / "free.jsonl", {"max_tokens": 64})
            taught(fedward, url, folder)
        finally:
            process.stdin.close()


if __name__ == "__main__":
    main()

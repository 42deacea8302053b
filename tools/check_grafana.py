"""Checks that every panel, recording rule and alert of grafana/ has data in a real run.

check_grafana.py               checks the dashboards alone
check_grafana.py COMMAND ...   starts the command with `--metrics 127.0.0.1:PORT` in place of {metrics} in its arguments, or
                               at their end, and a Prometheus that scrapes it every second, both on loopback and in a
                               temporary directory, and evaluates every expression when the command has ended. ALLOW_EMPTY="Panel;Panel" names panels that may lack data.

Ends only the processes that it has started. Needs nothing but Python's standard library and `prometheus`, `promtool`.
"""

import json
import math
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
GRAFANA = ROOT / "grafana"
SCRAPED_ADDRESS = "127.0.0.1:9464"
SUBSTITUTIONS = {"$variant": ".+", "$__rate_interval": "30s", "$__interval": "5s", "$__range": "5m"}
METRIC = re.compile(r"\b(?:variant:)?fedward_[a-z_]+(?::[a-z]+)?")


class Failure(Exception):
    """Something that a person has to correct."""


def panels(dashboard):
    """All panels of a dashboard, those in collapsed rows too."""
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def with_metrics(arguments, address):
    """The command with a place to serve metrics on."""
    if any("{metrics}" in argument for argument in arguments):
        return [argument.replace("{metrics}", f"--metrics {address}") for argument in arguments]
    return [*arguments, "--metrics", address]


def substituted(expression):
    for variable, value in SUBSTITUTIONS.items():
        expression = expression.replace(variable, value)
    if "$" in expression:
        raise Failure(f"{expression}: a template variable that this check does not know")
    return expression


def load_targets():
    """(where, panel title, expression, is instant) of every target of every dashboard; checks ids and layout on the way."""
    targets = []
    for path in sorted((GRAFANA / "dashboards").glob("*.json")):
        dashboard = json.loads(path.read_text())
        ids, cells = set(), {}
        for panel in panels(dashboard):
            where = f"{path.name}: {panel['title']}"
            if panel["id"] in ids:
                raise Failure(f"{where}: id {panel['id']} is taken twice")
            ids.add(panel["id"])
            place = panel["gridPos"]
            for x in range(place["x"], place["x"] + place["w"]):
                for y in range(place["y"], place["y"] + place["h"]):
                    if x >= 24 or (x, y) in cells:
                        raise Failure(f"{where}: lies on {cells.get((x, y), 'the right edge')}")
                    cells[x, y] = panel["title"]
            if panel["type"] == "row":
                continue
            if not panel.get("description") or not panel.get("targets"):
                raise Failure(f"{where}: has no description or no query")
            if panel["datasource"]["uid"] != "${datasource}":
                raise Failure(f"{where}: its data source is not the dashboard's variable")
            for target in panel["targets"]:
                targets.append((f"{where} {target['refId']}", panel["title"], substituted(target["expr"]), target.get("instant", False)))
    if not targets:
        raise Failure(f"{GRAFANA / 'dashboards'}: no dashboard has a query")
    return targets


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(url):
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode()


class Prometheus:
    """A Prometheus of our own, on loopback, with its storage in `directory`."""

    def __init__(self, directory, scraped):
        config = (GRAFANA / "prometheus" / "prometheus.yml").read_text()
        for old, new in (
            (SCRAPED_ADDRESS, scraped),
            ("scrape_interval: 5s", "scrape_interval: 1s"),
            ("evaluation_interval: 15s", "evaluation_interval: 1s"),
            ("- rules.yml", f"- {GRAFANA / 'prometheus' / 'rules.yml'}"),
        ):
            if old not in config:
                raise Failure(f"prometheus.yml has no {old!r}: correct it, or this check")
            config = config.replace(old, new)
        path = pathlib.Path(directory) / "prometheus.yml"
        path.write_text(config)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = open(pathlib.Path(directory) / "prometheus.log", "w+")
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={path}", f"--storage.tsdb.path={directory}/data", f"--web.listen-address=127.0.0.1:{port}"],
            stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True,
        )

    def wait_until_ready(self):
        for _ in range(300):
            if self.process.poll() is not None:
                break
            try:
                get(f"{self.url}/-/ready")
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        self.log.seek(0)
        raise Failure(f"prometheus did not start:\n{self.log.read()[-2000:]}")

    def api(self, path, **parameters):
        try:
            return json.loads(get(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"))["data"]
        except urllib.error.HTTPError as error:
            raise Failure(f"{parameters.get('query')}: {json.loads(error.read())['error']}") from error

    def last_up(self):
        """When the run was last scraped, or None."""
        samples = [sample for series in self.api("query", query='up{job="fedward"}[1h]')["result"] for sample in series["values"]]
        return max((at for at, value in samples if value == "1"), default=None)

    def instant(self, expression, at):
        return [[float(series["value"][1])] for series in self.api("query", query=expression, time=at)["result"]]

    def over(self, expression, start, end):
        step = max(1, int((end - start) / 1000))
        result = self.api("query_range", query=expression, start=start, end=end, step=step)["result"]
        return [[float(value) for _, value in series["values"]] for series in result]


def has_data(series):
    return any(math.isfinite(value) for values in series for value in values)


def stop(process):
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def watch(command, prometheus, address):
    """Waits until the command ends. Returns when it was first and last scraped and the last page of metrics."""
    first = None
    page = ""
    while True:
        ended = command.poll() is not None
        up = prometheus.api("query", query='up{job="fedward"} == 1')["result"]
        if up and not ended:
            first = first or time.time()
            try:
                page = get(f"http://{address}/metrics")
            except (urllib.error.URLError, OSError):
                pass
        if ended:
            break
        time.sleep(0.5)
    if command.returncode != 0:
        raise Failure(f"the command ended with status {command.returncode}")
    if first is None or not page:
        raise Failure("the command ended before it was scraped once")
    # The command lets itself be scraped once more at its end.
    last = prometheus.last_up()
    return min(first, last), last, page


def check_rules(prometheus, start, end):
    """Every rule is healthy, every recording rule has data, every metric that an alert reads exists."""
    count = 0
    for group in prometheus.api("rules")["groups"]:
        for rule in group["rules"]:
            count += 1
            if rule["health"] != "ok":
                raise Failure(f"rule {rule['name']}: {rule.get('lastError') or rule['health']}")
            if rule["type"] == "recording" and not has_data(prometheus.over(rule["name"], start, end)):
                yield f"recording rule {rule['name']}: no data"
            if rule["type"] == "alerting":
                prometheus.over(rule["query"], start, end)
                for metric in sorted(set(METRIC.findall(rule["query"]))):
                    if not has_data(prometheus.over(metric, start, end)):
                        yield f"alert {rule['name']}: {metric} has no data"
    if not count:
        raise Failure("prometheus has loaded no rule")
    print(f"grafana: {count} rules are healthy and their metrics exist")


def check_run(arguments, targets, directory):
    address = f"127.0.0.1:{free_port()}"
    allowed = {title for title in os.environ.get("ALLOW_EMPTY", "").split(";") if title}
    prometheus = Prometheus(directory, address)
    command = None
    try:
        prometheus.wait_until_ready()
        command = subprocess.Popen(with_metrics(arguments, address), start_new_session=True)
        start, end, page = watch(command, prometheus, address)
        linted = subprocess.run(["promtool", "check", "metrics"], input=page, text=True, capture_output=True, check=False)
        if linted.returncode != 0 or linted.stdout.strip() or linted.stderr.strip():
            raise Failure(f"promtool check metrics:\n{linted.stdout}{linted.stderr}")
        series = sum(not line.startswith("#") for line in page.splitlines() if line)
        print(f"grafana: {series} series scraped over {end - start:.0f} s, promtool finds no fault in them")
        problems = list(check_rules(prometheus, start, end))
        empty = 0
        for where, title, expression, instant in targets:
            values = prometheus.instant(expression, end)
            if not instant:
                values += prometheus.over(expression, start, end)
            if not has_data(values):
                empty += 1
                if title not in allowed:
                    problems.append(f"{where}: no data for {expression}")
        if problems:
            raise Failure("\n  ".join([f"{len(problems)} of the checks failed:", *problems]))
        print(f"grafana: {len(targets) - empty} of {len(targets)} panel queries have data, the other {empty} are allowed not to")
    finally:
        if command:
            stop(command)
        stop(prometheus.process)
        prometheus.log.close()


def main():
    # An interrupted check ends what it has started, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        targets = load_targets()
        print(f"grafana: {len(targets)} panel queries read")
        if len(sys.argv) > 1:
            with tempfile.TemporaryDirectory(prefix="fedward-grafana-") as directory:
                check_run(sys.argv[1:], targets, directory)
    except Failure as failure:
        sys.exit(f"grafana: {failure}")


if __name__ == "__main__":
    main()

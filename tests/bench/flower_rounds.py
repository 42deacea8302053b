"""What a round costs Flower's simulation when nobody trains: clients give the adapter back untouched, FedAvg averages.

flower_rounds.py CLIENTS COHORT NUMBERS ROUNDS   prints one JSON object: seconds of each round but the first, which starts
                                                 Ray's workers, and the peak memory of the server's process and of all.

The strategy, client and engine are Flower's own in their plainest form: one array of float32, no evaluation.
"""

import json
import os
import resource
import sys
import threading
import time

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
import psutil
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

client_app = ClientApp()


@client_app.train()
def train(message, context):
    content = RecordDict({"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 100})})
    return Message(content=content, reply_to=message)


class PeakMemory(threading.Thread):
    """The most that this process and all below it hold together, shared pages counted once a process that maps them."""

    def __init__(self):
        super().__init__(daemon=True)
        self.bytes = 0
        self.done = threading.Event()

    def run(self):
        me = psutil.Process()
        while not self.done.wait(0.5):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            self.bytes = max(self.bytes, total)


def main():
    clients, cohort, numbers, rounds = (int(argument) for argument in sys.argv[1:])
    ends = []

    def note_end(_round, _arrays):
        ends.append(time.monotonic())

    server_app = ServerApp()

    @server_app.main()
    def serve(grid, context):
        strategy = FedAvg(
            fraction_train=cohort / clients,
            fraction_evaluate=0.0,
            min_train_nodes=cohort,
            min_available_nodes=clients,
        )
        strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord([np.zeros(numbers, dtype=np.float32)]),
            num_rounds=rounds,
            train_config=ConfigRecord({}),
            evaluate_fn=note_end,
        )

    memory = PeakMemory()
    memory.start()
    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=clients,
        backend_config={
            "init_args": {"num_cpus": os.cpu_count(), "include_dashboard": False, "log_to_driver": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
    memory.done.set()
    seconds = [later - earlier for earlier, later in zip(ends, ends[1:])]
    print(
        json.dumps(
            {
                "seconds": seconds[1:],
                "server_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "all_peak_bytes": memory.bytes,
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()

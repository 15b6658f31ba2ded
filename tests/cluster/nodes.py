"""A Ray cluster of several nodes on this machine, as a process: `python nodes.py CPUS_OF_HEAD FOLDER`.

Reads commands from stdin, one a line, and answers each with a line of JSON on stdout:
    add CPUS    → {"node": number}      a new worker node
    kill NUMBER → {}                    ends its raylet with SIGKILL, and with it all of its processes
    state       → {"cpus", "free_cpus", "nodes", "groups"}: living placement groups
The first line is {"address": …}. Everything ends with stdin. FOLDER (a short path) is for the files of Ray.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    # Nodes that are gone are noticed within seconds.
    os.environ.update(
        RAY_health_check_initial_delay_ms="0",
        RAY_health_check_period_ms="1000",
        RAY_health_check_timeout_ms="10000",  # of one answer: a busy machine is none that is gone
        RAY_health_check_failure_threshold="3",
        RAY_USAGE_STATS_ENABLED="0",
        RAY_memory_monitor_refresh_ms="0",
        RAY_worker_niceness="0",
        RAY_AUTH_MODE="disabled",
        RAY_TMPDIR=sys.argv[2],
    )
    # For a note of the newest cluster's address, which `Cluster` writes to Ray's default folder unasked.
    (Path(sys.argv[2]) / "ray").mkdir()
    import ray
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80 * 2**20}

    def answer(**values: Any) -> None:
        print(json.dumps(values), flush=True)

    head = {"num_cpus": float(sys.argv[1]), "include_dashboard": False, "temp_dir": sys.argv[2], **small}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    nodes = [cluster.head_node]
    answer(address=cluster.address)
    for line in sys.stdin:
        command, *values = line.split()
        if command == "add":
            nodes.append(cluster.add_node(num_cpus=float(values[0]), **small))
            answer(node=len(nodes) - 1)
        elif command == "kill":
            cluster.remove_node(nodes[int(values[0])], allow_graceful=False)
            answer()
        else:
            groups = [each["state"] for each in ray.util.placement_group_table().values()]
            answer(
                cpus=ray.cluster_resources().get("CPU", 0.0),
                free_cpus=ray.available_resources().get("CPU", 0.0),
                nodes=sum(node["Alive"] for node in ray.nodes()),
                groups=[state for state in groups if state != "REMOVED"],
            )
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()

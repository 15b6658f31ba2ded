"""A Ray head with its dashboard, as a process: `python head.py CPUS` prints a line of JSON, ends with stdin.

The line has the dashboard's URL and the path of the token file. Everything listens on free ports of 127.0.0.1
and goes with the process.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import ray._private.parameter as parameter

from distill_ray.runtime.plan import ResolvedPlan
from distill_ray.runtime.ray_session import RAY_FILES, ray_session


class FreePorts(parameter.RayParams):
    """The agent that takes jobs is on a fixed port, which a second Ray of this machine could not have."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **{**named, "dashboard_agent_listen_port": 0})


def main() -> None:
    parameter.RayParams = FreePorts
    plan = ResolvedPlan(
        num_workers=int(sys.argv[1]), use_gpu=False, gpus_per_worker=0.0, address=None, reason="test head"
    )
    with ray_session(plan, dashboard=True) as session:
        from ray._private.worker import get_dashboard_url

        # Ray tells a job its cluster's address from this file, or else guesses among all Rays of a machine.
        (session.folder / RAY_FILES / "ray_current_cluster").write_text(session.address)
        facts = {"dashboard": f"http://{get_dashboard_url()}", "token_file": str(session.folder / "token")}
        print(json.dumps(facts), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()

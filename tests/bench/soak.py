"""Does anything stay behind? Jobs on one local head, searches in one process, searches as commands.

    python tests/bench/soak.py --jobs 200 --searches 10 --minutes 25 OUT

Of the jobs, which do nothing, each third is stopped while it runs; what the others leave is fetched. Searches
are tiny_sweep.py's. A line of figures every few rounds: processes, memory (MiB) and files of head and client,
sockets of the client and head, actors that live. Of each kind so many, or as many as fit in --minutes. OUT is
a new folder.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import ray  # it brings psutil
from ray.cloudpickle import register_pickle_by_value

from distill_ray.errors import ClusterError, UsageError

psutil: Any = __import__("psutil")
assert ray.__version__

TESTS = Path(__file__).resolve().parents[1]
_STOPPED = 3  # of so many jobs one is stopped
_PATIENCE_S = 600.0
ONE_TRIAL = {"sweep.codebook_sizes": (16,), "sweep.rvq_levels": (2,), "training.epochs": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--jobs", type=int, default=0)
    parser.add_argument("--searches", type=int, default=0)
    parser.add_argument("--commands", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=math.inf)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True)
    if asked.jobs:
        soak_jobs(asked.out, asked.jobs, 60.0 * asked.minutes)
    if asked.searches:
        soak_searches(asked.out, asked.searches, 60.0 * asked.minutes)
    for number in range(asked.commands):
        began = time.monotonic()
        out = asked.out / f"command-{number}"
        program = [sys.executable, TESTS / "integration" / "tiny_sweep.py", asked.out / "in", out]
        if not (asked.out / "in").exists():
            tiny_sweep().recordings(asked.out / "in")
        subprocess.run(program, check=True, stderr=subprocess.DEVNULL)
        show("command", number + 1, began, {"left": left_of_ray(), "files in /tmp": files_of_sessions()})


def soak_jobs(out: Path, jobs: int, within_s: float) -> None:
    """Submit, stop, fetch on one head."""
    from distill_ray.jobs.address import Token, dashboard_address
    from distill_ray.jobs.client import JobClient
    from distill_ray.jobs.follow import fetch, stop
    from distill_ray.jobs.submit import send_package

    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    program = [sys.executable, TESTS / "cluster" / "head.py", "2"]
    with subprocess.Popen(
        program, env={**os.environ, "PATH": path}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as head:
        assert head.stdout is not None
        facts = json.loads(head.stdout.readline())
        token = Token(value=Path(facts["token_file"]).read_text().strip(), source="head")
        client = JobClient(dashboard_address(facts["dashboard"]), token)
        patiently(client.check)
        show("job", 0, time.monotonic(), {**of_head(head.pid), **of_client(), "actors": alive(client)})
        began, first = time.monotonic(), dict[str, dict[str, int]]()
        for number in range(jobs):
            if time.monotonic() - began > within_s:
                jobs = number
                break
            name, folder = f"job-{number}", out / "store" / f"job-{number}"
            stopped = number % _STOPPED == _STOPPED - 1
            work = "exec sleep 600" if stopped else f"mkdir -p {folder} && echo {number} > {folder}/result"
            request = {
                "submission_id": name,
                "entrypoint": work,
                "runtime_env": {"py_modules": [patiently(send_package, client)]},
                "metadata": {"output": str(folder)},
            }
            with contextlib.suppress(UsageError):  # taken: it had arrived, and only the answer did not
                patiently(client.submit, request)
            while not patiently(client.job, name).is_over():
                if stopped and patiently(client.job, name).status == "running":
                    patiently(stop, client, name, now=False, on_wait=lambda text: None)
                time.sleep(0.1)
            ended = patiently(client.job, name).status
            assert ended == ("stopped" if stopped else "succeeded"), (name, ended)
            if not stopped:
                (copy,) = patiently(
                    fetch, client, name, out / "got", everything=True, on_progress=lambda *told: None
                )
                assert (copy / "result").read_text() == f"{number}\n"
            if (number + 1) % 10 == 0 or number < 2:
                lives = patiently(alive, client)
                show("job", number + 1, began, {**of_head(head.pid), **of_client(), "actors": lives})
                by_name = of_processes(head.pid)
                first = first or by_name
                show("since job 1", number + 1, began, grown(first, by_name))
        head.communicate()
    show("job", jobs, began, {"left": left_of_ray(), "files in /tmp": files_of_sessions()})


def soak_searches(out: Path, searches: int, within_s: float) -> None:
    """Searches one after the other in this process, each with a Ray of its own."""
    tiny = tiny_sweep()
    data = out / "in"
    if not data.exists():
        tiny.recordings(data)
    first = time.monotonic()
    for number in range(searches):
        began = time.monotonic()
        if began - first > within_s:
            break
        report = patiently(tiny.search, data, out / f"search-{number}", more=ONE_TRIAL)
        assert report.exit_code == 0
        gc.collect()
        figures = {**of_client(), "left": left_of_ray(), "files in /tmp": files_of_sessions()}
        show("search", number + 1, began, figures)


def patiently(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What `call` gives, once the machine is not too busy for Ray to answer or to start."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return call(*arguments, **named)
        except ClusterError as error:
            if time.monotonic() > deadline:
                raise
            print(error, flush=True)
            time.sleep(5.0)


def tiny_sweep() -> ModuleType:
    """tiny_sweep.py as a module."""
    path = TESTS / "integration" / "tiny_sweep.py"
    spec = importlib.util.spec_from_file_location("tiny_sweep", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_sweep"] = module
    spec.loader.exec_module(module)
    register_pickle_by_value(module)  # which the processes of trials cannot import
    return module


def of_head(pid: int) -> dict[str, Any]:
    """The head and all that it has started."""
    found = [process for process in below(psutil.Process(pid)) if process.is_running()]
    return {
        "head processes": len(found),
        "head MiB": sum(process.memory_info().rss for process in found) >> 20,
        "head files": sum(process.num_fds() for process in found),
        "head sockets": sum(len(process.net_connections()) for process in found),
    }


def of_processes(pid: int) -> dict[str, dict[str, int]]:
    """KiB and open files (by what they are) of each of the head's processes, by its program and number."""
    found = {}
    for process in below(psutil.Process(pid)):
        with contextlib.suppress(psutil.Error, OSError):
            figures: Counter[str] = Counter({"KiB": process.memory_info().rss >> 10})
            for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    target = re.sub(r"[0-9a-f]{6,}|\d+", "#", str(descriptor.readlink()))
                    figures[target.rpartition("/")[2] if target.startswith("/") else target] += 1
            found[f"{program_of(process)} {process.pid}"] = dict(figures)
    return found


def program_of(process: Any) -> str:
    """A short name: `gcs_server`, `dashboard/agent.py`, `ray::IDLE`."""
    words = process.cmdline() or ["?"]
    script = next((word for word in words[1:] if word.endswith(".py")), words[0])
    return "/".join(Path(script).parts[-2:])


def grown(before: dict[str, dict[str, int]], now: dict[str, dict[str, int]]) -> dict[str, Any]:
    """What is more than it was, of processes that were there; and processes that have come."""
    more: dict[str, Any] = {}
    for name, figures in now.items():
        than = before.get(name)
        if than is None:
            more[name] = "new"
            continue
        differences = {what: count - than.get(what, 0) for what, count in figures.items()}
        if found := {
            what: count for what, count in differences.items() if count > (256 if what == "KiB" else 0)
        }:
            more[name] = found
    return more


def below(process: Any) -> Iterator[Any]:
    yield process
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # ended meanwhile
            if child.status() != psutil.STATUS_ZOMBIE:
                yield child


def of_client() -> dict[str, Any]:
    own = psutil.Process()
    return {
        "client MiB": own.memory_info().rss >> 20,
        "client files": own.num_fds(),
        "client sockets": len(own.net_connections()),
        "client threads": own.num_threads(),
        "client children": len(own.children(recursive=True)),
    }


def alive(client: Any) -> int:
    """Actors of the cluster that live."""
    found = client._data("/api/v0/actors?detail=1&limit=10000&timeout=60").get("result", {})
    return sum(actor.get("state") == "ALIVE" for actor in found.get("result", []))


def left_of_ray() -> int:
    """Processes of a Ray that this program or one of its children began, and which still run."""
    count = 0
    for process in psutil.process_iter(["environ", "cmdline"]):
        environ = process.info["environ"] or {}
        mine = environ.get("DISTILL_RAY_SOAK") == os.environ["DISTILL_RAY_SOAK"]
        count += mine and process.pid != os.getpid() and "ray" in " ".join(process.info["cmdline"] or [])
    return count


def files_of_sessions() -> int:
    """Folders of private Rays in this program's folder for them."""
    return len(list(Path(os.environ["TMPDIR"]).glob("distill-ray-*")))


def show(what: str, number: int, began: float, figures: dict[str, Any]) -> None:
    words = "  ".join(f"{name} {value}" for name, value in figures.items())
    print(f"{what} {number}  {time.monotonic() - began:.0f} s  {words}", flush=True)


if __name__ == "__main__":
    os.environ["DISTILL_RAY_SOAK"] = str(os.getpid())
    os.environ["TMPDIR"] = f"/tmp/soak-{os.getpid()}"
    Path(os.environ["TMPDIR"]).mkdir()
    main()

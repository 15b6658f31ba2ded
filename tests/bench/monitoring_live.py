"""Runs on a Ray with dashboard, scraped by a real Prometheus: do the metrics say what the runs said?

    python tests/bench/monitoring_live.py OUT [--shots] [--minutes 1.5]

Needs Debian's `prometheus`; --shots also `chromium`, for pictures of Ray's dashboard (dashboard_shots.py).
Submits a codec training and a prior training as jobs of a small cluster on loopback, with
cluster/monitoring/prometheus.yml changed in the one way that its first lines tell. Then holds every sample
that Prometheus has against the runs' events.jsonl, and asks each question of cluster/monitoring/grafana.json.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dashboard_shots
from ray.job_submission import JobStatus, JobSubmissionClient

from distill_ray.events.records import from_record
from distill_ray.runtime.metrics import DECLARED, figures
from distill_ray.runtime.ray_session import RAY_FILES

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "cluster" / "monitoring"
PREFIX = "ray_distill_ray_"
ENDED = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--shots", action="store_true")
    parser.add_argument("--minutes", type=float, default=1.5)
    args = parser.parse_args()
    if shutil.which("prometheus") is None:
        print("Prometheus is not installed (Debian: apt-get install prometheus)")
        return 0
    out = args.out.resolve()
    corpus = out / "recordings"
    if not corpus.exists():
        synthesise = [
            sys.executable,
            ROOT / "examples" / "synthesise.py",
            corpus,
            "--files",
            "12",
            "--seconds",
            "60",
        ]
        subprocess.run(synthesise, check=True)
    command = f"{sys.executable} -m distill_ray"
    model = out / "codec" / "bells.distill"
    shutil.rmtree(model.parent, ignore_errors=True)
    with head() as (url, token_file), prometheus(token_file.parent / RAY_FILES, out) as ask:
        token = token_file.read_text()
        client = JobSubmissionClient(url, headers={"Authorization": f"Bearer {token}"})
        began = time.time()
        shots = dashboard_shots.Shots(url, token, out / "shots") if args.shots else None
        done = run_job(
            client,
            f"{command} train {corpus} --name bells --out {out / 'codec'} --size tiny --codebook-size 128 "
            f"--rvq-levels 4 --num-workers 2 --max-minutes {args.minutes}",
            shots,
            out / "codec",
        )
        done = done and run_job(
            client, f"{command} train-prior {model} {corpus} --num-workers 2 --max-minutes 0.7"
        )
        ended = time.time()
        runs = ask_train_api(url, token)
        report = [
            f"jobs succeeded: {done}",
            f"runs in /api/train/v2/runs/v1: {[(run['name'], run['status']) for run in runs]}",
            *held_against_events(ask, began, ended, [out / "codec", model.with_suffix(".prior")]),
            *answered(ask, began, ended),
        ]
    print("\n".join(report))
    return int(any(line.startswith("WRONG") for line in report) or not done)


@contextmanager
def head() -> Iterator[tuple[str, Path]]:
    """A Ray with two CPUs: its dashboard's URL, and its token's file in its temporary folder."""
    program = ROOT / "tests" / "cluster" / "head.py"
    process = subprocess.Popen(
        [sys.executable, program, "2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        facts = json.loads(process.stdout.readline())
        yield facts["dashboard"], Path(facts["token_file"])
    finally:
        process.stdin.close()
        process.wait(60)


@contextmanager
def prometheus(session: Path, out: Path) -> Iterator[Any]:
    """A Prometheus with the shipped configuration; yields a function that asks its API."""
    config = (MONITORING / "prometheus.yml").read_text("utf-8")
    assert config.count("/tmp/ray/") == 1
    (out / "prometheus.yml").write_text(config.replace("/tmp/ray/", f"{session}/"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shutil.rmtree(out / "prometheus", ignore_errors=True)
    server = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={out / 'prometheus.yml'}",
            f"--storage.tsdb.path={out / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=warn",
        ]
    )

    def ask(path: str, **parameters: object) -> Any:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}?{query}", timeout=10) as answer:
            return json.load(answer)["data"]

    try:
        yield ask
    finally:
        server.terminate()
        server.wait(20)


def run_job(
    client: JobSubmissionClient,
    command: str,
    shots: dashboard_shots.Shots | None = None,
    run: Path | None = None,
) -> bool:
    """Run a command as a job; with `shots`, take pictures once the run in the folder `run` trains."""
    began = time.monotonic()
    while True:
        try:
            job = client.submit_job(entrypoint=command)
            break
        except RuntimeError:  # a Ray that has just started has no agent yet to run a job
            if time.monotonic() - began > 90:
                raise
            time.sleep(2)
    while (status := client.get_job_status(job)) not in ENDED:
        if shots is not None and run is not None and trains(run):
            shots.take({"overview": "overview", "jobs": "jobs", "job": f"jobs/{job}", "metrics": "metrics"})
            shots.take({"cluster": "cluster", "actors": "actors"})
            shots = None
        time.sleep(0.5)
    if status != JobStatus.SUCCEEDED:
        print(client.get_job_logs(job)[-3000:])
    return status == JobStatus.SUCCEEDED


def trains(run: Path) -> bool:
    log = run / "events.jsonl"
    return log.exists() and '"VQStepMetrics"' in log.read_text("utf-8")


def ask_train_api(url: str, token: str) -> list[dict[str, Any]]:
    request = urllib.request.Request(
        f"{url}/api/train/v2/runs/v1", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return list(json.load(answer)["train_runs"])


def held_against_events(ask: Any, began: float, ended: float, runs: list[Path]) -> Iterator[str]:
    """Every sample must be a value that an event had; every metric must have samples."""
    said: dict[tuple[str, frozenset[tuple[str, str]]], set[float]] = defaultdict(set)
    for run in runs:
        for line in (run / "events.jsonl").read_text("utf-8").splitlines():
            for figure in figures(from_record(json.loads(line))):
                said[figure.metric, frozenset(figure.tags.items())].add(figure.value)
    for metric, declared in DECLARED.items():
        series = ask("query_range", query=PREFIX + metric, start=began, end=ended, step=1)["result"]
        values: set[float] = set()
        for one in series:
            tags = frozenset((name, one["metric"][name]) for name in declared.tags)
            for _, text in one["values"]:
                value = float(text)
                values.add(value)
                if not any(math.isclose(value, known, rel_tol=1e-9) for known in said[metric, tags]):
                    yield f"WRONG {metric} {sorted(tags)}: {value} is in no event"
        labels = {(one["metric"].get("run"), one["metric"].get("kind")) for one in series}
        verdict = "" if values else "WRONG "
        yield f"{verdict}{metric}: {len(series)} series, {len(values)} different values, {sorted(labels)}"


def answered(ask: Any, began: float, ended: float) -> Iterator[str]:
    """Every query of the dashboard must have an answer for some moment of the runs."""
    dashboard = json.loads((MONITORING / "grafana.json").read_text("utf-8"))
    without = []
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    for query in queries:
        plain = query.replace("$run", ".*").replace("$kind", ".*")
        if not ask("query_range", query=plain, start=began, end=ended, step=1)["result"]:
            without.append(query)
    for name in ("run", "kind"):
        found = ask(f"label/{name}/values", **{"match[]": f"{PREFIX}running"})
        yield f"{'' if found else 'WRONG '}variable {name}: {found}"
    yield from (f"WRONG no answer: {query}" for query in without)
    yield f"{len(queries) - len(without)} of {len(queries)} dashboard queries answered"


if __name__ == "__main__":
    sys.exit(main())

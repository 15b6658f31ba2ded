"""The environment that torch's threads are started in, and how many there are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distill_ray import threads


@pytest.fixture
def torch_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)


def child(code: str, **variables: str) -> str:
    """What a new Python prints, with those of OpenMP's variables."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip() + done.stderr


def test_threads_of_a_torch_that_is_loaded_later_sleep_while_they_wait() -> None:
    shown = child("import distill_ray.cli.main, torch", OMP_DISPLAY_ENV="verbose")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in shown
    assert "GOMP_SPINCOUNT = '0'" in shown


def test_what_the_user_set_stays() -> None:
    own = {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "77"}
    shown = child("import distill_ray, torch", OMP_DISPLAY_ENV="verbose", **own)
    for name, value in own.items():
        assert f"{name} = '{value.upper()}'" in shown


def test_a_quota_below_the_cores_limits_threads(
    torch_not_loaded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(threads, "_quotas", lambda *_: [2.5])
    environ: dict[str, str] = {}
    threads.prepare_environment(environ)
    assert environ == {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "3"}
    environ = {"OMP_NUM_THREADS": "8"}
    threads.prepare_environment(environ)
    assert environ["OMP_NUM_THREADS"] == "8"


def test_quotas_of_both_versions_of_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    membership = tmp_path / "membership"
    own = tmp_path / "slice" / "own"
    own.mkdir(parents=True)
    membership.write_text("0::/slice/own\n")
    (own / "cpu.max").write_text("max 100000\n")
    assert threads.usable_cores(tmp_path, membership) == 16
    (own.parent / "cpu.max").write_text("350000 100000\n")  # of the group around it
    assert threads.usable_cores(tmp_path, membership) == 4

    membership.write_text("5:memory:/slice\n4:cpu,cpuacct:/job\n0::/\n")
    job = tmp_path / "cpu,cpuacct" / "job"
    job.mkdir(parents=True)
    (job / "cpu.cfs_period_us").write_text("100000\n")
    (job / "cpu.cfs_quota_us").write_text("-1\n")
    assert threads.usable_cores(tmp_path, membership) == 16
    (job / "cpu.cfs_quota_us").write_text("50000\n")
    assert threads.usable_cores(tmp_path, membership) == 1


LATE = """
import importlib, json, os, torch
os.cpu_count = lambda: 4
os.sched_getaffinity = lambda _: {0, 1, 2, 3}
from distill_ray import threads

def seen(running, **environ):
    os.environ.update(environ)
    importlib.reload(threads)
    threads.prepare_environment()
    numbers = []
    for others, own in ((running, 4), (0, None), (0, 2)):
        if own is not None:
            torch.set_num_threads(own)
        threads._others_running = lambda: others
        threads.fit_threads()
        numbers.append(torch.get_num_threads())
    for name in environ:
        del os.environ[name]
    return numbers

print(json.dumps([seen(3), seen(9, OMP_WAIT_POLICY="passive"), seen(9, OMP_NUM_THREADS="4")]))
"""


def test_a_torch_that_was_loaded_first_gets_the_cores_that_are_free() -> None:
    free, sleeping, chosen = json.loads(child(LATE))
    assert free == [1, 4, 2]  # the last is the user's own number
    assert sleeping == chosen == [4, 4, 2]


def test_busy_processes_are_counted() -> None:
    program = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    busy = [subprocess.Popen(program, stdout=subprocess.PIPE) for _ in range(4)]
    try:
        for process in busy:
            assert process.stdout is not None
            process.stdout.readline()
        assert threads._others_running() >= 4
    finally:
        for process in busy:
            process.kill()
            process.communicate()

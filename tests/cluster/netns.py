"""A head, a node and a client in network namespaces of their own, on one bridge: three machines on one disk.

    with machines(folder) as cluster:
        cluster.run("client", ["distill-ray", …])

Head and node are real `ray start` processes with token authentication, and each has a /tmp/ray of its own.
Needs root and iproute2.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill_ray.runtime.processes import end_processes

NET = "10.231.77"
ADDRESSES = {"head": f"{NET}.1", "node": f"{NET}.2", "client": f"{NET}.3"}
DASHBOARD = f"http://{NET}.1:8265"
_BIN = Path(sys.executable).parent


@dataclass(frozen=True, kw_only=True)
class Machines:
    """The namespaces' common prefix, and the folder that all of them see."""

    prefix: str
    folder: Path

    @property
    def token_file(self) -> Path:
        return self.folder / "token"

    def run(
        self, machine: str, command: Sequence[object], timeout_s: float = 300.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a machine to its end."""
        return subprocess.run(
            self._inside(machine, command),
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    @contextlib.contextmanager
    def running(self, machine: str, command: Sequence[object]) -> Iterator[None]:
        """A command on a machine for as long as the block; its output goes to FOLDER/MACHINE.log."""
        with (
            (self.folder / f"{machine}.log").open("ab") as log,
            subprocess.Popen(self._inside(machine, command), env=self._environment(), stdout=log, stderr=log),
        ):
            try:
                yield
            finally:
                end_processes(self.folder, patience_s=0.0)

    def _inside(self, machine: str, command: Sequence[object]) -> list[str]:
        own = self.folder / f"ray-{machine}"
        own.mkdir(exist_ok=True)
        script = f'mkdir -p /tmp/ray && mount --bind {own} /tmp/ray && exec "$@"'
        return ["ip", "netns", "exec", self.prefix + machine, "sh", "-c", script, "sh", *map(str, command)]

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "XDG_"))}
        return {
            **kept,
            "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}",  # where a job finds its `python`
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_memory_monitor_refresh_ms": "0",
            "RAY_worker_niceness": "0",
            "DISTILL_RAY_TEST_MACHINES": str(self.folder / "machines"),  # a path in it tells processes of it
        }


@contextlib.contextmanager
def machines(folder: Path, *, prefix: str = "distill-") -> Iterator[Machines]:
    """The three machines; Ray runs on head and node, one CPU each. All ends with the block."""
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    cluster = Machines(prefix=prefix, folder=folder)
    small = ["--num-cpus=1", f"--object-store-memory={80 * 2**20}", "--disable-usage-stats", "--block"]
    head = [
        _BIN / "ray", "start", "--head", f"--node-ip-address={NET}.1", "--port=6379",
        f"--dashboard-host={NET}.1", *small,
    ]  # fmt: skip
    node = [_BIN / "ray", "start", f"--address={NET}.1:6379", f"--node-ip-address={NET}.2", *small]
    with _network(prefix), cluster.running("head", head):
        _wait_for(cluster, f"{NET}.1", 8265)
        with cluster.running("node", node):
            _wait_for_cpus(cluster, 2)
            yield cluster


@contextlib.contextmanager
def _network(prefix: str) -> Iterator[None]:
    bridge = f"{prefix}br"[:15]
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("link", "set", bridge, "up")
        for number, (machine, address) in enumerate(ADDRESSES.items()):
            space, outer = prefix + machine, f"{prefix}{number}"[:15]
            _ip("netns", "add", space)
            _ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", outer, "master", bridge, "up")
            _ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
            _ip("-n", space, "link", "set", "lo", "up")
        yield
    finally:
        for number, machine in enumerate(ADDRESSES):
            # A namespace that is gone keeps its links for as long as a last process of it.
            _ip("link", "del", f"{prefix}{number}"[:15], check=False)
            _ip("netns", "del", prefix + machine, check=False)
        _ip("link", "del", bridge, check=False)


def _ip(*words: str, check: bool = True) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, (words, done.stderr)


def _wait_for_cpus(cluster: Machines, count: int, timeout_s: float = 90.0) -> None:
    """Until the cluster has so many."""
    ask = (
        "from distill_ray.jobs.address import dashboard_address, find_token\n"
        "from distill_ray.jobs.client import JobClient\n"
        f"client = JobClient(dashboard_address({DASHBOARD!r}, {{}}), find_token(None))\n"
        f"assert client.check().resources['CPU'] == {count}"
    )
    deadline = time.monotonic() + timeout_s
    while (asked := cluster.run("client", [sys.executable, "-c", ask])).returncode:
        logs = [(cluster.folder / f"{machine}.log").read_text()[-2000:] for machine in ("head", "node")]
        assert time.monotonic() < deadline, (asked.stderr, logs)
        time.sleep(0.5)


def _wait_for(cluster: Machines, host: str, port: int, timeout_s: float = 90.0) -> None:
    """Until the client can connect."""
    knock = f"import socket; socket.create_connection(({host!r}, {port}), 1)"
    deadline = time.monotonic() + timeout_s
    while cluster.run("client", [sys.executable, "-S", "-c", knock]).returncode:
        assert time.monotonic() < deadline, (cluster.folder / "head.log").read_text()
        time.sleep(0.5)

"""The Ray that a run uses: a private one on this machine, or a running cluster.

A private Ray listens on 127.0.0.1 only, asks for a token, writes nothing to the terminal, and keeps all its
files in one folder that goes with it. Its processes end with `ray_session`; should this process be killed,
the kernel ends Ray's servers (Ray sets PR_SET_PDEATHSIG) and a guardian ends the rest and removes the folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import math
import os
import re
import secrets
import shutil
import signal
import socket
import stat
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from distill_ray.errors import ClusterError, InstallationError, first_line
from distill_ray.regular_file import open_regular
from distill_ray.runtime.head_port import is_head
from distill_ray.runtime.plan import ResolvedPlan
from distill_ray.runtime.processes import end_processes, guarded
from distill_ray.runtime.ray_internals import (
    autoscaler_limits,
    no_start_by_itself,
    nothing_on_stdout,
    reading_environment,
    servers_in_own_groups,
    start_timed_out,
)
from distill_ray.threads import SLEEP

# Read by Ray Train and Ray Tune in the driver, the controller and the workers; what the user has set stays.
TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the default 2.0 costs seconds at the start and end of a run
    # How long ranks wait for a node that died just before they were given to it; then they are shared anew.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Ray Tune: quiet, no files but our own, Ctrl-C is ours, and all trials that are ready start side by side.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
}

# Lists runs on the Train page of a dashboard.
_TRACKED = {"RAY_TRAIN_ENABLE_STATE_TRACKING": "1"}
# Ray's only switch for binding every socket to 127.0.0.1
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# What makes an instance private; set while it starts, inherited by all its processes.
_PRIVATE_ENVIRONMENT = {
    **_LOOPBACK,
    "RAY_AUTH_MODE": "token",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_worker_prestart": "0",  # idle workers that Ray Train would not use
    "RAY_prestart_worker_first_driver": "0",
    "RAY_worker_niceness": "0",  # the default 15 starves them where other programs want the CPU too
    # Other programs may fill this machine's memory; that is no reason to kill a training worker.
    "RAY_memory_monitor_refresh_ms": "0",
}
_FOREIGN_SETTINGS = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_JOB_CONFIG_JSON_ENV_VAR")

_OBJECT_STORE_BYTES = 80 * 2**20  # Ray's least is 75 MiB; only small records pass through it
_FOLDER_PREFIX = "distill-ray-session-"
_SESSION_NAME = re.compile(re.escape(_FOLDER_PREFIX) + r"[a-z0-9_]{8}")  # as tempfile.mkdtemp makes them
RAY_FILES = "ray"  # in the session's folder, which stays closed to others: Ray opens its own to everybody
_CONNECT_TIMEOUT_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Session:
    """A Ray in use. `folder`: where a private one keeps its files; None for somebody else's.

    `limits`: the resources that its autoscaler may bring it to, where it has one.
    """

    address: str
    folder: Path | None
    resources: Mapping[str, float]
    limits: Mapping[str, float] | None = None


_private: Session | None = None  # a process has at most one Ray


@contextlib.contextmanager
def ray_session(plan: ResolvedPlan, *, dashboard: bool = False, spare_cpus: int = 0) -> Iterator[Session]:
    """The Ray for `plan`: one that this process is connected to, the one at its address, or a private one.

    A private one has a CPU for each worker, and `spare_cpus` for what drives them.
    Only what was started or connected here is ended here. Call it from a thread that outlives the session:
    the kernel ends a private Ray when the thread that started it ends.

    Raises ClusterError where no Ray answers or none can be started, InstallationError where Ray is missing.
    """
    with _environment({**TRAIN_ENVIRONMENT, **SLEEP}, keep_existing=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"ray\.")  # its own deprecations are nothing to the user
        if _connected():
            yield _private or _describe(folder=None)
        elif plan.address is not None:
            with _cluster(plan.address) as session:
                yield session
        else:
            with _private_ray(plan, dashboard, spare_cpus) as session:
                yield session


@contextlib.contextmanager
def _private_ray(plan: ResolvedPlan, dashboard: bool, spare_cpus: int) -> Iterator[Session]:
    global _private
    ranks = plan.num_workers or 1
    root = _temporary_root()
    _sweep(root)
    with _owned_folder(root) as folder, guarded(folder):
        try:
            token = folder / "token"
            token.touch(mode=0o600)
            token.write_text(secrets.token_hex(32))
            variables = {**_PRIVATE_ENVIRONMENT, "RAY_AUTH_TOKEN_PATH": str(token)}
            with (
                _environment(variables, without=_FOREIGN_SETTINGS),
                _ray_setup(loopback=True),
                servers_in_own_groups(),
            ):
                _start(
                    folder,
                    num_cpus=ranks + spare_cpus,
                    num_gpus=math.ceil(ranks * plan.gpus_per_worker) if plan.use_gpu else 0,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    include_dashboard=dashboard,
                    _temp_dir=str(folder / RAY_FILES),
                )
            _private = _describe(folder=folder)
            with (
                _environment(_TRACKED if dashboard else {}, keep_existing=True),
                nothing_on_stdout(),
                no_start_by_itself(),
            ):
                yield _private
        finally:
            _private = None
            _shutdown()
            end_processes(folder, patience_s=2.0)


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[Session]:
    loopback = False
    if address != "auto":
        _probe(address)
        loopback = _only_on_loopback(address)
    try:
        with _environment(_LOOPBACK if loopback else {}), _ray_setup(loopback=loopback):
            _init(address=address, **_variables_of_workers())
        with _environment(_TRACKED, keep_existing=True), nothing_on_stdout(), no_start_by_itself():
            yield _describe(folder=None)
    finally:
        _shutdown()


def _variables_of_workers() -> dict[str, Any]:
    """What a cluster's workers start with. The workers of a submitted job get it from `jobs/submit.py`: Ray
    refuses a variable from both.
    """
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return {}
    return {"runtime_env": {"env_vars": {name: os.environ[name] for name in SLEEP}}}


def _start(folder: Path, **arguments: Any) -> None:
    """Start a private Ray; again where its servers were not up in the 30 s that Ray gives a busy machine."""
    try:
        _init(address="local", **arguments)
    except ClusterError as error:
        if not start_timed_out(error.__cause__):
            raise
        _shutdown()
        end_processes(folder, patience_s=0.0)
        _init(address="local", **arguments)


def _init(address: str, **arguments: Any) -> None:
    import ray

    on_main_thread = threading.current_thread() is threading.main_thread()
    previous = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **arguments)
    except Exception as error:
        raise ClusterError(
            f"Ray could not start on this machine, which may be too busy: {_first_line(error)}; try again"
            if address == "local"
            else f"the Ray at {address} cannot be used: {_first_line(error)} "
            "(check the address, which is the head's and not the client's port, RAY_AUTH_TOKEN, and that it "
            "has the Ray and Python versions of this program)"
        ) from error
    finally:
        if on_main_thread:
            signal.signal(signal.SIGTERM, previous)  # Ray puts its own handler there


def _shutdown() -> None:
    if _connected():
        import ray

        ray.shutdown()


def _connected() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _describe(folder: Path | None) -> Session:
    import ray

    there, limits = ray.cluster_resources(), autoscaler_limits()
    if limits is not None:
        limits = {name: max(there.get(name, 0.0), limits.get(name, 0.0)) for name in {*there, *limits}}
    return Session(
        address=ray.get_runtime_context().gcs_address, folder=folder, resources=there, limits=limits
    )


@contextlib.contextmanager
def _ray_setup(*, loopback: bool) -> Iterator[None]:
    """Import Ray and make it read the environment of now, also where it was imported earlier."""
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")
        try:
            stack.enter_context(reading_environment(loopback=loopback))
        except ImportError as error:
            raise InstallationError(
                f"Ray cannot be imported ({_first_line(error)}): install it with "
                "pip install 'ray[default,train,tune]', or train in this process with --num-workers 0"
            ) from error
        yield


@contextlib.contextmanager
def _environment(
    variables: Mapping[str, str], *, without: tuple[str, ...] = (), keep_existing: bool = False
) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in (*variables, *without)}
    for name in without:
        os.environ.pop(name, None)
    for name, value in variables.items():
        if not (keep_existing and name in os.environ):
            os.environ[name] = value
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = old


def _probe(address: str) -> None:
    """Ray needs minutes to say that nobody answers, or somebody else; a connection says it at once."""
    try:
        found = is_head(*_host_and_port(address))
    except (OSError, UnicodeError) as error:  # the latter of what can be no host's name
        raise ClusterError(
            f"no Ray answers at {address} ({_first_line(error)}): check --address or RAY_ADDRESS"
        ) from error
    if not found:
        raise ClusterError(
            f"what listens at {address} is not a Ray head: check --address or RAY_ADDRESS "
            "(the head's port is usually 6379, not the dashboard's 8265 or the client's 10001)"
        )


def _only_on_loopback(address: str) -> bool:
    """Whether the head at `address` answers on this machine's loopback and not on its outer interface.

    Ray takes a loopback address for the outer one, where it would look for such a head for many minutes.
    """
    host, port = _host_and_port(address)
    if host not in ("localhost", "127.0.0.1", "::1"):
        return False
    with _ray_setup(loopback=False):
        from ray.util import get_node_ip_address

        outer = get_node_ip_address()
    try:
        _connect(outer, port)
    except OSError:
        return True
    return False


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _connect(host: str, port: int) -> None:
    socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_S).close()


def _temporary_root() -> Path:
    """A short path: Ray's sockets lie below it and a socket's path has 107 bytes at most."""
    short = Path("/tmp")  # noqa: S108 - mkdtemp makes a folder of the user's own there
    return short if os.access(short, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())


@contextlib.contextmanager
def _owned_folder(root: Path) -> Iterator[Path]:
    """A new folder whose "owner" file is locked as long as this process lives."""
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=root))
    try:
        with (folder / "owner.new").open("w") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX)
            (folder / "owner.new").rename(folder / "owner")  # so that it is never seen unlocked
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(root: Path) -> None:
    """Remove the folders of sessions that were killed together with their guardian (a machine's crash)."""
    for folder in root.glob(f"{_FOLDER_PREFIX}*"):
        with contextlib.suppress(OSError), _owner_file(folder) as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            end_processes(folder, patience_s=0.0)
            shutil.rmtree(folder, ignore_errors=True)


def _owner_file(folder: Path) -> BinaryIO:
    """The "owner" file of a session of this user. Raises OSError for a folder that is not one, as others may
    lay into a folder for temporary files.
    """
    if not _SESSION_NAME.fullmatch(folder.name):
        raise OSError(errno.EINVAL, "no name of a session", str(folder))
    owner = open_regular(folder / "owner", follow_link=False)
    ours = [status.st_uid == os.geteuid() for status in (folder.lstat(), os.fstat(owner.fileno()))]
    if not all(ours) or not stat.S_ISDIR(folder.lstat().st_mode):
        owner.close()
        raise OSError(errno.EPERM, "another user's session", str(folder))
    return owner


def _first_line(error: BaseException) -> str:
    return first_line(error).rstrip(".:")

"""`distill-ray doctor`: what is wrong with an installation, and what to do about it.

Packages are imported in processes of their own (`probes.py`), all at once; the machine is looked at here. It
uses none of the packages that it examines, so it answers where they are broken.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer

from distill_ray.cli import options, probes
from distill_ray.cli.output import finish, shown_to_a_person
from distill_ray.config.cache import cache_root
from distill_ray.foreign import Printable, printable

# As in pyproject.toml; a test compares them.
LEAST_PYTHON = (3, 11)
LEAST_VERSIONS = {
    "torch": "2.11",
    "torchaudio": "2.11",
    "soundfile": "0.13",
    "av": "14",
    "numpy": "2.0",
    "pyarrow": "18",
    "safetensors": "0.5",
    "rich": "13.9",
    "typer": "0.27",
    "matplotlib": "3.10",
    "pillow": "11",
    "jinja2": "3.1",
    "ray": "2.60.0",
}
BELOW_RAY = "2.61"

PROBE_SECONDS = 120.0
GIB = 2**30
LEAST_SHM = GIB
LEAST_DISK = 5 * GIB
LEAST_OPEN_FILES = 8192
_COLOURS = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing looked at. `status`: "ok", "warn" (works, with a drawback) or "fail"; remedy where not ok."""

    name: str
    status: str
    detail: str
    remedy: str | None = None


def command(as_json: options.Json = False) -> None:
    """Check the installation: packages, GPU, Ray, shared memory, limits, disk."""
    checks = run_checks()
    failed = any(check.status == "fail" for check in checks)
    document = {"ok": not failed, "checks": [asdict(check) for check in checks]}
    finish(
        document,
        result=[line for check in checks for line in _shown(check)],
        as_json=as_json,
        exit_code=int(failed),
    )


def run_checks() -> list[Check]:
    """Every check, in the order in which they are shown."""
    found = run_probes(tuple(LEAST_VERSIONS))
    checks = [python_check()]
    checks += [package_check(name, facts) for name, facts in found.items()]
    checks += gpu_checks(found["torch"], nvidia_gpus())
    checks += ray_part_checks(found["ray"])
    checks += codec_checks(found["soundfile"])
    shared_memory = Path("/dev/shm")  # noqa: S108 - looked at, not written to
    checks += [shm_check(shared_memory), open_files_check(), cache_check(cache_root())]
    checks += [disk_check("disk (cache)", cache_root()), disk_check("disk (here)", Path.cwd())]
    return checks


def run_probes(names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """What each package's probe found; {"error", "message"} where it failed or its process died."""
    with ThreadPoolExecutor(max_workers=len(names)) as pool:
        return dict(zip(names, pool.map(_probe, names), strict=True))


def _probe(name: str) -> dict[str, Any]:
    command_line = [sys.executable, "-P", probes.__file__, name]
    try:
        done = subprocess.run(  # noqa: S603 - this Python, a file of ours and a name of ours
            command_line, capture_output=True, text=True, errors="replace", timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": "TimeoutError", "message": f"importing it took more than {PROBE_SECONDS:g} s"}
    lines = done.stdout.strip().splitlines()
    try:
        found = json.loads(lines[-1]) if done.returncode == 0 and lines else None
    except json.JSONDecodeError:
        found = None
    if isinstance(found, dict):
        return found
    last_words = (done.stderr.strip().splitlines() or ["no output"])[-1]
    end = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    return {"error": "crash", "message": f"its import ended the process ({end}): {last_words}"}


def python_check() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= LEAST_PYTHON:
        return Check(name="python", status="ok", detail=f"{version} ({sys.executable})")
    least = ".".join(map(str, LEAST_PYTHON))
    return Check(
        name="python",
        status="fail",
        detail=f"{version} is older than {least}",
        remedy=f"make a virtual environment with Python {least} or newer",
    )


def package_check(name: str, found: Mapping[str, Any]) -> Check:
    """Whether a package imports and is new enough."""
    if "error" in found:
        detail = f"{found['error']}: {found['message']}"
        return Check(name=name, status="fail", detail=detail, remedy=_import_remedy(name, found))
    version, least = found["version"], LEAST_VERSIONS[name]
    too_new = name == "ray" and not _older(version, BELOW_RAY)
    if _older(version, least) or too_new:
        wanted = f"{least} or newer" if name != "ray" else f">={least},<{BELOW_RAY}"
        return Check(
            name=name,
            status="fail",
            detail=f"version {version}, needed is {wanted}",
            remedy=f"pip install '{_requirement(name)}'",
        )
    return Check(name=name, status="ok", detail=version)


def _import_remedy(name: str, found: Mapping[str, Any]) -> str:
    if name == "torchaudio" and _is_native_failure(found) and found.get("location"):
        return (
            "its native library does not fit this torch (a CUDA torchaudio beside a CPU torch, or another "
            f"version): delete it with `rm {found['location']}/lib/*.so`, torchaudio then runs in pure "
            "Python, which is all that distill-ray needs; or install the torchaudio built for this torch"
        )
    if name == "torch" and _is_native_failure(found):
        return "install a build that fits this machine: pip install --force-reinstall torch"
    if name == "soundfile" and _is_native_failure(found):
        return "install libsndfile (apt-get install libsndfile1), or pip install --force-reinstall soundfile"
    if found["error"] == "ModuleNotFoundError" and f"'{name}'" in found["message"]:
        return f"pip install '{_requirement(name)}'"
    return f"pip install --force-reinstall '{_requirement(name)}'"


def _is_native_failure(found: Mapping[str, Any]) -> bool:
    return found["error"] in ("OSError", "crash") or ".so" in found["message"]


def gpu_checks(torch: Mapping[str, Any], gpus: list[str]) -> Iterator[Check]:
    """What torch sees of the machine's NVIDIA GPUs (`gpus`: found without torch)."""
    if "error" in torch:
        return
    if torch["gpus"]:
        yield Check(name="gpu", status="ok", detail=", ".join(torch["gpus"]))
        if torch["bf16"]:
            yield Check(name="bf16", status="ok", detail="supported")
        else:
            yield Check(
                name="bf16",
                status="warn",
                detail="this GPU does not support it",
                remedy='set precision = "fp32" under [training] and [prior_training] in the --config file',
            )
    elif not gpus:
        yield Check(name="gpu", status="ok", detail="no NVIDIA GPU on this machine: training runs on the CPU")
    else:
        yield _unseen_gpu(torch, ", ".join(gpus))


def _unseen_gpu(torch: Mapping[str, Any], seen: str) -> Check:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch["cuda_build"] is None:
        return Check(
            name="gpu",
            status="fail",
            detail=f"the machine has {seen}, but torch {torch['version']} is a CPU build",
            remedy="install a CUDA build of torch: https://pytorch.org/get-started/locally",
        )
    if hidden in ("", "-1"):
        return Check(
            name="gpu",
            status="warn",
            detail=f"the machine has {seen}, hidden by CUDA_VISIBLE_DEVICES={hidden!r}",
            remedy="unset CUDA_VISIBLE_DEVICES to train on it",
        )
    return Check(
        name="gpu",
        status="fail",
        detail=f"the machine has {seen}, but torch {torch['version']} (CUDA {torch['cuda_build']}) sees none",
        remedy="update the NVIDIA driver to one for that CUDA, or give the container its GPUs (--gpus all)",
    )


def nvidia_gpus() -> list[str]:
    """The NVIDIA GPUs that the machine has by nvidia-smi's or the kernel's word; empty without any."""
    tool = shutil.which("nvidia-smi")
    if tool is not None:
        try:
            listed = subprocess.run(  # noqa: S603 - what the user's own PATH has under that name
                [tool, "-L"], capture_output=True, text=True, timeout=20, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            listed = None
        if listed is not None and listed.returncode == 0:
            lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
            return [re.sub(r" \(UUID:.*", "", line) for line in lines]
    return sorted(str(path) for path in Path("/dev").glob("nvidia[0-9]*"))


def ray_part_checks(ray: Mapping[str, Any]) -> Iterator[Check]:
    """The extras of Ray: the dashboard and jobs ("default"), Train, Tune."""
    if "error" in ray:
        return
    for extra in ("default", "train", "tune"):
        why = ray["missing"].get(extra)
        if why is None:
            yield Check(name=f"ray[{extra}]", status="ok", detail="complete")
        else:
            yield Check(
                name=f"ray[{extra}]", status="fail", detail=why, remedy=f"pip install '{_requirement('ray')}'"
            )


def codec_checks(soundfile: Mapping[str, Any]) -> Iterator[Check]:
    """Whether libsndfile reads and writes all the formats that a corpus may have."""
    if "error" in soundfile:
        return
    broken = soundfile["broken"]
    library = f"libsndfile {soundfile['libsndfile']}"
    if not broken:
        yield Check(name="audio formats", status="ok", detail=f"flac, ogg, opus, mp3 ({library})")
        return
    yield Check(
        name="audio formats",
        status="warn",
        detail=f"{library}: " + "; ".join(f"{name}: {why}" for name, why in broken.items()),
        remedy="pip install --force-reinstall soundfile (its wheel brings libsndfile 1.2 with all of them)",
    )


def shm_check(folder: Path) -> Check:
    """Shared memory, where Ray keeps its objects and NCCL its buffers."""
    try:
        status = os.statvfs(folder)
    except OSError as error:
        return Check(
            name="shared memory",
            status="warn",
            detail=f"{folder} cannot be used ({error.strerror})",
            remedy=f"mount a tmpfs of 1 GiB or more on {folder}; Ray falls back to the disk, which is slow",
        )
    size = status.f_blocks * status.f_frsize
    detail = f"{folder} has {size / GIB:.1f} GiB"
    if size >= LEAST_SHM:
        return Check(name="shared memory", status="ok", detail=detail)
    return Check(
        name="shared memory",
        status="warn",
        detail=f"{detail}, Ray and NCCL want {LEAST_SHM / GIB:.0f} GiB or more",
        remedy=f"start the container with --shm-size=8g (or: mount -o remount,size=8G {folder})",
    )


def open_files_check() -> Check:
    """The hard limit: Ray raises the soft one to it by itself."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= LEAST_OPEN_FILES:
        return Check(name="open files", status="ok", detail="limit " + ("none" if hard < 0 else f"{hard:,}"))
    return Check(
        name="open files",
        status="warn",
        detail=f"at most {hard:,}, Ray with several workers wants {LEAST_OPEN_FILES:,} or more",
        remedy="raise nofile in /etc/security/limits.conf, or start the container with --ulimit nofile=65536",
    )


def cache_check(folder: Path) -> Check:
    """Whether the cache can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check(
            name="cache",
            status="fail",
            detail=f"{folder} cannot be written ({error.strerror})",
            remedy="make it writable, or set XDG_CACHE_HOME to a folder that is",
        )
    return Check(name="cache", status="ok", detail=str(folder))


def disk_check(name: str, folder: Path) -> Check:
    """Free space where `folder` is or would be."""
    place = next(path for path in (folder, *folder.parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    detail = f"{free / GIB:.1f} GiB free at {place}"
    if free >= LEAST_DISK:
        return Check(name=name, status="ok", detail=detail)
    return Check(
        name=name,
        status="warn",
        detail=f"{detail}; an hour of stereo audio takes 0.6 GiB, a checkpoint up to 0.5 GiB",
        remedy="free some space, or choose another disk with --out and XDG_CACHE_HOME",
    )


def _requirement(name: str) -> str:
    if name == "ray":
        return f"ray[default,train,tune]>={LEAST_VERSIONS['ray']},<{BELOW_RAY}"
    return f"{name}>={LEAST_VERSIONS[name]}"


def _older(version: str, than: str) -> bool:
    return _numbers(version) < _numbers(than)


def _numbers(version: str) -> tuple[int, ...]:
    """ "2.11.0+cpu" → (2, 11, 0); so (2, 11, 0) is not older than (2, 11)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _shown(check: Check) -> Iterator[str]:
    mark = f"{check.status:4}"
    if shown_to_a_person() and not os.environ.get("NO_COLOR"):
        # Typer's colours, not Rich's: Rich may be what is broken.
        mark = typer.style(mark, fg=_COLOURS[check.status], bold=True)
    yield Printable(f"{mark}  {check.name:14} {printable(check.detail)}")
    if check.remedy:
        yield f"{'':6}{'':14} → {check.remedy}"

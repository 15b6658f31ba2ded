from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from distill_ray.cli import doctor
from distill_ray.config.cache import cache_root

CPU_TORCH = {"version": "2.13.0+cpu", "cuda_build": None, "gpus": [], "bf16": False}
CUDA_TORCH = {"version": "2.11.0", "cuda_build": "13.0", "gpus": [], "bf16": False}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Put a package of this name and source before the installed one."""

    def make(name: str, source: str) -> Path:
        folder = tmp_path / "fakes" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").write_text(source)
        monkeypatch.setenv("PYTHONPATH", str(folder.parent))
        return folder

    return make


def examined(name: str) -> doctor.Check:
    return doctor.package_check(name, doctor.run_probes((name,))[name])


def test_the_versions_are_pyprojects():
    root = Path(__file__).parents[3]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    least = ".".join(map(str, doctor.LEAST_PYTHON))
    assert project["requires-python"] == f">={least}"
    wanted = [f"{name}>={version}" for name, version in doctor.LEAST_VERSIONS.items() if name != "ray"]
    ray = f"ray[default,train,tune]>={doctor.LEAST_VERSIONS['ray']},<{doctor.BELOW_RAY}"
    assert sorted(project["dependencies"]) == sorted([*wanted, ray])


def test_a_sound_package_is_ok():
    check = examined("soundfile")
    assert check.status == "ok"
    assert check.remedy is None
    facts = doctor.run_probes(("soundfile",))["soundfile"]
    assert [item.status for item in doctor.codec_checks(facts)] == ["ok"]


def test_a_cuda_torchaudio_beside_a_cpu_torch_is_named_with_its_remedy(package):
    message = "libc10_cuda.so: cannot open shared object file: No such file or directory"
    folder = package("torchaudio", f"raise OSError({message!r})")
    check = examined("torchaudio")
    assert check.status == "fail"
    assert "libc10_cuda.so" in check.detail
    assert f"rm {folder}/lib/*.so" in check.remedy


def test_a_torch_that_does_not_load_fails_without_harm(package):
    package("torch", "raise OSError('libcudart.so.13: cannot open shared object file')")
    check = examined("torch")
    assert check.status == "fail"
    assert check.detail.startswith("OSError: libcudart")
    assert "pip install" in check.remedy


def test_an_import_that_crashes_the_process_is_named(package):
    package("pyarrow", "import os, sys; print('dying', file=sys.stderr); sys.stderr.flush(); os.abort()")
    check = examined("pyarrow")
    assert check.status == "fail"
    assert "ended the process (signal 6)" in check.detail


def test_an_import_that_exits_is_named(package):
    package("rich", "raise SystemExit(0)")
    assert examined("rich").detail.startswith("SystemExit")


def test_a_package_that_prints_on_import_is_understood(package):
    package("rich", "print('hello', end=''); __version__ = '15.0'")
    assert examined("rich") == doctor.Check(name="rich", status="ok", detail="15.0")


@pytest.mark.parametrize(
    ("name", "version", "wanted"),
    [("safetensors", "0.4.9", "0.5 or newer"), ("typer", "0.15.4", "0.27 or newer")],
)
def test_an_old_version_is_named(package, name, version, wanted):
    package(name, f"__version__ = {version!r}")
    check = examined(name)
    assert check.status == "fail"
    assert check.detail == f"version {version}, needed is {wanted}"
    assert check.remedy.startswith(f"pip install '{name}>=")


@pytest.mark.parametrize("version", ["2.59.1", "2.61.0"])
def test_ray_outside_its_pin_and_without_parts(package, version):
    package("ray", f"__version__ = {version!r}")
    facts = doctor.run_probes(("ray",))["ray"]
    assert doctor.package_check("ray", facts).status == "fail"
    parts = list(doctor.ray_part_checks(facts))
    assert [(part.name, part.status) for part in parts] == [
        ("ray[default]", "fail"),
        ("ray[train]", "fail"),
        ("ray[tune]", "fail"),
    ]
    assert all("ray[default,train,tune]>=2.60.0,<2.61" in part.remedy for part in parts)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(doctor.LEAST_VERSIONS, "no_such_package", "1")
    check = examined("no_such_package")
    assert check.status == "fail"
    assert check.remedy == "pip install 'no_such_package>=1'"


def test_a_libsndfile_without_formats_is_a_warning(package):
    package(
        "soundfile",
        "import io\n__libsndfile_version__ = '1.0.28'\n__version__ = '0.13'\n"
        "def read(file): return None\n"
        "def write(file, data, rate, format, subtype):\n"
        "    if subtype in ('OPUS', 'MPEG_LAYER_III'): raise ValueError('Unknown format')\n",
    )
    facts = doctor.run_probes(("soundfile",))["soundfile"]
    (check,) = doctor.codec_checks(facts)
    assert check.status == "warn"
    assert "ogg/opus" in check.detail
    assert "mp3/mpeg_layer_iii" in check.detail
    assert "flac" not in check.detail


@pytest.mark.parametrize(
    ("torch", "status", "said"),
    [(CPU_TORCH, "fail", "is a CPU build"), (CUDA_TORCH, "fail", "sees none")],
)
def test_a_gpu_that_torch_does_not_see(tmp_path, monkeypatch, torch, status, said):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H200 (UUID: GPU-1)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert doctor.nvidia_gpus() == ["GPU 0: NVIDIA H200"]
    (check,) = doctor.gpu_checks(torch, doctor.nvidia_gpus())
    assert check.status == status
    assert "NVIDIA H200" in check.detail
    assert said in check.detail


def test_a_hidden_gpu_is_a_warning(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (check,) = doctor.gpu_checks(CUDA_TORCH, ["GPU 0"])
    assert (check.status, "CUDA_VISIBLE_DEVICES" in check.remedy) == ("warn", True)


def test_a_gpu_without_bf16_is_a_warning():
    checks = list(doctor.gpu_checks({**CUDA_TORCH, "gpus": ["Tesla T4 (15 GiB)"]}, []))
    assert [(check.name, check.status) for check in checks] == [("gpu", "ok"), ("bf16", "warn")]


def test_a_machine_without_gpu_is_fine():
    (check,) = doctor.gpu_checks(CPU_TORCH, [])
    assert check.status == "ok"


def test_small_shared_memory_is_named():
    check = doctor.shm_check(Path("/proc"))  # a file system of size 0
    assert check.status == "warn"
    assert "--shm-size" in check.remedy
    assert doctor.shm_check(Path("/no/such/place")).status == "warn"


def test_a_cache_that_cannot_be_written_fails(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    check = doctor.cache_check(cache_root())
    assert check.status == "fail"
    assert str(tmp_path / "file") in check.detail
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new"))
    assert doctor.cache_check(cache_root()).status == "ok"


def test_a_full_disk_is_a_warning(tmp_path):
    assert doctor.disk_check("disk", Path("/proc/sys")).status == "warn"  # nothing free there
    check = doctor.disk_check("disk", tmp_path / "not" / "yet")
    assert f"free at {tmp_path}" in check.detail


def test_few_open_files_are_a_warning():
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
        "from distill_ray.cli import doctor; print(doctor.open_files_check().status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "warn\n"


@pytest.mark.parametrize(
    ("version", "than", "older"),
    [
        ("2.11.0+cpu", "2.11", False),
        ("2.9.1", "2.11", True),
        ("3", "2.11", False),
        ("2.60.0", "2.61", True),
        ("0.5.0rc1", "0.5", False),
    ],
)
def test_versions_compare_as_numbers(version, than, older):
    assert doctor._older(version, than) is older


def test_the_command_survives_a_broken_installation_and_names_all_of_it(package):
    """The real command and real probes, with the largest packages broken in three ways."""
    package("torch", "import os; os.abort()")
    package("torchaudio", "raise OSError('libc10_cuda.so: cannot open shared object file')")
    package("ray", "__version__ = '2.60.0'")
    line = [sys.executable, "-W", "error", "-m", "distill_ray", "doctor", "--json"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert document["ok"] is False
    status = {check["name"]: check["status"] for check in document["checks"]}
    broken = ["torch", "torchaudio", "ray[default]", "ray[train]", "ray[tune]"]
    assert [name for name, state in status.items() if state == "fail"] == broken
    assert {"python", "shared memory", "open files", "cache", "disk (here)"} <= set(status)
    assert all(set(check) == {"name", "status", "detail", "remedy"} for check in document["checks"])
    assert all(check["remedy"] for check in document["checks"] if check["status"] != "ok")
    assert done.stderr == ""

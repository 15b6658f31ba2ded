from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distill_ray.runtime import processes
from distill_ray.runtime.processes import end_processes, guarded, processes_of


def _start(folder: Path, code: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code + "\nprint('up', flush=True); import time; time.sleep(60)"],
        env={**os.environ, "MARK": str(folder / "token")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def test_processes_are_found_by_their_environment_and_ended(tmp_path: Path) -> None:
    with _start(tmp_path, "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)") as process:
        assert processes_of(tmp_path) == [process.pid]
        assert processes_of(tmp_path / "other") == []
        begun = time.monotonic()
        assert end_processes(tmp_path, patience_s=0.3) == []
        assert 0.3 <= time.monotonic() - begun < 3
        assert process.wait() == -9
    assert processes_of(tmp_path) == []


def test_a_folder_whose_name_is_part_of_anothers_finds_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "session-abc"
    with _start(folder, "") as process:
        assert processes_of(tmp_path / "session-") == []
        assert processes_of(folder) == [process.pid]
        process.kill()


def test_only_processes_of_this_user_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _start(tmp_path, "") as process:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        assert end_processes(tmp_path, patience_s=0.0) == []
        assert process.poll() is None
        process.kill()


def test_an_id_that_became_another_process_is_left_alone(tmp_path: Path) -> None:
    with _start(tmp_path / "other", "") as process:
        processes._kill(process.pid, tmp_path / "session")  # which had that id a moment ago
        time.sleep(0.1)
        assert process.poll() is None
        processes._kill(process.pid, tmp_path / "other")
        assert process.wait(10) == -9


def test_this_process_is_never_among_them(tmp_path: Path) -> None:
    with _start(tmp_path, "") as child:
        code = (
            "import sys; from pathlib import Path\n"
            "from distill_ray.runtime.processes import processes_of\n"
            "print(processes_of(Path(sys.argv[1])))"
        )
        environment = {**os.environ, "MARK": str(tmp_path)}
        found = subprocess.check_output([sys.executable, "-c", code, tmp_path], env=environment, text=True)
        assert found == f"[{child.pid}]\n"
        child.kill()


def test_the_guardian_acts_when_this_process_ends_and_only_then(tmp_path: Path) -> None:
    folder = tmp_path / "session"
    folder.mkdir()
    with _start(folder, "") as process:
        with guarded(folder):
            time.sleep(0.3)
            assert process.poll() is None
            assert folder.exists()
        assert process.wait() == -9
        assert not folder.exists()


def test_the_guardian_of_a_killed_process(tmp_path: Path) -> None:
    folder = tmp_path / "session"
    folder.mkdir()
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from distill_ray.runtime.processes import guarded\n"
        "with guarded(Path(sys.argv[1])): os.killpg(0, signal.SIGKILL)"
    )
    with _start(folder, "") as process:
        killed = subprocess.run([sys.executable, "-c", code, folder], start_new_session=True)
        assert killed.returncode == -9
        assert process.wait(timeout=20) == -9
        deadline = time.monotonic() + 10
        while folder.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not folder.exists()

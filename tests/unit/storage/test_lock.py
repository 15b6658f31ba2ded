from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from distill_ray.storage import lock
from distill_ray.storage.lock import LockedError, folder_lock


def test_who_does_not_wait_is_refused(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "a" / "b", None):
        (tmp_path / "a" / "b" / "made").touch()
        with pytest.raises(LockedError), folder_lock(tmp_path / "a" / "b", None):
            pass
    with folder_lock(tmp_path / "a" / "b", None):
        pass
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == [".lock", "made"]


def test_a_folder_that_stays_empty_goes(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "a" / "b", None):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with folder_lock(tmp_path / "mine", None):
        pass
    assert list((tmp_path / "mine").iterdir()) == []


def test_who_waited_for_a_folder_that_went_has_a_new_one_for_itself(tmp_path: Path) -> None:
    waits, entered, leave = threading.Event(), threading.Event(), threading.Event()

    def second() -> None:
        with folder_lock(tmp_path / "a", waits.set):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=second)
    with folder_lock(tmp_path / "a", None):
        thread.start()
        assert waits.wait(10)
    assert entered.wait(10)
    with pytest.raises(LockedError), folder_lock(tmp_path / "a", None):
        pass
    leave.set()
    thread.join(10)


FLOCK = fcntl.flock


@pytest.fixture
def no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A folder on a file system without locks, the machine's temporary folder being elsewhere."""

    def make(number: int, *, everywhere: bool = False) -> Path:
        temporary = tmp_path / "tmp"
        temporary.mkdir(exist_ok=True)

        def flock(handle: IO[bytes], operation: int) -> None:
            path = Path(f"/proc/self/fd/{handle.fileno()}").readlink()
            if everywhere or not path.is_relative_to(temporary):
                raise OSError(number, os.strerror(number))
            FLOCK(handle, operation)

        monkeypatch.setattr(lock.fcntl, "flock", flock)
        monkeypatch.setattr(lock.tempfile, "gettempdir", lambda: str(temporary))
        monkeypatch.setattr(lock, "_told", set())
        return tmp_path / "shared" / "run"

    return make


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP])
def test_without_locks_this_machine_is_kept_out_and_the_others_are_spoken_of(
    no_locks: Callable[..., Path], number: int
) -> None:
    folder, said = no_locks(number), []
    for _ in range(2):
        with folder_lock(folder, None, said.append):
            assert (folder / ".lock").exists()
            with pytest.raises(LockedError), folder_lock(folder, None, said.append):
                pass
    (sentence,) = said
    assert sentence.startswith(
        f"the file system of {folder} has no locks: other processes of this machine are"
    )
    assert "use it from one machine at a time" in sentence
    assert not folder.exists()  # nothing was made in it


def test_without_locks_one_waits_for_the_other(no_locks: Callable[..., Path]) -> None:
    folder, waits, entered = no_locks(errno.ENOLCK), threading.Event(), threading.Event()

    def second() -> None:
        with folder_lock(folder, waits.set, lambda message: None):
            assert (folder / ".lock").exists()
            entered.set()

    thread = threading.Thread(target=second)
    with folder_lock(folder, None, lambda message: None):
        thread.start()
        assert waits.wait(10)
        assert not entered.is_set()
    thread.join(10)
    assert entered.is_set()


def test_who_gives_no_listener_is_told_through_the_log(
    no_locks: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    with folder_lock(no_locks(errno.ENOLCK), None):
        pass
    (record,) = caplog.records
    assert (record.levelname, "has no locks" in record.getMessage()) == ("WARNING", True)


def test_no_locks_anywhere_is_an_error_that_says_what_to_do(no_locks: Callable[..., Path]) -> None:
    folder = no_locks(errno.ENOLCK, everywhere=True)
    with (
        pytest.raises(OSError, match=r"neither .*run nor .* has locks; set TMPDIR to a folder of a disk"),
        folder_lock(folder, None, lambda message: None),
    ):
        pass


@pytest.mark.parametrize("planted", ["link", "open"])
def test_a_folder_for_locks_that_somebody_else_has_laid_is_not_used(
    no_locks: Callable[..., Path], tmp_path: Path, planted: str
) -> None:
    folder = no_locks(errno.ENOLCK)
    place = tmp_path / "tmp" / f"distill-ray-locks-{os.geteuid()}"
    if planted == "link":
        (tmp_path / "mine").mkdir(mode=0o700)
        place.symlink_to(tmp_path / "mine")
    else:
        place.mkdir()
        place.chmod(0o777)
    with (
        pytest.raises(OSError, match="is not this user's alone; remove it"),
        folder_lock(folder, None, lambda message: None),
    ):
        pass


def test_a_file_called_as_the_lock_that_holds_something_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("somebody's")
    with folder_lock(tmp_path, None):
        pass
    assert (tmp_path / ".lock").read_text() == "somebody's"


def test_the_command_line_says_it_and_goes_on(tmp_path: Path) -> None:
    script = (
        "import errno, fcntl, os, sys\n"
        "real = fcntl.flock\n"
        "def flock(handle, operation):\n"
        "    if 'corpus' in os.readlink(f'/proc/self/fd/{handle.fileno()}'):\n"
        "        raise OSError(errno.ENOLCK, 'No locks available')\n"
        "    real(handle, operation)\n"
        "fcntl.flock = flock\n"
        "import soundfile, numpy\n"
        "soundfile.write('a.wav', numpy.random.default_rng(0).normal(0, 0.1, 8000), 8000)\n"
        "sys.argv = ['distill-ray', 'prepare', 'a.wav', '--out', 'corpus', '--sample-rate', '8000']\n"
        "from distill_ray.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(lock.__file__).parents[2]), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("has no locks: other processes of this machine are kept out") == 1
    assert (tmp_path / "corpus" / "distill-corpus.json").exists()

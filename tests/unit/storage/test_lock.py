from __future__ import annotations

import threading
from pathlib import Path

import pytest

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

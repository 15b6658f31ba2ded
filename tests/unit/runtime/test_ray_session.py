from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from distill_ray.errors import ClusterError
from distill_ray.runtime import ray_session as session
from distill_ray.runtime.plan import WorkerPlan, resolve_plan


def test_nobody_at_the_address_is_said_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # not listening: connections are refused
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        plan = resolve_plan(WorkerPlan(address=address), environ={})
        begun = time.monotonic()
        with pytest.raises(ClusterError, match=f"no Ray answers at {address}"), session.ray_session(plan):
            raise AssertionError("there is no such session")
        assert time.monotonic() - begun < 5


def test_what_is_no_host_is_said() -> None:
    with pytest.raises(ClusterError, match=r"no Ray answers at a\.\.b:6379 "):
        session._probe("a..b:6379")


def test_a_head_on_loopback_only_is_told_from_one_that_others_reach() -> None:
    for interface, only in (("127.0.0.1", True), ("0.0.0.0", False)):
        with socket.socket() as head:
            head.bind((interface, 0))
            head.listen()
            port = head.getsockname()[1]
            assert session._only_on_loopback(f"127.0.0.1:{port}") is only
    assert session._only_on_loopback(f"192.0.2.1:{port}") is False  # not asked: Ray keeps such an address


def test_the_environment_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "7")
    before = dict(os.environ)
    with session._environment({"NEW_ONE": "1", "HOME": "/nowhere"}, without=("RAY_ADDRESS",)):
        assert os.environ["NEW_ONE"] == "1"
        assert os.environ["HOME"] == "/nowhere"
        assert "RAY_ADDRESS" not in os.environ
    assert dict(os.environ) == before
    with session._environment(session.TRAIN_ENVIRONMENT, keep_existing=True):
        assert os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "7"
        assert os.environ["RAY_CHDIR_TO_TRIAL_DIR"] == "0"
    assert dict(os.environ) == before


def test_only_folders_of_dead_sessions_are_swept(tmp_path: Path) -> None:
    with session._owned_folder(tmp_path) as living:
        dead = tmp_path / "distill-ray-session-aaaa_123"
        dead.mkdir()
        (dead / "owner").touch()
        (dead / "session_1").mkdir()
        foreign = tmp_path / "distill-ray-session-aaaa_124"
        foreign.mkdir()  # no owner: not one of ours, or just being made
        session._sweep(tmp_path)
        assert living.exists()
        assert not dead.exists()
        assert foreign.exists()
        with (living / "owner").open() as owner, pytest.raises(BlockingIOError):
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not living.exists()


def test_what_is_laid_in_the_place_of_a_session_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[Path] = []
    monkeypatch.setattr(session, "end_processes", lambda folder, patience_s: ended.append(folder))
    prefix = "distill-ray-session-"
    for name in (prefix, f"{prefix}aaaa_12", f"{prefix}aaaa_1234", f"{prefix}AAAA_123"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "owner").touch()  # the name is a part of another session's, or none of ours
    (tmp_path / f"{prefix}fifo_123").mkdir()
    os.mkfifo(tmp_path / f"{prefix}fifo_123" / "owner")
    (tmp_path / f"{prefix}link_123").mkdir()
    (tmp_path / f"{prefix}link_123" / "owner").symlink_to(tmp_path / prefix / "owner")
    real = tmp_path / "real"
    real.mkdir()
    (real / "owner").touch()
    (tmp_path / f"{prefix}real_123").symlink_to(real)
    before = sorted(tmp_path.rglob("*"))
    session._sweep(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    (tmp_path / f"{prefix}user_123").mkdir()
    (tmp_path / f"{prefix}user_123" / "owner").touch()
    session._sweep(tmp_path)  # another user's
    assert (tmp_path / f"{prefix}user_123" / "owner").exists()
    assert ended == []


def test_sockets_of_a_session_fit_their_limit() -> None:
    folder = session._temporary_root() / f"{session._FOLDER_PREFIX}abcdefgh" / session.RAY_FILES
    longest = folder / "session_2026-11-22_06-21-50_934299_4194304" / "sockets" / "plasma_store.12"
    assert len(os.fsencode(longest)) < 107


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_peer_that_is_no_ray_head_is_told_at_once(says: bytes) -> None:
    with socket.socket() as peer:
        peer.bind(("127.0.0.1", 0))
        peer.listen()

        def answer() -> None:
            connection, _ = peer.accept()
            with connection:
                connection.sendall(says)
                connection.recv(4096)
                while says == b"" and connection.recv(4096):
                    pass  # a peer that never answers

        threading.Thread(target=answer, daemon=True).start()
        plan = resolve_plan(WorkerPlan(address=f"127.0.0.1:{peer.getsockname()[1]}"), environ={})
        with pytest.raises(ClusterError, match="is not a Ray head"), session.ray_session(plan):
            raise AssertionError("there is no such session")


def test_a_ray_that_was_not_up_in_time_is_started_once_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    says = ["The current node timed out during startup.", "The current node timed out during startup.", "no"]
    tried: list[str] = []

    def start(address: str, **arguments: object) -> None:
        tried.append(address)
        raise ClusterError(says[len(tried) - 1]) from RuntimeError(says[len(tried) - 1])

    monkeypatch.setattr(session, "_init", start)
    with pytest.raises(ClusterError, match="timed out"):
        session._start(tmp_path)
    assert tried == ["local", "local"]
    with pytest.raises(ClusterError, match="no"):
        session._start(tmp_path)
    assert len(tried) == 3

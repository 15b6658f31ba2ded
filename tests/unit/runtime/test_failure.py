from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from distill_ray.errors import ConfigError, CorpusError, DistillError, Problem, TrainingError
from distill_ray.runtime.failure import LoopError, by_rank, to_distill_error


def _raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def _over_the_wire(error: Exception) -> LoopError:
    travelled = pickle.loads(pickle.dumps(LoopError.of(_raised(error))))
    assert isinstance(travelled, LoopError)
    return travelled


class _GroupError(Exception):
    """Looks like Ray Train's WorkerGroupError."""

    def __init__(self, failures: dict[int, Exception]) -> None:
        super().__init__("Training failed due to worker errors:\nmany lines")
        self.worker_failures = failures


class _TracebackError(Exception):
    """Looks like Ray Train's wrapper of a user's exception."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self._base_exc = error


@pytest.mark.parametrize(
    "error",
    [
        CorpusError("no audio in X"),
        ConfigError([Problem("a.b", "wrong", "--b"), Problem("c", "too")]),
        DistillError("plain"),
    ],
)
def test_a_distill_error_survives_the_journey(error: DistillError, tmp_path: Path) -> None:
    group = _GroupError({1: _TracebackError(_over_the_wire(error))})
    back = to_distill_error(group, tmp_path / "error.log")
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)
    assert back.exit_code == error.exit_code
    assert not (tmp_path / "error.log").exists()


def test_an_unpicklable_exception_survives_as_text(tmp_path: Path) -> None:
    class OddError(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}\nmore")

    log = tmp_path / "run" / "error.log"
    back = to_distill_error(_GroupError({0: _over_the_wire(OddError(1, 2))}), log)
    assert type(back) is TrainingError
    assert str(back) == f"the training stopped: OddError: 1 and 2 (the traceback is in {log})"
    assert "raise error" in log.read_text()


def test_a_known_error_counts_more_than_what_the_other_ranks_say(tmp_path: Path) -> None:
    group = _GroupError(
        {
            0: _over_the_wire(RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:1234")),
            1: _over_the_wire(CorpusError("shard 3 is damaged")),
        }
    )
    assert str(to_distill_error(group, tmp_path / "log")) == "shard 3 is damaged"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
            "tried to allocate 4398046511104 bytes. Error code 12 (Cannot allocate memory)"
        ),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.00 TiB.\nmore"),
        MemoryError(),
    ],
)
def test_too_little_memory_is_said_with_what_to_do(error: Exception, tmp_path: Path) -> None:
    log = tmp_path / "error.log"
    assert str(to_distill_error(_over_the_wire(error), log)) == (
        "the training stopped: not enough memory for a training step; use a smaller --batch-size or a "
        f"smaller model (the traceback is in {log})"
    )
    assert type(error).__name__ in log.read_text()


def test_the_memory_error_of_this_torch_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert LoopError.of(caught.value).message.startswith("not enough memory")


def test_a_lost_peer_is_told_from_a_bug() -> None:
    assert _over_the_wire(RuntimeError("[gloo/transport/tcp] Connection closed by peer")).lost_peer
    assert _over_the_wire(RuntimeError("NCCL error: remote process exited")).lost_peer
    assert not _over_the_wire(RuntimeError("mat1 and mat2 shapes cannot be multiplied")).lost_peer
    assert not _over_the_wire(ValueError("gloo")).lost_peer
    assert not _over_the_wire(CorpusError("the socket of the shard")).lost_peer


def test_a_lost_process_has_no_error_of_the_loop(tmp_path: Path) -> None:
    class ActorDiedError(Exception):
        pass

    group = _GroupError({1: ActorDiedError("The actor died unexpectedly before finishing this task.\n\tpid")})
    assert by_rank(group) == (group.worker_failures[1],)
    error = to_distill_error(group, tmp_path / "log")
    assert str(error).startswith("the training stopped: a worker process was killed (the traceback is in")


def test_a_log_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = to_distill_error(ZeroDivisionError("x"), tmp_path / "file" / "error.log")
    assert "cannot be written" in str(error)
    assert "ZeroDivisionError: x" in str(error)

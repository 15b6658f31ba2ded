from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from distill_ray.errors import CheckpointError
from distill_ray.training import checkpoint

CPU = torch.device("cpu")


def test_round_trips(tmp_path: Path) -> None:
    state = {"a": {"b": torch.arange(3)}, "n": 2, "name": "x"}
    checkpoint.write_state(tmp_path / "state.pt", state)
    loaded = checkpoint.read_state(tmp_path / "state.pt", CPU)
    assert torch.equal(loaded["a"]["b"], torch.arange(3))
    assert (loaded["n"], loaded["name"]) == (2, "x")
    checkpoint.write_weights(tmp_path / "w.safetensors", {"w": torch.ones(2, 3).T})
    assert torch.equal(checkpoint.read_weights(tmp_path / "w.safetensors")["w"], torch.ones(3, 2))
    checkpoint.write_json(tmp_path / "j.json", {"x": math.inf, "y": [math.nan, 1.5], "z": ({"k": 1},)})
    assert checkpoint.read_json(tmp_path / "j.json") == {"x": None, "y": [None, 1.5], "z": [{"k": 1}]}


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04broken", b"\x80\x04."])
def test_damage_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.pt"
    path.write_bytes(content)
    for read in (
        lambda: checkpoint.read_state(path, CPU),
        lambda: checkpoint.read_weights(path),
        lambda: checkpoint.read_json(path),
    ):
        with pytest.raises(CheckpointError, match=r"state.pt is damaged"):
            read()


def test_a_missing_file_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{tmp_path} has no progress.json"):
        checkpoint.read_json(tmp_path / "progress.json")


def test_code_in_a_state_file_does_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (str(tmp_path / "ran"),))

    torch.save({"x": Evil()}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError):
        checkpoint.read_state(tmp_path / "state.pt", CPU)
    assert not (tmp_path / "ran").exists()

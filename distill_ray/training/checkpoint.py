"""Files of a checkpoint folder: tensors without pickled code, JSON beside them.

state.pt           optimizer, weights, averages, sums      `torch.load(weights_only=True)`
best.safetensors   the weights to be used
run.json           configuration, history, figures
progress.json      where the loop is; written last
"""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from distill_ray.errors import CheckpointError
from distill_ray.jsonable import jsonable, parse_json
from distill_ray.regular_file import check_regular, read_regular

T = TypeVar("T")


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Nested dictionaries of tensors and plain values. Raises OSError where they cannot be written."""
    with path.open("wb") as file:
        try:
            torch.save(dict(state), file)
        except RuntimeError as error:  # in which torch wraps what the file raised
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def read_state(path: Path, device: torch.device) -> dict[str, Any]:
    """What `write_state` wrote, on `device`. Raises CheckpointError."""

    def load() -> dict[str, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of what it then refuses
            return dict(torch.load(path, map_location=device, weights_only=True))

    return guarded(path, load)


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """A state dict as safetensors."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, path)


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict on the CPU. Raises CheckpointError."""
    loaded: dict[str, Tensor] = guarded(path, lambda: load_file(path))
    return loaded


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON file; infinities and NaN are written as null, which JSON has."""
    path.write_text(json.dumps(jsonable(value), indent=1), "utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError."""
    loaded: dict[str, Any] = guarded(path, lambda: dict(parse_json(read_regular(path))))
    return loaded


def guarded(path: Path, read: Callable[[], T]) -> T:
    """The value of `read`, or a CheckpointError that names `path`."""
    try:
        check_regular(path)
        return read()
    except FileNotFoundError as error:
        raise CheckpointError(
            f"the checkpoint {path.parent} has no {path.name}; resume another run or start a new one"
        ) from error
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        pickle.UnpicklingError,
        SafetensorError,
    ) as error:
        raise CheckpointError(
            f"the checkpoint file {path} is damaged ({type(error).__name__}); start a new run"
        ) from error

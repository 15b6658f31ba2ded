"""The model of a run that has ended, written even where the disk has no room for all that is kept of the run.

The model comes first: where it and the last checkpoint do not fit both, the checkpoint is given up, but for
that of a run that was stopped, which wants to go on.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from distill_ray.errors import BundleError, TrainingError
from distill_ray.events.records import Listener, Notice
from distill_ray.storage.atomic import NO_ROOM
from distill_ray.storage.checkpoints import MODEL_FILES, only_weights, remove_weights

_MARGIN_BYTES = 1 << 16

WriteModel = Callable[[Path, bool], None]
"""Writes the model of the weights in a folder; True: removes these once they are in memory."""


def save_model(
    write: WriteModel, checkpoint: Path, path: Path, *, cancelled: bool, listener: Listener
) -> None:
    """Have the model at `path` written of the weights in `checkpoint`.

    Raises BundleError as `write` does, TrainingError where there is no room for the model either.
    """
    try:
        try:
            write(checkpoint, False)
        except BundleError as error:
            if not _is_full(error) or (cancelled and not _is_weights(checkpoint)):
                raise
            _save_in_place_of(write, checkpoint, path, error, listener)
    except BundleError as error:
        if not _is_full(error):
            raise
        raise TrainingError(
            f"the training has ended and there is no room for its model {path}: make room there"
        ) from error
    remove_weights(checkpoint.parent)


def _save_in_place_of(
    write: WriteModel, checkpoint: Path, path: Path, error: BundleError, listener: Listener
) -> None:
    """Raises `error` where not even the place of the checkpoint is enough, which then stays."""
    sizes = {file.name: file.stat().st_size for file in checkpoint.iterdir()}
    weights = sizes[MODEL_FILES[0]]
    needed = weights + (path.stat().st_size if path.exists() else 0) + _MARGIN_BYTES
    free = shutil.disk_usage(path.parent).free
    kept = sum(sizes[name] for name in MODEL_FILES)
    if free + sum(sizes.values()) < needed:
        raise error
    if not _is_weights(checkpoint):
        free += sum(sizes.values()) - kept
        checkpoint = only_weights(checkpoint)
        message = (
            f"{path.parent} has no room for the model and the last checkpoint: that is given up for the "
            "model, and this run cannot go on from its end"
        )
        listener(Notice(level="warning", message=message))
    write(checkpoint, free < needed)


def _is_weights(checkpoint: Path) -> bool:
    return {file.name for file in checkpoint.iterdir()} <= set(MODEL_FILES)


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return True
        error = error.__cause__
    return False

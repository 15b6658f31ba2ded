"""Where a run keeps its checkpoints, with or without Ray: `RUN/checkpoints/latest`.

Ray Train writes into `RUN/checkpoints/ray` while it runs. `settle` puts the newest complete checkpoint from
there into `latest`, after a run and, should the driver have been killed, before the next one. No Ray is
needed to do so.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from distill_ray.errors import CheckpointError
from distill_ray.training.worker import newest_folder, replace_folder

RAY_RUN = "run"
_RAY_FOLDER = "ray"
_SNAPSHOT = "checkpoint_manager_snapshot.json"  # Ray Train's list of the checkpoints that it has completed


def ray_storage(checkpoints: Path) -> Path:
    """The storage path to give to Ray Train."""
    return checkpoints / _RAY_FOLDER


def settle(checkpoints: Path) -> Path | None:
    """Take over what Ray Train left; returns the newest checkpoint of the run, or None where there is none.

    Raises CheckpointError where the disk does not allow it.
    """
    latest = checkpoints / "latest"
    try:
        source = _newest_of_ray(checkpoints)
        if source is not None:
            replace_folder(latest, lambda new: _link_tree(source, new))
        if ray_storage(checkpoints).exists():
            shutil.rmtree(ray_storage(checkpoints))
    except OSError as error:
        raise CheckpointError(f"the newest checkpoint cannot be kept at {latest}: {error}") from error
    return newest_folder(latest)


def _newest_of_ray(checkpoints: Path) -> Path | None:
    experiment = ray_storage(checkpoints) / RAY_RUN
    try:
        snapshot = json.loads((experiment / _SNAPSHOT).read_text())
        newest = experiment / snapshot["latest_checkpoint_result"]["checkpoint_dir_name"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # killed before the first checkpoint was complete
    return newest if newest.is_dir() else None


def _link_tree(source: Path, new: Path) -> None:
    shutil.copytree(source, new, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)

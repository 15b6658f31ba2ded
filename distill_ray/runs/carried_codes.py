"""The prior's loop with the codes that it trains on, for nodes that do not see the folder of the codes.

Codes are small (some 5 MB for an hour of audio), so they travel with the loop where a run's folder is not
shared: `pipeline/train.py` uses it for runs whose results go to a URI.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_ray.config.cache import cache_root
from distill_ray.events.records import Event
from distill_ray.storage.atomic import replacing
from distill_ray.training.worker import Worker


@dataclass(frozen=True, kw_only=True)
class CarriedCodes:
    """The loop `train(FOLDER, worker=WORKER)`, FOLDER being `folder` or, on a node that does not see it, one
    that holds the same `files`.
    """

    train: Callable[..., Event]
    folder: Path
    files: dict[str, bytes]

    @classmethod
    def of(cls, train: Callable[..., Event], folder: Path, *, travels: bool) -> CarriedCodes:
        """With the files in `folder`, or with none where every node sees it."""
        names = folder.iterdir() if travels else ()
        files = {path.name: path.read_bytes() for path in names if path.is_file()}
        return cls(train=train, folder=folder, files=files)

    def __call__(self, worker: Worker) -> Any:
        folder = self.folder
        if self.files and not folder.is_dir():  # another node than the driver's
            folder = cache_root() / "codes" / folder.name
            for name, content in self.files.items():
                with replacing(folder / name) as file:  # the node's ranks may write together
                    file.write(content)
        return self.train(str(folder), worker=worker)

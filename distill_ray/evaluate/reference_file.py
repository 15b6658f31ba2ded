"""A judge's `Reference` as a file: safetensors with the features of all windows, and levels in its header.

It is a cache and no exchange format: a file that cannot be read is as good as none.

Legend: N windows, D features.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from distill_ray.errors import StorageError
from distill_ray.evaluate.judgement import Levels
from distill_ray.evaluate.reference import Measured, Reference
from distill_ray.evaluate.windows import KINDS, Windows
from distill_ray.storage.atomic import atomic_file

_SETS = ("training", "held_out")


def save_reference(reference: Reference, path: Path) -> None:
    """Write it whole or not at all; its folder is made. Raises StorageError where that cannot be done."""
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    facts = {}
    for name in _SETS:
        measured: Measured | None = getattr(reference, name)
        if measured is None:
            continue
        for kind, windows in measured.windows.items():
            tensors[f"{name}/{kind}/block"] = windows.block_N
            tensors[f"{name}/{kind}/sound"] = windows.sound_N
            for group, values_ND in windows.features.items():
                tensors[f"{name}/{kind}/features/{group}"] = values_ND
        facts[name] = {
            "levels": dataclasses.asdict(measured.levels),
            "sounds": measured.sounds,
            "seconds": measured.seconds,
        }
    content = save(tensors, metadata={"facts": json.dumps(facts)})
    with atomic_file(path, error=StorageError) as file:
        file.write(content)


def load_reference(path: Path) -> Reference | None:
    """What `save_reference` wrote, or None where there is no whole file of it."""
    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads(file.metadata()["facts"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        training, held_out = (_measured(name, facts, tensors) for name in _SETS)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None
    return None if training is None else Reference(training, held_out)


def _measured(name: str, facts: Any, tensors: dict[str, Any]) -> Measured | None:
    if name not in facts:
        return None
    windows = {}
    for kind in KINDS:
        prefix = f"{name}/{kind}/"
        features = {
            key.removeprefix(f"{prefix}features/"): values_ND
            for key, values_ND in tensors.items()
            if key.startswith(f"{prefix}features/")
        }
        windows[kind] = Windows(
            features=features, block_N=tensors[f"{prefix}block"], sound_N=tensors[f"{prefix}sound"]
        )
    fact = facts[name]
    return Measured(
        windows=windows, levels=Levels(**fact["levels"]), sounds=fact["sounds"], seconds=fact["seconds"]
    )

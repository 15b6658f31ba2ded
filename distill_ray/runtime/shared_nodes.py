"""The nodes of the cluster that this process is connected to, and whether they see the same files.

`spread.py` asks before it gives work to them. Nothing here needs torch: each node answers within seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distill_ray.events.records import Event, Notice
from distill_ray.storage.filesystem import absolute
from distill_ray.uri import is_uri

_ANSWER_S = 60.0  # a node may have to start Python first
_LISTED = 1000


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """The CPUs and GPUs of a cluster whose nodes see the same files."""

    cpus: int
    gpus: int


def nodes_that_share(place: str, target: Path | None, listener: Callable[[Event], None]) -> Nodes | None:
    """None where there is but one node, or one that does not see `place` (a path; URIs are seen by all) or
    what is written to `target`: that is said to the listener.
    """
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0.0) >= 1.0]
    if len(nodes) < 2:
        return None
    reason = _blind(nodes, None if is_uri(place) else Path(absolute(place)), target)
    if reason:
        message = f"preparing and encoding on this machine only: {reason}"
        listener(Notice(level="info", message=message))
        return None
    total = ray.cluster_resources()
    return Nodes(cpus=int(total["CPU"]), gpus=int(total.get("GPU", 0.0)))


def _blind(nodes: Sequence[dict[str, Any]], place: Path | None, target: Path | None) -> str:
    """What keeps a node from working on the same files, as a phrase; "" for nothing."""
    probe = target / f".distill-ray-{secrets.token_hex(8)}" if target else None
    expected = _fingerprint(place) if place else ""
    look = ray.remote(num_cpus=0, max_retries=0)(_look)
    try:
        if probe is not None:
            probe.parent.mkdir(parents=True, exist_ok=True)
            probe.touch()
        answers = []
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            answers.append(look.options(scheduling_strategy=there).remote(place, probe))
        for node, answer in zip(nodes, answers, strict=True):
            where = f"the node {node['NodeManagerAddress']}"
            try:
                seen, probed = ray.get(answer, timeout=_ANSWER_S)
            except GetTimeoutError:
                return f"{where} does not answer"
            except RayError:
                return f"{where} has no distill-ray that works"
            if seen != expected:
                return f"{where} does not see the same files at {place}"
            if not probed:
                return (
                    f"{where} does not see {target}; name a folder that all nodes share with XDG_CACHE_HOME"
                )
    except OSError as error:
        return f"{target} cannot be written ({error.strerror})"
    finally:
        if probe is not None:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)
    return ""


def _look(place: Path | None, probe: Path | None) -> tuple[str, bool]:
    """What this node sees at `place`, and whether it sees `probe`."""
    return _fingerprint(place) if place else "", probe is None or probe.exists()


def _fingerprint(place: Path) -> str:
    """Tells a folder (or file) from another of the same path; "" where there is none."""
    if not place.exists():
        return ""
    try:
        paths = sorted(place.iterdir())[:_LISTED] if place.is_dir() else [place]
        sizes = [f"{path.name} {path.stat().st_size if path.is_file() else ''}" for path in paths]
    except OSError:
        return ""
    return hashlib.sha256(os.fsencode("\n".join(sizes))).hexdigest()

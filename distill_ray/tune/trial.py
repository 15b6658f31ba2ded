"""One trial of a search: what it is (`TrialSpec`), what became of it (`TrialRecord`), and both as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distill_ray.errors import CheckpointError
from distill_ray.events.records import DepthScore, GeneratedScore
from distill_ray.jsonable import jsonable, parse_json
from distill_ray.vqvae.health import LevelHealth

ROUNDS = ("search", "shallower", "final")
FINISHED = ("completed", "collapsed", "pruned", "failed")
STATES = ("pending", "running", "retrying", "cancelled", *FINISHED)
_ID = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # a folder name anywhere, and never one that leads elsewhere


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """A trial before it runs.

    `id` names its folder and is unique in the search ("k256-q8", "k256-q8-lr0.001", "final-k256-q4").
    `overrides` are dotted settings beyond the two searched always ("training.lr", "model.commitment_weight",
    "model.size"). `depths` are the depths that it is scored at, ascending; the last one is `rvq_levels`.
    Raises ValueError for what cannot be a trial.
    """

    id: str
    round: str
    codebook_size: int
    rvq_levels: int
    depths: tuple[int, ...]
    overrides: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.round not in ROUNDS:
            raise ValueError(f"{self.round!r} is not a round")
        if not _ID.fullmatch(self.id):
            raise ValueError(f"{self.id!r} cannot name a trial's folder")
        if self.depths[-1:] != (self.rvq_levels,) or list(self.depths) != sorted(set(self.depths)):
            raise ValueError(f"depths {self.depths} do not rise to {self.rvq_levels}")


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A trial after (or while) it ran. `state` as in `TrialUpdate`; `frame_rate` in code frames a second.

    `depth_scores` and `codebook_health` are those of the best epoch, whose weights are kept;
    `newest_health` is that of the newest, which the health rule has judged.
    `collapsed_level` (from 0) is the one that the health rule ended the trial for. `generated` has the
    judge's figures by depth, for objective generation. `gpu_seconds`: wall seconds × GPUs, over all attempts.
    Raises ValueError for an unknown state.
    """

    spec: TrialSpec
    state: str
    reason: str = ""
    epochs: int = 0
    steps: int = 0
    frame_rate: float = 0.0
    val_loss: float | None = None
    depth_scores: tuple[DepthScore, ...] = ()
    codebook_health: tuple[LevelHealth, ...] = ()
    newest_health: tuple[LevelHealth, ...] = ()
    collapsed_level: int | None = None
    prior_bits_per_second: float | None = None
    histogram_bits_per_second: float | None = None
    generated: tuple[GeneratedScore, ...] = ()
    copied: bool = False
    gpu_seconds: float = 0.0
    elapsed_s: float = 0.0
    attempts: int = 1

    def __post_init__(self) -> None:
        if self.state not in STATES:
            raise ValueError(f"{self.state!r} is not a state")

    @property
    def kbps(self) -> float:
        """The nominal rate at full depth in kbit/s; 0 as long as the frame rate is not known."""
        return kbps(self.spec.codebook_size, self.spec.rvq_levels, self.frame_rate)

    @property
    def mel(self) -> float | None:
        """The log-mel term at full depth."""
        scores = self.depth_scores
        return scores[-1].mel if scores and math.isfinite(scores[-1].mel) else None

    @property
    def below_histogram(self) -> float | None:
        """The share of the histogram's bits that the short prior saves."""
        prior, histogram = self.prior_bits_per_second, self.histogram_bits_per_second
        return None if prior is None or histogram is None else 1.0 - prior / histogram

    @property
    def worst_kept(self) -> float | None:
        """The least share of codes that a level keeps at a shift by a quarter of a frame, newest epoch."""
        return min((level.kept for level in self.newest_health if level.kept is not None), default=None)

    @property
    def worst_level(self) -> int | None:
        """The level that uses the smallest part of its codes in the newest epoch."""
        health = self.newest_health
        return min(range(len(health)), key=lambda level: health[level].utilization) if health else None

    @property
    def worst_utilization(self) -> float | None:
        """How much of its codes that level uses."""
        return None if self.worst_level is None else self.newest_health[self.worst_level].utilization


def kbps(codebook_size: int, levels: int, frame_rate: float) -> float:
    """Nominal rate of the codes in kbit/s; `frame_rate` in code frames a second."""
    return levels * math.log2(codebook_size) * frame_rate / 1000.0


_IN_ID = {"model.stride": "s", "training.lr": "lr", "model.commitment_weight": "cw", "model.size": ""}


def make_spec(
    round: str,  # noqa: A002 - the field's name
    codebook_size: int,
    depths: tuple[int, ...],
    overrides: Mapping[str, object],
) -> TrialSpec:
    """A trial with the id that its settings give it: equal settings in the same round, equal ids."""
    words = [f"k{codebook_size}", f"q{depths[-1]}"]
    words += [f"{word}{_short(overrides[key])}" for key, word in _IN_ID.items() if key in overrides]
    assert overrides.keys() <= _IN_ID.keys(), f"an id cannot tell {sorted(overrides)} apart"
    return TrialSpec(
        id="-".join(["final", *words] if round == "final" else words),
        round=round,
        codebook_size=codebook_size,
        rvq_levels=depths[-1],
        depths=depths,
        overrides=dict(overrides),
    )


def _short(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    text = f"{value:g}"
    return text if float(text) == value else repr(value)


def to_json(record: TrialRecord) -> str:
    """The record as one strict JSON document; NaN and infinities are written as text."""
    return json.dumps(jsonable(record, as_text=True), indent=2, allow_nan=False) + "\n"


def from_json(text: str | bytes, *, source: str) -> TrialRecord:
    """The record that `to_json` wrote; keys of newer writers are ignored.

    Raises CheckpointError, naming `source`, where the text is not one.
    """
    try:
        return typing.cast(TrialRecord, restore(parse_json(text), TrialRecord, "record"))
    except (ValueError, OverflowError) as error:  # JSON's and Unicode's are ValueErrors
        raise CheckpointError(
            f"{source} is not a usable trial record ({error}); "
            "remove it, and the trial goes on from its checkpoint"
        ) from error


def restore(value: Any, hint: Any, where: str) -> Any:
    """A record, or a field `where`, of type `hint` from dictionaries and lists; ValueError if it is none."""
    if isinstance(hint, types.UnionType):
        inner = next(option for option in typing.get_args(hint) if option is not type(None))
        return None if value is None else restore(value, inner, where)
    if dataclasses.is_dataclass(hint):
        return _restored_fields(_of_type(value, dict, where), hint, where)
    origin = typing.get_origin(hint)
    if origin is tuple:
        inner = typing.get_args(hint)[0]
        return tuple(restore(item, inner, where) for item in _of_type(value, list, where))
    if origin is Mapping:
        items = _of_type(value, dict, where).items()
        return {key: tuple(item) if isinstance(item, list) else item for key, item in items}
    if hint is float:
        if value in ("nan", "inf", "-inf"):
            return float(value)
        return float(_of_type(value, int if isinstance(value, int) else float, where))
    return _of_type(value, hint, where)


def _restored_fields(values: dict[str, Any], kind: Any, where: str) -> Any:
    hints = typing.get_type_hints(kind)
    given: dict[str, Any] = {}
    for item in dataclasses.fields(kind):
        if item.name in values:
            given[item.name] = restore(values[item.name], hints[item.name], item.name)
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where} has no {item.name}")
    return kind(**given)


def _of_type(value: Any, kind: Any, where: str) -> Any:
    if type(value) is not kind:  # not isinstance: true is no number
        raise ValueError(f"{where} is {value!r}, which is not a {kind.__name__}")
    return value

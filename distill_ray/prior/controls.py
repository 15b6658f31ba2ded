"""What a prior can be asked for: labels, and controls in standard deviations of its corpus.

A control's scale comes from the training audio (`measures.py`): 0 is the median of all its passages, +1 and
-1 are what 84 % of them stay below and above, as one standard deviation of a normal distribution; in between
and up to ±2 likewise. So one step means the same for every control and every corpus, and lies where the prior
has learnt something. Nine steps of half a deviation are told apart.

A sequence of codes carries, frame by frame, the rows of the prior's condition embedding that hold for it
(`CodePrior`): row 0 says nothing, then come the labels, then nine rows for each control.

NumPy, no torch. Legend: A attributes (the label, then each control), F code frames.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from distill_ray.config.prior import CONTROL_STEPS, CONTROLS
from distill_ray.errors import UsageError

MOST = 2.0
"""Deviations that can be asked for, up and down."""
UNITS: Mapping[str, str] = {"loudness": "dBFS", "brightness": "Hz", "density": "onsets/s", "pitch": "Hz"}
_OCTAVES = frozenset({"brightness", "pitch"})
_STEP = 2 * MOST / (CONTROL_STEPS - 1)
_DEVIATIONS = tuple(0.25 * number for number in range(-10, 11))
"""Where a scale has knots; steps are told apart halfway between them."""
_LEAST_SHARE = 0.2
"""Of a corpus that must have a value, for a control to be offered."""


@dataclass(frozen=True, kw_only=True)
class Controls:
    """Labels and scales of a prior.

    scales: for each control the values at the deviations `_DEVIATIONS`, rising; None where the corpus hardly
    has any.
    """

    labels: tuple[str, ...] = ()
    scales: Mapping[str, tuple[float, ...] | None]

    @classmethod
    def fit(cls, labels: Sequence[str], values_AF: npt.NDArray[np.float32]) -> Controls:
        """The scales of training audio whose measures are given, one row for each of the first controls."""
        scales = {name: _scale(row_F) for name, row_F in zip(CONTROLS, values_AF, strict=False)}
        return cls(labels=tuple(labels), scales=scales)

    @property
    def offered(self) -> tuple[str, ...]:
        """The controls that can be asked for."""
        return tuple(name for name, scale in self.scales.items() if scale is not None)

    def deviation(self, name: str, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """How many standard deviations measured values lie above the corpus's middle; NaN for NaN."""
        scale = self.scales[name]
        assert scale is not None, f"{name} is not offered"
        knots, places = np.array(scale), np.array(_DEVIATIONS)
        values = np.asarray(values, dtype=np.float64)
        # Of equal knots the middle: half of a corpus may have the same value.
        first, last = (np.searchsorted(knots, values, side=side) for side in ("left", "right"))
        tied = places[np.minimum(first, len(places) - 1)] / 2 + places[np.maximum(last - 1, 0)] / 2
        found = np.where(last > first, tied, np.interp(values, knots, places))
        return np.where(np.isnan(values), np.nan, found)

    def value(self, name: str, deviation: float) -> float:
        """The measured value at a deviation."""
        scale = self.scales[name]
        assert scale is not None, f"{name} is not offered"
        return float(np.interp(deviation, _DEVIATIONS, scale))

    def rows(self, label: str, values_AF: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
        """int16 [A, F]: rows of the condition embedding for a recording of this label and these measures."""
        rows_AF = np.zeros((1 + len(self.scales), values_AF.shape[1]), dtype=np.int16)
        if label in self.labels:
            rows_AF[0] = 1 + self.labels.index(label)
        for place, (name, row_F) in enumerate(zip(self.scales, values_AF, strict=False)):
            if self.scales[name] is None:
                continue
            deviations_F = self.deviation(name, row_F)
            known_F = ~np.isnan(deviations_F)
            rows_AF[1 + place, known_F] = self._row(place, deviations_F[known_F])
        return rows_AF

    def asked(self, label: str | None, like: Mapping[str, float]) -> npt.NDArray[np.int16]:
        """int16 [A]: the rows for what is asked for. Raises UsageError, naming what there is."""
        if label is not None and label not in self.labels:
            known = ", ".join(self.labels) or "none: its recordings lay in no sub-folders"
            raise UsageError(f"the model has no label {label!r}; its labels are {known}")
        rows_A = np.zeros(1 + len(self.scales), dtype=np.int16)
        if label is not None:
            rows_A[0] = 1 + self.labels.index(label)
        for name, deviation in like.items():
            if name not in self.offered:
                known = ", ".join(self.offered) or "none"
                raise UsageError(f"the model has no control {name!r}; its controls are {known}")
            if not -MOST <= deviation <= MOST:
                raise UsageError(
                    f"{name}={deviation:+g} is out of range: {MOST:g} standard deviations above or below the "
                    "corpus's middle are the most"
                )
            place = list(self.scales).index(name)
            rows_A[1 + place] = self._row(place, np.array(deviation))
        return rows_A

    def to_json(self) -> dict[str, Any]:
        """What a model's manifest says of them; `from_json` reads it back."""
        scales = {name: None if scale is None else list(scale) for name, scale in self.scales.items()}
        return {"labels": list(self.labels), "scales": scales}

    @classmethod
    def from_json(cls, document: Any) -> Controls:
        """Raises ValueError where the document is none that `to_json` made."""
        if not isinstance(document, dict):
            raise ValueError("controls are not an object")
        labels, scales = document.get("labels"), document.get("scales")
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise ValueError("labels are not a list of texts")
        if not isinstance(scales, dict) or set(scales) != set(CONTROLS[: len(scales)]):
            raise ValueError("scales are not those of the controls")
        read = {name: _checked_scale(name, scales[name]) for name in CONTROLS[: len(scales)]}
        return cls(labels=tuple(labels), scales=read)

    def _row(self, place: int, deviations: npt.NDArray[np.float64]) -> npt.NDArray[np.int16]:
        steps = np.clip(np.rint(deviations / _STEP), -(CONTROL_STEPS // 2), CONTROL_STEPS // 2)
        first = 1 + len(self.labels) + place * CONTROL_STEPS
        return (first + CONTROL_STEPS // 2 + steps).astype(np.int16)


def in_unit(name: str, value: float) -> float:
    """A measured value in the unit of `UNITS`."""
    return 2.0**value if name in _OCTAVES else value


def _scale(values_F: npt.NDArray[np.float32]) -> tuple[float, ...] | None:
    known_F = values_F[~np.isnan(values_F)].astype(np.float64)
    if len(known_F) < _LEAST_SHARE * len(values_F) or not len(known_F) or np.ptp(known_F) < 1e-6:
        return None
    shares = [NormalDist().cdf(deviation) for deviation in _DEVIATIONS]
    return tuple(np.quantile(known_F, shares).tolist())


def _checked_scale(name: str, scale: Any) -> tuple[float, ...] | None:
    if scale is None:
        return None
    fits = isinstance(scale, list) and len(scale) == len(_DEVIATIONS)
    if not fits or not all(type(value) in (int, float) and math.isfinite(value) for value in scale):
        raise ValueError(f"the scale of {name} is not {len(_DEVIATIONS)} numbers")
    if any(after < before for before, after in itertools.pairwise(scale)):
        raise ValueError(f"the scale of {name} does not rise")
    return tuple(map(float, scale))

"""Which codes are hidden from a prior that fills in: in training (`windows.py`) and for variations of a
recording (`generate/vary.py`).

Codes are filled level by level, coarse levels first, so what is hidden is told by the number of levels of
each frame that are kept. Order of levels and cosine schedule are VampNet's (Garcia et al. 2023) and MaskGIT's
(Chang et al. 2022). All is drawn on the CPU from a NumPy generator, the same on every device.

Legend: Q RVQ levels, T code frames.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Depths = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_GAP, _VARIED = 0.5, 0.35
"""Shares of the training masks that are a gap and a variation; the rest hides everything."""
_LONGEST_GAP = 0.9
_SPAN_DEPTH = 0.5
"""How much deeper, as a share of the levels, the frames that are varied most are varied than the least."""


def training_mask(rng: np.random.Generator, levels: int, frames: int, length: int) -> Mask:
    """hidden_QT: one state of filling in a window whose first `length` frames are real, at least 1.

    Below one level all codes are known, of that level those of some frames, above it those of frames that
    are kept; the codes to be predicted are the hidden ones of the coarsest level that has some.
    """
    kept_T = _training_depths(rng, levels, length)
    level = int(rng.integers(kept_T.min(), levels))
    hidden_QT = np.zeros((levels, frames), dtype=np.bool_)
    hidden_QT[level + 1 :, :length] = kept_T <= np.arange(level + 1, levels)[:, None]
    open_N = np.flatnonzero(kept_T <= level)
    count = max(1, int(np.ceil(masked_share(rng.random()) * len(open_N))))
    hidden_QT[level, rng.choice(open_N, size=count, replace=False)] = True
    return hidden_QT


def masked_share(progress: float) -> float:
    """The share of a level's codes that are still hidden once `progress` of its steps (0 to 1) are done."""
    return float(np.cos(np.pi / 2 * progress))


def kept_depths(
    rng: np.random.Generator, levels: int, frames: int, *, strength: float, span: float
) -> Depths:
    """kept_T: how many levels of each frame stay where the share `strength` of all codes is drawn again.

    Exactly round(strength · Q · T) codes go: fine levels first, and in stretches of about `span` frames
    sooner than in others. For the same generator those of a weaker variation are among those of a stronger.
    """
    nodes = rng.random(int(frames / span) + 3)
    place_T = rng.random() + np.arange(frames) / span
    lead_T = _SPAN_DEPTH * levels * np.interp(place_T, np.arange(len(nodes)), nodes)
    order_QT = np.arange(levels)[:, None] + lead_T
    gone = round(strength * levels * frames)
    gone_X = np.zeros(levels * frames, dtype=np.bool_)
    gone_X[np.argsort(-order_QT, axis=None, kind="stable")[:gone]] = True
    kept_T: Depths = levels - gone_X.reshape(levels, frames).sum(axis=0)
    return kept_T


def _training_depths(rng: np.random.Generator, levels: int, frames: int) -> Depths:
    kind = rng.random()
    if kind < _GAP:
        kept_T = np.full(frames, levels)
        gap = 1 + int(rng.random() * _LONGEST_GAP * (frames - 1))
        begin = int(rng.integers(frames - gap + 1))
        kept_T[begin : begin + gap] = 0
        return kept_T
    if kind < _GAP + _VARIED:
        least = 1 / (levels * frames)
        span = float(np.exp(rng.uniform(0.0, np.log(max(2, frames)))))
        strength = least + (1 - least) * rng.random()
        return kept_depths(rng, levels, frames, strength=strength, span=span)
    return np.zeros(frames, dtype=np.int64)

"""How like the training recordings a prior's codes go: in milliseconds, without making sound of them.

Held-out cost says how well a prior foretells one code after another. What it makes by itself, code upon code
of its own, can be far off all the same, and the judge of sounds, who would hear that, is slow. Distances of
codes rank temperatures and epochs as the judge ranks their sounds
(docs/measurements/2026-11-30-likeness.md).

Legend: Q RVQ levels, K codes, L latent channels, T code frames, D components, W frames of a window, N
windows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

WINDOW_SECONDS = (1.5, 6.0)
"""The shorter ones, as long as the judge's, say how sounds go; the longer ones tell what stays as it is."""
_FEWEST_FRAMES = 8
_COMPONENTS = 24
_STEPS_A_WINDOW = 4
_LEAST = 1e-3
"""Of what logarithms are taken of, in units of the largest component's spread."""


class CodeLikeness:
    """Knows the training codes, and says how far others are from them.

    Codes are looked at as the latents that they stand for, in their principal components. Of windows of each
    of `WINDOW_SECONDS` it takes the mean, the spread and the pace (mean change from frame to frame) of each
    component.

    Args:
        train: codes [Q, T] of the training recordings; those shorter than a window are joined.
        vectors_QKL: what each code adds to the latents.
        frame_rate: code frames a second.
    """

    def __init__(self, train: Sequence[Tensor], vectors_QKL: Tensor, frame_rate: float) -> None:
        assert train, "there is nothing to be like"
        self._vectors_QKL = vectors_QKL.detach().float().cpu()
        self._windows = [max(_FEWEST_FRAMES, round(seconds * frame_rate)) for seconds in WINDOW_SECONDS]
        latents = [self._latents(codes_QT) for codes_QT in train]
        self._centre_L = torch.cat(latents).mean(0)
        centred_NL = torch.cat(latents) - self._centre_L
        _, vectors_LL = torch.linalg.eigh(centred_NL.T @ centred_NL / len(centred_NL))
        self._axes_LD = vectors_LL.flip(1)[:, :_COMPONENTS]
        self._unit = float((centred_NL @ self._axes_LD[:, :1]).std().clamp(min=1e-12))
        places = [self._placed(latent_TL) for latent_TL in latents]
        known = [_features(places, window) for window in self._windows]
        self._known = [(features_NX.mean(0), features_NX.std(0, correction=0)) for features_NX in known]

    def distance(self, sequences: Iterable[Tensor]) -> float:
        """Mean over windows and features of the squared 2-Wasserstein distance of their normal distributions,
        in units of the training codes' spread; 0 for codes as those.

        sequences: codes [Q, T] of at least one frame.
        """
        places = [self._placed(self._latents(codes_QT)) for codes_QT in sequences]
        distances = []
        for window, (mean_X, spread_X) in zip(self._windows, self._known, strict=True):
            features_NX = _features(places, window)
            apart_X = (features_NX.mean(0) - mean_X).square()
            apart_X = apart_X + (features_NX.std(0, correction=0) - spread_X).square()
            distances.append(float((apart_X / spread_X.clamp(min=_LEAST).square()).mean()))
        return sum(distances) / len(distances)

    def _latents(self, codes_QT: Tensor) -> Tensor:
        codes_QT = codes_QT.long().cpu()
        parts = [table_KL[codes_T] for table_KL, codes_T in zip(self._vectors_QKL, codes_QT, strict=True)]
        return torch.stack(parts).sum(0)

    def _placed(self, latent_TL: Tensor) -> Tensor:
        """Along the components, in units of the largest one's spread."""
        places_TD: Tensor = (latent_TL - self._centre_L) @ self._axes_LD / self._unit
        return places_TD


def _features(places: Sequence[Tensor], window: int) -> Tensor:
    """features_NX of all windows of the sequences places_TD."""
    long = [places_TD for places_TD in places if len(places_TD) >= window]
    short = [places_TD for places_TD in places if len(places_TD) < window]
    if short:
        joined_TD = torch.cat(short)
        if len(joined_TD) >= window or not long:
            long.append(joined_TD)
    return torch.cat([_of_windows(places_TD, min(window, len(places_TD))) for places_TD in long])


def _of_windows(places_TD: Tensor, window: int) -> Tensor:
    windows_NDW = places_TD.unfold(0, window, max(1, window // _STEPS_A_WINDOW))
    spread_ND = windows_NDW.std(2, correction=0)
    pace_ND = windows_NDW.diff(dim=2).abs().mean(2) if window > 1 else torch.zeros_like(spread_ND)
    return torch.cat([windows_NDW.mean(2), (spread_ND + _LEAST).log(), (pace_ND + _LEAST).log()], dim=1)

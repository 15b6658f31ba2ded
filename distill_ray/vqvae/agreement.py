"""How many codes stay the same when a recording is shifted a little, turned upside down or made louder.

Codes that change spell one sound in thousands of ways, of which a small corpus shows one each. `health.py`
has the record; `training` and `evaluate` measure it on held-out audio.

Shapes: B windows, C channels, T samples, Q RVQ levels, F code frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from distill_ray.vqvae.health import CodeAgreement

AGREEMENT_SECONDS = 2.0
"""Length of a window to measure on."""
AGREEMENT_WINDOWS = 24
AUDIBLE_PEAK = 1e-3
"""Frames without a sample of this magnitude (-60 dBFS) do not count: silence agrees with itself."""
GAIN_DB = 3.0


class _Framing(Protocol):
    @property
    def frame_hop(self) -> int: ...
    @property
    def num_quantizers(self) -> int: ...


class Encoding(Protocol):
    """What is asked of a codec."""

    @property
    def config(self) -> _Framing: ...

    def encode(self, audio_BCT: Tensor, /) -> Tensor:
        """codes_BQF."""
        ...


@torch.no_grad()
def kept_at_quarter(codec: Encoding, windows_BCT: Iterable[Tensor]) -> tuple[float, ...]:
    """`CodeAgreement.shift_quarter` alone, in two encodings instead of seven; empty where nothing is audible.

    For the arguments see `code_agreement`.
    """
    kept, counted = _kept(codec, windows_BCT, {"quarter": (_shift(codec.config.frame_hop // 4),)})
    return tuple((kept["quarter"] / counted).tolist()) if counted else ()


@torch.no_grad()
def code_agreement(codec: Encoding, windows_BCT: Iterable[Tensor]) -> CodeAgreement | None:
    """Shares of codes that stay, level by level, over the audible frames of all windows.

    Args:
        codec: in eval mode.
        windows_BCT: floats in [-1, 1], each batch of at least two code frames; half a frame of its end is
            what shifted windows go on with.

    Returns None where no frame is audible.
    """
    hop, gain = codec.config.frame_hop, 10.0 ** (GAIN_DB / 20.0)
    kept, counted = _kept(
        codec,
        windows_BCT,
        {
            "shift_eighth": (_shift(hop // 8),),
            "shift_quarter": (_shift(hop // 4),),
            "shift_half": (_shift(hop // 2),),
            "polarity": (lambda audio_BCT, samples: -audio_BCT[..., :samples],),
            "gain_3db": (
                lambda audio_BCT, samples: gain * audio_BCT[..., :samples],
                lambda audio_BCT, samples: audio_BCT[..., :samples] / gain,
            ),
        },
    )
    if not counted:
        return None
    return CodeAgreement(**{name: tuple((kept_Q / counted).tolist()) for name, kept_Q in kept.items()})


_Changes = Mapping[str, tuple[Callable[[Tensor, int], Tensor], ...]]


def _kept(codec: Encoding, windows_BCT: Iterable[Tensor], changes: _Changes) -> tuple[dict[str, Tensor], int]:
    """How many codes of each level [Q] stay under each of `changes`, and of how many audible frames."""
    hop, levels = codec.config.frame_hop, codec.config.num_quantizers
    kept = {name: torch.zeros(levels, dtype=torch.float64) for name in changes}
    counted = 0
    for audio_BCT in windows_BCT:
        samples = (audio_BCT.shape[-1] - hop // 2) // hop * hop
        peaks_BT = audio_BCT[..., :samples].abs().amax(1)
        audible_BF = peaks_BT.view(len(peaks_BT), -1, hop).amax(2) >= AUDIBLE_PEAK
        counted += int(audible_BF.sum())
        codes_BQF = codec.encode(audio_BCT[..., :samples])
        for name, ways in changes.items():
            for change in ways:
                same_BQF = codec.encode(change(audio_BCT, samples)) == codes_BQF
                same_Q = (same_BQF & audible_BF[:, None]).sum((0, 2))
                kept[name] += same_Q.cpu().double() / len(ways)
    return kept, counted


def _shift(by: int) -> Callable[[Tensor, int], Tensor]:
    return lambda audio_BCT, samples: audio_BCT[..., by : by + samples]

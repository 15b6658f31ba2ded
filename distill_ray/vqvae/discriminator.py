"""Discriminators of the adversarial stage: do spectra, and periods, look like those of a recording?

Two kinds, narrower than their models, since the codec they judge trains in minutes: a complex spectrogram
discriminator at several resolutions (Défossez et al. 2022, EnCodec, section 3.4; with bands Kumar et al.
2023, DAC, section 3.3) and a multi-period discriminator on the waveform (Kong et al. 2020, HiFi-GAN,
section 2.3). All channels of a recording enter together, so that the stereo image is judged too.
`adversarial.py` holds the losses.

Shapes: B batch, C channels, T samples, S STFT frames, K frequency bins, P samples of a period.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.vqvae.spectral import Stft, compress

WINDOWS = (2048, 1024, 512)
"""STFT windows in samples."""
BANDS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Edges of the bands of banded discriminators over the Nyquist frequency."""
PERIODS = (2, 3, 5, 7, 11)
_SLOPE = 0.1


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What one discriminator says of a batch: `logits` [B, 1, …], greater for what it takes for a recording,
    and its activations [B, …], the first layer's first.
    """

    logits: Tensor
    features: tuple[Tensor, ...]

    def part(self, items: slice) -> Judgement:
        """What it says of some items of the batch."""
        return Judgement(logits=self.logits[items], features=tuple(value[items] for value in self.features))


class Discriminators(nn.Module):
    """All discriminators of a codec.

    Args:
        config: for channels and compression exponent.
        width: channels of the first layers.
        periods: how many of `PERIODS` have a discriminator, the first ones.
        banded: whether each band of frequencies has filters of its own, as DAC's have.
    """

    def __init__(self, config: VQVAEConfig, width: int, *, banded: bool, periods: int = len(PERIODS)) -> None:
        super().__init__()
        spectral = (SpectralDiscriminator(config, window, width, banded=banded) for window in WINDOWS)
        periodic = (PeriodDiscriminator(config.channels, period, width) for period in PERIODS[:periods])
        self.judges = nn.ModuleList([*spectral, *periodic])

    def forward(self, audio_BCT: Tensor) -> tuple[Judgement, ...]:
        """One judgement of each discriminator."""
        return tuple(judge(audio_BCT) for judge in self.judges)


class SpectralDiscriminator(nn.Module):
    """Looks at the power-compressed complex STFT.

    DAC's takes uncompressed spectra, in which what is 40 dB below the loudest is out of sight. `banded` it is
    DAC's otherwise: hops of a quarter window, each band through convolutions of its own, the first of them at
    full resolution. Hops of half a window and strides from the first layer on leave a quarter of the values
    (ARCHITECTURE.md has what a step costs).
    """

    def __init__(self, config: VQVAEConfig, window: int, width: int, *, banded: bool) -> None:
        super().__init__()
        self.compression = config.compression
        self.stft = Stft(window, window // (4 if banded else 2))
        edges = [round(edge * self.stft.bins) for edge in (BANDS if banded else (0.0, 1.0))]
        self.sizes = [high - low for low, high in pairwise(edges)]
        self.bands = nn.ModuleList(_band(2 * config.channels, width, full=banded) for _ in self.sizes)
        self.judge = weight_norm(nn.Conv2d(width, 1, (3, 3), padding=(1, 1)))

    def forward(self, audio_BCT: Tensor) -> Judgement:
        spectra_BCSK = compress(self.stft(_to_multiple(audio_BCT, self.stft.hop)), self.compression)
        # Real and imaginary parts of all channels are the input channels.
        parts = torch.view_as_real(spectra_BCSK).movedim(-1, 1).flatten(1, 2)
        features, ends = [], []
        for x, band in zip(torch.split(parts, self.sizes, dim=-1), self.bands, strict=True):
            assert isinstance(band, nn.ModuleList)
            for layer in band:
                x = functional.leaky_relu(layer(x), _SLOPE)
                features.append(x)
            ends.append(x)
        return Judgement(logits=self.judge(torch.cat(ends, dim=-1)), features=tuple(features))


def _band(inputs: int, width: int, *, full: bool) -> nn.ModuleList:
    """Layers that halve the frequency axis three times, `full` after one at full resolution."""
    halving = (width, (3, 9), 2)
    first = [(inputs, (3, 9), 1), halving] if full else [(inputs, (3, 9), 2)]
    shapes = [*first, halving, halving, (width, (3, 3), 1)]
    return nn.ModuleList(
        weight_norm(
            nn.Conv2d(count, width, kernel, stride=(1, stride), padding=(kernel[0] // 2, kernel[1] // 2))
        )
        for count, kernel, stride in shapes
    )


class PeriodDiscriminator(nn.Module):
    """Looks at every `period`-th sample of the waveform, so that each period has its own aliasing."""

    def __init__(self, channels: int, period: int, width: int) -> None:
        super().__init__()
        self.period = period
        widths = [channels, width, 4 * width, 16 * width, 32 * width, 32 * width]
        strides = (3, 3, 3, 3, 1)
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(inputs, outputs, (5, 1), stride=(stride, 1), padding=(2, 0)))
            for (inputs, outputs), stride in zip(pairwise(widths), strides, strict=True)
        )
        self.judge = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, audio_BCT: Tensor) -> Judgement:
        padded = _to_multiple(audio_BCT, self.period)
        x = padded.reshape(*padded.shape[:2], -1, self.period)
        features = []
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), _SLOPE)
            features.append(x)
        return Judgement(logits=self.judge(x), features=tuple(features))


def _to_multiple(audio_BCT: Tensor, of: int) -> Tensor:
    return functional.pad(audio_BCT, (0, -audio_BCT.shape[-1] % of))

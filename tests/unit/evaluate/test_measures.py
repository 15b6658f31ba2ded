"""The measures against independent NumPy versions, closed forms and known signals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from distill_ray.evaluate import SiSdr, SpectralMeasure, mel_distance, si_sdr, stft_distance
from distill_ray.evaluate.measures import MEL_SCALES, STFT_WINDOWS, mel_filters

Array = np.ndarray[Any, Any]
RATE = 44_100


def noise(seed: int, channels: int = 1, samples: int = 6_000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(channels, samples, generator=generator)


def magnitudes(signal_T: Array, window: int) -> Array:
    """Centred, reflected, periodic-Hann STFT magnitudes [S, F] in float64."""
    padded = np.pad(signal_T.astype(np.float64), window // 2, mode="reflect")
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    starts = range(0, len(padded) - window + 1, window // 4)
    return np.abs(np.fft.rfft(np.stack([padded[start : start + window] * hann for start in starts])))


def slaney_filters(window: int, bands: int, rate: int) -> Array:
    """[F, M] by the definition of Slaney's Auditory Toolbox: linear below 1 kHz, logarithmic above."""

    def to_hz(mel: Array) -> Array:
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * math.log(6.4) / 27))

    top = 15 + 27 * math.log(rate / 2 / 1000) / math.log(6.4)
    edges = to_hz(np.linspace(0, top, bands + 2))
    hertz = np.arange(window // 2 + 1) * rate / window
    filters = np.zeros((len(hertz), bands))
    for band, (low, mid, high) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        rise, fall = (hertz - low) / (mid - low), (high - hertz) / (high - mid)
        filters[:, band] = np.maximum(0, np.minimum(rise, fall)) * 2 / (high - low)
    return filters


def log(values: Array) -> Array:
    return np.log10(np.maximum(values, 1e-5))


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_filters_are_slaney_s(rate: int) -> None:
    for window, bands in MEL_SCALES:
        expected = slaney_filters(window, bands, rate)
        np.testing.assert_allclose(mel_filters(window, bands, rate), expected, atol=5e-6)


def test_filters_without_a_bin_do_not_warn() -> None:
    assert (mel_filters(32, 5, 192_000).sum(0) == 0).any()


def test_mel_and_stft_distance_match_numpy() -> None:
    one, other = noise(0, 2), noise(1, 2) * 0.3
    mel = stft = 0.0
    for window, bands in MEL_SCALES:
        filters = slaney_filters(window, bands, RATE)
        pairs = [
            [log(magnitudes(signal.numpy()[c], window) @ filters) for c in (0, 1)] for signal in (one, other)
        ]
        mel += float(np.mean(np.abs(np.array(pairs[0]) - np.array(pairs[1]))))
    for window in STFT_WINDOWS:
        first, second = (
            np.array([magnitudes(signal.numpy()[c], window) for c in (0, 1)]) for signal in (one, other)
        )
        stft += float(np.mean(np.abs(2 * log(first) - 2 * log(second))) + np.mean(np.abs(first - second)))
    measure = SpectralMeasure(RATE)
    assert mel_distance(measure.analyse(one), measure.analyse(other)) == pytest.approx(mel, rel=1e-4)
    assert stft_distance(measure.analyse(one), measure.analyse(other)) == pytest.approx(stft, rel=1e-4)


def test_a_gain_of_ten_is_one_on_every_mel_scale() -> None:
    """log10 turns a factor 10 into a difference of 1 wherever the clamp does not hold."""
    measure = SpectralMeasure(8_000)
    loud = noise(0) * 100
    distance = mel_distance(measure.analyse(loud), measure.analyse(loud / 10))
    assert distance == pytest.approx(len(MEL_SCALES), rel=1e-4)


def test_equal_signals_have_no_distance_and_more_noise_has_more() -> None:
    measure, signal = SpectralMeasure(RATE), noise(0)
    original = measure.analyse(signal)
    assert mel_distance(original, measure.analyse(signal)) == 0.0
    assert stft_distance(original, measure.analyse(signal)) == 0.0
    near, far = (measure.analyse(signal + level * noise(1)) for level in (0.1, 1.0))
    assert 0 < mel_distance(near, original) < mel_distance(far, original)
    assert 0 < stft_distance(near, original) < stft_distance(far, original)


@pytest.mark.parametrize("samples", [1, 16, 17, 100, 1024, 1025])
def test_signals_shorter_than_a_window_count_as_followed_by_silence(samples: int) -> None:
    measure = SpectralMeasure(RATE)
    one, other = noise(0, samples=samples), noise(1, samples=samples)
    distance = mel_distance(measure.analyse(one), measure.analyse(other))
    assert math.isfinite(distance)
    assert distance > 0


@pytest.mark.parametrize("decibels", [-20.0, 0.0, 12.5, 40.0])
def test_si_sdr_of_noise_at_a_known_level(decibels: float) -> None:
    """For noise orthogonal to the signal, SI-SDR is the signal-to-noise ratio."""
    signal, disturbance = noise(0).double(), noise(1).double()
    signal = signal - signal.mean()
    disturbance = disturbance - disturbance.mean()
    disturbance -= (disturbance * signal).sum() / signal.square().sum() * signal
    disturbance *= (signal.square().sum() / disturbance.square().sum()).sqrt() * 10 ** (-decibels / 20)
    estimate = signal + disturbance
    assert si_sdr(estimate, signal) == pytest.approx(decibels, abs=1e-6)
    assert si_sdr(-3.7 * estimate + 0.2, signal - 0.1) == pytest.approx(decibels, abs=1e-6)


def test_si_sdr_follows_the_definition_of_le_roux() -> None:
    estimate, original = noise(0, 2) + 0.5 * noise(1, 2), noise(1, 2)
    one = estimate.double().flatten() - estimate.double().mean()
    other = original.double().flatten() - original.double().mean()
    target = (one @ other) / (other @ other) * other
    expected = 10 * math.log10(float(target.square().sum() / (one - target).square().sum()))
    assert si_sdr(estimate, original) == pytest.approx(expected, abs=1e-6)


def test_si_sdr_in_pieces_is_that_of_the_whole() -> None:
    estimate, original = noise(0) + noise(1), noise(1)
    pieces = SiSdr()
    for start in range(0, 6_000, 1_700):
        pieces.add(estimate[:, start : start + 1_700], original[:, start : start + 1_700])
    assert pieces.decibels == pytest.approx(si_sdr(estimate, original), abs=1e-9)


def test_si_sdr_stays_finite() -> None:
    signal, silence = noise(0), torch.zeros(1, 6_000)
    assert si_sdr(signal, signal) == 100.0
    assert si_sdr(silence, signal) == -100.0
    assert si_sdr(signal, silence) == -100.0
    assert si_sdr(silence, silence) == -100.0

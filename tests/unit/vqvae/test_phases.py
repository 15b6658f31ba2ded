"""Phases found for magnitudes: near the magnitudes, the same in pieces, silence for silence."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distill_ray.vqvae.phases import PhaseInverter
from distill_ray.vqvae.spectral import Stft

SAMPLE_RATE = 16_000
STFT = Stft(512, 128)


def tones(seconds: float = 0.5) -> Tensor:
    """Two held tones, [1, 1, T]."""
    time_T = torch.arange(round(seconds * SAMPLE_RATE) // 512 * 512) / SAMPLE_RATE
    audio_T = sum(torch.sin(2 * math.pi * hertz * time_T) for hertz in (440.0, 1234.5))
    return 0.3 * audio_T[None, None]


def inverter() -> PhaseInverter:
    return PhaseInverter(STFT, block=4, look_ahead=4)


@pytest.mark.parametrize("kind", ["tones", "noise", "clicks"])
def test_audio_has_the_magnitudes_that_were_given(kind: str) -> None:
    audio_BCT = tones()
    if kind == "noise":
        audio_BCT = 0.1 * torch.randn(audio_BCT.shape, generator=torch.Generator().manual_seed(0))
    if kind == "clicks":
        audio_BCT = torch.zeros_like(audio_BCT)
        audio_BCT[..., 1000::2000] = 1.0
    given_BCSK = STFT(audio_BCT).abs()
    found_BCSK = STFT(inverter().push(given_BCSK, last=True)).abs()
    apart = float((found_BCSK - given_BCSK).norm() / given_BCSK.norm())
    assert apart < {"tones": 0.06, "noise": 0.35, "clicks": 0.2}[kind]


@pytest.mark.parametrize("hertz", [437.3, 2222.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_held_tone_keeps_its_level_and_its_frequency(hertz: float, seed: int) -> None:
    radians_T = (
        2 * math.pi * hertz / SAMPLE_RATE * torch.arange(SAMPLE_RATE // 512 * 512, dtype=torch.float64)
    )
    given_BCSK = STFT(0.5 * radians_T.sin()[None, None]).abs()
    inverter = PhaseInverter(STFT, block=16, look_ahead=4, seed=seed)  # as a codec has it
    found_T = inverter.push(given_BCSK, last=True)[0, 0]
    turned_T = found_T * torch.polar(torch.ones_like(radians_T), -radians_T)
    pieces_NW = turned_T[1024:-1024].unfold(0, 400, 200)
    window_W = torch.hann_window(400, dtype=torch.float64)
    partial_N = 2 * (pieces_NW * window_W).sum(-1) / window_W.sum()
    levels_N = partial_N.abs() / 0.5
    apart_N = (partial_N[1:] * partial_N[:-1].conj()).angle() / (2 * math.pi) * SAMPLE_RATE / 200
    # From random directions, 16 iterations: levels from 0.46 to 0.94 at the least, 8 to 24 Hz apart.
    assert levels_N.min() > 0.98
    assert levels_N.max() < 1.02
    assert apart_N.abs().max() < 1.0


def test_sound_begins_after_silence() -> None:
    audio_BCT = tones()
    audio_BCT[..., : audio_BCT.shape[-1] // 2] = 0.0
    found_BCT = inverter().push(STFT(audio_BCT).abs(), last=True)
    levels = [float(part.square().mean().sqrt()) for part in found_BCT.chunk(2, dim=-1)]
    assert levels[0] < 0.02
    assert levels[1] == pytest.approx(0.3, rel=0.1)


def test_what_is_in_the_middle_stays_there() -> None:
    given_BCSK = STFT(tones().expand(1, 2, -1)).abs()
    noise_BCSK = torch.randn(given_BCSK.shape, generator=torch.Generator().manual_seed(3))
    left_T, right_T = inverter().push(given_BCSK * (0.2 * noise_BCSK).exp(), last=True)[0]
    assert torch.corrcoef(torch.stack([left_T, right_T]))[0, 1] > 0.9  # random directions: 0.1 to 0.4


@pytest.mark.parametrize("frames", [1, 3, 4, 7, 8, 9, 41])
def test_there_is_a_hop_of_audio_for_each_frame(frames: int) -> None:
    magnitudes_BCSK = torch.rand(2, 1, frames, STFT.bins, generator=torch.Generator().manual_seed(1))
    assert inverter().push(magnitudes_BCSK, last=True).shape == (2, 1, frames * STFT.hop)


@pytest.mark.parametrize("piece", [1, 3, 4, 10])
def test_magnitudes_in_pieces_give_the_same_audio(piece: int) -> None:
    magnitudes_BCSK = STFT(tones()).abs()
    whole_BCT = inverter().push(magnitudes_BCSK, last=True)
    by_piece = inverter()
    parts = magnitudes_BCSK.split(piece, dim=2)
    made = [by_piece.push(part, last=number == len(parts) - 1) for number, part in enumerate(parts)]
    assert torch.equal(torch.cat(made, dim=-1), whole_BCT)


def test_audio_comes_as_soon_as_its_look_ahead_is_there() -> None:
    magnitudes_BCSK = STFT(tones()).abs()
    by_block = inverter()
    assert by_block.push(magnitudes_BCSK[:, :, :7]).shape[-1] == 0
    assert by_block.push(magnitudes_BCSK[:, :, 7:8]).shape[-1] == 4 * STFT.hop - STFT.padding
    assert by_block.push(magnitudes_BCSK[:, :, 8:12]).shape[-1] == 4 * STFT.hop


def test_silence_stays_silence() -> None:
    assert not inverter().push(torch.zeros(1, 2, 12, STFT.bins), last=True).any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_replayed_graphs_give_the_same_audio(monkeypatch: pytest.MonkeyPatch) -> None:
    magnitudes_BCSK = STFT(tones()).abs().expand(3, -1, -1, -1).cuda()
    stft = Stft(512, 128).cuda()
    replays = PhaseInverter(stft, block=4, look_ahead=4)
    captured_BCT = replays.push(magnitudes_BCSK, last=True)
    assert replays._replayed._calls < 4  # the last blocks are shorter
    assert replays._replayed._inputs
    monkeypatch.setattr("distill_ray.vqvae.replay._UNCAPTURED_CALLS", 10**9)
    eager_BCT = PhaseInverter(stft, block=4, look_ahead=4).push(magnitudes_BCSK, last=True)
    assert torch.equal(captured_BCT, eager_BCT)

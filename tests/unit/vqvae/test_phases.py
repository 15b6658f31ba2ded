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
    assert apart < {"tones": 0.1, "noise": 0.3, "clicks": 0.3}[kind]


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

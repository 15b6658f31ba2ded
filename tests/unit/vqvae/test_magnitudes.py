"""Expected magnitudes, what is drawn from them, and the loss that they are learnt by."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import Tensor

from distill_ray.config.vqvae import LossConfig
from distill_ray.errors import UsageError
from distill_ray.vqvae import VQVAE, decode_blocks
from distill_ray.vqvae.magnitude_loss import MagnitudeLoss, codec_loss
from distill_ray.vqvae.magnitudes import (
    LEAST_LOG_SPREAD,
    RAYLEIGH_SPREAD,
    Lasting,
    Magnitudes,
    Synthesis,
    log_magnitudes,
    raw_spread,
)
from distill_ray.vqvae.spectral import MAGNITUDE_FLOOR, Stft
from tests.unit.vqvae.conftest import MAGNITUDES, tones

CONFIG = MAGNITUDES
STFT = Stft(CONFIG.n_fft, CONFIG.hop)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def magnitudes(median: float, spread: float, frames: int = 400) -> Magnitudes:
    median_BCSK = torch.full((1, 1, frames, STFT.bins), median)
    return Magnitudes(median_BCSK=median_BCSK, log_spread_BCSK=torch.full_like(median_BCSK, spread).log())


@pytest.fixture(scope="module")
def codec() -> VQVAE:
    """A codec as it starts from four seconds of notes that come and go."""
    torch.manual_seed(0)
    model = VQVAE(CONFIG).eval()
    model.initialise(tones(), torch.Generator().manual_seed(0))
    return model


def test_the_spread_of_noise_is_that_of_white_noise() -> None:
    log_BCSK = log_magnitudes(STFT(noise(1, 1, 128 * 2000)))[..., 1:-1]
    assert float((log_BCSK - log_BCSK.median()).abs().mean()) == pytest.approx(RAYLEIGH_SPREAD, rel=0.02)


def test_draws_of_neighbouring_frames_are_as_alike_as_those_of_white_noise() -> None:
    synthesis = Synthesis(STFT, 1, block=4)
    drawn_SK = torch.cat([synthesis._noise() for _ in range(400)], dim=1)[0, :, 1:-1]
    seen_SK = log_magnitudes(STFT(noise(1, 1, 128 * 1600)))[0, 0, :, 1:-1]

    def alike(log_SK: Tensor, frames: int) -> float:
        pairs = torch.stack([log_SK[:-frames].flatten(), log_SK[frames:].flatten()])
        return float(torch.corrcoef(pairs)[0, 1])

    for frames in (1, 2, 4):
        assert alike(drawn_SK, frames) == pytest.approx(alike(seen_SK, frames), abs=0.02)
    assert alike(drawn_SK, 1) > 0.3
    assert drawn_SK.median() == pytest.approx(0.0, abs=0.02)
    assert float(drawn_SK.abs().mean()) == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("spread", [0.05, 0.2, RAYLEIGH_SPREAD, 1.0])
def test_the_mean_of_what_is_drawn_is_the_expected_one(spread: float) -> None:
    expected = magnitudes(-1.0, spread)
    synthesis = Synthesis(STFT, 1, block=4)
    noise_CSK = torch.cat([synthesis._noise() for _ in range(100)], dim=1)
    mean = float(expected.drawn(noise_CSK, 1e9).mean())
    assert mean == pytest.approx(float(expected.expected()[0, 0, 0, 0]), rel=0.02)


def test_nothing_is_drawn_for_silence_and_nothing_above_the_loudest() -> None:
    floor = float(torch.tensor(MAGNITUDE_FLOOR).log())
    zeros_CSK = torch.zeros(1, 400, STFT.bins)
    assert not magnitudes(floor - 1.0, 0.02).drawn(zeros_CSK, STFT.loudest).any()
    assert float(magnitudes(9.0, 1.0).drawn(zeros_CSK, STFT.loudest).max()) <= STFT.loudest


def test_a_spread_comes_back_from_its_raw_number() -> None:
    spread = torch.tensor([0.05, 0.3, 1.0])
    made = Magnitudes.of(torch.zeros(3), raw_spread(spread))
    torch.testing.assert_close(made.log_spread_BCSK.exp(), spread)


def test_synthesis_in_pieces_is_that_at_once() -> None:
    expected = magnitudes(-2.0, 0.4, frames=24)
    whole_BCT = Synthesis(STFT, 1, block=4).push(expected, last=True)
    pieces = Synthesis(STFT, 1, block=4)
    made = [pieces.push(expected[:, :, :8]), pieces.push(expected[:, :, 8:], last=True)]
    assert torch.equal(torch.cat(made, dim=-1), whole_BCT)


def test_the_cost_is_least_at_the_median_and_the_mean_distance_from_it() -> None:
    loss = MagnitudeLoss(CONFIG, LossConfig())
    audio_BCT = noise(1, 1, 128 * 400)
    log_BCSK = log_magnitudes(STFT(audio_BCT))
    median = float(log_BCSK[..., 1:-1].median())

    def cost(shift: float, spread: float) -> float:
        return float(loss(magnitudes(median + shift, spread), audio_BCT)["magnitudes"])

    best = cost(0.0, RAYLEIGH_SPREAD)
    assert best < min(cost(0.1, RAYLEIGH_SPREAD), cost(-0.1, RAYLEIGH_SPREAD))
    assert best < min(cost(0.0, 1.3 * RAYLEIGH_SPREAD), cost(0.0, RAYLEIGH_SPREAD / 1.3))
    assert best > 0.0


def test_certain_magnitudes_that_are_right_cost_nothing() -> None:
    loss = codec_loss(CONFIG, LossConfig())
    audio_BCT = tones()
    log_BCSK = log_magnitudes(STFT(audio_BCT))
    certain = Magnitudes(median_BCSK=log_BCSK, log_spread_BCSK=torch.full_like(log_BCSK, LEAST_LOG_SPREAD))
    terms = loss(certain, audio_BCT)
    assert float(terms["magnitudes"]) == pytest.approx(0.0, abs=1e-4)
    assert float(terms["mel"]) < 0.02


def test_a_codec_starts_near_its_tones(codec: VQVAE) -> None:
    audio_BCT = tones()
    with torch.no_grad():
        median_BCSK = codec(audio_BCT).decoded.median_BCSK
    apart = (median_BCSK - log_magnitudes(STFT(audio_BCT))).abs().mean()
    spread = (log_magnitudes(STFT(audio_BCT)) - log_magnitudes(STFT(audio_BCT)).mean((0, 2))).abs().mean()
    assert apart < 0.35 * spread


def test_spreads_that_go_by_latents_tell_tones_from_noise() -> None:
    """Of two sounds of the same mean spread, one as certain as the basis makes it and one noise."""
    generator = torch.Generator().manual_seed(1)
    audio_BCT = tones()
    noisy_BCT = audio_BCT + 0.05 * torch.randn(audio_BCT.shape, generator=generator)
    both_BCT = torch.cat([audio_BCT, noisy_BCT])

    def started(spread: str) -> tuple[VQVAE, Tensor, Tensor]:
        torch.manual_seed(0)
        model = VQVAE(dataclasses.replace(CONFIG, decoder_spread=spread)).eval()
        model.initialise(both_BCT, torch.Generator().manual_seed(0))
        with torch.no_grad():
            made = model(both_BCT).decoded
        apart_BCSK = (made.median_BCSK - log_magnitudes(STFT(both_BCT))).abs()
        return model, apart_BCSK, made.log_spread_BCSK

    found = {}
    for spread in ("bins", "latents"):
        model, apart_BCSK, log_spread_BCSK = started(spread)
        assert (model.decoder.spread is None) == (spread == "bins")
        scaled_BCSK = apart_BCSK / log_spread_BCSK.exp()
        assert float(scaled_BCSK.mean()) == pytest.approx(1.0, abs=0.1)
        found[spread] = float((apart_BCSK / log_spread_BCSK.exp() + log_spread_BCSK).mean())
    assert found["latents"] < found["bins"] - 0.03  # nats a bin


def test_codebooks_are_those_of_further_audio_too() -> None:
    torch.manual_seed(0)
    model = VQVAE(dataclasses.replace(CONFIG, codebook_learning="kmeans")).eval()
    few_BCT, more_BCT = tones(), tones() * 0.3
    generator = torch.Generator().manual_seed(0)
    model.initialise(few_BCT, generator, iter([more_BCT]))
    known = copy.deepcopy(model)
    known.initialise(few_BCT, torch.Generator().manual_seed(0))

    def missed(codec: VQVAE) -> float:
        latent_BFL = codec.encoder(more_BCT)
        return float((codec.quantizer(latent_BFL).latent_BFL - latent_BFL).square().mean())

    assert missed(model) < 0.5 * missed(known)


def test_polarity_changes_no_code_and_decoding_is_deterministic(codec: VQVAE) -> None:
    audio_BCT = tones()
    codes_BQF = codec.encode(audio_BCT)
    assert torch.equal(codec.encode(-audio_BCT), codes_BQF)
    assert torch.equal(codec.decode(codes_BQF), codec.decode(codes_BQF))
    assert codec.decode(codes_BQF, 5000).shape == (8, 1, 5000)


@pytest.mark.parametrize("chunk_frames", [1, 3, 8])
def test_codes_in_blocks_give_the_audio_of_the_whole(codec: VQVAE, chunk_frames: int) -> None:
    codes_QF = codec.encode(tones(1))[0]
    samples = codes_QF.shape[1] * CONFIG.frame_hop - 100
    whole_CT = codec.decode(codes_QF[None], samples)[0]
    for cut in (1, 5, codes_QF.shape[1]):
        blocks = list(decode_blocks(codec, codes_QF.split(cut, dim=1), samples, chunk_frames=chunk_frames))
        made_CT = torch.cat(blocks, dim=1)
        assert made_CT.shape == whole_CT.shape
        assert all(block.shape[1] > 0 for block in blocks)
        torch.testing.assert_close(made_CT, whole_CT, atol=2e-3, rtol=0.0)


def test_stereo_keeps_its_channels_apart() -> None:
    torch.manual_seed(0)
    model = VQVAE(dataclasses.replace(CONFIG, channels=2)).eval()
    left_BCT = tones()
    stereo_BCT = torch.cat([left_BCT, 0.1 * left_BCT], dim=1)
    model.initialise(stereo_BCT, torch.Generator().manual_seed(0))
    left, right = model.decode(model.encode(stereo_BCT)).square().mean((0, 2)).sqrt().tolist()
    assert 20 * torch.tensor(left / right).log10().item() == pytest.approx(20.0, abs=3.0)


def test_codes_that_are_missing_are_refused(codec: VQVAE) -> None:
    with pytest.raises(UsageError, match="samples cannot be decoded"):
        list(decode_blocks(codec, [torch.zeros(3, 2, dtype=torch.long)], 10_000, chunk_frames=4))


def drawn(synthesis: Synthesis, blocks: int) -> Tensor:
    return torch.cat([synthesis._noise() for _ in range(blocks)], dim=1)[0]


def test_what_lasts_is_found_again_in_what_is_drawn() -> None:
    bins = STFT.bins
    share_CK, correlation_CK = torch.full((1, bins), 0.5), torch.full((1, bins), 0.9)
    share_CK[:, ::2] = 0.0
    lasting = Lasting(share_CK=share_CK, correlation_CK=correlation_CK)
    noise_SK = drawn(Synthesis(STFT, 1, block=4, lasting=lasting), 1500)
    plain_SK = drawn(Synthesis(STFT, 1, block=4), 1500)
    # As spread as white noise's, and in the bins where nothing lasts the same.
    torch.testing.assert_close(noise_SK[:, ::2], plain_SK[:, ::2], atol=1e-4, rtol=0.0)
    assert float(noise_SK.mean()) == pytest.approx(float(plain_SK.mean()), abs=0.02)
    assert float(noise_SK.std()) == pytest.approx(float(plain_SK.std()), rel=0.03)
    found = Lasting.of(noise_SK[None, None], block=4, overlap=STFT.n_fft // STFT.hop)
    assert float(found.share_CK[0, ::2].mean()) < 0.1
    assert float(found.share_CK[0, 1::2].mean()) == pytest.approx(0.5, abs=0.08)
    assert float(found.correlation_CK[0, 1::2].mean()) == pytest.approx(0.9, abs=0.05)


def test_of_too_few_frames_nothing_lasts() -> None:
    found = Lasting.of(torch.randn(1, 1, 8, 5), block=4, overlap=4)
    assert not found.share_CK.any()

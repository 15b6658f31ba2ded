"""The flow that draws what codes leave open, and the decoder around it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from distill_ray.config.vqvae import LossConfig
from distill_ray.vqvae import VQVAE, decode_blocks
from distill_ray.vqvae.flow import WARMTH, FrameNoise, LatentFlow, Transport
from distill_ray.vqvae.flow_decoder import FlowDecoder
from distill_ray.vqvae.magnitude_loss import FlowLoss, codec_loss
from distill_ray.vqvae.magnitudes import log_magnitudes
from distill_ray.vqvae.regression import ridge
from tests.unit.vqvae.conftest import MAGNITUDES, tones

CONFIG = dataclasses.replace(
    MAGNITUDES, decoder_head="flow", decoder_components=24, codebook_learning="kmeans"
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def recordings(items: int = 8) -> Tensor:
    """[B, 1, 8192]: `tones` with a little noise."""
    return tones(items) + 0.01 * normal(items, 8192)[:, None]


@pytest.fixture(scope="module")
def codec() -> VQVAE:
    torch.manual_seed(0)
    model = VQVAE(CONFIG).eval()
    model.initialise(recordings(), torch.Generator().manual_seed(0))
    return model


def decoder_of(model: VQVAE) -> FlowDecoder:
    assert isinstance(model.decoder, FlowDecoder)
    return model.decoder


def test_noise_of_frames_follows_on_itself_and_comes_in_pieces() -> None:
    correlation_D = torch.tensor([0.0, 0.5, 0.9])
    noise_FD = FrameNoise(correlation_D, seed=1).take(20_000)
    assert noise_FD.std(0).tolist() == pytest.approx([1.0, 1.0, 1.0], abs=0.05)
    found_D = (noise_FD[1:] * noise_FD[:-1]).mean(0)
    torch.testing.assert_close(found_D, correlation_D, atol=0.05, rtol=0.0)
    pieces = FrameNoise(correlation_D, seed=1)
    assert torch.equal(torch.cat([pieces.take(3), pieces.take(0), pieces.take(7)]), noise_FD[:10])


def test_at_first_a_flow_gives_back_its_noise() -> None:
    flow = LatentFlow(CONFIG, 24).eval()
    noise_BFD = normal(1, 5, 24)
    told_BFW = flow.conditions(normal(2, 5, 16, seed=1))
    drawn_BFD = flow.drawn(noise_BFD, told_BFW)
    torch.testing.assert_close(drawn_BFD, WARMTH * noise_BFD.expand(2, -1, -1))


def test_latents_are_told_noisily_in_training_only() -> None:
    flow = LatentFlow(dataclasses.replace(CONFIG, conditioning_noise=0.3), 2)
    told: list[Tensor] = []
    flow.codes.register_forward_pre_hook(lambda _, inputs: told.append(inputs[0]))
    latent_BFL = normal(64, 8, 16)
    for training in (True, False):
        flow.train(training).transport(latent_BFL, torch.zeros(64, 8, 2))
    noisy_BFL, plain_BFL = told
    assert float((noisy_BFL - latent_BFL).std()) == pytest.approx(0.3, rel=0.05)
    assert torch.equal(plain_BFL, latent_BFL)


def test_a_flow_learns_what_no_mean_and_no_deviation_tells() -> None:
    """Latents are one of two values, which one is chance; codes say how far these are apart."""
    torch.manual_seed(0)
    flow = LatentFlow(CONFIG, 2).train()
    optimizer = torch.optim.AdamW(flow.parameters(), lr=5e-3)
    code_BFL = torch.zeros(64, 8, 16)
    code_BFL[::2, :, 0] = 1.0
    apart_BF1 = 0.5 + code_BFL[..., :1]
    for step in range(200):
        side_BFD = torch.sign(normal(64, 8, 2, seed=step))
        given_BFD, meant_BFD = flow.transport(code_BFL, apart_BF1 * side_BFD)
        (given_BFD - meant_BFD).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    flow.eval()
    with torch.no_grad():
        drawn_BFD = flow.drawn(normal(64, 8, 2, seed=999), flow.conditions(code_BFL))
    for rows, apart in ((slice(0, None, 2), 1.5), (slice(1, None, 2), 0.5)):
        part_N = drawn_BFD[rows].flatten()
        assert float(part_N.abs().mean()) == pytest.approx(apart, rel=0.3)
        assert float(part_N.abs().std()) < 0.5 * apart  # 0.75 of the mean where it is a bell curve
        assert 0.35 < float((part_N > 0).float().mean()) < 0.65


def test_held_out_places_of_the_flow_stay_the_same_and_those_of_training_do_not() -> None:
    flow = LatentFlow(CONFIG, 24)
    torch.nn.init.normal_(flow.head.weight)
    code_BFL, wanted_BFD = normal(2, 6, 16), normal(2, 6, 24, seed=1)
    flow.eval()
    once, again = (flow.transport(code_BFL, wanted_BFD) for _ in range(2))
    assert all(map(torch.equal, once, again))
    flow.train()
    assert not torch.equal(flow.transport(code_BFL, wanted_BFD)[1], once[1])
    seeded = []
    for _ in range(2):
        torch.manual_seed(5)
        seeded.append(flow.transport(code_BFL, wanted_BFD)[0])
    assert torch.equal(*seeded)


def test_a_right_velocity_costs_nothing_and_components_count_by_their_weight() -> None:
    loss = codec_loss(CONFIG, LossConfig())
    assert isinstance(loss, FlowLoss)
    wanted_BFD = normal(1, 16, 2)
    weight_D = torch.tensor([1.5, 0.5])

    def cost(error_D: list[float]) -> float:
        given_BFD = wanted_BFD + torch.tensor(error_D)
        terms = loss(
            Transport(velocity_BFD=given_BFD, wanted_BFD=wanted_BFD, weight_D=weight_D), recordings(1)
        )
        assert tuple(terms) == ("flow",)
        return float(loss.total(terms))

    assert cost([0.0, 0.0]) == 0.0
    assert cost([2.0, 0.0]) == pytest.approx(3.0)
    assert cost([0.0, 2.0]) == pytest.approx(1.0)


def test_a_decoder_starts_from_what_is_linear(codec: VQVAE) -> None:
    decoder, audio_BCT = decoder_of(codec), recordings()
    with torch.no_grad():
        wanted_BFD = codec.latents(audio_BCT)
        torch.testing.assert_close(wanted_BFD[..., :16], codec.encoder(audio_BCT), atol=1e-4, rtol=1e-4)
        quantised_BFL = codec.quantizer(wanted_BFD[..., :16]).latent_BFL
        left_BFD = wanted_BFD - decoder._means(quantised_BFL)
        torch.testing.assert_close(left_BFD.square().mean((0, 1)).sqrt(), decoder.deviation_D)
        assert float(left_BFD.square().mean()) < 0.04 * float(wanted_BFD.square().mean())
        # Frames around a frame say more of it than it does alone.
        alone_BFD = torch.cat([quantised_BFL, torch.zeros(8, 16, 8)], dim=2)
        assert float(left_BFD.square().mean()) < 0.9 * float((wanted_BFD - alone_BFD).square().mean())
        drawn = codec(audio_BCT).decoded.drawn
    assert drawn is not None
    apart = float((drawn.median_BCSK - log_magnitudes(decoder.stft(audio_BCT))).abs().mean())
    assert apart == pytest.approx(0.5, abs=0.15)  # the noise's spread is 0.48


def test_what_is_drawn_is_told_without_gradients_alone(codec: VQVAE) -> None:
    assert codec(recordings(1)).decoded.drawn is None
    with torch.no_grad():
        output = codec(recordings(1))
    loss = codec_loss(CONFIG, LossConfig())
    assert loss.scored == ("flow", "mel")
    assert 0.0 < float(loss(output.decoded, recordings(1))["mel"]) < 0.5


def test_levels_and_pitches_come_back(codec: VQVAE) -> None:
    audio_BCT = recordings()
    made_BCT = codec.decode(codec.encode(audio_BCT))
    decibels_B = 20.0 * (made_BCT.square().mean((1, 2)) / audio_BCT.square().mean((1, 2))).sqrt().log10()
    assert float(decibels_B.abs().max()) < 3.0
    loudest_B = [
        torch.fft.rfft(sound_BCT[:, 0, 2048:6144] * torch.hann_window(4096)).abs().argmax(-1)
        for sound_BCT in (audio_BCT, made_BCT)
    ]
    assert int((loudest_B[0] - loudest_B[1]).abs().max()) <= 8  # half a bin of the transform of 512


def test_polarity_changes_no_code_and_decoding_is_deterministic(codec: VQVAE) -> None:
    codes_BQF = codec.encode(recordings())
    assert torch.equal(codec.encode(-recordings()), codes_BQF)
    assert torch.equal(codec.decode(codes_BQF), codec.decode(codes_BQF))
    assert codec.decode(codes_BQF, 5000).shape == (8, 1, 5000)


@pytest.mark.parametrize("chunk_frames", [1, 3, 8])
def test_codes_in_blocks_give_the_audio_of_the_whole(codec: VQVAE, chunk_frames: int) -> None:
    model = VQVAE(CONFIG).eval()
    model.load_state_dict(codec.state_dict())
    torch.nn.init.normal_(decoder_of(model).head.weight, std=0.02)  # as if it had learnt something
    codes_QF = model.encode(recordings(1))[0]
    samples = codes_QF.shape[1] * CONFIG.frame_hop - 100
    whole_CT = model.decode(codes_QF[None], samples)[0]
    for cut in (1, 5, codes_QF.shape[1]):
        blocks = list(decode_blocks(model, codes_QF.split(cut, dim=1), samples, chunk_frames=chunk_frames))
        torch.testing.assert_close(torch.cat(blocks, dim=1), whole_CT, atol=2e-3, rtol=0.0)


def test_stereo_keeps_its_channels_apart() -> None:
    torch.manual_seed(0)
    model = VQVAE(dataclasses.replace(CONFIG, channels=2)).eval()
    stereo_BCT = torch.cat([recordings(), 0.1 * recordings()], dim=1)
    model.initialise(stereo_BCT, torch.Generator().manual_seed(0))
    left, right = model.decode(model.encode(stereo_BCT)).square().mean((0, 2)).sqrt().tolist()
    assert 20 * torch.tensor(left / right).log10().item() == pytest.approx(20.0, abs=3.0)


def test_ridge_regression_finds_weights_again() -> None:
    weight_EG = normal(3, 2)
    input_NE = normal(500, 3, seed=1)
    torch.testing.assert_close(ridge(input_NE, input_NE @ weight_EG), weight_EG, atol=0.05, rtol=0.02)

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from distill_ray.config.resolve import CorpusFacts, MachineFacts, resolve_vqvae
from distill_ray.config.vqvae import LossConfig, VQVAEConfig
from distill_ray.errors import UsageError
from distill_ray.vqvae.losses import ReconstructionLoss
from distill_ray.vqvae.model import VQVAE


@pytest.fixture
def model(config: VQVAEConfig) -> VQVAE:
    torch.manual_seed(0)
    return VQVAE(config).eval()


@pytest.mark.parametrize(
    ("size", "purpose", "low", "high"),
    [
        ("tiny", "compression", 0.8e6, 1.1e6),
        ("small", "compression", 9e6, 12e6),
        ("base", "compression", 48e6, 56e6),
        # Without an encoder that learns.
        ("tiny", "generation", 0.5e6, 0.8e6),
        ("small", "generation", 6e6, 8e6),
        ("base", "generation", 28e6, 36e6),
    ],
)
def test_parameter_budget(size: str, purpose: str, low: float, high: float) -> None:
    facts = CorpusFacts(file_count=5, train_seconds=60.0, sample_rate=44_100, channels=1)
    config = resolve_vqvae(
        facts,
        overrides={"model.size": size, "model.purpose": purpose},
        machine=MachineFacts(accelerator=True),
    ).config
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in VQVAE(config.model).parameters())
    assert low < count < high


def test_encode_and_decode_keep_the_length(model: VQVAE) -> None:
    hop = model.config.frame_hop
    for samples in (1, hop - 1, hop, 5 * hop + 3):
        codes_BQT = model.encode(torch.randn(2, 1, samples))
        assert codes_BQT.shape == (2, 3, -(-samples // hop))
        assert codes_BQT.dtype == torch.int64
        assert model.decode(codes_BQT, samples).shape == (2, 1, samples)
        assert model.decode(codes_BQT).shape == (2, 1, codes_BQT.shape[2] * hop)


def test_forward_agrees_with_encode_and_decode(model: VQVAE, audio_BCT: Tensor) -> None:
    audio_BCT = audio_BCT[..., : 64 * 100]
    output = model(audio_BCT, torch.full((4,), 2))
    assert torch.equal(output.codes_BQT, model.encode(audio_BCT))
    assert torch.equal(output.codes_BQT[:, :2], model.encode(audio_BCT, 2))
    decoded = model.decode(output.codes_BQT[:, :2])
    torch.testing.assert_close(decoded, output.audio_BCT.clamp(-1, 1), atol=1e-5, rtol=0)


def test_stereo_and_stride(config: VQVAEConfig) -> None:
    model = VQVAE(dataclasses.replace(config, channels=2, stride=3))
    output = model(torch.randn(2, 2, 96 * 5))
    assert output.audio_BCT.shape == (2, 2, 480)
    assert output.codes_BQT.shape == (2, 3, 5)


def test_every_parameter_learns(model: VQVAE, audio_BCT: Tensor) -> None:
    loss = ReconstructionLoss(model.config, LossConfig())
    target = audio_BCT[..., :1024]
    output = model(target, torch.tensor([1, 2, 3, 3]))
    total = loss.total(loss(output.audio_BCT, target)) + output.commitment_loss + output.codebook_loss
    total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_silence_trains_without_nan(model: VQVAE) -> None:
    loss = ReconstructionLoss(model.config, LossConfig())
    silence = torch.zeros(2, 1, 1024)
    model.initialise(silence, torch.Generator().manual_seed(0))
    output = model(silence)
    (loss.total(loss(output.audio_BCT, silence)) + output.commitment_loss + output.codebook_loss).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_bfloat16_autocast_is_close(model: VQVAE, audio_BCT: Tensor) -> None:
    audio_BCT = audio_BCT[..., :6400]
    model.initialise(audio_BCT, torch.Generator().manual_seed(0))
    plain = model(audio_BCT)
    with torch.autocast("cpu", torch.bfloat16):
        cast = model(audio_BCT)
        (cast.audio_BCT.square().mean() + cast.commitment_loss).backward()
    assert cast.audio_BCT.dtype == cast.residuals_QND.dtype == cast.codebook_loss.dtype == torch.float32
    assert (cast.codes_BQT[:, 0] == plain.codes_BQT[:, 0]).float().mean() > 0.9
    assert cast.commitment_loss.item() == pytest.approx(plain.commitment_loss.item(), rel=0.1)


def test_state_dict_holds_weights_only(config: VQVAEConfig, model: VQVAE) -> None:
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
    ema = VQVAE(dataclasses.replace(config, codebook_learning="ema"))
    extra = set(ema.state_dict()) - {name for name, _ in ema.named_parameters()}
    assert extra == {"quantizer.ema_counts_QK", "quantizer.ema_sums_QKD"}


def test_a_short_training_run_fits_its_batch(config: VQVAEConfig, audio_BCT: Tensor) -> None:
    torch.manual_seed(0)
    model, loss = VQVAE(dataclasses.replace(config, width=32)), ReconstructionLoss(config, LossConfig())
    target = audio_BCT[..., :4096]
    model.initialise(target, torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.8, 0.99))
    totals = []
    for _ in range(40):
        output = model(target)
        total = loss.total(loss(output.audio_BCT, target))
        optimizer.zero_grad()
        (total + output.codebook_loss + 0.25 * output.commitment_loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.7 * totals[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.encode(torch.zeros(1, 2, 64)), "takes \\[batch, 1, samples\\]"),
        (lambda m: m.encode(torch.zeros(1, 1, 0)), "at least one sample"),
        (lambda m: m.encode(torch.zeros(1, 1, 64), 4), "4 RVQ levels .* 1 to 3"),
        (lambda m: m.decode(torch.zeros(1, 3, 0, dtype=torch.int64)), "at least one frame"),
        (lambda m: m.decode(torch.zeros(1, 4, 2, dtype=torch.int64)), "4 RVQ levels"),
        (lambda m: m.decode(torch.full((1, 3, 2), 16)), "codes from 16 to 16"),
        (lambda m: m.decode(torch.full((1, 3, 2), -1)), "codes from -1 to -1"),
        (lambda m: m.decode(torch.zeros(1, 3, 2, dtype=torch.int64), 129), "the codes hold 1 to 128"),
    ],
)
def test_refusals(model: VQVAE, call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(UsageError, match=message):
        call(model)

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distill_ray.errors import UsageError
from distill_ray.vqvae.model import VQVAE
from distill_ray.vqvae.streaming import decode_long, encode_long


@pytest.fixture
def model(config: object, audio_BCT: Tensor) -> VQVAE:
    torch.manual_seed(0)
    model = VQVAE(config).eval()  # type: ignore[arg-type]
    model.initialise_codebooks(audio_BCT[..., :12_800], torch.Generator().manual_seed(0))
    return model


@pytest.mark.parametrize(
    ("chunk_frames", "samples"), [(1, 1), (7, 64), (1, 999), (11, 6_400), (60, 9_999), (10_000, 9_999)]
)
def test_chunks_equal_the_whole(model: VQVAE, audio_BCT: Tensor, chunk_frames: int, samples: int) -> None:
    audio_CT = audio_BCT[0, :, :samples]
    whole_QT = model.encode(audio_CT[None])[0]
    codes_QT = encode_long(model, audio_CT, chunk_frames=chunk_frames)
    assert codes_QT.shape == whole_QT.shape
    assert (codes_QT == whole_QT).float().mean() > 0.995  # a tie may fall either way
    audio = decode_long(model, whole_QT, chunk_frames=chunk_frames, length=samples)
    torch.testing.assert_close(audio, model.decode(whole_QT[None], samples)[0], atol=1e-5, rtol=0)


def test_levels_and_full_length(model: VQVAE, audio_BCT: Tensor) -> None:
    codes_QT = encode_long(model, audio_BCT[0, :, :1000], chunk_frames=5, num_quantizers=2)
    assert codes_QT.shape == (2, 16)
    assert decode_long(model, codes_QT, chunk_frames=5).shape == (1, 1024)


def test_refusals(model: VQVAE) -> None:
    with pytest.raises(UsageError, match="at least one sample"):
        encode_long(model, torch.zeros(1, 0), chunk_frames=5)
    with pytest.raises(UsageError, match="codes from 0 to 16"):
        decode_long(model, torch.tensor([[0, 16]]), chunk_frames=1)
    with pytest.raises(UsageError, match="the codes hold 1 to 128"):
        decode_long(model, torch.tensor([[0, 1]]), chunk_frames=1, length=200)

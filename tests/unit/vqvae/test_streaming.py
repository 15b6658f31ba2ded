from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.errors import UsageError
from distill_ray.vqvae.model import VQVAE
from distill_ray.vqvae.streaming import decode_blocks, encode_long


@pytest.fixture
def model(config: object, audio_BCT: Tensor) -> VQVAE:
    torch.manual_seed(0)
    model = VQVAE(config).eval()  # type: ignore[arg-type]
    model.initialise(audio_BCT[..., :12_800], torch.Generator().manual_seed(0))
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
    blocks = list(decode_blocks(model, [whole_QT], samples, chunk_frames=chunk_frames))
    assert len(blocks) == -(-whole_QT.shape[1] // chunk_frames)
    expected_CT = model.decode(whole_QT[None], samples)[0]
    torch.testing.assert_close(torch.cat(blocks, dim=1), expected_CT, atol=1e-5, rtol=0)


def test_a_part_of_the_levels(model: VQVAE, audio_BCT: Tensor) -> None:
    codes_QT = encode_long(model, audio_BCT[0, :, :1000], chunk_frames=5, num_quantizers=2)
    assert codes_QT.shape == (2, 16)
    audio_CT = torch.cat(list(decode_blocks(model, [codes_QT], 1024, chunk_frames=5)), dim=1)
    torch.testing.assert_close(audio_CT, model.decode(codes_QT[None])[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("chunk_frames", [1, 8, 1_000])
@pytest.mark.parametrize("arriving", [1, 3, 25, 79])
def test_however_codes_arrive_the_audio_is_the_same_to_the_bit(
    config: VQVAEConfig, channels: int, chunk_frames: int, arriving: int
) -> None:
    torch.manual_seed(0)
    model = VQVAE(dataclasses.replace(config, channels=channels)).eval()
    codes_QT = torch.randint(0, 16, (3, 80), generator=torch.Generator().manual_seed(0))
    for samples in (1, 64, 79 * 64 + 1, 80 * 64):
        whole = list(decode_blocks(model, [codes_QT], samples, chunk_frames=chunk_frames))
        parts = list(decode_blocks(model, codes_QT.split(arriving, 1), samples, chunk_frames=chunk_frames))
        assert sum(block_CT.shape[1] for block_CT in whole) == samples
        assert len(parts) == len(whole)
        assert all(map(torch.equal, parts, whole))


@pytest.mark.parametrize("chunk_frames", [1, 5, 16])
def test_a_block_waits_for_its_frames_and_their_context_and_no_longer(
    model: VQVAE, chunk_frames: int
) -> None:
    come: list[int] = []
    done: list[int] = []

    def arriving() -> Iterator[Tensor]:
        for frame in range(200):
            come.append(frame)
            yield torch.full((3, 1), frame % 16)

    blocks = decode_blocks(model, arriving(), 200 * 64, chunk_frames=chunk_frames, on_frames=done.append)
    assert come == []
    context = model.decoder.context_frames
    for index, _ in enumerate(blocks):
        assert len(come) == min(200, (index + 1) * chunk_frames + context)
        assert done[-1] == min(200, (index + 1) * chunk_frames)


def test_what_is_not_wanted_is_not_asked_for(model: VQVAE) -> None:
    frames = iter(torch.zeros(3, 100, dtype=torch.int64).split(1, 1))
    (block_CT,) = decode_blocks(model, frames, 100, chunk_frames=2)
    assert block_CT.shape == (1, 100)
    assert len(list(frames)) == 100 - 2 - model.decoder.context_frames


def test_decoding_holds_a_chunk_and_its_context(model: VQVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []
    decode = model.quantizer.decode
    monkeypatch.setattr(
        model.quantizer, "decode", lambda codes: widths.append(codes.shape[2]) or decode(codes)
    )
    frames = torch.zeros(3, 400, dtype=torch.int64).split(1, 1)
    list(decode_blocks(model, frames, 400 * 64, chunk_frames=20))
    assert len(widths) == 20
    assert max(widths) == 20 + 2 * model.decoder.context_frames


def test_refusals(model: VQVAE) -> None:
    with pytest.raises(UsageError, match="at least one sample"):
        encode_long(model, torch.zeros(1, 0), chunk_frames=5)
    with pytest.raises(UsageError, match="codes from 0 to 16"):
        list(decode_blocks(model, [torch.tensor([[0, 16]])], 128, chunk_frames=1))
    with pytest.raises(UsageError, match="0 samples cannot be decoded; ask for at least one"):
        list(decode_blocks(model, [torch.tensor([[0, 1]])], 0, chunk_frames=1))
    for codes, held in (([torch.tensor([[0, 1]])], 128), ([], 0)):
        with pytest.raises(UsageError, match=f"129 samples cannot be decoded: the codes hold {held}"):
            list(decode_blocks(model, codes, 129, chunk_frames=1))

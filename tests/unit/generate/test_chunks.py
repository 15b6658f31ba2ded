from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from distill_ray.bundle import LoadedVQModel
from distill_ray.generate.chunks import encode_blocks

MakeLoaded = Callable[..., LoadedVQModel]
HOP = 64


def pcm(samples: int, channels: int = 1) -> np.ndarray[tuple[int, int], np.dtype[np.int16]]:
    random = np.random.default_rng(0)
    return np.clip(random.normal(0, 3000, (channels, samples)), -32_768, 32_767).astype(np.int16)


def cut(signal_CT: np.ndarray[tuple[int, int], np.dtype[np.int16]], size: int) -> Iterator[np.ndarray]:
    for start in range(0, signal_CT.shape[1], size):
        yield signal_CT[:, start : start + size]


@pytest.mark.parametrize("block", [1_000, 64 * 7, 100_000])
@pytest.mark.parametrize("chunk_frames", [1, 8, 1_000])
def test_encoding_in_blocks_is_encoding_whole(make_loaded: MakeLoaded, block: int, chunk_frames: int) -> None:
    model = make_loaded(prior=False, channels=2).model
    signal_CT = pcm(64 * 90 + 17, 2)
    expected = model.encode(torch.from_numpy(signal_CT)[None].float() / 32_768)[0]
    seen: list[int] = []
    encoded = encode_blocks(model, cut(signal_CT, block), chunk_frames=chunk_frames, on_frames=seen.append)
    assert encoded.samples == signal_CT.shape[1]
    assert torch.equal(encoded.codes_QF, expected)
    assert seen[-1] == 91
    assert seen == sorted(seen)


@pytest.mark.parametrize("samples", [1, HOP - 1, HOP, HOP + 1])
def test_the_shortest_signals_encode(make_loaded: MakeLoaded, samples: int) -> None:
    encoded = encode_blocks(make_loaded(prior=False).model, [pcm(samples)], levels=2)
    assert encoded.codes_QF.shape == (2, -(-samples // HOP))


def test_memory_is_a_chunk_s_and_not_the_signal_s(
    make_loaded: MakeLoaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_loaded(prior=False).model
    widths: list[int] = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda x, q: widths.append(x.shape[2] // HOP) or encode(x, q))
    encode_blocks(model, cut(pcm(64 * 400), 64 * 10), chunk_frames=20)
    assert len(widths) > 15
    assert max(widths) <= 20 + 2 * model.encoder.context_frames + 10

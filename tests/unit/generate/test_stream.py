from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from distill_ray.bundle import LoadedVQModel
from distill_ray.errors import AudioError, BundleError, ConfigError
from distill_ray.events.records import StageProgress
from distill_ray.generate import GenerationSettings, generate_samples, generate_stream
from distill_ray.generate.request import make_request
from distill_ray.prior import SamplingConfig
from distill_ray.vqvae import decode_blocks

MakeLoaded = Callable[..., LoadedVQModel]
MakeAudio = Callable[..., Path]
HOP, RATE = 64, 8_000


def whole(loaded: LoadedVQModel, seconds: float, seed: int, **options: Any) -> torch.Tensor:
    """The first sound of `generate_samples` [C, T] before it is rounded."""
    settings = GenerationSettings(seconds=seconds, seed=seed)
    request = make_request(loaded, settings, options.get("sampling"), options.get("prompt"))
    codes_QF = request.codes(0, lambda frame: None)[0]
    return torch.cat(list(decode_blocks(loaded.model, [codes_QF], request.samples, chunk_frames=1024)), dim=1)


@pytest.mark.parametrize(("block_frames", "channels"), [(1, 1), (7, 2), (16, 1), (1_000, 1)])
def test_blocks_join_to_the_sound_of_generate_samples(
    tmp_path: Path, make_loaded: MakeLoaded, block_frames: int, channels: int
) -> None:
    loaded = make_loaded(channels=channels)
    sampling = SamplingConfig(temperature=0.9, top_k=8, top_p=0.95)
    blocks = list(generate_stream(loaded, seconds=0.41, sampling=sampling, seed=3, block_frames=block_frames))
    audio_CT = torch.cat(blocks, dim=1)
    assert audio_CT.dtype == torch.float32
    assert audio_CT.shape == (channels, 3_280)
    assert {block_CT.shape[1] for block_CT in blocks[:-1]} <= {block_frames * HOP}
    expected_CT = whole(loaded, 0.41, 3, sampling=sampling)
    torch.testing.assert_close(audio_CT, expected_CT, rtol=0, atol=1e-5)
    report = generate_samples(
        loaded, count=2, seconds=0.41, sampling=sampling, seed=3, out_dir=tmp_path / "out"
    )
    written_TC, _ = soundfile.read(report.files[0], dtype="float32", always_2d=True)
    assert (audio_CT.T - torch.from_numpy(written_TC)).abs().max() < 0.51 / 32_768 + 1e-5
    other = torch.cat(list(generate_stream(loaded, seconds=0.41, sampling=sampling, seed=4)), dim=1)
    assert (other - audio_CT).abs().max() > 1e-3


@pytest.mark.parametrize("samples", [1, HOP - 1, HOP, HOP + 1, 32 * HOP, 32 * HOP + 1])
def test_the_length_is_exact_to_the_sample(make_loaded: MakeLoaded, samples: int) -> None:
    blocks = list(generate_stream(make_loaded(), seconds=samples / RATE))
    assert sum(block_CT.shape[1] for block_CT in blocks) == samples
    assert all(block_CT.shape[1] for block_CT in blocks)


def test_sampling_in_groups_gives_the_same_sound(
    make_loaded: MakeLoaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where sounds are drawn eight at a time and a stream must be the first of them."""
    monkeypatch.setattr("distill_ray.generate.request._BATCH", {"cpu": 3})
    loaded = make_loaded()
    audio_CT = torch.cat(list(generate_stream(loaded, seconds=0.5, seed=1)), dim=1)
    torch.testing.assert_close(audio_CT, whole(loaded, 0.5, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("seconds", "start"), [(1.0, "beginning"), (1.0, "middle"), (360_000.0, "beginning")]
)
@pytest.mark.parametrize("block_frames", [1, 16])
def test_latency_is_a_block_and_its_context_whatever_the_length(
    make_loaded: MakeLoaded,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    start: str,
    block_frames: int,
) -> None:
    loaded = make_loaded()
    unheard = math.ceil(loaded.vqvae_config.frame_rate) if start == "middle" else 0
    assert loaded.prior is not None
    steps: list[int] = []
    step_logits = loaded.prior.step_logits
    monkeypatch.setattr(
        loaded.prior, "step_logits", lambda h, step: steps.append(step) or step_logits(h, step)
    )
    frames: list[int] = []
    blocks = generate_stream(
        loaded,
        seconds=seconds,
        sampling=SamplingConfig(start=start),
        block_frames=block_frames,
        on_progress=lambda event: frames.append(event.done),
    )
    assert steps == []
    context = loaded.model.decoder.context_frames
    for count in (1, 2, 3):
        next(blocks)
        assert frames[-1] == count * block_frames + context
        # In the delay pattern, the last of three levels is two steps late.
        assert len(steps) == unheard + frames[-1] + 2


def test_a_prompt_is_heard_before_anything_is_drawn(make_loaded: MakeLoaded, make_audio: MakeAudio) -> None:
    loaded, prompt = make_loaded(), make_audio(0.5)
    events: list[StageProgress] = []
    blocks = generate_stream(
        loaded, seconds=1.0, seed=3, prompt=prompt, block_frames=16, on_progress=events.append
    )
    heard = [next(blocks), next(blocks)]
    assert events == []
    audio_CT = torch.cat([*heard, *blocks], dim=1)
    torch.testing.assert_close(audio_CT, whole(loaded, 1.0, 3, prompt=prompt), rtol=0, atol=1e-5)
    assert [event.done for event in events] == list(range(1, 125 - 62 + 1))
    assert {(event.stage, event.total) for event in events} == {("generate", 63)}


def test_a_listener_may_leave(make_loaded: MakeLoaded) -> None:
    loaded = make_loaded()
    assert loaded.prior is not None
    loaded.prior.train()
    frames: list[int] = []
    for _ in generate_stream(loaded, seconds=3600.0, on_progress=lambda event: frames.append(event.done)):
        break
    assert len(frames) == 32 + loaded.model.decoder.context_frames
    assert loaded.prior.training


def test_refusals_come_with_the_call(make_loaded: MakeLoaded, make_audio: MakeAudio) -> None:
    with pytest.raises(BundleError, match="has no prior yet; train one with `distill-ray train-prior"):
        generate_stream(make_loaded(prior=False))
    loaded = make_loaded()
    with pytest.raises(ConfigError) as caught:
        generate_stream(loaded, seconds=0.0, seed=-1, block_frames=0)
    keys = [problem.key for problem in caught.value.problems]
    assert keys == ["generate.seconds", "generate.seed", "generate.block_frames"]
    with pytest.raises(AudioError, match=r"takes 0\.500 s and the output is to last 0\.496 s"):
        generate_stream(loaded, seconds=62 * HOP / RATE, prompt=make_audio(0.5))

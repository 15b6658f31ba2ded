"""The judge is judged: on real recordings it has to find what everybody hears."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from distill_ray.errors import AudioError
from distill_ray.evaluate import Judgement, Reference, Sound, judge
from distill_ray.evaluate.judgement import GROUPS
from distill_ray.evaluate.reference_file import load_reference, save_reference

SHORT_GROUPS = GROUPS[:-1]


@pytest.fixture(scope="module")
def reference(recordings: Any) -> Reference:
    training, held_out = recordings.split()
    return Reference.fit(recordings.as_sounds(training), recordings.as_sounds(held_out))


@pytest.fixture(scope="module")
def judged(reference: Reference, recordings: Any) -> Callable[[str], Judgement]:
    training, held_out = recordings.split()
    made: dict[str, Callable[[], list[Any]]] = {
        "held out": lambda: held_out,
        "grains of it": lambda: recordings.grains(held_out),
        "grains of the training audio": lambda: recordings.grains(training)[:7],
        "a fifth higher": lambda: recordings.a_fifth_higher(held_out),
        "noise": lambda: recordings.noise_of_the_same_spectrum(held_out),
        "white noise": lambda: recordings.white_noise(held_out[::2]),
        "silence": lambda: recordings.silence(held_out[::2]),
        "one second": lambda: recordings.one_second_again_and_again(training),
    }
    known: dict[str, Judgement] = {}

    def of(name: str) -> Judgement:
        if name not in known:
            known[name] = reference.judge(recordings.as_sounds(made[name]()))
        return known[name]

    return of


@pytest.mark.parametrize("worse", ["grains of it", "grains of the training audio", "a fifth higher"])
def test_held_out_recordings_come_before(worse: str, judged: Callable[[str], Judgement]) -> None:
    held_out, other = judged("held out"), judged(worse)
    assert held_out.measures.frechet < other.measures.frechet
    assert held_out.ratio < other.ratio
    assert held_out.measures.kernel < other.measures.kernel


def test_noise_comes_before_white_noise_and_that_before_silence(
    judged: Callable[[str], Judgement],
) -> None:
    order = [judged(name) for name in ("held out", "noise", "white noise", "silence")]
    for one, other in pairwise(order):
        assert one.ratio < other.ratio
        assert one.measures.kernel < other.measures.kernel
        for name in SHORT_GROUPS:
            if (one, name) != (order[2], "spectrum") and name != "embedding":
                assert one.groups[name].frechet < other.groups[name].frechet, name
    assert order[1].ratio > 3 * order[0].ratio
    assert "all of it is silent" in order[3].warnings
    assert order[3].levels.silence_share == 1.0


def test_a_hundred_copies_of_one_second_cover_nothing(judged: Callable[[str], Judgement]) -> None:
    copies = judged("one second")
    assert copies.measures.coverage < 0.1
    assert copies.measures.coverage < copies.floors.halves.coverage / 5
    assert judged("held out").measures.coverage > copies.floors.halves.coverage / 2


def test_held_out_recordings_are_about_as_far_as_a_half_and_as_the_floor(
    judged: Callable[[str], Judgement],
) -> None:
    held_out = judged("held out")
    assert held_out.ratio == pytest.approx(1, abs=0.5)
    assert held_out.ratio_interval.low < held_out.ratio < held_out.ratio_interval.high
    assert held_out.floors.held_out is not None
    assert held_out.measures.frechet == pytest.approx(held_out.floors.held_out.frechet, rel=0.15)
    assert any("with fewer than 100 the figures are uncertain" in text for text in held_out.warnings)


def test_training_audio_against_itself_is_the_floor(recordings: Any) -> None:
    training, _ = recordings.split()
    found = judge(recordings.as_sounds(training[::4]), recordings.as_sounds(training[::2]))
    assert found.ratio == pytest.approx(1, abs=0.6)
    assert found.measures.kernel == pytest.approx(0, abs=0.05)
    assert found.floors.held_out is None
    assert any("no floor of new real audio" in text for text in found.warnings)


def test_the_same_sounds_and_seed_give_the_same_document_from_a_kept_reference(
    reference: Reference, recordings: Any, tmp_path: Path
) -> None:
    sounds = recordings.as_sounds(recordings.grains(recordings.split()[1])[:3])
    save_reference(reference, tmp_path / "kept" / "reference.safetensors")
    kept = load_reference(tmp_path / "kept" / "reference.safetensors")
    assert kept is not None
    first, again = reference.judge(sounds, seed=3), kept.judge(sounds, seed=3)
    assert json.dumps(first.to_json(), allow_nan=False) == json.dumps(again.to_json(), allow_nan=False)
    assert first.ratio_interval != reference.judge(sounds, seed=4).ratio_interval
    (tmp_path / "cut.safetensors").write_bytes(
        (tmp_path / "kept" / "reference.safetensors").read_bytes()[:1000]
    )
    assert load_reference(tmp_path / "cut.safetensors") is None
    assert load_reference(tmp_path / "none.safetensors") is None


def test_another_rate_and_a_second_channel_change_little(reference: Reference, recordings: Any) -> None:
    from torchaudio.functional import resample

    sounds = recordings.as_sounds(recordings.split()[1][::2])
    other = [
        Sound(name, resample(audio_CT, rate, 44_100).repeat(2, 1), 44_100) for name, audio_CT, rate in sounds
    ]
    one, two = reference.judge(sounds), reference.judge(other)
    assert two.measures.frechet == pytest.approx(one.measures.frechet, rel=0.1)
    assert two.levels.channel_correlation == pytest.approx(1.0)
    assert two.levels.side_share == pytest.approx(0.0, abs=1e-6)
    assert one.levels.side_share is None


def test_structure_tells_grains_of_long_recordings(recordings: Any) -> None:
    """Loops go on as they began, grains of them do not; so short windows alone hardly see them."""
    loops = [audio_T for name, audio_T in recordings.by_name.items() if name.startswith("loop")]
    rate = recordings.rate
    long = [torch.from_numpy(audio_T).repeat(30)[: 48 * rate].numpy() for audio_T in loops[:4]]
    reference = Reference.fit(recordings.as_sounds(long))
    excerpts = [audio_T[7 * rate : 27 * rate] for audio_T in long]
    real = reference.judge(recordings.as_sounds(excerpts))
    mixed = reference.judge(recordings.as_sounds(recordings.grains(long)[:8]))
    assert real.groups["structure"].frechet < mixed.groups["structure"].frechet / 3
    assert mixed.ratio > real.ratio


@pytest.mark.parametrize(
    ("seconds", "count", "windows"), [(0.2, 3, 0), (5.0, 1, 5), (1.6, 4, 4), (0.0, 0, 0)]
)
def test_too_little_is_said(reference: Reference, seconds: float, count: int, windows: int) -> None:
    sounds = [Sound("a", torch.rand(1, round(seconds * 32_000)) - 0.5, 32_000)] * count
    with pytest.raises(AudioError, match=f"{count} sounds of .* make {windows} windows of 1.5 s; 10 are the"):
        reference.judge(sounds)


def test_training_audio_that_is_too_short_is_said() -> None:
    with pytest.raises(AudioError, match=r"too short to be compared with: 9\.0 s, .* about 27 s are needed"):
        Reference.fit([Sound("a", torch.rand(1, 9 * 32_000) - 0.5, 32_000)])


def test_short_sounds_are_judged_as_a_stream(reference: Reference, recordings: Any) -> None:
    whole = torch.from_numpy(recordings.split()[1][0])
    pieces = [Sound("piece", part[None], 32_000) for part in whole.repeat(20).split(6_400)]
    found = reference.judge(pieces)
    assert found.sounds == len(pieces)
    assert found.windows > 20


def test_rounding_changes_nothing(reference: Reference, recordings: Any) -> None:
    """What a GPU's other order of sums could, and more: noise of a hundredth of a 16-bit step."""
    sounds = recordings.as_sounds(recordings.split()[1][::2])
    generator = torch.Generator().manual_seed(0)
    noisy = [
        Sound(name, audio_CT + 3e-7 * torch.randn(audio_CT.shape, generator=generator), rate)
        for name, audio_CT, rate in sounds
    ]
    one, other = reference.judge(sounds), reference.judge(noisy)
    assert other.ratio == pytest.approx(one.ratio, rel=1e-3)
    for name, score in one.groups.items():
        assert other.groups[name].frechet == pytest.approx(score.frechet, rel=2e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_numbers_of_a_cpu(reference: Reference, recordings: Any) -> None:
    sounds = recordings.as_sounds(recordings.split()[1])
    one, other = reference.judge(sounds), reference.judge(sounds, device="cuda")
    assert other.ratio == pytest.approx(one.ratio, rel=1e-3)
    for name, score in one.groups.items():
        assert other.groups[name].frechet == pytest.approx(score.frechet, rel=1e-3)

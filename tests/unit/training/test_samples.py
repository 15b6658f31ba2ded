"""Sounds of a training: which, when, and that the training is the same with and without them."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from distill_ray.config.corpus import CorpusConfig
from distill_ray.config.prior import PriorConfig
from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.corpus import Corpus, open_corpus, prepare_corpus
from distill_ray.events.records import AudioSample, Event, VQEpochMetrics
from distill_ray.prior import CodePrior
from distill_ray.training import samples
from distill_ray.training.loop import Pace, Progress
from distill_ray.training.samples import CodeGenerator, Moments, flac, read_excerpts
from distill_ray.training.vqvae import train_vqvae
from distill_ray.training.worker import LocalWorker

CPU = torch.device("cpu")
PRIOR = PriorConfig(
    codebook_size=16, num_quantizers=2, hidden_size=16, num_layers=1, num_heads=2, context_frames=32
)


def heard(content: str) -> tuple[np.ndarray, int]:
    audio_TC, rate = soundfile.read(io.BytesIO(base64.b64decode(content)), always_2d=True)
    return audio_TC, rate


def pace(fraction: float, elapsed_s: float) -> Pace:
    return Pace(fraction=fraction, steps_per_second=1.0, eta_s=None, elapsed_s=elapsed_s)


def test_a_training_sends_originals_and_what_becomes_of_them(
    corpus: Corpus,
    small_config: Callable[..., VQTrainConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(samples, "MOST_SHARE", 1.0)
    events: list[Event] = []
    worker = LocalWorker(tmp_path, device=CPU, listener=events.append)
    config = small_config(training__epochs=3, training__batch_size=16)
    train_vqvae(corpus.uri, config, worker, samples=True)
    made = [event for event in events if isinstance(event, AudioSample)]
    steps = {each.epoch: each.step for each in events if isinstance(each, VQEpochMetrics)}
    files = len(corpus.files("val"))
    originals = [each for each in made if each.kind == "original"]
    decoded = [each for each in made if each.kind == "decoded"]
    assert [each.file for each in originals] == [f"original-{number}.flac" for number in range(files)]
    assert {each.source for each in originals} == {file.path for file in corpus.files("val")}
    assert sorted({each.epoch for each in decoded}) == [1, 2, 3]
    assert len({each.file for each in decoded}) == len(decoded) == 3 * files
    first, rate = heard(originals[0].content)
    assert rate == corpus.sample_rate
    assert np.abs(first).max() > 0.02
    for each in decoded:
        audio_TC, _ = heard(each.content)
        assert len(audio_TC) == len(heard(originals[each.index].content)[0])
        assert each.step == steps[each.epoch]


def test_sounds_change_nothing_of_the_training(
    corpus: Corpus, small_config: Callable[..., VQTrainConfig], tmp_path: Path
) -> None:
    losses = []
    for name in ("with", "without"):
        events: list[Event] = []
        worker = LocalWorker(tmp_path / name, device=CPU, listener=events.append)
        config = small_config(training__batch_size=16)
        train_vqvae(corpus.uri, config, worker, samples=name == "with")
        losses.append([each.val_loss for each in events if isinstance(each, VQEpochMetrics)])
    assert losses[0] == losses[1]


def test_excerpts_are_the_loudest_places_of_different_recordings(tmp_path: Path) -> None:
    rate, quiet, seconds = 8_000, 0.01, 12
    (tmp_path / "in").mkdir()
    for number in range(8):
        random = np.random.default_rng(number)
        audio = quiet * random.standard_normal(rate * seconds)
        audio[8 * rate :] *= 30  # the last four seconds
        soundfile.write(tmp_path / "in" / f"{number}.wav", audio, rate)
    config = CorpusConfig(sample_rate=rate, val_fraction=0.5)
    prepare_corpus([tmp_path / "in"], tmp_path / "corpus", config=config, workers=1)
    corpus = open_corpus(tmp_path / "corpus")
    found = read_excerpts(corpus)
    assert len(found) == 3  # twelve seconds are enough
    assert len({each.source for each in found}) == 3
    for each in found:
        assert each.audio_CT.shape == (1, 4 * rate)
        assert each.start_s == 8.0
        assert each.audio_CT.std() == pytest.approx(30 * quiet, rel=0.05)


def test_short_recordings_give_more_excerpts(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(20):
        noise = np.random.default_rng(number).uniform(-0.1, 0.1, 4_000)
        soundfile.write(tmp_path / "in" / f"{number}.wav", noise, 8_000)
    config = CorpusConfig(sample_rate=8_000, val_fraction=0.5)
    prepare_corpus([tmp_path / "in"], tmp_path / "corpus", config=config, workers=1)
    found = read_excerpts(open_corpus(tmp_path / "corpus"))
    assert len(found) == 6
    assert {each.audio_CT.shape[1] for each in found} == {4_000}


def test_moments_are_few_and_spread_over_the_budget() -> None:
    moments, due = Moments(), []
    for epoch in range(1, 101):
        if moments.due(epoch, epoch / 100, 10.0 * epoch, 0.0):
            due.append(epoch)
            moments.took(0.0)
    assert due == [1, 13, 25, 50, 75, 100]


def test_moments_never_take_more_than_their_share() -> None:
    moments, spent, elapsed = Moments(), 0.0, 0.0
    for epoch in range(1, 101):
        elapsed += 10.0
        if moments.due(epoch, epoch / 100, elapsed, 4.0):
            moments.took(4.0)
            spent += 4.0
            elapsed += 4.0
        assert spent <= samples.MOST_SHARE * elapsed
    assert spent > 4.0
    assert moments.allowance(elapsed) == pytest.approx(samples.MOST_SHARE * elapsed - spent)


def test_a_resumed_run_goes_on_with_the_next_moment() -> None:
    moments = Moments()
    assert not moments.due(30, 0.30, 300.0, 0.0)
    assert not moments.due(49, 0.49, 490.0, 0.0)
    assert moments.due(50, 0.50, 500.0, 0.0)


def test_a_codec_too_slow_for_its_share_waits_until_there_is_time(
    corpus: Corpus, small_config: Callable[..., VQTrainConfig]
) -> None:
    from distill_ray.training.samples import ExcerptDecoder
    from distill_ray.vqvae import VQVAE

    decoder, model = ExcerptDecoder(corpus), VQVAE(small_config().model).eval()
    seconds = sum(file.samples for file in corpus.files("val")) / corpus.sample_rate / 4

    def kinds(epoch: int, elapsed_s: float) -> set[str]:
        made = decoder.samples(
            model, Progress(epoch=epoch), pace(0.01, elapsed_s), audio_seconds_per_second=1.0
        )
        return {each.kind for each in made}

    assert kinds(1, 0.9 * seconds / samples.MOST_SHARE) == {"original"}
    assert kinds(2, 1.1 * seconds / samples.MOST_SHARE) == {"decoded"}
    assert kinds(3, 10 * seconds / samples.MOST_SHARE) == set()  # the next moment is later


def test_a_prior_sends_codes_that_depend_on_its_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MOST_SHARE", 1.0)
    torch.manual_seed(0)
    prior = CodePrior(PRIOR).train()
    progress = Progress(epoch=1, step=7)

    def made(seed: int) -> list[AudioSample]:
        generator = CodeGenerator(frame_rate=8.0, seed=seed)
        return list(generator.samples(prior, progress, pace(0.1, 1e6)))

    first, second = made(0)
    assert (first.kind, first.epoch, first.step, first.file) == ("generated", 1, 7, "generated-e00001-0.flac")
    assert [len(level) for level in first.codes] == [32, 32]  # four seconds
    assert all(0 <= code < 16 for level in first.codes for code in level)
    assert first.codes != second.codes
    before = torch.random.get_rng_state()
    assert made(0) == [first, second]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert made(1)[0].codes not in (first.codes, second.codes)
    assert prior.training


def test_a_slow_prior_makes_shorter_sounds_or_none() -> None:
    prior = CodePrior(PRIOR)
    generator = CodeGenerator(frame_rate=100.0, seed=0)
    assert list(generator.samples(prior, Progress(epoch=1), pace(0.0, 1e-3))) == []  # next to no time
    assert list(generator.samples(prior, Progress(epoch=2), pace(0.0, 0.1))) == []  # not tried again
    assert len(list(generator.samples(prior, Progress(epoch=3), pace(0.0, 1e6)))) == 2


def test_flac_keeps_every_sample_of_16_bits() -> None:
    pcm_CT = torch.arange(-32768, 32768, 7).repeat(2, 1)
    audio_TC, rate = heard(flac(pcm_CT / 32768, 22_050))
    assert rate == 22_050
    np.testing.assert_array_equal(np.rint(audio_TC.T * 32768), pcm_CT.numpy())
    assert np.abs(heard(flac(torch.full((1, 10), 3.0), 8_000))[0]).max() <= 1.0

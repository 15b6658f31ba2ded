"""Codecs for generation: codes without phases, views for consistency, altered copies for the prior."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from distill_ray.config.prior import PriorConfig, PriorTrainConfig, PriorTrainingConfig
from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.corpus import AudioStore, Corpus
from distill_ray.events.records import Event, TrainingCompleteEvent
from distill_ray.training.retokenise import CodePool, Recordings, Retokeniser
from distill_ray.training.vq_batch import VQBatches
from distill_ray.vqvae import VQVAE

CPU = torch.device("cpu")
Train = Callable[..., tuple[TrainingCompleteEvent, list[Event]]]
Config = Callable[..., VQTrainConfig]


def generation(small_config: Config, **overrides: object) -> VQTrainConfig:
    changed = {"model__stride": 4, "loss__consistency": 5.0, **overrides}
    return small_config(model__purpose="generation", training__window_seconds=0.5, **changed)


@pytest.fixture
def codec(small_config: Config) -> VQVAE:
    torch.manual_seed(0)
    return VQVAE(generation(small_config).model).eval()


def test_codes_do_not_know_polarity(
    train: Train, corpus: Corpus, small_config: Config, tmp_path: Path
) -> None:
    completed, events = train(corpus, generation(small_config), tmp_path)
    assert completed.code_agreement is not None
    assert completed.code_agreement.polarity == (1.0, 1.0)
    assert min(completed.code_agreement.gain_3db) < 1.0
    last = [event for event in events if hasattr(event, "losses")][-1]
    assert last.losses["consistency"] > 0.0


def test_a_resumed_run_with_views_ends_as_an_uncut_one(
    train: Train, corpus: Corpus, small_config: Config, tmp_path: Path
) -> None:
    config = generation(small_config)
    uncut, _ = train(corpus, config, tmp_path / "uncut")
    train(corpus, config, tmp_path / "cut", stop_after=5)
    resumed, _ = train(corpus, config, tmp_path / "cut")
    assert resumed.final_val_loss == uncut.final_val_loss


def test_views_are_windows_a_little_later_and_at_another_level(corpus: Corpus, small_config: Config) -> None:
    config = generation(small_config, augment__silence=0.0)
    store = AudioStore(corpus, "train", CPU)
    batch = VQBatches(store, config, rank=0, world_size=1).batch(3)
    windows, (view_CT,) = batch.audio_BCT[:4], batch.audio_BCT[4:]
    assert len(batch.depth_B) == 4
    whole, heard = windows[0, 0], view_CT[0]
    (shift,) = [
        shift
        for shift in range(config.model.frame_hop // 2 + 1)
        if abs(torch.corrcoef(torch.stack([whole[shift:], heard[: len(whole) - shift]]))[0, 1] - 1) < 1e-6
    ]
    gain = heard[: len(whole) - shift].norm() / whole[shift:].norm()
    assert 10 ** (-3 / 20) <= gain <= 10 ** (3 / 20)
    assert not heard[len(whole) - shift :].any()
    plain = dataclasses.replace(config, loss=dataclasses.replace(config.loss, consistency=0.0))
    assert torch.equal(VQBatches(store, plain, rank=0, world_size=1).batch(3).audio_BCT, windows)


def prior_config(*, controls: int = 0, labels: int = 0, **training: int) -> PriorTrainConfig:
    return PriorTrainConfig(
        model=PriorConfig(
            codebook_size=16, num_quantizers=2, context_frames=8, controls=controls, labels=labels
        ),
        training=PriorTrainingConfig(epochs=1, **training),  # type: ignore[arg-type]
    )


def test_variants_are_a_function_of_seed_and_number(corpus: Corpus, codec: VQVAE) -> None:
    def variant(number: int, seed: int = 0) -> list[torch.Tensor]:
        return Retokeniser(corpus.uri, codec, prior_config(seed=seed), device=CPU).variant(number)

    first = variant(0)
    assert len(first) == len(corpus.files("train"))
    assert all(torch.equal(one, other) for one, other in zip(first, variant(0), strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(first, variant(1), strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(first, variant(0, seed=1), strict=True))
    hop, samples = codec.config.frame_hop, sorted(file.samples for file in corpus.files("train"))
    for codes_QF, length in zip(first, samples, strict=True):
        # Two semitones slower, and a frame of silence before it, at most.
        assert 8 / 9 * length / hop - 1 <= codes_QF.shape[1] <= 9 / 8 * length / hop + 2


def test_variants_that_are_not_varied_are_shifted_alone(corpus: Corpus, codec: VQVAE) -> None:
    retokeniser = Retokeniser(corpus.uri, codec, prior_config(), device=CPU)
    samples = sorted(file.samples for file in corpus.files("train"))
    for number in range(8):  # of which six in ten would have another speed
        for codes_QF, length in zip(retokeniser.variant(number, varied=False), samples, strict=True):
            frames = length / codec.config.frame_hop
            assert frames <= codes_QF.shape[1] <= frames + 2


def test_the_newest_variants_are_unvaried_from_a_number_on(corpus: Corpus, codec: VQVAE) -> None:
    asked: list[tuple[int, bool]] = []

    class Watched(Retokeniser):
        def variant(self, number: int, *, varied: bool = True) -> list[torch.Tensor]:
            asked.append((number, varied))
            return super().variant(number, varied=varied)

    config = prior_config(variants=3, variant_steps=10)
    train = [torch.zeros(2, 20, dtype=torch.int16)]
    grown = CodePool(train, config, Watched(corpus.uri, codec, config, device=CPU), CPU)
    assert [grown.made_before(step) for step in (0, 1, 10, 11)] == [0, 1, 1, 2]
    for step in range(20):
        grown.sampler(step)
    for step in range(20, 40):
        grown.sampler(step, unvaried_from=2)
    assert asked == [(0, True), (1, True), (2, False), (3, False)]


def pool(corpus: Corpus, codec: VQVAE, *, variants: int) -> CodePool:
    config = prior_config(variants=variants, variant_steps=10)
    retokeniser = Recordings(corpus=corpus.uri, codec=codec).retokeniser(config, CPU) if variants else None
    train = [torch.full((2, 5), number, dtype=torch.int16) for number in range(7)]
    return CodePool(train, config, retokeniser, CPU)


def test_the_pool_holds_the_newest_variants_whenever_it_is_asked(corpus: Corpus, codec: VQVAE) -> None:
    grown = pool(corpus, codec, variants=2)
    frames = [grown.sampler(step).frames for step in (0, 9, 10, 20, 35)]
    assert frames[0] == frames[1] < frames[2]
    uncut, resumed = grown.sampler(35), pool(corpus, codec, variants=2).sampler(35)
    assert torch.equal(uncut.batch(35, 8).codes_BQT, resumed.batch(35, 8).codes_BQT)


def test_short_recordings_are_joined_and_go_on(corpus: Corpus, codec: VQVAE) -> None:
    sampler = pool(corpus, codec, variants=1).sampler(0)
    windows = sampler.batch(0, 64)
    assert windows.lengths_B.min() >= 10  # of 12; each recording has 5 frames
    joined = [codes_QT for codes_QT in windows.codes_BQT if len(set(codes_QT[0].tolist())) > 1]
    assert joined
    plain = pool(corpus, codec, variants=0).sampler(0)
    assert plain.frames == 35
    assert plain.batch(0, 8).lengths_B.tolist() == [5] * 8


def test_what_comes_after_a_recording_is_the_beginning_of_another(corpus: Corpus, codec: VQVAE) -> None:
    config = prior_config(variants=1, variant_steps=10)
    retokeniser = Recordings(corpus=corpus.uri, codec=codec).retokeniser(config, CPU)
    train = [torch.arange(60).repeat(2, 1) + 100 * number for number in range(1, 4)]
    windows = CodePool(train, config, retokeniser, CPU).sampler(0).batch(0, 512)
    assert windows.lengths_B.tolist() == [12] * 512
    row_BT = windows.codes_BQT[:, 0][windows.codes_BQT[:, 0, 0] >= 100].tolist()
    seams = {(codes[place - 1], codes[place]) for codes in row_BT for place in range(1, 12)}
    turns = {pair for pair in seams if pair[1] != pair[0] + 1}
    assert len(turns) == 3
    assert all(last % 100 == 59 and first % 100 == 0 for last, first in turns)
    assert all(last // 100 != first // 100 for last, first in turns)

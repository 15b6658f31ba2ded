from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.corpus import AudioStore, Corpus
from distill_ray.training.vq_batch import VQBatches

CPU = torch.device("cpu")
Config = Callable[..., VQTrainConfig]
STILL = {"augment__gain_db": 0.0, "augment__polarity": 0.0, "augment__silence": 0.0}
"""Nothing is changed that a test does not ask for."""


def batches(corpus: Corpus, config: VQTrainConfig, rank: int = 0, world_size: int = 1) -> VQBatches:
    store = AudioStore(corpus, "train", CPU)
    return VQBatches(store, config, rank=rank, world_size=world_size)


@pytest.mark.parametrize("changes", [{}, {"augment__speed": 2.0, "augment__equaliser_db": 6.0}])
def test_ranks_share_the_batch_of_one_process(
    corpus: Corpus, small_config: Config, changes: dict[str, float]
) -> None:
    config = small_config(augment__mix=0.5, training__batch_size=12, **changes)
    whole = batches(corpus, config).batch(7)
    parts = [batches(corpus, config, rank, 4).batch(7) for rank in range(4)]
    joined = torch.cat([part.audio_BCT for part in parts])
    # A transform's rounding depends on how many windows are transformed together.
    assert (joined - whole.audio_BCT).abs().max() <= (1e-6 if changes else 0.0)
    assert torch.equal(torch.cat([part.depth_B for part in parts]), whole.depth_B)


def test_a_step_decides_its_batch(corpus: Corpus, small_config: Config) -> None:
    first, second = batches(corpus, small_config()), batches(corpus, small_config())
    first.batch(0)
    assert torch.equal(first.batch(3).audio_BCT, second.batch(3).audio_BCT)
    assert not torch.equal(first.batch(3).audio_BCT, first.batch(4).audio_BCT)
    other = batches(corpus, small_config(training__seed=1))
    assert not torch.equal(first.batch(3).audio_BCT, other.batch(3).audio_BCT)


def test_without_augmentation_it_is_the_recording(corpus: Corpus, small_config: Config) -> None:
    source = batches(corpus, small_config(**STILL))
    assert torch.equal(source.batch(2).audio_BCT, source.unchanged(2))


def test_windows_are_played_at_other_speeds(corpus: Corpus, small_config: Config) -> None:
    plain, config = small_config(**STILL), small_config(**STILL, augment__speed=3.0)
    recorded, played = (batches(corpus, each).batch(5).audio_BCT for each in (plain, config))
    assert played.shape == recorded.shape
    moved = (centroid(played) / centroid(recorded)).log2().abs() * 12
    assert (moved < 4.0).all()
    assert (moved > 0.2).sum() >= 2
    assert torch.equal(played, batches(corpus, config).batch(5).audio_BCT)


def test_windows_are_mixed_before_they_are_varied(corpus: Corpus, small_config: Config) -> None:
    """Both windows of a sum at one speed and through one equaliser: varying is linear."""
    varied = {"augment__speed": 3.0, "augment__equaliser_db": 6.0}
    alone, plain, mixed, both = (
        batches(corpus, small_config(**STILL, **changes)).batch(5).audio_BCT
        for changes in (varied, {}, {"augment__mix": 1.0}, {**varied, "augment__mix": 1.0})
    )
    other = batches(corpus, small_config(**STILL, **varied))
    other._sampler = other._mixed  # what is mixed in, by itself
    unmixed = mixed.abs().amax((1, 2)) < 1.0  # the others are scaled down to full scale
    quiet = unmixed & (both.abs().amax((1, 2)) < 1.0)
    assert quiet.sum() >= 2
    assert torch.allclose(both[quiet], (alone + other.batch(5).audio_BCT)[quiet], atol=1e-5)
    assert not torch.allclose(mixed, plain, atol=1e-2)


def test_half_of_the_windows_are_mixed(corpus: Corpus, small_config: Config) -> None:
    plain = batches(corpus, small_config(**STILL, training__batch_size=16))
    mixed = batches(corpus, small_config(**STILL, training__batch_size=16, augment__mix=0.5))
    same = [
        torch.equal(*pair)
        for step in range(10)
        for pair in zip(plain.batch(step).audio_BCT, mixed.batch(step).audio_BCT, strict=True)
    ]
    assert 0.4 < np.mean(same) < 0.6


def centroid(audio_BCT: torch.Tensor) -> torch.Tensor:
    power_BK = torch.fft.rfft(audio_BCT[:, 0]).abs().square()
    return (power_BK * torch.arange(power_BK.shape[1])).sum(1) / power_BK.sum(1)


def test_gains_stay_in_range_and_flip_about_half(corpus: Corpus, small_config: Config) -> None:
    config = small_config(augment__gain_db=6.0, augment__silence=0.0, training__batch_size=16)
    source = batches(corpus, config)
    ratios = []
    for step in range(20):
        plain, changed = source.unchanged(step), source.batch(step).audio_BCT
        loudest = plain.abs().flatten(1).argmax(dim=1)
        rows = torch.arange(len(plain))
        ratios += (changed.flatten(1)[rows, loudest] / plain.flatten(1)[rows, loudest]).tolist()
    gains = np.array(ratios)
    assert (np.abs(gains) <= 10 ** (6 / 20) + 1e-4).all()
    assert (np.abs(gains) >= 10 ** (-6 / 20) - 1e-4).all()
    assert 0.4 < (gains < 0).mean() < 0.6
    assert np.ptp(np.abs(gains)) > 1.0


def test_full_scale_is_never_passed(corpus: Corpus, small_config: Config) -> None:
    config = small_config(augment__gain_db=40.0, augment__mix=1.0)
    for step in range(5):
        assert float(batches(corpus, config).batch(step).audio_BCT.abs().max()) <= 1.0


def test_half_of_the_windows_drop_levels(corpus: Corpus, small_config: Config) -> None:
    config = small_config(model__num_quantizers=4, model__quantizer_dropout=0.5, training__batch_size=200)
    depth_B = batches(corpus, config).batch(0).depth_B
    shares = torch.bincount(depth_B, minlength=5)[1:] / 200
    assert 0.5 < float(shares[3]) < 0.75  # 1/2 + 1/2 * 1/4
    assert all(0.06 < float(share) < 0.2 for share in shares[:3])
    config = small_config(model__quantizer_dropout=0.0)
    assert (batches(corpus, config).batch(0).depth_B == 2).all()


def test_some_windows_are_silent_up_to_a_point_or_from_it_on(corpus: Corpus, small_config: Config) -> None:
    changes = {"augment__gain_db": 0.0, "augment__polarity": 0.0, "training__batch_size": 64}
    plain = batches(corpus, small_config(augment__silence=0.0, **changes)).batch(3).audio_BCT
    cut = batches(corpus, small_config(augment__silence=0.5, **changes)).batch(3).audio_BCT
    # Of equal sign and never louder; the untouched to the last digit.
    assert (cut.abs() <= plain.abs() * (1 + 1e-6)).all()
    whole_B = (cut == plain).all(dim=(1, 2))
    assert 20 <= int(whole_B.sum()) <= 44
    silent_BT = (cut == 0).all(dim=1)[~whole_B]
    assert (silent_BT[:, 0] | silent_BT[:, -1]).float().mean() > 0.9
    assert 0.25 < silent_BT[:, 0].float().mean() < 0.75
    assert 0.3 < silent_BT.float().mean() < 0.7
    steps = cut.diff(dim=2).abs().amax() / plain.diff(dim=2).abs().amax()
    assert steps < 1.2

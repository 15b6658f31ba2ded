from __future__ import annotations

import numpy as np
import pytest
import torch

from distill_ray.prior import CodeWindows, CodeWindowSampler, validation_windows

LENGTHS = (100, 7, 40)


def sequences() -> list[torch.Tensor]:
    """Level 0 names the file, level 1 the frame."""
    return [
        torch.stack((torch.full((length,), file), torch.arange(length))).to(torch.int16)
        for file, length in enumerate(LENGTHS)
    ]


def check(windows: CodeWindows, window: int) -> None:
    for codes_QT, length, start in zip(
        windows.codes_BQT, windows.lengths_B.tolist(), windows.starts_B.tolist(), strict=True
    ):
        file, first = codes_QT[:, 0].tolist()
        assert length == min(window, LENGTHS[file] - first)
        assert start == (first == 0)
        assert codes_QT[0, :length].tolist() == [file] * length
        assert codes_QT[1, :length].tolist() == list(range(first, first + length))


def test_windows_are_true_to_their_files() -> None:
    sampler = CodeWindowSampler(sequences(), 16, seed=3)
    assert sampler.frames == 147
    for step in range(20):
        windows = sampler.batch(step, 8)
        assert windows.codes_BQT.shape == (8, 2, 16)
        check(windows, 16)
        # Only a file shorter than the window is ever padded.
        assert set(windows.lengths_B.tolist()) <= {16, 7}


def test_every_frame_comes_about_as_often() -> None:
    sampler = CodeWindowSampler(sequences(), 16, seed=1)
    weight = [np.zeros(length) for length in LENGTHS]
    draws = 20_000
    windows = sampler.batch(0, draws)
    for (file, first), length in zip(
        windows.codes_BQT[:, :, 0].tolist(), windows.lengths_B.tolist(), strict=True
    ):
        weight[file][first : first + length] += 1 / length  # each window's mean counts the same in the loss
    for each in weight:
        each *= 147 / draws
    assert weight[0][16:-16] == pytest.approx(1.0, abs=0.15)
    assert weight[1] == pytest.approx(1.0, abs=0.15)
    assert [each.mean() for each in weight] == pytest.approx([1.0] * 3, abs=0.08)
    assert weight[0][0] == pytest.approx(0.5, abs=0.1)


def test_batches_follow_from_seed_and_step() -> None:
    def codes(seed: int, step: int) -> list[int]:
        return CodeWindowSampler(sequences(), 16, seed).batch(step, 6).codes_BQT.flatten().tolist()

    assert codes(1, 5) == codes(1, 5)
    assert codes(1, 5) != codes(1, 6)
    assert codes(1, 5) != codes(2, 5)


def test_ranks_share_the_batch() -> None:
    sampler = CodeWindowSampler(sequences(), 16, seed=1)
    whole = sampler.batch(4, 6)
    parts = [sampler.batch(4, 6, rank=rank, world_size=3) for rank in range(3)]
    for name in ("codes_BQT", "lengths_B", "starts_B"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_validation_holds_every_frame_once(world_size: int) -> None:
    seen: list[tuple[int, int]] = []
    for rank in range(world_size):
        for windows in validation_windows(sequences(), 16, 4, rank=rank, world_size=world_size):
            check(windows, 16)
            for codes_QT, length in zip(windows.codes_BQT, windows.lengths_B.tolist(), strict=True):
                seen += zip(*codes_QT[:, :length].tolist(), strict=True)
    assert sorted(seen) == [(file, t) for file, length in enumerate(LENGTHS) for t in range(length)]


def test_a_rank_may_have_nothing_to_score() -> None:
    assert list(validation_windows(sequences()[1:2], 16, 4, rank=1, world_size=2)) == []


def test_conditions_are_left_out_of_some_windows_and_all_of_some() -> None:
    rows = [torch.cat((codes_QT, torch.full((2, codes_QT.shape[1]), 7))) for codes_QT in sequences()]
    plain = CodeWindowSampler(sequences(), 16, seed=1)
    sampler = CodeWindowSampler(rows, 16, seed=1, attributes=2)
    batch = sampler.batch(5, 2000)
    assert torch.equal(batch.codes_BQT, plain.batch(5, 2000).codes_BQT)  # the same windows
    assert batch.conditions_BAT is not None
    is_said_BA = batch.conditions_BAT[:, :, 0] == 7
    assert torch.equal(batch.conditions_BAT, 7 * is_said_BA[:, :, None].expand(-1, -1, 16))
    neither = (~is_said_BA).all(1).float().mean()
    assert neither == pytest.approx(0.3 + 0.7 * 0.09, abs=0.04)
    assert is_said_BA.float().mean() == pytest.approx(0.7 * 0.7, abs=0.04)
    halves = [sampler.batch(5, 2000, rank=rank, world_size=2).conditions_BAT for rank in (0, 1)]
    assert torch.equal(torch.cat(halves), batch.conditions_BAT)  # type: ignore[arg-type]


def test_a_share_of_the_windows_is_masked_whatever_the_number_of_ranks() -> None:
    sequences = [torch.randint(16, (3, length)).to(torch.int16) for length in (90, 40, 5)]
    sampler = CodeWindowSampler(sequences, 12, 7, masked_share=0.25)
    plain = CodeWindowSampler(sequences, 12, 7)
    whole, unmasked = sampler.batch(3, 16), plain.batch(3, 16)
    assert whole.masked_MQT is not None
    assert unmasked.masked_MQT is None
    assert whole.masked_MQT.shape == (4, 3, 12)
    assert whole.masked_MQT.any(dim=2).any(dim=1).all()
    reach_MT = torch.arange(12) < whole.lengths_B[-4:, None]
    assert not (whole.masked_MQT & ~reach_MT[:, None]).any()
    halves = [sampler.batch(3, 16, rank=rank, world_size=2) for rank in (0, 1)]
    joined_BQT = torch.cat([half.codes_BQT[:6] for half in halves] + [half.codes_BQT[6:] for half in halves])
    assert torch.equal(joined_BQT, whole.codes_BQT)
    masks = [half.masked_MQT for half in halves if half.masked_MQT is not None]
    assert torch.equal(torch.cat(masks), whole.masked_MQT)
    rows = sorted(map(str, whole.codes_BQT.tolist()))
    assert rows == sorted(map(str, unmasked.codes_BQT.tolist()))


def test_a_share_of_what_is_looked_back_on_is_replaced_whatever_the_number_of_ranks() -> None:
    sequences = [torch.full((3, length), code).to(torch.int16) for code, length in enumerate((90, 60))]
    sampler = CodeWindowSampler(sequences, 16, 7, replaced_share=0.1)
    windows = sampler.batch(3, 1000)
    plain = CodeWindowSampler(sequences, 16, 7).batch(3, 1000)
    assert plain.heard_BQT is None
    assert windows.heard_BQT is not None
    assert torch.equal(windows.codes_BQT, plain.codes_BQT)
    changed_BQT = windows.heard_BQT != windows.codes_BQT
    # A random moment is of another recording than the window at a chance of 0.48.
    assert changed_BQT.float().mean() == pytest.approx(0.1 * 0.48, abs=0.003)
    assert not changed_BQT[0, 0].equal(changed_BQT[0, 1]) or not changed_BQT[0].any()
    most = changed_BQT.flatten(1).float().mean(dim=1).max()
    assert 0.15 * 0.6 < most < 0.45  # of one window: up to twice the share, and what chance adds
    halves = [sampler.batch(3, 1000, rank=rank, world_size=2).heard_BQT for rank in (0, 1)]
    assert torch.equal(torch.cat(halves), windows.heard_BQT)  # type: ignore[arg-type]
    assert not torch.equal(windows.heard_BQT, sampler.batch(4, 1000).heard_BQT)  # type: ignore[arg-type]

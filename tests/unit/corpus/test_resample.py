from __future__ import annotations

import numpy as np
import pytest
import torch
from torchaudio.transforms import Resample

from distill_ray.corpus.resample import KERNEL, StreamingResampler, one_torch_thread, resample_ratio


@pytest.mark.parametrize(
    ("source", "target"), [(48_000, 44_100), (44_100, 48_000), (96_000, 8_000), (8_000, 22_050)]
)
@pytest.mark.parametrize("blocks", [[5_000], [1, 2, 700, 3, 4_294], [50] * 100, [997] * 5 + [15]])
def test_blocks_give_the_result_of_the_whole(source: int, target: int, blocks: list[int]) -> None:
    signal_CT = np.random.default_rng(0).normal(0, 0.2, (2, 5_000)).astype(np.float32)
    resampler = StreamingResampler(source, target, 2)
    parts = [resampler.push(part_CT) for part_CT in np.split(signal_CT, np.cumsum(blocks)[:-1], axis=1)]
    streamed_CT = np.concatenate([*parts, resampler.finish()], axis=1)
    whole_CT = Resample(source, target, **KERNEL)(torch.from_numpy(signal_CT)).numpy()
    assert streamed_CT.shape == whole_CT.shape
    np.testing.assert_allclose(streamed_CT, whole_CT, atol=1e-6)


def test_a_tone_keeps_its_pitch_and_level() -> None:
    resampler = StreamingResampler(48_000, 44_100, 1)
    tone_CT = np.sin(2 * np.pi * 1_000 * np.arange(48_000) / 48_000).astype(np.float32)[None]
    out_CT = np.concatenate([resampler.push(tone_CT), resampler.finish()], axis=1)
    expected_T = np.sin(2 * np.pi * 1_000 * np.arange(44_100) / 44_100)
    assert out_CT.shape == (1, 44_100)
    assert np.abs(out_CT[0] - expected_T)[200:-200].max() < 1e-4


def test_awkward_rates_stay_affordable_and_within_a_cent() -> None:
    for source, target in [(44_101, 44_100), (44_056, 44_100), (22_255, 44_100), (12_345, 96_000)]:
        ratio = resample_ratio(source, target)
        assert max(ratio.numerator, ratio.denominator) <= 1000 * max(1, -(-target // source))
        assert abs(1200 * np.log2(float(ratio) * source / target)) < 0.1
    assert resample_ratio(48_000, 44_100) * 48_000 == 44_100


def test_nothing_in_nothing_out() -> None:
    resampler = StreamingResampler(48_000, 44_100, 1)
    assert resampler.push(np.zeros((1, 0), np.float32)).shape == (1, 0)
    assert resampler.finish().shape == (1, 0)


def test_the_thread_count_is_restored() -> None:
    before = torch.get_num_threads()
    with one_torch_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before

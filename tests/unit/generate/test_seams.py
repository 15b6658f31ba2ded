from __future__ import annotations

import pytest
import torch

from distill_ray.generate.seams import measure_seams, moment_distances

RATE, HOP = 8_000, 64


def noise(seconds: float, seed: int, level: float = 0.1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return level * torch.randn(1, round(seconds * RATE), generator=generator)


def test_a_moment_of_steady_sound_is_no_seam_and_a_jump_is() -> None:
    steady_CT, real_CT = noise(2.0, 0), noise(4.0, 1)
    jump_CT = torch.cat((noise(1.0, 2, 0.1), noise(1.0, 3, 0.003)), dim=1)
    figures = {}
    for name, audio_CT in {"steady": steady_CT, "jump": jump_CT}.items():
        found = measure_seams(audio_CT, [RATE], [real_CT], sample_rate=RATE, frame_hop=HOP)
        assert found is not None
        figures[name] = found
    assert figures["steady"].ratio == pytest.approx(1.0, abs=0.25)
    assert figures["jump"].ratio > 3
    assert figures["jump"].distance_db > 20
    assert figures["jump"].real_distance_db == figures["steady"].real_distance_db


def test_a_seam_is_found_within_half_a_frame() -> None:
    jump_CT = torch.cat((noise(1.0, 2, 0.1), noise(1.0, 3, 0.003)), dim=1)
    beside = moment_distances(jump_CT, [RATE + HOP // 2], sample_rate=RATE, frame_hop=HOP)
    far = moment_distances(jump_CT, [RATE + RATE // 2], sample_rate=RATE, frame_hop=HOP)
    assert float(beside) > 20 > float(far)


def test_where_nothing_can_be_said_nothing_is() -> None:
    audio_CT, silence_CT = noise(2.0, 0), torch.zeros(1, 2 * RATE)
    assert measure_seams(audio_CT, [], [audio_CT], sample_rate=RATE, frame_hop=HOP) is None
    assert measure_seams(audio_CT, [3], [audio_CT], sample_rate=RATE, frame_hop=HOP) is None
    assert measure_seams(audio_CT, [RATE], [audio_CT[:, :99]], sample_rate=RATE, frame_hop=HOP) is None
    assert measure_seams(silence_CT, [RATE], [audio_CT], sample_rate=RATE, frame_hop=HOP) is None


def test_many_moments_at_once_are_as_far_as_each_alone() -> None:
    audio_CT = noise(1.0, 0) * torch.linspace(0, 1, RATE)
    moments = [400, 700, *range(1_000, 7_900, 97)]  # of some, the windows are cut off at an end
    together_N = moment_distances(audio_CT, moments, sample_rate=RATE, frame_hop=HOP)
    alone = [moment_distances(audio_CT, [moment], sample_rate=RATE, frame_hop=HOP) for moment in moments]
    assert torch.equal(together_N, torch.cat(alone))
    assert len(together_N) > 64

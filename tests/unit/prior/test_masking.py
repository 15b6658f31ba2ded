from __future__ import annotations

import itertools

import numpy as np
import pytest

from distill_ray.prior.masking import kept_depths, training_mask

LEVELS, FRAMES = 4, 50


def test_training_masks_are_states_of_filling_level_by_level() -> None:
    seen_levels, shares, is_gap = set(), [], 0
    for seed in range(300):
        hidden_QT = training_mask(np.random.default_rng(seed), LEVELS, FRAMES, 40)
        assert not hidden_QT[:, 40:].any()
        coarsest = int(hidden_QT.any(axis=1).argmax())
        assert hidden_QT[coarsest].any()
        above_QT = hidden_QT[coarsest + 1 :, :40]
        # What is finer is hidden wherever something coarser is.
        assert (np.diff(above_QT.astype(int), axis=0) >= 0).all()
        if len(above_QT):
            assert (above_QT[0] >= hidden_QT[coarsest, :40]).all()
        seen_levels.add(coarsest)
        shares.append(hidden_QT[coarsest, :40].mean())
        is_gap += bool(coarsest == 0 and hidden_QT[-1, :40].any() and not hidden_QT[-1, :40].all())
    assert seen_levels == set(range(LEVELS))
    assert min(shares) < 0.1
    assert max(shares) > 0.9
    assert is_gap > 20


def test_a_mask_of_a_single_frame_hides_it() -> None:
    for seed in range(20):
        hidden_QT = training_mask(np.random.default_rng(seed), LEVELS, 5, 1)
        assert hidden_QT[:, 0].any()
        assert not hidden_QT[:, 1:].any()


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.5, 0.87, 1.0])
def test_a_variation_takes_its_share_of_the_codes(strength: float) -> None:
    kept_T = kept_depths(np.random.default_rng(3), LEVELS, FRAMES, strength=strength, span=9.0)
    assert (LEVELS - kept_T).sum() == round(strength * LEVELS * FRAMES)
    assert kept_T.min() >= 0
    assert kept_T.max() <= LEVELS


def test_a_stronger_variation_takes_what_a_weaker_one_does_and_more() -> None:
    depths = [
        kept_depths(np.random.default_rng(5), LEVELS, FRAMES, strength=strength, span=9.0)
        for strength in (0.2, 0.4, 0.8)
    ]
    for weak_T, strong_T in itertools.pairwise(depths):
        assert (strong_T <= weak_T).all()
    # In stretches: neighbours are alike.
    assert np.abs(np.diff(depths[1])).mean() < 0.4
    assert depths[1].std() > 0.3

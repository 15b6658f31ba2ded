"""Prompted extraction: a prior that has learnt codes by heart gives them back, and only those."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from distill_ray.config.prior import PriorConfig
from distill_ray.prior import CodePrior, check_memorization
from distill_ray.prior.extraction import Continuations, Extraction, excerpt_frames, prompted_extraction

SHAPE = PriorConfig(
    codebook_size=16,
    num_quantizers=3,
    hidden_size=32,
    num_layers=2,
    num_heads=2,
    dropout=0.0,
    context_frames=16,
)
FRAME_RATE = 4.0


def recording(seed: int, frames: int = 24) -> torch.Tensor:
    return torch.randint(16, (3, frames), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def parrot() -> CodePrior:
    """A prior that has seen four recordings until it knows them."""
    torch.manual_seed(0)
    prior = CodePrior(SHAPE)
    codes_BQT = torch.stack([recording(seed) for seed in range(4)])
    starts_B = torch.zeros(4, dtype=torch.bool)
    optimizer = torch.optim.AdamW(prior.parameters(), lr=3e-3)
    for _ in range(400):
        loss = prior(codes_BQT, starts_B=starts_B).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.2
    return prior


def test_what_is_learnt_by_heart_comes_back(parrot: CodePrior) -> None:
    assert excerpt_frames(parrot, FRAME_RATE) == 16
    training, held_out = [recording(seed) for seed in range(4)], [recording(seed) for seed in range(50, 54)]
    found = prompted_extraction(parrot, training, held_out, frame_rate=FRAME_RATE)
    assert found.training == Continuations(prompts=4, exact=4, alike=4)
    assert found.held_out == Continuations(prompts=4, exact=0, alike=0)
    report = check_memorization(extraction=found)
    assert report.is_memorizing
    assert report.to_json()["verdict"] == "memorised"
    assert (report.exact_continuations, report.held_out_continuations) == (1.0, 0.0)
    assert "100% of training prompts and 0% of held-out ones" in report.message


def test_wrong_fine_levels_are_alike_and_not_exact(parrot: CodePrior) -> None:
    other = recording(0)
    other[2, 10:] = (other[2, 10:] + 1) % 16
    found = prompted_extraction(parrot, [other], [], frame_rate=FRAME_RATE)
    assert found.training == Continuations(prompts=1, exact=0, alike=1)
    assert found.held_out is None


def test_recordings_shorter_than_an_excerpt_are_not_continued(parrot: CodePrior) -> None:
    found = prompted_extraction(parrot, [recording(0, 15)], [recording(1, 3)], frame_rate=FRAME_RATE)
    assert (found.training_share, found.held_out_share) == (None, None)
    assert check_memorization(extraction=found).verdict == "cannot be judged"


def test_excerpts_are_spread_over_all_recordings(parrot: CodePrior) -> None:
    training = [recording(seed, 160) for seed in range(10)]
    found = prompted_extraction(parrot, training, [], frame_rate=FRAME_RATE, prompts=7)
    assert found.training is not None
    assert found.training.prompts == 7


def test_training_prompts_convict_only_beyond_held_out_ones() -> None:
    both = SimpleNamespace(training_share=0.5, held_out_share=0.45)
    assert not check_memorization(extraction=both).is_memorizing
    more = Extraction(
        training=Continuations(prompts=10, exact=0, alike=5),
        held_out=Continuations(prompts=10, exact=0, alike=1),
    )
    assert check_memorization(extraction=more).is_memorizing


def test_a_verdict_that_rests_on_prompts_begins_with_them() -> None:
    found = SimpleNamespace(training_share=0.6, held_out_share=0.0)
    codes = [torch.randint(0, 16, (2, 400), generator=torch.Generator().manual_seed(n)) for n in range(3)]
    report = check_memorization(
        generated=[codes[0]],
        train=[codes[1]],
        held_out=[codes[2]],
        train_loss=1.0,
        val_loss=1.0,
        extraction=found,
    )
    assert report.is_memorizing
    assert report.message.startswith("60% of training prompts and 0% of held-out ones are continued")

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from distill_ray.prior import CodePrior, PriorConfig, SamplingConfig, check_memorization, sample_codes
from distill_ray.prior.memorization import with_copies

Source = Callable[..., list[Tensor]]
Fit = Callable[..., None]


def generate(prior: CodePrior, frames: int, batch: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(9)
    # The codes that it has seen begin as recordings do.
    sampling = SamplingConfig(start="beginning")
    return list(sample_codes(prior, frames=frames, batch=batch, sampling=sampling, generator=generator))


@torch.no_grad()
def loss(prior: CodePrior, codes: list[Tensor]) -> float:
    return prior(torch.stack(codes)).loss.item()


def untrained(**changes: object) -> CodePrior:
    torch.manual_seed(0)
    values = {
        "codebook_size": 16,
        "num_quantizers": 2,
        "hidden_size": 48,
        "num_layers": 1,
        "num_heads": 2,
        "context_frames": 64,
        "dropout": 0.0,
    }
    return CodePrior(PriorConfig(**{**values, **changes}))  # type: ignore[arg-type]


def test_an_overfitted_prior_is_flagged(source: Source, fit: Fit) -> None:
    train, held_out = source(10, 48, seed=1), source(10, 48, seed=2)
    prior = untrained()
    fit(prior, torch.stack(train), steps=150, batch=10, lr=8e-3)
    losses = {"train_loss": loss(prior, train), "val_loss": loss(prior, held_out)}
    codes = {"generated": generate(prior, 48, 8), "train": train, "held_out": held_out}

    by_losses = check_memorization(**losses)
    assert by_losses.is_memorizing
    assert by_losses.gap is not None
    assert by_losses.gap > 1.0
    assert by_losses.matches == ()
    assert "far fewer nats" in by_losses.message

    by_codes = check_memorization(**codes)
    assert by_codes.is_memorizing
    assert by_codes.gap is None
    assert by_codes.match_share is not None
    assert by_codes.match_share > 0.3
    assert by_codes.longest_match_frames is not None
    assert by_codes.threshold_frames is not None
    assert by_codes.longest_match_frames > by_codes.threshold_frames

    both = check_memorization(**losses, **codes, frame_rate=86.0)
    assert both.is_memorizing
    assert both.gap == by_losses.gap
    assert both.match_share == by_codes.match_share
    assert " s or more of the training codes" in both.message


def test_a_well_fitted_prior_is_not_flagged(source: Source, fit: Fit) -> None:
    train, held_out = source(400, 48, seed=1), source(40, 48, seed=2)
    prior = untrained()
    before = loss(prior, held_out)
    fit(prior, torch.stack(train), steps=150, batch=16, lr=8e-3)
    report = check_memorization(
        train_loss=loss(prior, train[:40]),
        val_loss=loss(prior, held_out),
        generated=generate(prior, 48, 16),
        train=train,
        held_out=held_out,
    )
    assert report.val_loss is not None
    assert report.val_loss < before - 0.5, "it has learnt the source"
    assert not report.is_memorizing
    assert report.gap == pytest.approx(0.0, abs=0.1)
    assert report.match_share is not None
    assert report.match_share < 0.05


def cycles(count: int, frames: int, seed: int) -> list[Tensor]:
    """A deterministic source: one cycle of 24 frames, entered anywhere."""
    rng = np.random.default_rng(seed)
    cycle = np.random.default_rng(0).integers(16, size=(2, 24))
    return [
        torch.from_numpy(cycle[:, (np.arange(frames) + rng.integers(24)) % 24].astype(np.int16))
        for _ in range(count)
    ]


def test_a_repetitive_source_is_not_flagged(fit: Fit) -> None:
    train, held_out = cycles(30, 64, 1), cycles(8, 48, 2)
    prior = untrained()
    fit(prior, torch.stack(train), steps=120, batch=12, lr=8e-3)
    report = check_memorization(
        train_loss=loss(prior, train),
        val_loss=loss(prior, held_out),
        generated=generate(prior, 200, 8),
        train=train,
        held_out=held_out,
    )
    assert report.val_loss is not None
    assert report.val_loss < 0.3, "perplexity is low"
    assert report.longest_match_frames is not None
    assert report.longest_match_frames >= 24, "and runs of a whole cycle are shared"
    assert not report.is_memorizing


def noise(count: int, frames: int, seed: int, *, levels: int = 4, size: int = 64) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(size, size=(levels, frames)) for _ in range(count)]


def test_planted_runs_are_measured_exactly() -> None:
    train, held_out, generated = noise(5, 400, 1), noise(5, 400, 2), noise(5, 400, 3)
    generated[2][:, 100:157] = train[3][:, 20:77]
    generated[4][:, 0:30] = train[0][:, 370:400]
    report = check_memorization(generated=generated, train=train, held_out=held_out)
    everything = next(match for match in report.matches if match.levels == 4)
    assert everything.longest_match_frames == 57
    assert everything.held_out_frames == 0
    assert everything.threshold_frames == 8
    assert everything.match_share == pytest.approx((57 + 30) / 2000)
    assert everything.held_out_share == 0.0
    assert not report.is_memorizing, "4 % of the frames are below the threshold of 5 %"
    generated[1][:, 50:80] = train[0][:, 50:80]
    assert check_memorization(generated=generated, train=train, held_out=held_out).is_memorizing


def test_near_copies_are_seen_in_the_coarse_levels() -> None:
    train, held_out, generated = noise(5, 400, 1), noise(5, 400, 2), noise(5, 400, 3)
    for ours, theirs in zip(generated, train, strict=True):
        ours[:2] = theirs[:2]
    report = check_memorization(generated=generated, train=train, held_out=held_out)
    coarse, fine = report.matches
    assert (coarse.levels, fine.levels) == (2, 4)
    assert coarse.is_memorizing
    assert coarse.match_share == 1.0
    assert coarse.longest_match_frames == 400
    assert not fine.is_memorizing
    assert report.is_memorizing
    assert report.longest_match_frames == 400


def test_silence_and_one_near_duplicate_change_nothing() -> None:
    train, held_out, generated = noise(20, 300, 1), noise(20, 300, 2), noise(20, 300, 3)
    for group in (train, held_out, generated):
        for codes in group:
            codes[:, 100:200] = 7
    quiet = check_memorization(generated=generated, train=train, held_out=held_out)
    assert not quiet.is_memorizing
    assert quiet.longest_match_frames is not None
    assert quiet.longest_match_frames <= 4
    held_out[5][:] = train[5]
    for ours, theirs in zip(generated[:6], train[:6], strict=True):
        ours[:] = theirs
    copied = check_memorization(generated=generated, train=train, held_out=held_out)
    assert copied.is_memorizing
    assert copied.match_share == pytest.approx(0.3, abs=0.01)


def test_generated_pieces_are_compared_at_the_held_out_length() -> None:
    train = noise(1, 2000, 1)
    report = check_memorization(generated=train, train=train, held_out=[part[:, :50] for part in train])
    assert report.longest_match_frames == 50
    assert not report.is_memorizing, "held-out audio repeats the training audio just as much"


@pytest.mark.parametrize(
    ("train_loss", "val_loss", "flagged"),
    [(3.5, 4.0, False), (2.7, 4.0, True), (0.01, 0.02, False), (0.1, 0.4, True), (4.0, 3.9, False)],
)
def test_the_gap_in_nats_and_proportion(train_loss: float, val_loss: float, flagged: bool) -> None:
    report = check_memorization(train_loss=train_loss, val_loss=val_loss)
    assert report.is_memorizing is flagged
    assert report.gap == pytest.approx(val_loss - train_loss)
    assert report.message.endswith(".")


def test_without_held_out_audio_nothing_is_judged() -> None:
    codes = noise(2, 50, 1)
    report = check_memorization(train_loss=0.01, generated=codes, train=codes)
    assert not report.is_memorizing
    assert "cannot be judged" in report.message
    assert report.gap is None
    assert report.match_share is None


def test_pieces_that_are_too_short_for_runs_are_not_judged() -> None:
    """Held-out silence is one frame once repeats are dropped: no copy would be found beside it."""
    train = [np.random.default_rng(0).integers(0, 64, (4, 500))]
    silence = [np.zeros((4, 500), dtype=np.int64)]
    report = check_memorization(generated=train, train=train, held_out=silence)
    assert (report.is_memorizing, report.matches) == (False, ())
    assert report.message == "What is held out, or generated, is too short to look for copies."
    held_out = [np.random.default_rng(1).integers(0, 64, (4, 16))]
    assert check_memorization(generated=train, train=train, held_out=held_out).is_memorizing


def test_hours_of_codes_take_seconds() -> None:
    train = noise(10, 60_000, 1)  # two hours at 86 frames a second
    held_out, generated = noise(10, 3000, 2), noise(8, 3000, 3)
    generated[0][:, :1500] = train[7][:, 500:2000]
    began = time.process_time()
    report = check_memorization(generated=generated, train=train, held_out=held_out)
    assert time.process_time() - began < 20.0
    assert report.longest_match_frames == 1500
    assert report.is_memorizing


def test_the_rate_of_false_positives_is_measured_on_held_out_halves() -> None:
    rng = np.random.default_rng(0)
    train = [rng.integers(0, 64, (4, 3000)) for _ in range(3)]
    held_out = [rng.integers(0, 64, (4, 600)) for _ in range(6)]
    report = check_memorization(generated=[train[0][:, :500]], train=train, held_out=held_out)
    assert report.false_positive_rate == 0.0
    assert report.to_json()["verdict"] == "memorised"
    # One of the held-out recordings is in the training audio: what the others expect calls it a copy.
    held_out[0] = train[1][:, 100:700]
    again = check_memorization(generated=[train[0][:, :500]], train=train, held_out=held_out)
    assert again.false_positive_rate == pytest.approx(1 / 6, abs=0.01)


@dataclass(frozen=True)
class Judged:
    verdict: str
    share: float
    false_positive_rate: float | None = 0.01


def test_copies_of_the_judge_convict() -> None:
    guilty = check_memorization(train_loss=1.0, val_loss=1.05, copies=Judged("copies found", 0.3))
    assert (guilty.is_memorizing, guilty.verdict, guilty.copied_share) == (True, "memorised", 0.3)
    assert (
        "30.0% of generated seconds count as copies of the training audio, and 1.0% of audio"
        in guilty.message
    )
    innocent = check_memorization(copies=Judged("none found", 0.01))
    assert (innocent.verdict, innocent.copied_share) == ("not memorised", 0.01)


def test_a_record_takes_the_judges_word() -> None:
    before = check_memorization(train_loss=1.0, val_loss=1.05).to_json()
    after = with_copies(before, Judged("copies found", 0.3))
    assert (after["verdict"], after["is_memorizing"], after["copied_share"]) == ("memorised", True, 0.3)
    assert after["gap"] == before["gap"]
    assert before["message"] in after["message"]
    assert with_copies(before, Judged("none found", 0.0))["verdict"] == "not memorised"
    convicted = check_memorization(train_loss=0.1, val_loss=3.0).to_json()
    assert with_copies(convicted, Judged("none found", 0.0))["is_memorizing"] is True


def test_the_cause_of_a_verdict_is_said_first() -> None:
    parts = noise(5, 400, 1), noise(5, 400, 2), noise(5, 400, 3)
    codes = dict(zip(("train", "held_out", "generated"), parts, strict=True))
    alike = {"train_loss": 1.0, "val_loss": 1.0}
    by_copies = check_memorization(**alike, **codes, copies=Judged("copies found", 0.3))
    assert by_copies.message.startswith("30.0% of generated seconds count as copies")
    assert "0% of the generated frames" in by_copies.message
    codes["generated"][2][:, 100:300] = codes["train"][3][:, 20:220]
    by_codes = check_memorization(**alike, **codes, copies=Judged("none found", 0.0))
    assert by_codes.message.startswith("10% of the generated frames repeat")
    assert by_codes.message.endswith("make it smaller or add audio.")
    acquitted = check_memorization(**alike).to_json()
    assert with_copies(acquitted, Judged("copies found", 0.3))["message"].startswith("30.0% of generated")

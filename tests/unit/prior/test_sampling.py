from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from distill_ray.errors import CodeShapeError, ConfigError, UsageError
from distill_ray.prior import CodePrior, Guidance, SamplingConfig, sample_codes, stream_codes
from distill_ray.prior.drawing import draw

MakePrior = Callable[..., CodePrior]
PATTERNS = ("delay", "flatten")


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prompt(frames: int, batch: int = 1) -> torch.Tensor:
    return torch.randint(16, (batch, 3, frames), generator=seeded(0))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("frames", [1, 2, 8, 45])
def test_exact_length_and_range(make_prior: MakePrior, pattern: str, frames: int) -> None:
    codes_BQT = sample_codes(make_prior(pattern=pattern), frames=frames, batch=3, generator=seeded())
    assert codes_BQT.shape == (3, 3, frames)
    assert codes_BQT.dtype == torch.int64
    assert codes_BQT.min() >= 0
    assert codes_BQT.max() < 16


@pytest.mark.parametrize("pattern", PATTERNS)
def test_seeds(make_prior: MakePrior, pattern: str) -> None:
    prior = make_prior(pattern=pattern)
    first = sample_codes(prior, frames=20, batch=2, generator=seeded())
    assert torch.equal(sample_codes(prior, frames=20, batch=2, generator=seeded()), first)
    assert not torch.equal(sample_codes(prior, frames=20, batch=2, generator=seeded(6)), first)
    assert not torch.equal(first[0], first[1])
    generator = seeded()
    sample_codes(prior, frames=1, generator=generator)
    assert not torch.equal(sample_codes(prior, frames=20, batch=2, generator=generator), first)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_rows_depend_neither_on_batch_nor_on_length(make_prior: MakePrior, pattern: str) -> None:
    prior = make_prior(pattern=pattern)
    few = sample_codes(prior, frames=20, batch=4, generator=seeded())
    many = sample_codes(prior, frames=33, batch=8, generator=seeded())
    assert torch.equal(many[:4, :, :20], few)


@torch.no_grad()
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("start", ["middle", "beginning"])
@pytest.mark.parametrize("prompt_frames", [0, 1, 2, 19])
def test_greedy_is_the_argmax_of_the_uncached_forward(
    make_prior: MakePrior, pattern: str, prompt_frames: int, start: str
) -> None:
    prior = make_prior(pattern=pattern)
    greedy = SamplingConfig(temperature=0.0, start=start)
    prompt_BQT = prompt(prompt_frames) if prompt_frames else None
    starts_B = torch.tensor([prompt_frames == 0 and start == "beginning"])
    # Frames past the asked-for ones are what the model was fed in the delay pattern's tail.
    codes_BQT = sample_codes(prior, frames=30, prompt_BQT=prompt_BQT, sampling=greedy)
    total = prompt_frames + 25
    tokens_BLS = prior.tokens(codes_BQT, starts_B)
    first_BL1 = prior.first_tokens(1, starts_B, codes_BQT.device)
    hidden_BSE = prior.hidden(torch.cat((first_BL1, tokens_BLS[:, :, :-1]), dim=2))
    for t in range(prompt_frames, total):
        for q in range(3):
            step = prior.pattern.step(t, q)
            logits_LK = prior.step_logits(hidden_BSE[:, step], step)[0]
            assert codes_BQT[0, q, t] == logits_LK[0 if prior.is_flat else q].argmax()


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("prompt_frames", [1, 2, 30])
def test_prompt_is_kept_and_matters(make_prior: MakePrior, pattern: str, prompt_frames: int) -> None:
    prior = make_prior(pattern=pattern)
    prompt_BQT = prompt(prompt_frames)
    codes_BQT = sample_codes(prior, frames=15, batch=2, prompt_BQT=prompt_BQT, generator=seeded())
    assert codes_BQT.shape == (2, 3, prompt_frames + 15)
    assert torch.equal(codes_BQT[:, :, :prompt_frames], prompt_BQT.expand(2, -1, -1))
    other = sample_codes(prior, frames=15, batch=2, prompt_BQT=15 - prompt_BQT, generator=seeded())
    assert not torch.equal(other[:, :, prompt_frames:], codes_BQT[:, :, prompt_frames:])


def test_long_prompt_is_read_in_parts(make_prior: MakePrior, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = make_prior()
    whole = sample_codes(prior, frames=10, prompt_BQT=prompt(40), generator=seeded())
    monkeypatch.setattr("distill_ray.prior.sampling.PREFILL_STEPS", 7)
    assert torch.equal(sample_codes(prior, frames=10, prompt_BQT=prompt(40), generator=seeded()), whole)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("prompt_frames", [0, 4])
def test_on_frame_counts_new_frames(make_prior: MakePrior, pattern: str, prompt_frames: int) -> None:
    seen: list[int] = []
    prompt_BQT = prompt(prompt_frames) if prompt_frames else None
    sample_codes(make_prior(pattern=pattern), frames=6, prompt_BQT=prompt_BQT, on_frame=seen.append)
    assert seen == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("prompt_frames", [0, 4])
@pytest.mark.parametrize("changes", [{}, {"temperature": 0.0}, {"top_k": 5, "top_p": 0.9}])
def test_streamed_frames_join_to_the_sample(
    make_prior: MakePrior, pattern: str, prompt_frames: int, changes: dict[str, Any]
) -> None:
    prior, sampling = make_prior(pattern=pattern), SamplingConfig(**changes)
    prompt_BQT = prompt(prompt_frames) if prompt_frames else None
    request: dict[str, Any] = {"frames": 20, "batch": 2, "prompt_BQT": prompt_BQT, "sampling": sampling}
    blocks = list(stream_codes(prior, **request, generator=seeded()))
    assert [block_BQT.shape[2] for block_BQT in blocks] == [prompt_frames] * bool(prompt_frames) + [1] * 20
    whole_BQT = sample_codes(prior, **request, generator=seeded())
    assert torch.equal(torch.cat(blocks, dim=2), whole_BQT)


@pytest.mark.parametrize(("pattern", "steps"), [("delay", [3, 4, 5, 6]), ("flatten", [3, 6, 9, 12])])
def test_a_frame_takes_only_the_steps_it_needs(
    make_prior: MakePrior, monkeypatch: pytest.MonkeyPatch, pattern: str, steps: list[int]
) -> None:
    prior = make_prior(pattern=pattern)
    taken: list[int] = []
    step_logits = prior.step_logits
    monkeypatch.setattr(prior, "step_logits", lambda h, step: taken.append(step) or step_logits(h, step))
    seen = [len(taken) for _, _ in zip(stream_codes(prior, frames=100_000_000), range(4), strict=False)]
    assert seen == steps


def test_uniform_numbers_do_not_depend_on_how_many_are_drawn_at_once(
    make_prior: MakePrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = make_prior()
    whole = sample_codes(prior, frames=20, batch=2, generator=seeded())
    monkeypatch.setattr("distill_ray.prior.sampling.NOISE_STEPS", 3)
    assert torch.equal(sample_codes(prior, frames=20, batch=2, generator=seeded()), whole)


def test_a_stream_that_is_closed_restores_the_training_mode(make_prior: MakePrior) -> None:
    prior = make_prior().train()
    frames = stream_codes(prior, frames=10)
    next(frames)
    assert not prior.training
    frames.close()  # type: ignore[attr-defined]
    assert prior.training


def test_training_mode_is_restored(make_prior: MakePrior) -> None:
    prior = make_prior(dropout=0.5).train()
    first = sample_codes(prior, frames=10, generator=seeded())
    assert prior.training
    assert torch.equal(sample_codes(prior, frames=10, generator=seeded()), first)


def test_draw_follows_the_distribution() -> None:
    probs = torch.tensor([0.05, 0.5, 0.0, 0.15, 0.3])
    logits = probs.log().expand(40_000, 1, 5)
    noise = torch.rand(40_000, 1, generator=seeded())

    def shares(**changes: float) -> list[float]:
        codes = draw(logits, noise, SamplingConfig(**changes))  # type: ignore[arg-type]
        return torch.nn.functional.one_hot(codes, 5).float().mean(dim=(0, 1)).tolist()

    assert shares() == pytest.approx([0.05, 0.5, 0.0, 0.15, 0.3], abs=0.01)
    assert shares(top_k=2) == pytest.approx([0.0, 0.625, 0.0, 0.0, 0.375], abs=0.01)
    assert shares(top_k=1) == [0.0, 1.0, 0.0, 0.0, 0.0]
    assert shares(top_p=0.9) == pytest.approx([0.0, 10 / 19, 0.0, 3 / 19, 6 / 19], abs=0.01)
    assert shares(top_p=0.01) == [0.0, 1.0, 0.0, 0.0, 0.0]
    assert shares(temperature=0.0) == [0.0, 1.0, 0.0, 0.0, 0.0]
    squared = [p * p / 0.365 for p in (0.05, 0.5, 0.0, 0.15, 0.3)]
    assert shares(temperature=0.5) == pytest.approx(squared, abs=0.01)
    assert shares(top_k=50, top_p=1.0) == shares()


def test_draw_never_takes_an_impossible_code() -> None:
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]).expand(2, 1, 5)
    edges = torch.tensor([[0.0], [1.0 - 2**-24]])
    for sampling in (SamplingConfig(), SamplingConfig(top_k=4), SamplingConfig(top_p=0.99)):
        assert set(draw(logits, edges, sampling).flatten().tolist()) == {1, 3}


def test_wrong_settings_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        SamplingConfig(temperature=-1.0, top_k=-2, top_p=0.0)
    assert [problem.flag for problem in caught.value.problems] == ["--temperature", "--top-k", "--top-p"]
    with pytest.raises(ConfigError, match="top-p"):
        SamplingConfig(top_p=1.5)
    with pytest.raises(ConfigError, match="finite"):
        SamplingConfig(temperature=float("nan"))


def test_wrong_requests(make_prior: MakePrior) -> None:
    prior = make_prior()
    for refuses in (sample_codes, stream_codes):  # a stream at once, not when its first frame is asked for
        with pytest.raises(UsageError, match="0 frames"):
            refuses(prior, frames=0)
    with pytest.raises(UsageError, match="of 0 outputs"):
        sample_codes(prior, frames=1, batch=0)
    for shape in ((1, 2, 5), (2, 3, 5), (3, 5)):
        with pytest.raises(CodeShapeError, match="does not fit"):
            sample_codes(prior, frames=1, batch=3, prompt_BQT=torch.zeros(shape, dtype=torch.int64))
    with pytest.raises(CodeShapeError, match="no code frame"):
        sample_codes(prior, frames=1, prompt_BQT=torch.zeros(1, 3, 0, dtype=torch.int64))
    with pytest.raises(UsageError, match="outside the prior's 0 to 15"):
        sample_codes(prior, frames=1, prompt_BQT=torch.full((1, 3, 2), 16))


@pytest.mark.parametrize(
    "sampling", [{"temperature": 1e-40}, {"temperature": 1e-8}, {"top_p": 1e-50}, {"top_p": 1e-9}]
)
def test_settings_next_to_nothing_are_greedy(sampling: dict[str, float]) -> None:
    logits_BLK = 5 * torch.randn(64, 2, 16, generator=torch.Generator().manual_seed(0))
    noise_BL = torch.rand(64, 2, generator=torch.Generator().manual_seed(1))
    drawn_BL = draw(logits_BLK, noise_BL, SamplingConfig(**sampling))
    assert torch.equal(drawn_BL, logits_BLK.argmax(dim=-1))


@pytest.mark.parametrize("pattern", ["delay", "flatten"])
def test_guidance_joins_the_logits_of_both_rows(make_prior: Callable[..., CodePrior], pattern: str) -> None:
    prior = make_prior(pattern=pattern, controls=1)
    assert prior.conditions is not None
    torch.nn.init.normal_(prior.conditions.weight[1:].detach(), std=3.0)
    condition_E = prior.condition(torch.tensor([[[0], [4]]]))[0, 0]

    def drawn(scale: float | None, **request: Any) -> torch.Tensor:
        guidance = None if scale is None else Guidance(condition_E=condition_E, scale=scale)
        return sample_codes(prior, frames=20, batch=3, guidance=guidance, generator=seeded(), **request)

    assert torch.equal(drawn(0.0), drawn(None))
    assert not torch.equal(drawn(1.0), drawn(None))
    # A scale next to 1 takes two rows and comes to the same.
    assert (drawn(1.0 + 1e-7) == drawn(1.0)).float().mean() > 0.99
    assert not torch.equal(drawn(4.0), drawn(1.0))
    assert torch.equal(drawn(0.0, prompt_BQT=prompt(6)), drawn(None, prompt_BQT=prompt(6)))


def test_each_level_has_its_temperature(make_prior: Callable[..., CodePrior]) -> None:
    prior = make_prior()
    hidden_BE = torch.randn(2, 32)
    whole = prior.step_logits(hidden_BE, 0)
    prior.temperature_Q.copy_(torch.tensor([1.0, 2.0, 0.5]))
    halved = prior.step_logits(hidden_BE, 0)
    assert torch.allclose(halved, whole * torch.tensor([1.0, 0.5, 2.0])[:, None])
    assert "temperature_Q" not in prior.state_dict()

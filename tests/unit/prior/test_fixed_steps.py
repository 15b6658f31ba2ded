"""Steps in fixed memory draw what the plain ones draw; without a GPU kernels run in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from distill_ray.prior import (
    CodePrior,
    Guidance,
    SamplingConfig,
    fixed_ops,
    fixed_steps,
    sample_codes,
    stream_codes,
)
from distill_ray.prior.fixed_steps import FixedSteps, graph_kept

MakePrior = Callable[..., CodePrior]
GPU = torch.cuda.is_available()
needs_gpu = pytest.mark.skipif(not GPU, reason="needs a GPU")
GREEDY, CUT = {"temperature": 0.0}, {"top_k": 5, "top_p": 0.9, "temperature": 1.3}


def drawn(
    prior: CodePrior,
    *,
    frames: int = 20,
    batch: int = 2,
    prompt: int = 0,
    scale: float | None = None,
    **sampling: Any,
) -> Tensor:
    """The window of these priors is 8 frames: the ring wraps."""
    device = prior.heads_QKE.device
    guidance = None
    if scale is not None:
        guidance = Guidance(
            condition_E=prior.condition(torch.tensor([[[0], [4]]], device=device))[0, 0], scale=scale
        )
    prompt_BQT = None
    if prompt:
        prompt_BQT = torch.randint(16, (batch, 3, prompt), generator=torch.Generator().manual_seed(3))
    return sample_codes(
        prior,
        frames=frames,
        batch=batch,
        prompt_BQT=prompt_BQT,
        guidance=guidance,
        sampling=SamplingConfig(**sampling),
        generator=torch.Generator().manual_seed(5),
    )


@pytest.fixture
def through_fixed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[FixedSteps]]:
    """Makes sampling take fixed steps, without a graph; returns the list of those that are made."""

    def install(*, kernels: bool = False, ops: Any = None) -> list[FixedSteps]:
        made: list[FixedSteps] = []

        @contextmanager
        def steps(*given: Any, steps: int) -> Iterator[FixedSteps]:
            made.append(FixedSteps(*given, kernels=kernels, captured=False))
            if ops is not None:
                made[-1]._ops = ops
            yield made[-1]

        monkeypatch.setattr("distill_ray.prior.sampling.fixed_steps", steps)
        return made

    return install


def controlled(make_prior: MakePrior, **changes: Any) -> CodePrior:
    """A prior that conditions matter to, with a temperature for each level."""
    prior = make_prior(controls=1, **changes)
    assert prior.conditions is not None
    torch.nn.init.normal_(prior.conditions.weight[1:].detach(), std=3.0)
    prior.temperature_Q.copy_(torch.tensor([0.9, 1.1, 1.0]))
    return prior


@pytest.mark.parametrize("pattern", ["delay", "flatten"])
@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"start": "beginning", "batch": 1},
        {"prompt": 1},
        {"prompt": 5},
        {"prompt": 19},
        {"frames": 1},
        {**GREEDY, "prompt": 3},
        CUT,
        {"scale": 1.0, "prompt": 4},
        {"scale": 3.0},
        {"scale": 3.0, "batch": 1, **GREEDY},
    ],
    ids=str,
)
def test_codes_are_those_of_plain_steps(
    make_prior: MakePrior,
    through_fixed: Callable[..., list[FixedSteps]],
    monkeypatch: pytest.MonkeyPatch,
    pattern: str,
    request_: dict[str, Any],
) -> None:
    prior = controlled(make_prior, pattern=pattern)
    expected = drawn(prior, **request_)
    made = through_fixed()
    assert torch.equal(drawn(prior, **request_), expected)
    assert len(made) == 1
    monkeypatch.setattr("distill_ray.prior.sampling.NOISE_STEPS", 4)  # filled often, known codes in two parts
    assert torch.equal(drawn(prior, **request_), expected)


@pytest.mark.parametrize("pattern", ["delay", "flatten"])
def test_logits_are_those_of_plain_steps(
    make_prior: MakePrior,
    through_fixed: Callable[..., list[FixedSteps]],
    monkeypatch: pytest.MonkeyPatch,
    pattern: str,
) -> None:
    prior = controlled(make_prior, pattern=pattern)
    plain: list[Tensor] = []
    step_logits = prior.step_logits
    monkeypatch.setattr(prior, "step_logits", lambda *of: plain.append(step_logits(*of)) or plain[-1])
    drawn(prior, prompt=4)
    found: list[Tensor] = []

    def recorded(memory: Any, logits_RX: Tensor, temperature_L: Tensor, *rest: Any) -> None:
        found.append(logits_RX.view(len(logits_RX), len(temperature_L), -1) / temperature_L[:, None])
        fixed_ops.drawn(memory, logits_RX, temperature_L, *rest)

    through_fixed(ops=SimpleNamespace(**{**vars(fixed_ops), "drawn": recorded}))
    drawn(prior, prompt=4)
    assert len(found) == len(plain) == {"delay": 22, "flatten": 60}[pattern]
    assert torch.stack(plain).std() > 0.5
    assert (torch.stack(found) - torch.stack(plain)).abs().max() < 1e-5


def test_kernels_draw_the_codes_of_plain_steps(
    make_prior: MakePrior, through_fixed: Callable[..., list[FixedSteps]]
) -> None:
    prior = controlled(make_prior, pattern="flatten", hidden_size=16, num_layers=1)
    prior = prior.to("cuda" if GPU else "cpu")
    request: dict[str, Any] = {"frames": 1, "batch": 1, "prompt": 9, "scale": 3.0}
    expected = drawn(prior, **request)
    made = through_fixed(kernels=True)
    assert torch.equal(drawn(prior, **request), expected)
    assert made[0].uses_kernels


def random_memory(prior: CodePrior, batch: int, position: int) -> fixed_ops.Memory:
    """A ring in use, whose next step is number 1 of three."""
    torch.manual_seed(0)
    width, window = prior.transformer.head_width, prior.transformer.window
    device, ring = prior.heads_QKE.device, (batch, prior.config.num_heads, window, width)
    return fixed_ops.Memory(
        clock_2=torch.tensor([position, 1], device=device),
        tokens_BL=torch.randint(16, (batch, 3), device=device),
        noise_NBL=torch.rand(3, batch, 3, device=device),
        known_NBL=torch.full((3, batch, 3), -1, device=device),
        table_N2D=torch.randn(3, 2, width, device=device),
        codes_NBL=torch.zeros(3, batch, 3, dtype=torch.int64, device=device),
        condition_RE=torch.randn(batch, prior.config.hidden_size, device=device),
        rings=((torch.randn(ring, device=device), torch.randn(ring, device=device)),),
    )


@torch.inference_mode()
@pytest.mark.parametrize(
    ("batch", "position", "by_tensor_cores"), [(1, 0, False), (2, 1000, False), (9, 70, False), (9, 70, True)]
)
def test_each_kernel_computes_what_torch_does(
    make_prior: MakePrior,
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
    position: int,
    by_tensor_cores: bool,
) -> None:
    kernels = pytest.importorskip("distill_ray.prior.kernels")
    monkeypatch.setattr(kernels, "BY_TENSOR_CORES", by_tensor_cores)
    prior = make_prior(hidden_size=24, num_layers=1, context_frames=150).to("cuda" if GPU else "cpu")
    block: Any = prior.transformer.blocks[0]
    found: dict[Any, list[Tensor]] = {}
    for ops in (fixed_ops, kernels):
        memory = random_memory(prior, batch, position)
        x_RE = ops.embedded(memory, prior.embedding.weight, (0, 18, 36), batch)
        values = [x_RE.clone()]
        qkv_RF = ops.product(x_RE, block.attention_norm, block.attention.qkv.weight)
        y_RE = ops.attended(memory, 0, qkv_RF, prior.config.num_heads)
        ops.add_product(x_RE, y_RE, block.attention.out.weight)
        values += [qkv_RF, x_RE.clone(), *memory.rings[0]]
        inner_RF = ops.gated(x_RE, block.mlp_norm, block.mlp.gate_up.weight)
        ops.add_product(x_RE, inner_RF, block.mlp.down.weight)
        found[ops] = [*values, inner_RF, x_RE]
    for plain, of_kernels in zip(found[fixed_ops], found[kernels], strict=True):
        assert (of_kernels - plain).norm() <= (2e-5 if by_tensor_cores else 2e-6) * plain.norm()


@torch.inference_mode()
@pytest.mark.parametrize("scale", [None, 2.5])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.7}, GREEDY, CUT], ids=str)
def test_the_kernel_draws_what_torch_draws(
    make_prior: MakePrior, scale: float | None, sampling: dict[str, Any]
) -> None:
    kernels = pytest.importorskip("distill_ray.prior.kernels")
    prior, batch = make_prior().to("cuda" if GPU else "cpu"), 40
    device = prior.heads_QKE.device
    torch.manual_seed(0)
    logits_RX = 3 * torch.randn(batch if scale is None else 2 * batch, 3 * 21, device=device)
    temperature_L = torch.tensor([0.5, 1.0, 1.5], device=device)
    codes = []
    for ops in (fixed_ops, kernels):
        memory = random_memory(prior, batch, position=5)
        memory.known_NBL[1, 0] = torch.tensor([20, -1, 3])
        ops.drawn(memory, logits_RX, temperature_L, scale or 1.0, SamplingConfig(**sampling))
        assert torch.equal(memory.codes_NBL[1], memory.tokens_BL)
        assert not memory.codes_NBL[[0, 2]].any()
        codes.append(memory.tokens_BL)
    assert codes[0][0, 0] == 20
    assert codes[0][0, 2] == 3
    assert len(codes[0].unique()) > 15
    assert torch.equal(codes[1], codes[0])


@needs_gpu
@pytest.mark.parametrize("pattern", ["delay", "flatten"])
@pytest.mark.parametrize("least", [1, 10**9], ids=["kernels", "torch"])
@pytest.mark.parametrize("request_", [{"prompt": 5}, {"scale": 3.0}, {**CUT, "batch": 9}, GREEDY], ids=str)
def test_a_graph_draws_the_codes_of_plain_steps(
    make_prior: MakePrior,
    monkeypatch: pytest.MonkeyPatch,
    pattern: str,
    least: int,
    request_: dict[str, Any],
) -> None:
    prior = controlled(make_prior, pattern=pattern).cuda()
    monkeypatch.setattr(fixed_steps, "LEAST_STEPS", 10**9)
    expected = drawn(prior, frames=40, **request_)
    monkeypatch.setattr(fixed_steps, "LEAST_STEPS", 1)
    monkeypatch.setattr(fixed_steps, "LEAST_STEPS_OF_KERNELS", least)
    with graph_kept():
        assert torch.equal(drawn(prior, frames=40, **request_), expected)
        kept = fixed_steps._kept[0]
        assert torch.equal(drawn(prior, frames=40, **request_), expected)
        assert fixed_steps._kept == [kept]
    assert fixed_steps._kept == []


def test_a_refused_graph_is_said_and_changes_nothing(
    make_prior: MakePrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = make_prior()
    expected = drawn(prior)

    class Refusing(FixedSteps):
        def __init__(self, *given: Any, **named: Any) -> None:
            raise RuntimeError("no graphs today\nand more lines")

    monkeypatch.setattr(fixed_steps, "FixedSteps", Refusing)
    monkeypatch.setattr(fixed_steps, "_can_capture", lambda device: True)
    monkeypatch.setattr(fixed_steps, "LEAST_STEPS", 1)
    with pytest.warns(UserWarning, match="codes are drawn without a CUDA graph, which is slower: no graphs"):
        assert torch.equal(drawn(prior), expected)


def test_a_stream_in_blocks_is_the_stream(
    make_prior: MakePrior, through_fixed: Callable[..., list[FixedSteps]]
) -> None:
    prior = make_prior()
    whole = drawn(prior, frames=23)
    through_fixed()
    blocks = list(
        stream_codes(prior, frames=23, batch=2, generator=torch.Generator().manual_seed(5), block_frames=8)
    )
    assert [block.shape[2] for block in blocks] == [8, 8, 7]
    assert torch.equal(torch.cat(blocks, dim=2), whole)

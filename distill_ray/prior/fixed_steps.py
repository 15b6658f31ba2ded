"""Drawing codes step by step in fixed memory, so that on a GPU one CUDA graph is a step.

Started one by one from Python, the kernels of a step take the host far longer than they take the GPU. Here
everything that changes from step to step is on the device: where the ring of keys and values stands, the
position's sine and cosine, the uniform numbers, codes that are known beforehand, the codes of the step
before. So a step is always the same kernels on the same memory, captured once and replayed; the host never
waits for one.

A graph holds the steps of a frame: one in the delay pattern, one for each level in the flat one.

Legend: B sounds, R rows (twice as many where guidance takes two a sound), L codes in a step, S steps, N steps
that are held at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from distill_ray.config.generation import SamplingConfig
from distill_ray.errors import first_line
from distill_ray.prior import fixed_ops
from distill_ray.prior.fixed_ops import Memory
from distill_ray.prior.guidance import Guidance
from distill_ray.prior.model import CodePrior
from distill_ray.prior.transformer import Block, KVCache, rotary_table

LEAST_STEPS = 32
"""What fewer steps take from Python is less than what capturing one takes."""
LEAST_STEPS_OF_KERNELS = 256
"""Where no process has compiled the kernels before, that takes seconds."""
_WARM_UPS = 2  # libraries choose kernels and allocate their workspaces in the first steps


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """What a graph was captured for; all else is in its memory."""

    prior: int
    places: tuple[int, ...]
    batch: int
    held: int
    sampling: SamplingConfig
    scale: float | None
    uses_kernels: bool


class FixedSteps:
    """Steps of `prior` for `batch` sounds, at most `held` between two calls of `fill`.

    kernels: take those of `kernels.py`, where they fit the weights. captured: as a CUDA graph. Both may raise
    what a compiler or a driver raises.
    """

    def __init__(
        self,
        prior: CodePrior,
        batch: int,
        held: int,
        sampling: SamplingConfig,
        guidance: Guidance | None,
        *,
        kernels: bool,
        captured: bool,
    ) -> None:
        self.shape = _shape(prior, batch, held, sampling, guidance, kernels=kernels)
        self._prior, self._sampling = prior, sampling
        self._ops: ModuleType = fixed_ops
        if kernels:
            from distill_ray.prior import kernels as kernel_ops

            if kernel_ops.fit(list(prior.parameters())):
                self._ops = kernel_ops
        self._scale = 1.0 if guidance is None else guidance.scale
        self._rows = 2 * batch if guidance is not None and guidance.is_double else batch
        self._heads = prior.config.num_heads
        levels, slots = prior.config.num_quantizers, 1 if prior.is_flat else prior.config.num_quantizers
        width, window = prior.transformer.head_width, prior.transformer.window
        weight = prior.heads_QKE

        def codes(value: int, *shape: int) -> Tensor:
            return torch.full(shape, value, dtype=torch.int64, device=weight.device)

        ring = (self._rows, self._heads, window, width)
        self._memory = Memory(
            clock_2=codes(0, 2),
            tokens_BL=codes(0, batch, slots),
            noise_NBL=torch.zeros(held, batch, slots, device=weight.device),
            known_NBL=codes(-1, held, batch, slots),
            table_N2D=torch.zeros(held, 2, width, device=weight.device),
            codes_NBL=codes(0, held, batch, slots),
            condition_RE=None if guidance is None else weight.new_zeros(self._rows, weight.shape[2]),
            rings=tuple(
                (weight.new_zeros(ring), weight.new_zeros(ring)) for _ in range(prior.config.num_layers)
            ),
        )
        self.stride = levels if prior.is_flat else 1
        self._has_known = False
        self._filled = self._next = 0
        self._length = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        if captured:
            self._capture()

    def begin(self, guidance: Guidance | None) -> KVCache:
        """An empty cache for what precedes, to be given to `follow`."""
        if guidance is not None:
            assert self._memory.condition_RE is not None, "made for one"
            batch = len(self._memory.tokens_BL)
            self._memory.condition_RE.copy_(guidance.condition_B1E(batch)[:, 0])
        return KVCache(len(self._memory.rings), self._prior.transformer.window, self._memory.rings)

    def follow(self, cache: KVCache, inputs_BL: Tensor) -> None:
        """Go on after the steps of `cache`, with the codes `inputs_BL` as the next step's input."""
        self._length = cache.length
        self._memory.tokens_BL.copy_(inputs_BL)
        self._filled = self._next = 0

    @property
    def uses_kernels(self) -> bool:
        """Whether its operations are those of `kernels.py`."""
        return self._ops is not fixed_ops

    @property
    def open(self) -> int:
        """Steps that can be taken before the next `fill`."""
        return self._filled - self._next

    def fill(self, count: int, noise_BSL: Tensor | None, known_BLS: Tensor | None) -> None:
        """Prepare the next `count` steps: their uniform numbers, on the CPU, and codes of the first of them
        that are known (-1: drawn).
        """
        assert self.open == 0, "steps that were prepared are left"
        assert count % self.stride == 0, "a graph is the steps of a frame"
        memory = self._memory
        if noise_BSL is not None:
            memory.noise_NBL[:count].copy_(self._sent(noise_BSL.transpose(0, 1)), non_blocking=True)
        if self._has_known:
            memory.known_NBL.fill_(-1)
        self._has_known = known_BLS is not None and known_BLS.shape[2] > 0
        if known_BLS is not None:
            memory.known_NBL[: known_BLS.shape[2]].copy_(known_BLS.permute(2, 0, 1))
        width = self._prior.transformer.head_width
        table_2ND = torch.stack(rotary_table(self._length, count, width, torch.device("cpu")))
        memory.table_N2D[:count].copy_(self._sent(table_2ND.transpose(0, 1)), non_blocking=True)
        # Every fill is a new beginning: the clock is set, not trusted.
        memory.clock_2.copy_(self._sent(torch.tensor([self._length, 0])), non_blocking=True)
        self._filled, self._next = count, 0

    def take(self, count: int) -> Tensor:
        """codes_BLS of the next `count` steps, at most `open`."""
        assert count <= self.open, "fill first"
        assert count % self.stride == 0, "a graph is the steps of a frame"
        for _ in range(count // self.stride):
            if self._graph is None:
                self._frame()
            else:
                self._graph.replay()
        first, self._next = self._next, self._next + count
        self._length += count
        # A copy: the memory is used again.
        return self._memory.codes_NBL[first : self._next].permute(1, 2, 0).clone()

    def _frame(self) -> None:
        for level in range(self.stride):
            self._drawn(self._hidden(level), level)
            self._memory.clock_2.add_(1)

    def _hidden(self, level: int) -> Tensor:
        """x_RE of the next step, before the last norm."""
        prior, ops, memory = self._prior, self._ops, self._memory
        rows_of_level = prior.config.codebook_size + 2
        if prior.is_flat:  # its input is the code of the level before
            first_rows: tuple[int, ...] = (rows_of_level * ((level - 1) % self.stride),)
        else:
            first_rows = tuple(rows_of_level * slot for slot in range(prior.config.num_quantizers))
        x_RE: Tensor = ops.embedded(memory, prior.embedding.weight, first_rows, self._rows)
        for layer, block in enumerate(prior.transformer.blocks):
            assert isinstance(block, Block)
            qkv_RF = ops.product(x_RE, block.attention_norm, block.attention.qkv.weight)
            y_RE = ops.attended(memory, layer, qkv_RF, self._heads)
            ops.add_product(x_RE, y_RE, block.attention.out.weight)
            inner_RF = ops.gated(x_RE, block.mlp_norm, block.mlp.gate_up.weight)
            ops.add_product(x_RE, inner_RF, block.mlp.down.weight)
        return x_RE

    def _drawn(self, x_RE: Tensor, level: int) -> None:
        prior = self._prior
        heads_FE, temperature_L = prior.heads_QKE.flatten(0, 1), prior.temperature_Q
        if prior.is_flat:
            heads_FE, temperature_L = prior.heads_QKE[level], prior.temperature_Q[level : level + 1]
        logits_RX = self._ops.product(x_RE, prior.transformer.norm, heads_FE)
        self._ops.drawn(self._memory, logits_RX, temperature_L, self._scale, self._sampling)

    def _capture(self) -> None:
        device = self._memory.clock_2.device
        with torch.cuda.device(device):
            stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    self._memory.clock_2.zero_()
                    self._frame()
            torch.cuda.current_stream(device).wait_stream(stream)
            torch.cuda.synchronize(device)
            graph = torch.cuda.CUDAGraph()
            # Other threads (Ray's, the checkpoint's) may use the GPU meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._frame()
            self._graph = graph

    def _sent(self, tensor: Tensor) -> Tensor:
        """`tensor` as it can be copied to the device while the host goes on."""
        return tensor.contiguous().pin_memory() if self._memory.clock_2.is_cuda else tensor


_kernels_failed = False  # here, once: not tried again
_kept: list[FixedSteps] = []
_keeping = 0


@contextmanager
def graph_kept() -> Iterator[None]:
    """Within it, the newest graph waits for the next request of its shape."""
    global _keeping
    _keeping += 1
    try:
        yield
    finally:
        _keeping -= 1
        if not _keeping:
            _kept.clear()


@contextmanager
def fixed_steps(
    prior: CodePrior,
    batch: int,
    held: int,
    sampling: SamplingConfig,
    guidance: Guidance | None,
    *,
    steps: int,
) -> Iterator[FixedSteps | None]:
    """What can draw `steps` steps faster than Python can; None where nothing can, after a warning where a GPU
    refused.
    """
    found = _found(prior, batch, held, sampling, guidance, steps=steps)
    try:
        yield found
    finally:
        _kept.clear()
        if _keeping and found is not None:
            _kept.append(found)


def _found(
    prior: CodePrior,
    batch: int,
    held: int,
    sampling: SamplingConfig,
    guidance: Guidance | None,
    *,
    steps: int,
) -> FixedSteps | None:
    global _kernels_failed
    if steps < LEAST_STEPS or not _can_capture(prior.heads_QKE.device):
        return None
    reason = ""
    for kernels in (True, False) if steps >= LEAST_STEPS_OF_KERNELS and not _kernels_failed else (False,):
        wanted = _shape(prior, batch, held, sampling, guidance, kernels=kernels)
        if _kept and _kept[0].shape == wanted:
            return _kept.pop()
        _kept.clear()
        try:
            return FixedSteps(prior, batch, held, sampling, guidance, kernels=kernels, captured=True)
        except Exception as error:  # whatever a compiler, a driver or a missing header may raise
            reason = first_line(error)
            _kernels_failed |= kernels
    warnings.warn(f"codes are drawn without a CUDA graph, which is slower: {reason}", stacklevel=4)
    return None


def _can_capture(device: torch.device) -> bool:
    return device.type == "cuda" and torch.version.hip is None


def _shape(
    prior: CodePrior,
    batch: int,
    held: int,
    sampling: SamplingConfig,
    guidance: Guidance | None,
    *,
    kernels: bool,
) -> _Shape:
    return _Shape(
        prior=id(prior),
        places=tuple(value.data_ptr() for value in (*prior.parameters(), prior.temperature_Q)),
        batch=batch,
        held=held,
        sampling=sampling,
        scale=None if guidance is None else guidance.scale,
        uses_kernels=kernels,
    )

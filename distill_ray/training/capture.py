"""The gradients of a step, on GPUs by replaying one CUDA graph of forward, loss and backward.

A step is a thousand small kernels, and starting them one by one takes the host longer than running them
takes the GPU. The graph runs the same kernels on the same numbers, so losses are those of uncaptured
training to the last digit (tests/bench/step_time.py, prior_speed.py). `vqvae.py` and `prior.py` train
through `Gradients`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from distill_ray.errors import first_line
from distill_ray.events.records import Notice
from distill_ray.training.worker import Worker

OutcomeT = TypeVar("OutcomeT", bound=Sequence[Any])
"""What an objective returns, the loss first."""

_UNCAPTURED_STEPS = 3  # libraries choose kernels and allocate their workspaces in the first ones


class Gradients(Generic[OutcomeT]):
    """Leaves the gradients of `objective`, averaged over ranks, in the parameters that it trains.

    With `capture`, from the fourth call on by replaying a graph; then `objective(*inputs)` must not make the
    host wait. Random numbers it may draw from the device's default generator: a replay has those of the seed
    that it is given before. Every call has inputs of the same shapes, None where others have none; what a
    call returns holds until the next.

    With `joined` (and `capture`) ranks average their gradients in one all-reduce after the backward pass,
    where DistributedDataParallel would do so piece by piece inside it: inside a graph it cannot, and of
    gradients that `objective` makes in its forward it knows nothing. With `bf16` they travel as bf16, which
    halves what the step waits for them: their products were rounded so already.
    """

    def __init__(
        self,
        objective: nn.Module,
        parameters: Sequence[nn.Parameter],
        worker: Worker,
        *,
        bf16: bool,
        capture: bool,
        joined: bool = False,
    ) -> None:
        self._worker = worker
        self._bf16 = bf16
        self._parameters = parameters
        self._joined: Tensor | None = None
        self._parts: list[Tensor] = []
        self._graph: torch.cuda.CUDAGraph | None = None
        self._calls_to_capture = _UNCAPTURED_STEPS if capture else -1
        self._objective: nn.Module = objective
        if not capture and not joined:
            self._objective = worker.wrap(objective)
            return
        if worker.world_size > 1:
            _share(objective, worker)
            sizes = [value.numel() for value in self._parameters]
            dtype = torch.bfloat16 if bf16 else torch.float32
            self._joined = torch.zeros(sum(sizes), device=worker.device, dtype=dtype)
            self._parts = [
                part.view_as(value)
                for part, value in zip(torch.split(self._joined, sizes), self._parameters, strict=True)
            ]

    def __call__(self, *inputs: Tensor | None) -> OutcomeT:
        if self._calls_to_capture == 0:
            self._capture(inputs)
        self._calls_to_capture -= 1
        if self._graph is None:
            outcome = self._compute(inputs)
        else:
            for memory, value in zip(self._inputs, inputs, strict=True):
                if memory is not None and value is not None:
                    memory.copy_(value, non_blocking=True)
            self._graph.replay()
            outcome = self._outcome
            for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
                parameter.grad = gradient
        if self._joined is not None:
            self._worker.average(self._joined)
            gradients = [parameter.grad for parameter in self._parameters]
            torch._foreach_copy_(gradients, self._parts)  # type: ignore[arg-type]
        return outcome

    def _compute(self, inputs: Sequence[Tensor | None]) -> OutcomeT:
        with torch.autocast(self._worker.device.type, torch.bfloat16, enabled=self._bf16):
            outcome: OutcomeT = self._objective(*inputs)
        outcome[0].backward()
        if self._parts:
            gradients = [value.grad for value in self._parameters]
            torch._foreach_copy_(self._parts, gradients)  # type: ignore[arg-type]
        return outcome

    def _capture(self, inputs: Sequence[Tensor | None]) -> None:
        for parameter in self._parameters:
            parameter.grad = None  # so that a replay sets gradients instead of adding to them
        self._inputs = [None if value is None else value.clone() for value in inputs]
        try:
            graph = torch.cuda.CUDAGraph()
            # Other threads (Ray's, the checkpoint's) may use the GPU meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._outcome = self._compute(self._inputs)
        except RuntimeError as error:
            reason = first_line(error)
            message = f"steps run without a CUDA graph, which makes them slower: {reason}"
            self._worker.emit(Notice(level="warning", message=message))
            for parameter in self._parameters:
                parameter.grad = None
            return
        self._gradients = [parameter.grad for parameter in self._parameters]
        self._graph = graph


def _share(module: nn.Module, worker: Worker) -> None:
    """Give every rank rank 0's parameters and buffers, as DistributedDataParallel does."""
    with torch.no_grad():
        for value in (*module.parameters(), *module.buffers()):
            own = value.detach() if worker.rank == 0 else torch.zeros_like(value)
            value.copy_(worker.all_reduce(own.clone()))

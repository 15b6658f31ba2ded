"""The same work on tensors of the same shapes again and again: on NVIDIA GPUs a CUDA graph that is replayed.

Work of hundreds of small kernels takes the host longer to start than the GPU to do.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from distill_ray.errors import first_line

_UNCAPTURED_CALLS = 3  # libraries choose kernels, make plans and allocate in the first ones


class Replayed:
    """Calls what it is given; from the fourth call in a row with inputs of the same shapes on it replays a
    graph of the same kernels. What a call returns holds until the next.

    Without gradients, always of the same function, which must not make the host wait.
    """

    def __init__(self) -> None:
        self._shapes: tuple[torch.Size, ...] = ()
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._outputs: tuple[Tensor, ...] = ()

    def __call__(self, function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
        if not _can_capture(inputs[0]):
            return function(*inputs)
        shapes = tuple(value.shape for value in inputs)
        if shapes != self._shapes:
            self._shapes, self._calls, self._graph = shapes, 0, None
        self._calls += 1
        if self._calls == _UNCAPTURED_CALLS + 1:
            self._capture(function, inputs)
        if self._graph is None:
            return function(*inputs)
        for memory, value in zip(self._inputs, inputs, strict=True):
            memory.copy_(value)
        self._graph.replay()
        return self._outputs

    def _capture(self, function: Callable[..., tuple[Tensor, ...]], inputs: tuple[Tensor, ...]) -> None:
        self._inputs = tuple(value.clone() for value in inputs)
        try:
            graph = torch.cuda.CUDAGraph()
            # Other threads (Ray's, the checkpoint's) may use the GPU meanwhile.
            with (
                torch.cuda.device(inputs[0].device),
                torch.cuda.graph(graph, capture_error_mode="thread_local"),
            ):
                self._outputs = function(*self._inputs)
        except RuntimeError as error:
            reason = first_line(error)
            warnings.warn(f"phases are found without a CUDA graph, which is slower: {reason}", stacklevel=2)
            return
        self._graph = graph


def _can_capture(tensor: Tensor) -> bool:
    return (
        tensor.is_cuda
        and torch.version.hip is None
        and not torch.is_grad_enabled()
        and not torch.cuda.is_current_stream_capturing()
    )

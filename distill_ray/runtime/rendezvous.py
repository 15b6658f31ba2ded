"""The process group of a private Ray: found through a file, so that it opens no port beyond loopback.

torch's own TCPStore listens on every interface. Gloo and NCCL themselves are kept on "lo" by the environment
that `ray_session.py` sets. Ray's controller loads this module too: it must not import torch, which would cost
it seconds.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig


@dataclass
class LoopbackGroup(BackendConfig):  # type: ignore[misc]
    """A torch process group of ranks on one machine that share `folder`; `backend` is "gloo" or "nccl"."""

    backend: str
    folder: str

    @property
    def backend_cls(self) -> type[Any]:
        return _LoopbackBackend


class _LoopbackBackend(Backend):  # type: ignore[misc]
    share_cuda_visible_devices = True  # as Ray's TorchTrainer does: NCCL reaches the peers' GPUs directly

    def on_start(self, worker_group: Any, backend_config: LoopbackGroup) -> None:
        # A new file for each start of the group: an old one still holds the keys of the ranks that were lost.
        store = Path(backend_config.folder) / f"rendezvous-{uuid.uuid4().hex}"
        ranks = len(worker_group)
        ray.get(
            [
                worker_group.execute_single_async(
                    rank, _join, backend_config.backend, str(store), rank, ranks
                )
                for rank in range(ranks)
            ]
        )


def _join(backend: str, store: str, rank: int, ranks: int) -> None:
    import torch.distributed as dist
    from torch._C._distributed_c10d import FileStore

    dist.init_process_group(
        backend, store=FileStore(store, ranks), rank=rank, world_size=ranks, timeout=timedelta(minutes=30)
    )

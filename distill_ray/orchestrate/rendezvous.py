"""The process group of a private Ray: found through a file, so that it opens no port beyond loopback.

torch's own TCPStore listens on every interface. Gloo and NCCL themselves are kept on "lo" by the
environment that `session.py` sets.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import torch.distributed as dist
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend
from torch._C._distributed_c10d import FileStore


@dataclass
class LoopbackTorchConfig(TorchConfig):  # type: ignore[misc]
    """`TorchConfig` for ranks on one machine that share `folder`."""

    folder: str = ""

    @property
    def backend_cls(self) -> type[Any]:
        return _LoopbackBackend


class _LoopbackBackend(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: LoopbackTorchConfig) -> None:
        # A new file for each start of the group: an old one still holds the keys of the ranks that were lost.
        store = Path(backend_config.folder) / f"rendezvous-{uuid.uuid4().hex}"
        ranks = len(worker_group)
        ray.get(
            [
                worker_group.execute_single_async(
                    rank, _join, backend_config.backend, str(store), rank, ranks, backend_config.timeout_s
                )
                for rank in range(ranks)
            ]
        )


def _join(backend: str, store: str, rank: int, ranks: int, timeout_s: float) -> None:
    dist.init_process_group(
        backend,
        store=FileStore(store, ranks),
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=timeout_s),
    )

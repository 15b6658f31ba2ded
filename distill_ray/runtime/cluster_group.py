"""The process group of a cluster: Ray's own, with gloo on the network that Ray itself uses.

Gloo takes the address that the host's name resolves to, which on many machines (Debian's 127.0.1.1) no other
node can reach. NCCL finds its network by itself. `rendezvous.py` has the group of a private Ray.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from typing import Any

from ray.train.torch import TorchConfig

_GLOO = "GLOO_SOCKET_IFNAME"
_SIOCGIFADDR = 0x8915


class ClusterGroup(TorchConfig):  # type: ignore[misc]
    """A torch process group over the nodes of a cluster."""

    @property
    def backend_cls(self) -> type[Any]:
        return _ClusterBackend


class _ClusterBackend(TorchConfig().backend_cls):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: ClusterGroup) -> None:
        if backend_config.backend == "gloo":
            worker_group.execute(_use_network_of_ray)
        super().on_start(worker_group, backend_config)


def _use_network_of_ray() -> None:
    from ray.util import get_node_ip_address

    name = interface_of(get_node_ip_address())
    if name is not None:
        os.environ.setdefault(_GLOO, name)


def interface_of(address: str) -> str | None:
    """The network interface that has the IPv4 `address`; None where none is known to have it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asked, _SIOCGIFADDR, struct.pack("256s", os.fsencode(name)))
            except OSError:
                continue  # without an IPv4 address
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None

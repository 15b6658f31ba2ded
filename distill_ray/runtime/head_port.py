"""Whether a Ray head answers at an address, asked with the standard library alone."""

from __future__ import annotations

import os
import socket

HEAD_PORT = 6379
"""Where a head listens if nobody says otherwise."""
_TIMEOUT_S = 2.0
# A Ray head speaks gRPC, that is HTTP/2: both sides begin with a frame of settings (fourth byte: its type).
_HTTP2_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _HTTP2_SETTINGS


def is_head(host: str, port: int) -> bool:
    """Whether what listens there speaks as a head does; where Ray speaks TLS, whether anything listens.

    Raises OSError or UnicodeError (for what can be no host's name) where nothing listens.
    """
    try:
        with socket.create_connection((host, port), timeout=_TIMEOUT_S) as peer:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return True
            peer.sendall(_HTTP2_HELLO)
            answer = peer.recv(len(_HTTP2_SETTINGS), socket.MSG_WAITALL)
    except TimeoutError:
        return False
    return answer[3:4] == _HTTP2_SETTINGS[3:4]

"""Which cluster a client speaks to, and with which token: what the user gave, checked without the network.

`client.py` uses both. A token is never shown, logged or sent anywhere but to the cluster's address.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from distill_ray.errors import UsageError
from distill_ray.uri import shown_uri

ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"  # Ray's own name for the same thing
_DASHBOARD_PORT = 8265
_HEAD_PORT = 6379
_CLIENT_PORT = 10001
_RAY_TOKEN_FILE = Path("~/.ray/auth_token")
_HOW = f"give the address of the cluster's dashboard: --address http://HOST:{_DASHBOARD_PORT}"


@dataclass(frozen=True, kw_only=True)
class DashboardAddress:
    """Where a cluster's dashboard, which takes jobs, is served; `path` is a prefix, mostly empty."""

    scheme: str
    host: str
    port: int
    path: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    @property
    def is_local(self) -> bool:
        return self.host in ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, kw_only=True)
class Token:
    """What the cluster is asked with; `source` says where it was found."""

    value: str = field(repr=False)
    source: str


def dashboard_address(given: str | None, environ: Mapping[str, str] = os.environ) -> DashboardAddress:
    """The address that the user gave, or that RAY_API_SERVER_ADDRESS holds.

    Raises UsageError where there is none, or one that is not a dashboard's URL; it says which would be.
    """
    text = given or environ.get(ADDRESS_VARIABLE)
    if not text:
        raise UsageError(f"no cluster is named; {_HOW} (or set {ADDRESS_VARIABLE})")
    scheme, separator, rest = text.rpartition("://")
    scheme = scheme.lower()
    if not separator:
        raise UsageError(_without_scheme(text))
    if scheme not in ("http", "https"):
        known = "Ray Client's address, which takes no jobs" if scheme == "ray" else "not an http address"
        raise UsageError(f"{shown_uri(text)} is {known}; {_HOW}")
    if "@" in rest:
        raise UsageError(f"{shown_uri(text)} holds credentials, which are not sent; use --token-file")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port == 0:
        raise UsageError(f"{text!r} names no {'port' if host else 'host'}; {_HOW}")
    if not parts.path.isascii():
        raise UsageError(f"the path of {text} must be percent-encoded; {_HOW}")
    if port in (_HEAD_PORT, _CLIENT_PORT):
        raise UsageError(f"{text} is {_role(port)}; {_better(host)}")
    default = 443 if scheme == "https" else 80
    return DashboardAddress(scheme=scheme, host=host, port=port or default, path=parts.path.rstrip("/"))


def find_token(token_file: Path | None, environ: Mapping[str, str] = os.environ) -> Token | None:
    """The token in `token_file`, else RAY_AUTH_TOKEN, else RAY_AUTH_TOKEN_PATH, else Ray's ~/.ray/auth_token.

    Raises UsageError for a file that cannot be read, is empty or can be read by others.
    """
    if token_file is not None:
        return _from_file(token_file.expanduser())
    if value := environ.get("RAY_AUTH_TOKEN", "").strip():
        return _checked(value, "RAY_AUTH_TOKEN")
    if path := environ.get("RAY_AUTH_TOKEN_PATH"):
        return _from_file(Path(path).expanduser())
    default = _RAY_TOKEN_FILE.expanduser()
    return _from_file(default) if default.is_file() else None


def _from_file(path: Path) -> Token:
    try:
        with path.open(encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise UsageError(f"others can read the token file {path}: run chmod 600 {path}")
            text = file.read(10_000).strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(f"the token file {path} cannot be read: {reason}") from None
    if not text:
        raise UsageError(f"the token file {path} is empty")
    return _checked(text, str(path))


def _checked(value: str, source: str) -> Token:
    if not value.isascii() or not value.isprintable() or " " in value:
        raise UsageError(f"what {source} holds is no token: it has spaces or other special characters")
    return Token(value=value, source=source)


def _without_scheme(text: str) -> str:
    host, _, port = text.partition(":")
    if port.isdecimal() and int(port) in (_HEAD_PORT, _CLIENT_PORT):
        return f"{text} is {_role(int(port))}; {_better(host)}"
    if re.fullmatch(r"[\w.-]+", host) and (port.isdecimal() or not port):
        return f"{text} has no scheme; did you mean --address http://{host}:{port or _DASHBOARD_PORT}?"
    return f"{text!r} is not an address; {_HOW}"


def _role(port: int | None) -> str:
    return "the port of Ray's head itself" if port == _HEAD_PORT else "Ray Client's port"


def _better(host: str) -> str:
    return f"jobs go to the dashboard: --address http://{host}:{_DASHBOARD_PORT}"

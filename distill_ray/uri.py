"""URIs of storage: one parser, and one rule for what of a URI may be shown. Standard library only.

A URI with credentials in it is refused wherever it comes in, because it would be kept in settings, jobs and
logs; `redacted` hides them in every sentence that is shown, whoever wrote it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//|/)?")  # one slash is left where a Path was made of it
# What each scheme is given behind "?"; no secret is among them.
_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "s3": ("region", "scheme", "endpoint_override"),
    "gs": (),
    "gcs": (),
    "abfs": ("blob_storage_authority", "dfs_storage_authority", "blob_storage_scheme", "dfs_storage_scheme"),
    "hdfs": ("user", "replication", "buffer_size", "default_block_size"),
    "file": (),
}
_OPTIONS = {**_OPTIONS, "abfss": _OPTIONS["abfs"], "viewfs": _OPTIONS["hdfs"]}
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
    "abfs": "AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET",
    "abfss": "AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET",
}
_BUCKETS = ("s3", "gs", "gcs")
_AZURE = ("abfs", "abfss")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]*")
_HOST = re.compile(r"((\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:\d+)?)?")
_USER = re.compile(r"[\w.$-]+")  # a container or a user, which are no secrets
_HIDDEN = "***"
_IN_TEXT = re.compile(r"""[A-Za-z][A-Za-z0-9+.-]+:/[^\s"'<>]*[^\s"'<>,.;:)\]}]""")


@dataclass(frozen=True, kw_only=True)
class Uri:
    """A URI without credentials; `str` gives it as it was written.

    container: an S3 or GCS bucket, or an Azure container. account: the Azure account's host, or the host and
    port of another server. key: the path below them, decoded, without a slash at either end.
    """

    scheme: str
    container: str
    account: str
    key: str
    query: Mapping[str, str]
    text: str

    def __str__(self) -> str:
        return self.text

    @property
    def name(self) -> str:
        """The last part of the path, or else the container."""
        return self.key.rpartition("/")[2] or self.container

    @property
    def parent(self) -> str:
        """The URI of the folder that it lies in."""
        head, mark, query = self.text.partition("?")
        return head.rstrip("/").rpartition("/")[0] + mark + query

    def below(self, *names: str) -> str:
        """The URI of what lies below; options stay at the end."""
        head, mark, query = self.text.partition("?")
        return "/".join([head.rstrip("/"), *(quote(name, safe="/@:+=,~") for name in names)]) + mark + query


def is_uri(text: str | os.PathLike[str]) -> bool:
    """Whether `text` is a URI and no path; a folder's name may have a colon."""
    found = _SCHEME.match(os.fspath(text))
    return found is not None and (found[2] == "//" or found[1].lower() in _OPTIONS)


def parse_uri(text: str) -> Uri:
    """The parts of a URI.

    Raises ValueError with half a sentence that goes on from `shown_uri`: where it holds credentials, has an
    option that its scheme has not, or names no bucket.
    """
    found = _SCHEME.match(text)
    assert found is not None, "not a URI"
    scheme, rest = found[1].lower(), text[found.end() :]
    body, _, options = rest.partition("?")
    if shown_uri(text).partition("?")[0] != text.partition("?")[0] or "@" in unquote(options):
        instead = f"; give them as {_CREDENTIALS[scheme]}" if scheme in _CREDENTIALS else ""
        raise ValueError(f"has credentials in it, which would be stored and shown{instead}")
    if found[2] != "//" and scheme != "file":
        raise ValueError(f"is no URI; write {scheme}://BUCKET/FOLDER")
    if "#" in text:
        raise ValueError("has a # in it; write %23 where it belongs to a name")
    query = _options(scheme, options)
    authority, _, path = ("", "", body) if scheme == "file" else body.partition("/")
    container, account = "", authority
    if scheme in _AZURE:
        container, _, account = authority.rpartition("@")
    elif scheme in _BUCKETS:
        container, account = authority, ""
        if not container:
            raise ValueError(f"names no bucket; write {scheme}://BUCKET/FOLDER")
        if not re.fullmatch(r"[\w.-]+", container, re.ASCII):
            raise ValueError("names a bucket with other characters than letters, digits, dots and dashes")
    return Uri(
        scheme=scheme, container=container, account=account, key=_decoded(path), query=query, text=text
    )


def shown_uri(text: str) -> str:
    """A URI with `***` in the place of its credentials: what is before an `@`, and the values of options that
    are not known to be harmless. A path is left alone, as are Azure's `container@account` and HDFS's user.
    """
    found = _SCHEME.match(text)
    if found is None or not is_uri(text) or found[1].lower() == "file":
        return text
    scheme, rest = found[1].lower(), text[found.end() :]
    body, mark, options = rest.partition("?")
    head, at, tail = body.rpartition("@")
    if at and _is_secret(scheme, head):
        body = f"{_HIDDEN}@{tail}"
    elif scheme in _BUCKETS and ":" in body.partition("/")[0]:
        body = _HIDDEN  # the rest of a secret may be where its bucket should be
    known = _OPTIONS.get(scheme, ())
    shown = "&".join(_redacted_option(option, known) for option in options.split("&")) if mark else ""
    return f"{found[0]}{body}{mark}{shown}"


def redacted(text: str) -> str:
    """A sentence, or any other text, with every URI in it as `shown_uri` gives it."""
    return _IN_TEXT.sub(lambda found: shown_uri(found[0]), text) if ":/" in text else text


def _is_secret(scheme: str, head: str) -> bool:
    """Whether what is before the last `@` is more than a part of the path, a container or a user."""
    authority, slash, _ = head.partition("/")
    if slash:  # an @ in a folder's name, unless a secret with slashes is before it
        user, at, host = authority.rpartition("@")
        valid = _BUCKET if scheme in _BUCKETS else _HOST
        return valid.fullmatch(host) is None or (bool(at) and _is_secret(scheme, user))
    return scheme not in (*_AZURE, "hdfs", "viewfs") or _USER.fullmatch(head) is None


def _redacted_option(option: str, known: tuple[str, ...]) -> str:
    key, equals, value = option.partition("=")
    if key in known and "@" not in unquote(value):
        return option
    if not equals:
        return _HIDDEN if option else ""
    return f"{key}={_HIDDEN}" if value else option


def _options(scheme: str, text: str) -> Mapping[str, str]:
    given = dict(each.partition("=")[::2] for each in text.split("&")) if text else {}
    known = _OPTIONS.get(scheme, ())
    unknown = next((key for key in given if key not in known), None)
    if unknown is not None:
        what = f"an unknown option {unknown}" if given[unknown] else "an option without a value"
        instead = f"; credentials are given as {_CREDENTIALS[scheme]}" if scheme in _CREDENTIALS else ""
        raise ValueError(f"has {what}; there are {', '.join(known) or 'none'}{instead}")
    return {key: unquote(value) for key, value in given.items()}


def _decoded(path: str) -> str:
    return unquote(path).strip("/")

"""The manifest of a corpus: which files it holds, where their samples lie, how they are split.

It is one JSON file, written last and at once: what it names is the corpus, whatever else lies beside it.
`prepare.py` writes it, `corpus.py` reads it.
"""

from __future__ import annotations

import hashlib
import json
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cached_property
from typing import Any, TypeVar

from distill_ray.errors import CorpusError
from distill_ray.jsonable import parse_json
from distill_ray.storage.names import fault_of, shown_name
from distill_ray.storage.storage import Storage

MANIFEST_NAME = "distill-corpus.json"
SHARD_FOLDER = "shards"
FORMAT = "distill-ray corpus"
VERSION = 1
SPLITS = ("train", "val")


@dataclass(frozen=True, kw_only=True)
class CorpusFile:
    """One recording of the corpus; `path` is only for people, `sha256` of the source identifies it.

    label: the name of the folder that it lay in (`scan.py`); empty where there was none, and in corpora of
    before 2026-11-30. offset: the mean of the channel that is farthest from zero, as a share of full scale.
    mixed_db: power of the mix over that of the channels. note: what else is odd about it. Corpora of before
    2026-12 have none of these.
    """

    path: str
    sha256: str
    samples: int
    split: str
    source_rate: int
    source_channels: int
    clipped: int
    shard: str
    start: int
    label: str = ""
    offset: float = 0.0
    mixed_db: float = 0.0
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """One Arrow file of the corpus: its rows (samples of each channel) and its size."""

    name: str
    rows: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class RejectedFile:
    """A file that was found but not used, and why."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class DuplicateFile:
    """A file whose content another file has already brought.

    sha256 and twin are the hashes of both where their bytes differ and their samples do not; empty otherwise.
    """

    path: str
    same_as: str
    sha256: str = ""
    twin: str = ""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that is known of a corpus; files are in the order of their sha256."""

    sample_rate: int
    channels: int
    files: tuple[CorpusFile, ...]
    shards: tuple[ShardInfo, ...]
    rejected: tuple[RejectedFile, ...] = ()
    duplicates: tuple[DuplicateFile, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Hex identity of content, splits and format: no paths, no order, no shard layout."""
        hasher = hashlib.sha256(f"{FORMAT} {VERSION} {self.sample_rate} {self.channels}\n".encode())
        for line in sorted(f"{file.sha256} {file.split} {file.samples}\n" for file in self.files):
            hasher.update(line.encode())
        return hasher.hexdigest()

    def to_json(self) -> str:
        """The text of the manifest file."""
        document = {"format": FORMAT, "version": VERSION, "digest": self.digest, **asdict(self)}
        return json.dumps(document, indent=1) + "\n"


def read_manifest(storage: Storage) -> Manifest | None:
    """The manifest at `storage`, or None where there is none.

    Raises `CorpusError` for a damaged one and for one that a newer distill-ray wrote.
    """
    content = storage.read_bytes(MANIFEST_NAME)
    if content is None:
        return None
    try:
        return _parse(parse_json(content), storage.uri)
    except (ValueError, KeyError, TypeError) as error:
        raise CorpusError(
            f"the manifest {MANIFEST_NAME} of the corpus at {storage.uri} is damaged ({error}); delete that "
            "folder and prepare it again"
        ) from error


def write_manifest(storage: Storage, manifest: Manifest) -> None:
    """Make `manifest` the corpus at `storage`; its shards must be there."""
    with storage.writing(MANIFEST_NAME) as stream:
        stream.write(manifest.to_json().encode())


def _parse(document: Any, uri: str) -> Manifest:
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError("it is not a manifest of distill-ray")
    version = document.get("version")
    if isinstance(version, int) and version > VERSION:
        raise CorpusError(
            f"the corpus at {uri} has format version {version} and this distill-ray reads up to {VERSION}; "
            "upgrade distill-ray or prepare it again elsewhere"
        )
    if version != VERSION:
        raise ValueError(f"version {version!r}")
    manifest = Manifest(
        sample_rate=_positive(document["sample_rate"]),
        channels=_positive(document["channels"]),
        files=_records(CorpusFile, document["files"]),
        shards=_records(ShardInfo, document["shards"]),
        rejected=_records(RejectedFile, document["rejected"]),
        duplicates=_records(DuplicateFile, document["duplicates"]),
    )
    rows = {shard.name: shard.rows for shard in manifest.shards}
    for shard in manifest.shards:
        # Samples are not compressed: nothing is bigger in memory than its file is.
        if not 0 < 2 * manifest.channels * shard.rows <= shard.bytes:
            raise ValueError(f"impossible size of the shard {shown_name(shard.name)}")
    for file in manifest.files:
        if file.split not in SPLITS or file.samples < 1 or file.start < 0:
            raise ValueError(f"impossible entry of {file.path}")
        if file.start + file.samples > rows.get(file.shard, 0):
            raise ValueError(f"{file.path} lies outside its shard {file.shard}")
    wrong = next((name for name in rows if fault_of(name, folders=False)), None)
    if wrong is not None:
        raise ValueError(f"a shard outside the corpus: {shown_name(wrong)}")
    if manifest.digest != document["digest"]:
        raise ValueError("its digest does not match its files")
    return manifest


Record = TypeVar("Record", CorpusFile, ShardInfo, RejectedFile, DuplicateFile)


def _records(kind: type[Record], raw: list[Mapping[str, Any]]) -> tuple[Record, ...]:
    types = typing.get_type_hints(kind)
    later = {field.name: field.default for field in fields(kind) if field.default is not MISSING}
    records = [{**later, **record} for record in raw]
    for record in records:
        wrong = [field.name for field in fields(kind) if type(record[field.name]) is not types[field.name]]
        if wrong:
            raise ValueError(f"{kind.__name__} with a wrong {wrong[0]}")
    return tuple(kind(**record) for record in records)


def _positive(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{value!r} is not a positive whole number")
    return value

"""The safetensors file under `.distill` and codes files: named arrays plus one JSON document.

The header's metadata holds `format`, `version`, `manifest` (the document as JSON text) and
`manifest_sha256`; what the documents mean is `format.py`'s and `generate/codes.py`'s matter. Reading goes
through the safetensors library, which checks lengths, offsets, dtypes and shapes before any of it is
used. Writing is done here, because the library orders the metadata at random (the same model would give
other bytes each time) and creates files that only their owner may read. NumPy, no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from distill_ray.errors import BundleError
from distill_ray.jsonable import parse_json
from distill_ray.storage.atomic import atomic_file

Array = NDArray[Any]

HEADER_LIMIT = 100_000_000
"""Longest header in bytes that the safetensors library reads."""

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "BOOL": "|b1"}
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items()}


@dataclass(frozen=True)
class TensorFacts:
    """What the header says of one tensor; `dtype` as safetensors spells it (F32, I64, BOOL, …)."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))


class Container:
    """An open file: its document and tensor facts are in memory, its arrays are read on demand."""

    def __init__(self, path: Path, handle: Any, document: dict[str, Any]) -> None:
        self.path = path
        self.document = document
        self._handle = handle
        self.tensors: dict[str, TensorFacts] = {}
        for name in sorted(handle.keys()):
            facts = handle.get_slice(name)
            self.tensors[name] = TensorFacts(facts.get_dtype(), tuple(facts.get_shape()))

    def names(self, prefix: str) -> list[str]:
        """Names of the tensors whose name starts with `prefix`, sorted."""
        return [name for name in self.tensors if name.startswith(prefix)]

    def read(self, name: str) -> Array:
        """A copy of one array. Raises BundleError where its dtype is none that distill-ray writes."""
        facts = self.tensors[name]
        if facts.dtype not in _DTYPES:
            raise BundleError(
                f"{self.path} is not usable: tensor {name!r} has the unknown dtype {facts.dtype}"
            )
        array: Array = self._handle.get_tensor(name)
        return array


@contextlib.contextmanager
def open_container(path: Path, *, kind: str, version: str, noun: str) -> Iterator[Container]:
    """Open `path` and check that it is a `kind` file of `version`; `noun` names it in messages.

    Raises BundleError with one sentence for everything that can be wrong with the file.
    """
    try:
        _refuse_strangers(path, noun)
        with safe_open(str(path), framework="numpy") as handle:
            metadata = handle.metadata() or {}
            yield Container(path, handle, _document(path, metadata, kind, version, noun))
    except SafetensorError as problem:
        raise BundleError(
            f"{path} is damaged or cut short ({problem}); copy it again from where it was made"
        ) from problem
    except OSError as problem:
        raise BundleError(
            f"{path} cannot be read ({problem.strerror or problem}); check the path and its permissions"
        ) from problem


def write_container(
    path: Path, arrays: Mapping[str, Array], document: Mapping[str, Any], *, kind: str, version: str
) -> None:
    """Write the file atomically; the same arrays and document always give the same bytes.

    Raises BundleError where the document is too long for a header or the file cannot be written.
    """
    text = json.dumps(document, sort_keys=True, ensure_ascii=False, allow_nan=False)
    metadata = {
        "format": kind,
        "version": version,
        "manifest": text,
        "manifest_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    # Widest elements first, so that every array starts at a multiple of its element size.
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for name, array in ordered:
        end = offset + array.nbytes
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)
    if len(encoded) > HEADER_LIMIT:
        raise BundleError(
            f"{path} was not written: its metadata takes {len(encoded)} bytes and {HEADER_LIMIT} are "
            "allowed; shorten the loss history or notes that go into it"
        )
    with atomic_file(path, follow_link=True) as file:
        file.write(struct.pack("<Q", len(encoded)))
        file.write(encoded)
        for _, array in ordered:
            file.write(np.ascontiguousarray(array).data)


def digest(config: Mapping[str, Any], arrays: Mapping[str, Array]) -> str:
    """sha256 (hex) of the config's JSON and, in name order, each array's name, dtype, shape and bytes."""
    state = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        shape = ",".join(str(size) for size in array.shape)
        state.update(f"\n{name} {_NAMES[array.dtype]} {shape}\n".encode())
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()


def _refuse_strangers(path: Path, noun: str) -> None:
    """Say what a file is that plainly is none of ours; the library's messages would not."""
    if not path.exists():
        raise BundleError(f"{path} does not exist; give the path of {noun}")
    if path.is_dir():
        raise BundleError(f"{path} is a folder; give the path of {noun}")
    if not path.is_file():
        raise BundleError(f"{path} is not a regular file; give the path of {noun}")
    with path.open("rb") as file:
        start = file.read(8)
    size = path.stat().st_size
    if not size:
        raise BundleError(f"{path} is empty; give the path of {noun}")
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        raise BundleError(
            f"{path} is of the older pickle kind (a torch.save archive), which is not opened because it can "
            "run code; train the model again with this version of distill-ray"
        )
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else None
    if length is None or length > HEADER_LIMIT:
        raise BundleError(f"{path} is no .distill or codes file; give the path of {noun}")
    if 8 + length > size:
        raise BundleError(f"{path} is cut short; copy it again from where it was made")


def _document(path: Path, metadata: Mapping[str, str], kind: str, version: str, noun: str) -> dict[str, Any]:
    found = metadata.get("format")
    if found != kind:
        raise BundleError(
            f"{path} is a safetensors file of another kind ({found or 'no format named'}); give {noun}"
        )
    if metadata.get("version") != version:
        raise BundleError(
            f"{path} has format version {metadata.get('version')!r} and this distill-ray reads {version!r}; "
            "use the distill-ray that wrote it"
        )
    text = metadata.get("manifest", "")
    if hashlib.sha256(text.encode()).hexdigest() != metadata.get("manifest_sha256"):
        raise BundleError(
            f"{path} is damaged (its manifest does not match its checksum); "
            "copy it again from where it was made"
        )
    try:
        document = parse_json(text)
    except ValueError as problem:
        raise BundleError(f"{path} is not usable: its manifest is not JSON ({problem})") from problem
    if not isinstance(document, dict):
        raise BundleError(f"{path} is not usable: its manifest is not a JSON object")
    return document

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from distill_ray.bundle.container import digest, open_container, write_container
from distill_ray.errors import BundleError

ARRAYS = {
    "flags": np.array([True, False, True]),
    "deep": np.arange(12, dtype=np.int64).reshape(3, 4),
    "wide": np.linspace(-1, 1, 7, dtype=np.float32),
    "half": np.arange(5, dtype=np.int16),
    "none": np.zeros((0, 3), dtype=np.float32),
}


def write(path: Path, arrays: dict[str, Any] = ARRAYS, document: Any = None) -> Path:
    write_container(path, arrays, document or {"x": 1}, kind="test", version="1")
    return path


def opened(path: Path) -> Any:
    return open_container(path, kind="test", version="1", noun="a test file")


def handmade(path: Path, metadata: dict[str, str], tensors: dict[str, Any], data: bytes) -> Path:
    header = json.dumps({"__metadata__": metadata, **tensors}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def signed(text: str) -> dict[str, str]:
    checksum = hashlib.sha256(text.encode()).hexdigest()
    return {"format": "test", "version": "1", "manifest": text, "manifest_sha256": checksum}


def test_arrays_and_document_come_back(tmp_path: Path) -> None:
    path = write(tmp_path / "file", document={"ü": [1, None, "x"]})
    with opened(path) as container:
        assert container.document == {"ü": [1, None, "x"]}
        assert container.names("") == sorted(ARRAYS)
        for name, array in ARRAYS.items():
            assert container.tensors[name].shape == array.shape
            assert container.tensors[name].size == array.size
            np.testing.assert_array_equal(container.read(name), array)


def test_the_safetensors_library_reads_it_and_every_array_is_aligned(tmp_path: Path) -> None:
    path = write(tmp_path / "file")
    with safe_open(str(path), framework="numpy") as handle:
        assert handle.metadata()["format"] == "test"
        np.testing.assert_array_equal(handle.get_tensor("deep"), ARRAYS["deep"])
    length = struct.unpack("<Q", path.read_bytes()[:8])[0]
    header = json.loads(path.read_bytes()[8 : 8 + length])
    assert length % 8 == 0
    for name, array in ARRAYS.items():
        assert header[name]["data_offsets"][0] % array.itemsize == 0


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    turned = dict(reversed(ARRAYS.items()))
    one = write(tmp_path / "one", document={"a": 1, "b": 2})
    other = write(tmp_path / "other", turned, document={"b": 2, "a": 1})
    assert one.read_bytes() == other.read_bytes()


def test_the_digest_sees_names_shapes_dtypes_bytes_and_config() -> None:
    base = digest({"c": 1}, {"a": np.arange(4, dtype=np.int32)})
    assert base == digest({"c": 1}, {"a": np.arange(4, dtype=np.int32)})
    others = [
        digest({"c": 2}, {"a": np.arange(4, dtype=np.int32)}),
        digest({"c": 1}, {"b": np.arange(4, dtype=np.int32)}),
        digest({"c": 1}, {"a": np.arange(4, dtype=np.int32).reshape(2, 2)}),
        digest({"c": 1}, {"a": np.arange(4, dtype=np.int32).view(np.float32)}),
        digest({"c": 1}, {"a": np.arange(1, 5, dtype=np.int32)}),
    ]
    assert len({base, *others}) == 6


def test_what_is_no_such_file_is_named(tmp_path: Path) -> None:
    def content(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    whole = write(tmp_path / "whole").read_bytes()
    cases = {
        tmp_path / "missing": "does not exist",
        tmp_path: "is a folder",
        content("empty", b""): "is empty",
        content("zip", b"PK\x03\x04" + bytes(100)): "older pickle kind",
        content("pickle", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." + bytes(100)): "older pickle kind",
        content("text", b"once upon a time there was a text file\n"): "is no .distill or codes file",
        content("short", b"abc"): "is no .distill or codes file",
        content("huge", struct.pack("<Q", 2**63) + b"{}"): "is no .distill or codes file",
        content("cut header", whole[:100]): "cut short",
        content("cut data", whole[:-1]): "damaged or cut short",
        content("longer", whole + b"x"): "damaged or cut short",
    }
    for path, reason in cases.items():
        with pytest.raises(BundleError, match=reason) as caught, opened(path):
            pass
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_another_format_or_version_or_a_changed_manifest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    cases = [
        ({}, "of another kind"),
        ({**signed("{}"), "format": "other"}, "another kind \\(other\\)"),
        ({**signed("{}"), "version": "3"}, "version '3' and this distill-ray reads '1'"),
        ({**signed("{}"), "manifest": '{"a": 1}'}, "does not match its checksum"),
        (signed("[1]"), "not a JSON object"),
        (signed("{"), "not JSON"),
        (signed("[" * 100_000), "not JSON"),
        (signed("9" * 10_000), "not JSON"),
    ]
    for metadata, reason in cases:
        with pytest.raises(BundleError, match=reason), opened(handmade(path, metadata, {}, b"")):
            pass


def test_lying_tensor_entries_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    cases: list[tuple[Any, bytes]] = [
        ({"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}, bytes(8)),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 2**60]}, bytes(8)),
        ({"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}, bytes(8)),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, bytes(8)),
        ({"dtype": "F32", "shape": [-1], "data_offsets": [0, 8]}, bytes(8)),
        ({"dtype": "Q99", "shape": [2], "data_offsets": [0, 8]}, bytes(8)),
        ({"dtype": "F32", "shape": [2]}, bytes(8)),
    ]
    for entry, data in cases:
        handmade(path, signed("{}"), {"t": entry}, data)
        with pytest.raises(BundleError, match="damaged or cut short"), opened(path):
            pass
    strange = {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}
    handmade(path, signed("{}"), {"t": strange}, bytes(4))
    with opened(path) as container, pytest.raises(BundleError, match="unknown dtype BF16"):
        container.read("t")


def test_a_header_beyond_the_limit_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill_ray.bundle.container.HEADER_LIMIT", 1000)
    with pytest.raises(BundleError, match="metadata takes"):
        write(tmp_path / "file", document={"notes": "x" * 1000})
    assert list(tmp_path.iterdir()) == []

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distill_ray.corpus.manifest import (
    MANIFEST_NAME,
    CorpusFile,
    DuplicateFile,
    Manifest,
    RejectedFile,
    ShardInfo,
    read_manifest,
    write_manifest,
)
from distill_ray.errors import CorpusError
from distill_ray.storage.storage import open_storage


def entry(**changes: Any) -> CorpusFile:
    values: dict[str, Any] = {
        "path": "a.wav",
        "sha256": "aa",
        "samples": 100,
        "split": "train",
        "source_rate": 8_000,
        "source_channels": 1,
        "clipped": 0,
        "shard": "s.arrow",
        "start": 0,
    }
    return CorpusFile(**{**values, **changes})


MANIFEST = Manifest(
    sample_rate=8_000,
    channels=1,
    files=(entry(), entry(path="b.wav", sha256="bb", split="val", start=100)),
    shards=(ShardInfo(name="s.arrow", rows=200, bytes=1_000),),
    rejected=(RejectedFile(path="c.wav", reason="it is empty"),),
    duplicates=(DuplicateFile(path="d.wav", same_as="a.wav"),),
)


def test_round_trip(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    assert read_manifest(storage) is None
    write_manifest(storage, MANIFEST)
    assert read_manifest(storage) == MANIFEST


def test_digest_knows_content_split_and_format_only() -> None:
    first, second = MANIFEST.files
    moved = replace(first, path="z.wav", shard="t.arrow", start=5, source_rate=1)
    assert replace(MANIFEST, files=(second, moved), rejected=()).digest == MANIFEST.digest
    for changed in (
        replace(MANIFEST, channels=2),
        replace(MANIFEST, sample_rate=44_100),
        replace(MANIFEST, files=(first,)),
        replace(MANIFEST, files=(first, replace(second, split="train"))),
        replace(MANIFEST, files=(first, replace(second, sha256="cc"))),
    ):
        assert changed.digest != MANIFEST.digest


def document(**changes: Any) -> dict[str, Any]:
    return {**json.loads(MANIFEST.to_json()), **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "format version 2 and this distill-ray reads up to 1; upgrade"),
        ({"version": None}, "is damaged"),
        ({"format": "other"}, "is damaged .it is not a manifest"),
        ({"digest": "0"}, "digest does not match"),
        ({"files": [{}]}, "is damaged"),
        ({"files": 3}, "is damaged"),
        ({"channels": "1"}, "not a positive whole number"),
        ({"shards": []}, "lies outside its shard"),
        ({"shards": [{"name": "../s", "rows": "9", "bytes": 1}]}, "ShardInfo with a wrong rows"),
    ],
)
def test_wrong_manifests_are_one_sentence(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(document(**changes)))
    with pytest.raises(CorpusError, match=message):
        read_manifest(open_storage(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', MANIFEST.to_json()[:-40]])
def test_text_that_is_no_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST_NAME).write_text(text)
    with pytest.raises(CorpusError, match="is damaged"):
        read_manifest(open_storage(tmp_path))


def test_entries_outside_the_corpus_are_refused(tmp_path: Path) -> None:
    bad = [replace(entry(), start=-1), replace(entry(), split="test"), replace(entry(), samples=0)]
    for file in bad:
        manifest = replace(MANIFEST, files=(file,))
        (tmp_path / MANIFEST_NAME).write_text(manifest.to_json())
        with pytest.raises(CorpusError, match="impossible entry"):
            read_manifest(open_storage(tmp_path))
    outside = Manifest(sample_rate=1, channels=1, files=(), shards=(ShardInfo(name="../x", rows=1, bytes=2),))
    (tmp_path / MANIFEST_NAME).write_text(outside.to_json())
    with pytest.raises(CorpusError, match="outside the corpus"):
        read_manifest(open_storage(tmp_path))

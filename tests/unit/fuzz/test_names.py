"""Names that stores, manifests, records, jobs and clusters may hold: 500 for each way in. What is not refused
lies below the folder, and nothing outside of it is touched.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from distill_ray.corpus.manifest import MANIFEST_NAME, Manifest, ShardInfo, read_manifest
from distill_ray.errors import DistillError, StorageError, UsageError
from distill_ray.jobs.client import JobRecord
from distill_ray.jobs.follow import fetch
from distill_ray.pipeline.record import FILE, PipelineRecord, open_record
from distill_ray.runs.settings_file import read_settings
from distill_ray.storage.filesystem import Located
from distill_ray.storage.mirror import Mirror
from distill_ray.storage.names import fault_of, path_below
from distill_ray.storage.storage import Storage, open_storage
from distill_ray.storage.uploaded import POINTER, settle
from tests.unit.fuzz.conftest import CASES

Outcome = Callable[[Callable[[], Any]], Any]

PARTS = [
    *("..", ".", "", "a", "b.txt", "ä", "音", " ", "...", "..a", "-rf", "~", "$HOME", "*", "a b", "a:b"),
    *("x\0", "\n", "\x1b[2J", "\x7f", "\x85", "\u2028", "\u202e", "\udcff", "\\", "..\\..", "C:", "c:x"),
    *("%2e%2e", "..%2f", "etc", "passwd", ".ssh", "{}", "'", '"', "`id`", "|", ";", "CON", "n" * 300),
]


def names(chance: random.Random) -> Iterator[str]:
    for _ in range(CASES):
        parts = chance.choices(PARTS, k=chance.randint(1, 5))
        yield chance.choice(("", "", "", "/", "//", "../", "C:/")) + chance.choice("///\\").join(parts)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder deep enough that a few `..` stay in the test's own; afterwards nothing else may be there."""
    deep = tmp_path / "1" / "2" / "3" / "4" / "5" / "6"
    deep.mkdir(parents=True)
    (tmp_path / "precious").write_text("x")
    yield deep / "folder"
    outside = [path for path in tmp_path.rglob("*") if not path.is_relative_to(deep) and not path.is_dir()]
    assert outside == [tmp_path / "precious"]
    assert {path.name for path in deep.iterdir()} <= {"folder"}
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["1"]


def test_a_name_is_refused_or_stays_below(folder: Path, chance: random.Random, outcome: Outcome) -> None:
    refused = 0
    for name in names(chance):
        found = outcome(lambda: path_below(folder, name, origin="the store"))  # noqa: B023
        refused += isinstance(found, DistillError)
        if not isinstance(found, DistillError):
            parts = found.relative_to(folder).parts
            assert parts == tuple(name.split("/"))
            assert ".." not in parts
    assert CASES // 4 < refused < CASES


def test_a_storage_writes_and_removes_only_below(
    folder: Path, chance: random.Random, outcome: Outcome
) -> None:
    written = 0
    for number, name in enumerate(names(chance)):

        def write() -> bytes | None:
            storage = open_storage(folder / str(number))  # noqa: B023
            with storage.writing(name) as stream:  # noqa: B023
                stream.write(b"x")
            storage.download(name, folder / f"copy of {number}")  # noqa: B023
            content = storage.read_bytes(name)  # noqa: B023
            storage.remove(name)  # noqa: B023
            assert not [path for path in (folder / str(number)).rglob("*") if path.is_file()]  # noqa: B023
            return content

        found = outcome(write)
        if isinstance(found, DistillError):
            assert fault_of(name) or any(len(part.encode()) > 255 for part in name.split("/"))
        else:
            assert found == b"x"
            written += 1
    assert written > CASES // 20


class Store:
    """An object store with one hostile key beside a harmless one."""

    def __init__(self, root: str, key: str) -> None:
        self.root, self.keys = root, ["a/fine.txt", key]

    def get_file_info(self, asked: pafs.FileSelector | str) -> Any:
        paths = [f"{self.root}/{key}" for key in self.keys]
        infos = [pafs.FileInfo(path, pafs.FileType.File, size=1, mtime_ns=10**18) for path in paths]
        if isinstance(asked, pafs.FileSelector):
            return infos
        return next(info for info in infos if info.path == asked)

    def open_input_stream(self, path: str) -> Any:
        return pa.BufferReader(b"x")


def utf8(name: str) -> bool:
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def test_fetching_a_job_s_results_stays_below(
    folder: Path, chance: random.Random, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = JobRecord(
        job_id="birds",
        status="succeeded",
        message="",
        started=1.0,
        ended=None,
        exit_code=0,
        entrypoint="python",
        metadata={"output": "s3://bucket/birds"},
    )

    class Cluster:
        def job(self, job_id: str) -> JobRecord:
            return record

    fetched = 0
    for number, name in enumerate(filter(utf8, names(chance))):
        store = Store("bucket/birds", name)
        located = Located(filesystem=store, root=store.root, uri="s3://bucket/birds", local=None)
        monkeypatch.setattr("distill_ray.storage.storage.locate", lambda *_, **__: located)  # noqa: B023
        target = folder / str(number)
        found = outcome(
            lambda: fetch(Cluster(), "birds", target, everything=True, on_progress=lambda *_: None)  # noqa: B023
        )
        if isinstance(found, DistillError):
            assert not target.exists() or list(target.iterdir()) == []
        else:
            assert {path.name for path in target.iterdir()} == {"birds"}
            fetched += 1
    assert fetched > CASES // 20


def test_the_mirror_of_a_uri_stays_below(
    folder: Path, chance: random.Random, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(filter(utf8, names(chance))):
        storage = Storage(
            filesystem=Store("bucket/run", name),
            root="bucket/run",
            uri="s3://bucket/run",
            local=None,
            error=StorageError,
        )
        monkeypatch.setattr("distill_ray.storage.mirror.open_storage", lambda *_, **__: storage)  # noqa: B023
        here = folder / str(number)
        here.mkdir(parents=True)
        (here / ".mirror.json").write_text('{"../../../../../../precious": {"here": [1], "there": [1]}}')
        found = outcome(Mirror(here, "s3://bucket/run").pull)
        assert isinstance(found, StorageError)  # of the name in .mirror.json, which was planted there


def test_recorded_names_are_refused_or_stay_below(
    folder: Path, chance: random.Random, outcome: Outcome
) -> None:
    folder.mkdir()
    refused = 0
    for name in filter(utf8, names(chance)):
        record = PipelineRecord(
            folder=folder,
            shown="run",
            name=name,
            tune=False,
            sources=(),
            settings={},
            done={"samples": {"sets": [{"folder": name, "files": [{"name": name, "bytes": 1}]}]}},
        )
        record.save()
        found = outcome(lambda: open_record(folder, "run"))
        refused += isinstance(found, UsageError)
        if not isinstance(found, UsageError):
            assert found.model.parent == folder
    assert refused > CASES // 2
    assert {path.name for path in folder.iterdir()} == {FILE}


def test_the_name_in_settings_and_shards_of_a_manifest_are_those_of_files(
    folder: Path, chance: random.Random, outcome: Outcome
) -> None:
    storage = open_storage(folder)
    folder.mkdir()
    for name in filter(utf8, names(chance)):
        shard = ShardInfo(name=name, rows=1, bytes=1_000)
        document = Manifest(sample_rate=1, channels=1, files=(), shards=(shard,)).to_json()
        (folder / MANIFEST_NAME).write_text(document, "utf-8")
        found = outcome(lambda: read_manifest(storage))
        assert isinstance(found, DistillError) == bool(fault_of(name, folders=False))
        text = name.encode("unicode_escape").decode().replace('"', '\\"')
        (folder / "run.toml").write_text(f'[run]\nname = "{text}"\noverrides = []\n', "utf-8")
        found = outcome(lambda: read_settings(folder / "run.toml"))
        assert isinstance(found, DistillError) or not fault_of(found.identity["name"], folders=False)


def test_a_pointer_to_checkpoints_stays_below(folder: Path, chance: random.Random, outcome: Outcome) -> None:
    far = folder / "far"
    far.mkdir(parents=True)
    for name in filter(utf8, names(chance)):
        pointer = {"name": name, "files": {name: {"bytes": 1, "sha256": "0" * 64}}}
        (far / POINTER).write_text(json.dumps(pointer))
        found = outcome(lambda: settle(folder / "near", far.as_uri()))
        assert isinstance(found, DistillError)

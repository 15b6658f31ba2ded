from __future__ import annotations

import queue
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill_ray.config.corpus import CorpusConfig
from distill_ray.corpus import pack
from distill_ray.corpus.pack import group_files, pack_group
from distill_ray.corpus.parallel import Job, Stopped
from distill_ray.corpus.scan import FoundFile, HashedFile, hash_file
from distill_ray.corpus.shards import ShardReader
from distill_ray.storage.storage import open_storage


def hashed(path: Path, seconds: float = 1.0) -> HashedFile:
    return HashedFile(
        found=FoundFile(path=path, shown=path.name),
        sha256=hash_file(path) if path.exists() else path.name,
        claimed_rate=8_000,
        claimed_seconds=seconds,
    )


def job() -> Job:
    return Job(queue.SimpleQueue())


def test_groups_follow_the_claimed_sizes(config: CorpusConfig) -> None:
    megabyte = (1 << 20) / 16_000  # seconds of 8 kHz mono
    files = [hashed(Path(f"{index}"), megabyte * size) for index, size in enumerate([0.5, 0.5, 0.4, 3, 0.1])]
    assert [[int(file.sha256) for file in group] for group in group_files(files, config)] == [
        [0, 1],
        [2],
        [3],
        [4],
    ]
    assert group_files([], config) == []
    liar = hashed(Path("liar"), 1e300)
    assert group_files([liar], config) == [[liar]]


def test_a_small_corpus_is_cut_for_many_threads(config: CorpusConfig) -> None:
    files = [hashed(Path(f"{index:03d}"), 30.0) for index in range(160)]  # 77 MB
    assert len(group_files(files, config)) == 16
    assert len(group_files(files, CorpusConfig(sample_rate=8_000, shard_mb=1))) == 80


def test_long_files_get_their_own_shard(
    tmp_path: Path, config: CorpusConfig, write_tone: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "BUFFER_BYTES", 10_000)
    paths = [
        write_tone("a.wav", 0.5, seed=1),
        write_tone("b.wav", 2.0, seed=2),
        write_tone("c.wav", 0.25, seed=3),
    ]
    storage = open_storage(tmp_path / "out")
    packed = pack_group(storage, [hashed(path) for path in paths], config, job())
    a, b, c = packed.files
    assert (a.shard, a.start, c.start) == (c.shard, 0, 4_000)
    assert b.shard != a.shard
    assert b.start == 0
    shards = {shard.name: shard for shard in packed.shards}
    assert {name: shard.rows for name, shard in shards.items()} == {a.shard: 6_000, b.shard: 16_000}
    for path, file in zip(paths, packed.files, strict=True):
        out_CT = np.zeros((1, file.samples), np.int16)
        ShardReader(storage, shards[file.shard], channels=1).read_into(out_CT, file.start)
        np.testing.assert_array_equal(out_CT[0], soundfile.read(path, dtype="int16")[0])


def test_rejected_files_leave_no_rows(
    tmp_path: Path, config: CorpusConfig, write_tone: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "BUFFER_BYTES", 10_000)
    monkeypatch.setattr("distill_ray.corpus.decode.BLOCK_VALUES", 2_000)
    bad = write_tone("bad.wav", 2.0, subtype="FLOAT")
    signal_T, rate = soundfile.read(bad)
    signal_T[-1] = np.nan
    soundfile.write(bad, signal_T, rate, subtype="FLOAT")
    good = write_tone("good.wav", 0.5, seed=1)
    storage = open_storage(tmp_path / "out")
    packed = pack_group(storage, [hashed(bad), hashed(good)], config, job())
    assert [file.path for file in packed.files] == ["good.wav"]
    assert [(bad.path, bad.reason) for bad in packed.rejected] == [
        ("bad.wav", "it holds NaN or infinite samples, near 1.8 s")
    ]
    assert storage.names("shards") == {packed.shards[0].name: packed.shards[0].bytes}
    assert pack_group(storage, [hashed(bad)], config, job()).shards == ()


def test_a_stopped_job_leaves_nothing(
    tmp_path: Path, config: CorpusConfig, write_tone: Callable[..., Path]
) -> None:
    stopped, storage = job(), open_storage(tmp_path / "out")
    stopped.stop()
    with pytest.raises(Stopped):
        pack_group(storage, [hashed(write_tone("a.wav"))], config, stopped)
    assert storage.names("shards") == {}

from __future__ import annotations

import queue
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill_ray.config.corpus import CorpusConfig
from distill_ray.corpus import limits, pack
from distill_ray.corpus.decode import AudioDecoder, PcmBlock
from distill_ray.corpus.pack import group_files, pack_group
from distill_ray.corpus.parallel import Job, Stopped
from distill_ray.corpus.scan import FoundFile, HashedFile, hash_file
from distill_ray.corpus.shards import ShardReader
from distill_ray.errors import CorpusError
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


@pytest.mark.parametrize("when", ["before", "within", "after"])
@pytest.mark.parametrize("how", ["written", "replaced"])
@pytest.mark.parametrize("buffer_bytes", [100_000, 4_000])
def test_a_file_that_changes_after_it_was_hashed_is_not_kept_under_its_old_hash(
    tmp_path: Path,
    config: CorpusConfig,
    write_tone: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    when: str,
    how: str,
    buffer_bytes: int,
) -> None:
    monkeypatch.setattr("distill_ray.corpus.decode.BLOCK_VALUES", 2_000)
    monkeypatch.setattr(pack, "BUFFER_BYTES", buffer_bytes)
    path, other = write_tone("a.wav", 1.0, seed=1), write_tone("other.wav", 1.0, seed=2)
    source, good = hashed(path), hashed(write_tone("good.wav", 0.5, seed=3))
    blocks = AudioDecoder.blocks

    def change() -> None:
        if how == "written":
            path.write_bytes(other.read_bytes())
        else:
            other.replace(path)

    def changing(decoder: AudioDecoder) -> Iterator[PcmBlock]:
        for number, block_CT in enumerate(blocks(decoder)):
            if when == "within" and number == 3 and decoder._path == path:
                change()
            yield block_CT
        if when == "after" and decoder._path == path:
            change()

    if when == "before":
        change()
    monkeypatch.setattr(AudioDecoder, "blocks", changing)
    storage = open_storage(tmp_path / "out")
    packed = pack_group(storage, [source, good], config, job())
    assert [file.path for file in packed.files] == ["good.wav"]
    (rejected,) = packed.rejected
    assert rejected.path == "a.wav"
    assert rejected.reason == "it changed while it was read; prepare again when nothing writes to it"
    assert set(storage.names("shards")) == {shard.name for shard in packed.shards}


def test_a_file_that_decodes_to_more_than_there_is_room_for_ends_the_preparation(
    tmp_path: Path, config: CorpusConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minute of silence in FLAC takes a few kilobytes."""
    monkeypatch.setattr(limits, "_LOOK_EVERY_BYTES", 100_000)
    monkeypatch.setattr(pack, "BUFFER_BYTES", 200_000)
    path = tmp_path / "bomb.flac"
    soundfile.write(path, np.zeros(60 * 8_000, np.int16), 8_000)
    assert path.stat().st_size < 20_000
    free = [400_000_000, 300_000_000, 268_500_000]
    asked: list[Path] = []

    def usage(folder: Path) -> shutil._ntuple_diskusage:
        asked.append(folder)
        return shutil._ntuple_diskusage(total=10**12, used=0, free=free[min(len(asked), len(free)) - 1])

    monkeypatch.setattr(limits.shutil, "disk_usage", usage)
    said = (
        r"bomb\.flac decodes to more than there is room for at .*out: 0 MB so far, 268 MB are free and "
        r"268 MB of them are left to others; make room, choose another --out, or leave that file out"
    )
    storage = open_storage(tmp_path / "out")
    with pytest.raises(CorpusError, match=said):
        pack_group(storage, [hashed(path)], config, job())
    assert len(asked) == 3
    assert storage.names("shards") == {}


def test_a_small_disk_keeps_a_twentieth_and_small_files_do_not_ask(
    tmp_path: Path, config: CorpusConfig, write_tone: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(tmp_path)
    monkeypatch.setattr(
        limits.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(total=10**8, used=0, free=10**7)
    )
    source = hashed(write_tone("a.wav"))
    limits.Room(storage, source).take(limits._LOOK_EVERY_BYTES - 1)
    with pytest.raises(CorpusError, match="10 MB are free and 5 MB of them are left to others"):
        limits.Room(storage, source).take(limits._LOOK_EVERY_BYTES)

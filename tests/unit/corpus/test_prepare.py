from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pytest
import soundfile

from distill_ray.config.corpus import CorpusConfig
from distill_ray.corpus import prepare
from distill_ray.corpus.corpus import Corpus, open_corpus
from distill_ray.corpus.manifest import MANIFEST_NAME, Manifest, read_manifest, write_manifest
from distill_ray.corpus.prepare import build_corpus, hash_sources, prepare_corpus
from distill_ray.corpus.scan import find_audio
from distill_ray.errors import ConfigError, CorpusError
from distill_ray.storage.storage import Storage, open_storage


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_everything_arrives_bit_for_bit(audio_folder: Path, tmp_path: Path, config: CorpusConfig) -> None:
    report = prepare_corpus([audio_folder], tmp_path / "out", config=config)
    assert (report.files, report.decoded, report.reused) == (12, 12, 0)
    assert (report.rejected, report.duplicates, report.clipped_samples) == ((), (), 0)
    assert report.seconds_train + report.seconds_val == pytest.approx(7.8)
    assert report.files_train + report.files_val == 12
    assert report.files_val >= 1
    assert json.loads(json.dumps(report.to_json()))["digest"] == report.digest
    corpus = open_corpus(tmp_path / "out")
    for file in corpus.manifest.files:
        expected_T, _ = soundfile.read(file.path, dtype="int16")
        np.testing.assert_array_equal(corpus.read(file)[0].numpy(), expected_T)


def test_workers_make_no_difference(audio_folder: Path, tmp_path: Path, config: CorpusConfig) -> None:
    for workers in (1, 5):
        prepare_corpus([audio_folder], tmp_path / f"out{workers}", config=config, workers=workers)
    assert content(tmp_path / "out1") == content(tmp_path / "out5")


def test_a_second_run_decodes_only_what_is_new(
    audio_folder: Path, tmp_path: Path, config: CorpusConfig, write_tone: Callable[..., Path]
) -> None:
    out = tmp_path / "out"
    first = prepare_corpus([audio_folder], out, config=config)
    before, splits = content(out), {file.sha256: file.split for file in open_corpus(out).manifest.files}
    manifest_time = (out / MANIFEST_NAME).stat().st_mtime_ns
    same = prepare_corpus([audio_folder], out, config=config)
    assert (same.decoded, same.reused, same.digest) == (0, 12, first.digest)
    assert content(out) == before
    assert (out / MANIFEST_NAME).stat().st_mtime_ns == manifest_time

    write_tone("new.wav", 0.4, seed=99)
    more = prepare_corpus([audio_folder], out, config=config)
    assert (more.decoded, more.reused) == (1, 12)
    after = content(out)
    assert all(after[name] == before[name] for name in before if name.endswith(".arrow"))
    now = {file.sha256: file.split for file in open_corpus(out).manifest.files}
    assert splits.items() <= now.items()


def test_renamed_and_removed_files(audio_folder: Path, tmp_path: Path, config: CorpusConfig) -> None:
    out = tmp_path / "out"
    first = prepare_corpus([audio_folder], out, config=config)
    (audio_folder / "tone00.wav").rename(audio_folder / "renamed.wav")
    moved = prepare_corpus([audio_folder], out, config=config)
    assert (moved.decoded, moved.digest) == (0, first.digest)
    assert "renamed.wav" in {Path(file.path).name for file in open_corpus(out).manifest.files}
    (audio_folder / "renamed.wav").unlink()
    fewer = prepare_corpus([audio_folder], out, config=config)
    assert (fewer.decoded, fewer.files) == (0, 11)
    for path in audio_folder.iterdir():
        path.unlink()
    soundfile.write(audio_folder / "only.wav", np.full(800, 0.5), 8_000)
    assert prepare_corpus([audio_folder], out, config=config).files == 1
    assert len(content(out / "shards")) == 1


def test_files_that_the_sources_do_not_hold_are_counted(
    audio_folder: Path, tmp_path: Path, config: CorpusConfig, write_tone: Callable[..., Path]
) -> None:
    out = tmp_path / "out"
    other = write_tone("../other/b.wav", seed=99).parent
    assert prepare_corpus([audio_folder], out, config=config).removed == 0
    assert prepare_corpus([audio_folder, other], out, config=config).removed == 0
    report = prepare_corpus([other], out, config=config)
    assert (report.removed, report.files, report.to_json()["removed"]) == (12, 1, 12)
    assert prepare_corpus([other], out, config=config).removed == 0
    # The same content elsewhere, and a file that another format makes useless, are still there.
    (other / "b.wav").rename(audio_folder / "moved.wav")
    assert prepare_corpus([audio_folder], out, config=config).removed == 0
    again = CorpusConfig(sample_rate=16_000)
    (audio_folder / "moved.wav").unlink()
    assert prepare_corpus([audio_folder], out, config=again).removed == 1


def test_a_share_that_files_keep_is_said(audio_folder: Path, tmp_path: Path, config: CorpusConfig) -> None:
    out = tmp_path / "out"
    first = prepare_corpus([audio_folder], out, config=config)
    assert not first.split_kept
    half = CorpusConfig(sample_rate=config.sample_rate, val_fraction=0.5)
    report = prepare_corpus([audio_folder], out, config=half)
    assert (report.split_kept, report.files_val) == (True, first.files_val)
    assert not prepare_corpus([audio_folder], tmp_path / "new", config=half).split_kept


def test_a_format_that_cannot_be_read_is_among_the_rejected(
    audio_folder: Path, tmp_path: Path, config: CorpusConfig
) -> None:
    (audio_folder / "bought.m4p").write_bytes(b"x")
    (audio_folder / "cover.jpg").write_bytes(b"x")
    (rejected,) = prepare_corpus([audio_folder], tmp_path / "out", config=config).rejected
    assert rejected.path == str(audio_folder / "bought.m4p")
    assert rejected.reason == "its format (.m4p) cannot be read; convert it to flac or wav"
    with pytest.raises(CorpusError, match=r"1 files cannot be used \(.*its format \(\.m4p\) cannot be read"):
        prepare_corpus([audio_folder], tmp_path / "strict", config=config, strict=True)


def test_another_format_replaces_the_corpus_and_keeps_splits(
    audio_folder: Path, tmp_path: Path, config: CorpusConfig
) -> None:
    out = tmp_path / "out"
    prepare_corpus([audio_folder], out, config=config)
    splits = {file.sha256: file.split for file in open_corpus(out).manifest.files}
    again = CorpusConfig(sample_rate=16_000, channels=2, val_fraction=0.5)
    assert prepare_corpus([audio_folder], out, config=again).decoded == 12
    corpus = open_corpus(out)
    assert {file.sha256: file.split for file in corpus.manifest.files} == splits
    assert corpus.read(corpus.manifest.files[0]).shape[0] == 2
    assert corpus.seconds("train") + corpus.seconds("val") == pytest.approx(7.8)
    assert len(content(out / "shards")) == len(corpus.manifest.shards)


def test_bad_files_are_listed_with_reasons(audio_folder: Path, tmp_path: Path, config: CorpusConfig) -> None:
    (audio_folder / "text.wav").write_text("not audio")
    soundfile.write(audio_folder / "silent.wav", np.zeros(800), 8_000)
    soundfile.write(audio_folder / "nan.wav", np.array([0.1, np.nan]), 8_000, subtype="FLOAT")
    (audio_folder / "copy.wav").write_bytes((audio_folder / "tone00.wav").read_bytes())
    (audio_folder / "dangling.wav").symlink_to(tmp_path / "nowhere")
    report = prepare_corpus([audio_folder], tmp_path / "out", config=config)
    assert report.files == 12
    assert {Path(bad.path).name: bad.reason.split(":")[0] for bad in report.rejected} == {
        "text.wav": "it cannot be decoded",
        "silent.wav": "it is silent",
        "nan.wav": "it holds NaN or infinite samples, near 0.0 s",
        "dangling.wav": "it cannot be read",
    }
    (duplicate,) = report.duplicates
    assert {Path(duplicate.path).name, Path(duplicate.same_as).name} == {"copy.wav", "tone00.wav"}
    assert open_corpus(tmp_path / "out").manifest.rejected == report.rejected

    with pytest.raises(CorpusError, match=r"4 files cannot be used \(.*silent\.wav: it is silent"):
        prepare_corpus([audio_folder], tmp_path / "strict", config=config, strict=True)
    assert not (tmp_path / "strict").exists()


def test_nothing_usable_names_what_was_tried(tmp_path: Path, config: CorpusConfig) -> None:
    folder = tmp_path / "audio"
    folder.mkdir()
    with pytest.raises(CorpusError, match=rf"no usable audio in {re.escape(str(folder))}; give wav, flac"):
        prepare_corpus([folder], tmp_path / "out", config=config)
    for index in range(20):
        (folder / f"{index:02d}.wav").write_text(f"text {index}")
    with pytest.raises(CorpusError) as caught:
        prepare_corpus([folder], tmp_path / "out", config=config)
    assert "00.wav: it cannot be decoded" in str(caught.value)
    assert "11.wav" in str(caught.value)
    assert "12.wav" not in str(caught.value)
    assert "and 8 more" in str(caught.value)
    notes = tmp_path / "notes.mp3"
    notes.write_text("buy strings\n")
    with pytest.raises(CorpusError) as caught:
        prepare_corpus([notes], tmp_path / "out", config=config)
    assert str(caught.value) == (
        f"{notes} cannot be used: it cannot be decoded: it is no audio file, or a damaged one; "
        "give wav, flac, aiff, ogg, opus or mp3 files"
    )


def test_a_failure_leaves_the_old_corpus(
    audio_folder: Path,
    tmp_path: Path,
    config: CorpusConfig,
    write_tone: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    prepare_corpus([audio_folder], out, config=config)
    before = content(out)
    write_tone("new.wav", 0.4, seed=99)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "write_manifest", fail)
    with pytest.raises(KeyboardInterrupt):
        prepare_corpus([audio_folder], out, config=config)
    assert content(out) == before


def test_an_interruption_just_after_publishing_keeps_the_new_corpus(
    audio_folder: Path, tmp_path: Path, config: CorpusConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def publish_and_fail(storage: Storage, manifest: Manifest) -> None:
        write_manifest(storage, manifest)
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "write_manifest", publish_and_fail)
    with pytest.raises(KeyboardInterrupt):
        prepare_corpus([audio_folder], tmp_path / "out", config=config)
    assert len(open_corpus(tmp_path / "out").manifest.files) == 12


def test_killed_while_writing_leaves_the_old_corpus_and_is_cleaned(
    audio_folder: Path, tmp_path: Path, config: CorpusConfig, write_tone: Callable[..., Path]
) -> None:
    out = tmp_path / "out"
    prepare_corpus([audio_folder], out, config=config)
    before = content(out)
    write_tone("new.wav", 0.4, seed=99)
    script = (
        "import sys, time\n"
        "from distill_ray.config.corpus import CorpusConfig\n"
        "from distill_ray.corpus import prepare\n"
        "def hang(*_):\n"
        "    print('hanging', flush=True)\n"
        "    time.sleep(60)\n"
        "prepare.write_manifest = hang\n"
        "prepare.prepare_corpus([sys.argv[1]], sys.argv[2], config=CorpusConfig(sample_rate=8000))\n"
    )
    command = [sys.executable, "-c", script, str(audio_folder), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=with_package()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"hanging\n"
        os.kill(process.pid, signal.SIGKILL)
    killed = content(out)
    assert len(killed) == len(before) + 1  # the new shard, which nothing names
    assert before.items() <= killed.items()
    assert len(open_corpus(out).manifest.files) == 12
    (audio_folder / "new.wav").unlink()
    prepare_corpus([audio_folder], out, config=config)
    assert content(out) == before


@pytest.mark.parametrize("kind", ["local", "remote"])
@pytest.mark.parametrize(
    "foreign",
    [
        "train-000.tar",
        "notes.txt",
        "a.arrow",
        f"{'0' * 32}.parquet",
        f"{'A' * 32}.arrow",
        f"{'0' * 32}.arrow.bak",
        ".hidden",
        "folder/file",
        f"{'0' * 32}.arrow/file",
    ],
)
def test_shards_of_others_are_left_and_the_folder_is_refused(
    audio_folder: Path, tmp_path: Path, config: CorpusConfig, kind: str, foreign: str
) -> None:
    path = tmp_path / "store" / "out" / "shards" / foreign
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    scan = find_audio([audio_folder])
    with pytest.raises(CorpusError, match=r"out holds other things than a corpus \('shards/"):
        build_corpus(storage_of(tmp_path / "store", kind), hash_sources(scan), config=config)
    assert path.read_text() == "mine"
    assert content(tmp_path / "store") == {path.name: b"mine"}


def storage_of(folder: Path, kind: str) -> Storage:
    """`folder`/out as a local folder, or as an object store is seen."""
    if kind == "local":
        return open_storage(folder / "out")
    inner = pafs.SubTreeFileSystem(str(folder), pafs.LocalFileSystem())
    return Storage(filesystem=inner, root="out", uri="sim://out", local=None)


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_what_others_lay_beside_the_shards_of_a_corpus_stays(
    audio_folder: Path, tmp_path: Path, config: CorpusConfig, kind: str
) -> None:
    shards = tmp_path / "store" / "out" / "shards"
    shards.mkdir(parents=True)  # object stores have no folders to make
    storage = storage_of(tmp_path / "store", kind)
    build_corpus(storage, hash_sources(find_audio([audio_folder])), config=config)
    (shards / "notes.txt").write_text("mine")
    (audio_folder / "tone00.wav").unlink()
    leftover = shards / f"{'0' * 32}.arrow"
    leftover.write_text("of a preparation that was killed")
    build_corpus(storage, hash_sources(find_audio([audio_folder])), config=config)
    assert (shards / "notes.txt").read_text() == "mine"
    assert not leftover.exists()


def test_what_a_killed_first_preparation_leaves_is_no_obstacle(
    audio_folder: Path, tmp_path: Path, config: CorpusConfig
) -> None:
    shards = tmp_path / "out" / "shards"
    shards.mkdir(parents=True)
    (shards / f"{'0' * 32}.arrow").write_text("x")
    (shards / f".{'0' * 32}.arrow.partial").write_text("x")
    assert prepare_corpus([audio_folder], tmp_path / "out", config=config).files == 12
    assert len(content(shards)) == len(open_corpus(tmp_path / "out").manifest.shards)


@pytest.mark.parametrize("target", ["full", "empty", "nowhere"])
@pytest.mark.parametrize("prepared", [False, True])
def test_a_linked_shard_folder_is_refused_and_not_followed(
    audio_folder: Path, tmp_path: Path, config: CorpusConfig, target: str, prepared: bool
) -> None:
    out, music = tmp_path / "out", tmp_path / "music"
    out.mkdir()
    if prepared:
        prepare_corpus([audio_folder], out, config=config)
        (out / "shards").rename(out / "moved")
    if target != "nowhere":
        music.mkdir()
    if target == "full":
        (music / f"{'0' * 32}.arrow").write_text("mine")
    (out / "shards").symlink_to("../music")
    with pytest.raises(CorpusError, match=r"shards in .*out is a link"):
        prepare_corpus([audio_folder], out, config=config)
    assert music.exists() == (target != "nowhere")
    assert target != "full" or (music / f"{'0' * 32}.arrow").read_text() == "mine"


def test_a_corpus_that_would_hold_its_own_sources_is_refused(
    audio_folder: Path, tmp_path: Path, config: CorpusConfig
) -> None:
    shards = tmp_path / "out" / "shards"
    shards.parent.mkdir()
    audio_folder.rename(shards)
    before = content(shards)
    with pytest.raises(CorpusError, match="out holds other things than a corpus"):
        prepare_corpus([shards], tmp_path / "out", config=config)
    prepare_corpus([shards], tmp_path / "other", config=config)
    (tmp_path / "other" / "rec").mkdir()
    (tmp_path / "other" / "rec" / f"{'0' * 32}.arrow").write_bytes(before["tone00.wav"])
    (tmp_path / "link").symlink_to(tmp_path / "other" / "rec")
    recordings = [
        tmp_path / "other" / "rec" / f"{'0' * 32}.arrow",
        tmp_path / "link" / f"{'0' * 32}.arrow",
    ]
    for recording in recordings:
        with pytest.raises(CorpusError, match=r"other holds the recording .*\.arrow itself"):
            prepare_corpus([recording], tmp_path / "other", config=config)
        hashed = hash_sources(find_audio([recording]))
        with pytest.raises(CorpusError, match="holds the recording"):
            build_corpus(open_storage(tmp_path / "other"), hashed, config=config)
    assert content(shards) == before


def with_package() -> dict[str, str]:
    root = Path(prepare.__file__).parents[2]
    return {**os.environ, "PYTHONPATH": str(root)}


def test_a_lost_shard_is_decoded_again(audio_folder: Path, tmp_path: Path, config: CorpusConfig) -> None:
    out = tmp_path / "out"
    first = prepare_corpus([audio_folder], out, config=config)
    before = content(out)
    (out / "shards" / open_corpus(out).manifest.shards[0].name).unlink()
    with pytest.raises(CorpusError, match=r"1 shards of the corpus at .* are missing or cut off"):
        open_corpus(out)
    again = prepare_corpus([audio_folder], out, config=config)
    assert (again.digest, again.decoded) == (first.digest, 12)
    assert content(out) == before


def test_a_folder_with_a_name_that_is_not_utf_8_is_refused(
    audio_folder: Path, tmp_path: Path, config: CorpusConfig
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    Path(os.fsdecode(os.fsencode(out) + b"/k\xff.wav")).write_bytes(b"precious")
    with pytest.raises(CorpusError, match="holds a name that is not UTF-8, so it is not the corpus"):
        prepare_corpus([audio_folder], out, config=config)
    with pytest.raises(CorpusError, match="holds a name that is not UTF-8, so it is not the corpus"):
        open_storage(str(out)).files()


def test_a_folder_with_other_things_is_refused(
    audio_folder: Path, tmp_path: Path, config: CorpusConfig
) -> None:
    with pytest.raises(CorpusError, match=r"holds other things than a corpus \('tone00.wav'\)"):
        prepare_corpus([audio_folder], audio_folder, config=config)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MANIFEST_NAME).write_text("{")
    with pytest.raises(CorpusError, match="is damaged"):
        prepare_corpus([audio_folder], tmp_path / "out", config=config)


def test_progress_counts_files_in_each_phase(
    audio_folder: Path, tmp_path: Path, config: CorpusConfig
) -> None:
    seen: list[tuple[int, int, str]] = []
    prepare_corpus(
        [audio_folder], tmp_path / "out", config=config, on_progress=lambda *step: seen.append(step)
    )
    assert seen == [(done, 12, what) for what in ("reading", "decoding") for done in range(1, 13)]


def test_a_remote_corpus_is_the_same_corpus(audio_folder: Path, tmp_path: Path, config: CorpusConfig) -> None:
    inner = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    inner.create_dir("far/shards")
    storage = Storage(filesystem=inner, root="far", uri="sim://far", local=None)
    hashed = hash_sources(find_audio([audio_folder]))
    report = build_corpus(storage, hashed, config=config)
    near = prepare_corpus([audio_folder], tmp_path / "near", config=config)
    assert report.digest == near.digest
    assert content(tmp_path / "far") == {
        name: data for name, data in content(tmp_path / "near").items() if name != ".lock"
    }
    manifest = read_manifest(storage)
    assert manifest is not None
    corpus = Corpus(storage, manifest)
    expected_T, _ = soundfile.read(manifest.files[3].path, dtype="int16")
    np.testing.assert_array_equal(corpus.read(manifest.files[3])[0].numpy(), expected_T)


def test_memory_does_not_grow_with_the_length_of_a_file(tmp_path: Path) -> None:
    """A file of 43 MB decoded and resampled, 21 times what may be buffered, adds less than half of that."""
    minute_T = np.random.default_rng(0).normal(0, 0.1, 480_000)
    for name, minutes in [("short.wav", 1), ("long.wav", 15)]:
        soundfile.write(tmp_path / name, np.tile(minute_T, minutes), 8_000)
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from distill_ray.config.corpus import CorpusConfig\n"
        "from distill_ray.corpus import pack, prepare_corpus\n"
        "pack.BUFFER_BYTES = 2 << 20\n"
        "def peak():\n"
        # Not what `resource` tells: that of a process begins with what its parent had when it began.
        "    status = Path('/proc/self/status').read_text()\n"
        "    return int(status.split('VmHWM:')[1].split()[0]) >> 10\n"
        "config = CorpusConfig(sample_rate=24000, channels=1)\n"
        "prepare_corpus([sys.argv[1] + '/short.wav'], sys.argv[1] + '/out1', config=config)\n"
        "before = peak()  # with torch and what its first operations take for good\n"
        "report = prepare_corpus([sys.argv[1] + '/long.wav'], sys.argv[1] + '/out2', config=config)\n"
        "print(report.seconds_train + report.seconds_val, peak() - before, peak())\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=with_package())
    seconds, growth, peak = map(float, ran.stdout.split())
    assert seconds == 900
    assert growth < 20
    assert peak < 1300  # most of it the libraries of torch, of which 1,031 MB have been seen in all


def test_config_errors_name_flag_and_key() -> None:
    with pytest.raises(ConfigError, match=r"--channels \(corpus\.channels\): 3 is above"):
        CorpusConfig(channels=3)


def test_a_file_in_the_way_is_said_before_any_reading(
    audio_folder: Path, tmp_path: Path, config: CorpusConfig
) -> None:
    (tmp_path / "out").write_text("mine")
    seen: list[str] = []
    with pytest.raises(CorpusError, match="out is a file and no folder"):
        prepare_corpus(
            [audio_folder], tmp_path / "out", config=config, on_progress=lambda *facts: seen.append(facts[2])
        )
    assert seen == []


def test_the_end_of_the_only_recording_is_held_out(
    tmp_path: Path, config: CorpusConfig, write_tone: Callable[..., Path]
) -> None:
    source = write_tone("a.wav", 30.0)
    report = prepare_corpus([source], tmp_path / "out", config=config)
    assert (report.files, report.decoded, report.reused, report.parted) == (1, 1, 0, 1)
    assert (report.files_train, report.files_val) == (1, 1)
    assert (report.seconds_train, report.seconds_val) == (27.0, 3.0)
    corpus = open_corpus(tmp_path / "out")
    expected_T, _ = soundfile.read(source, dtype="int16")
    (trained,), (end,) = corpus.files("train"), corpus.files("val")
    np.testing.assert_array_equal(corpus.read(trained)[0].numpy(), expected_T[: 27 * 8_000])
    np.testing.assert_array_equal(corpus.read(end)[0].numpy(), expected_T[27 * 8_000 :])
    assert (corpus.validation_split, corpus.recordings, len(corpus.manifest.shards)) == ("val", 1, 1)

    manifest = (tmp_path / "out" / MANIFEST_NAME).read_bytes()
    again = prepare_corpus([source], tmp_path / "out", config=config)
    assert (again.reused, again.decoded, again.removed, again.parted) == (1, 0, 0, 1)
    assert (tmp_path / "out" / MANIFEST_NAME).read_bytes() == manifest


@pytest.mark.parametrize(("seconds", "fraction"), [(19.0, 0.1), (30.0, 0.0), (30.0, 0.05)])
def test_a_short_end_is_not_parted(
    tmp_path: Path, write_tone: Callable[..., Path], seconds: float, fraction: float
) -> None:
    config = CorpusConfig(sample_rate=8_000, val_fraction=fraction)
    report = prepare_corpus([write_tone("a.wav", seconds)], tmp_path / "out", config=config)
    assert (report.parted, report.seconds_train, report.seconds_val) == (0, seconds, 0.0)


def test_a_parted_recording_stays_so_whatever_comes_beside_it(
    tmp_path: Path, config: CorpusConfig, write_tone: Callable[..., Path]
) -> None:
    out = tmp_path / "out"
    first = write_tone("a.wav", 30.0)
    prepare_corpus([first], out, config=config)
    half = CorpusConfig(sample_rate=8_000, val_fraction=0.5)
    kept = prepare_corpus([first], out, config=half)
    assert (kept.split_kept, kept.seconds_val) == (True, 3.0)
    assert not prepare_corpus([first], out, config=config).split_kept

    second = write_tone("b.wav", 30.0, seed=1)
    both = prepare_corpus([first, second], out, config=config)
    assert (both.files, both.decoded, both.reused, both.parted) == (2, 1, 1, 1)
    held_out = {Path(file.path).name: file.samples for file in open_corpus(out).files("val")}
    assert held_out == {"a.wav (its end)": 24_000}
    assert both.held_out() == "the end of 1 file"
    # Another format decodes it anew, and its end stays held out.
    other = prepare_corpus([first], out, config=CorpusConfig(sample_rate=16_000))
    assert (other.seconds_train, other.seconds_val, other.removed, other.decoded) == (27.0, 3.0, 1, 1)
    alone = prepare_corpus([second], out, config=config)
    assert (alone.files, alone.removed, alone.parted) == (1, 1, 1)


@pytest.mark.parametrize("silent", [slice(0, 27), slice(26, 30), slice(24, 30)])
def test_a_recording_of_which_a_part_would_be_silent_stays_whole(
    tmp_path: Path, config: CorpusConfig, silent: slice
) -> None:
    sound_T = np.random.default_rng(0).normal(0, 0.1, 30 * 8_000)
    sound_T[silent.start * 8_000 : silent.stop * 8_000] = 0.0
    soundfile.write(tmp_path / "a.wav", sound_T, 8_000)
    report = prepare_corpus([tmp_path / "a.wav"], tmp_path / "out", config=config)
    assert (report.parted, report.seconds_train) == (0, 30.0)
    assert prepare_corpus([tmp_path / "a.wav"], tmp_path / "out", config=config).parted == 0


def test_a_second_of_sound_is_enough_of_a_part(tmp_path: Path, config: CorpusConfig) -> None:
    sound_T = np.random.default_rng(0).normal(0, 0.1, 30 * 8_000)
    sound_T[28 * 8_000 :] = 0.0
    soundfile.write(tmp_path / "a.wav", sound_T, 8_000)
    assert prepare_corpus([tmp_path / "a.wav"], tmp_path / "out", config=config).parted == 1


def test_a_held_out_recording_that_is_left_alone_is_parted(
    tmp_path: Path, config: CorpusConfig, write_tone: Callable[..., Path]
) -> None:
    both = {write_tone(f"{name}.wav", 30.0, seed=seed) for seed, name in enumerate("ab")}
    out = tmp_path / "out"
    prepare_corpus(sorted(both), out, config=config)
    (held_out,), (trained,) = open_corpus(out).files("val"), open_corpus(out).files("train")
    assert prepare_corpus([trained.path], tmp_path / "copy", config=config).parted == 1
    report = prepare_corpus([held_out.path], out, config=config)
    assert (report.parted, report.seconds_train, report.seconds_val) == (1, 27.0, 3.0)


def test_a_recording_that_was_trained_on_whole_stays_whole(
    tmp_path: Path, config: CorpusConfig, write_tone: Callable[..., Path]
) -> None:
    source, out = write_tone("a.wav", 30.0), tmp_path / "out"
    prepare_corpus([source], out, config=CorpusConfig(sample_rate=8_000, val_fraction=0.0))
    report = prepare_corpus([source], out, config=config)
    assert (report.seconds_val, report.split_kept) == (0.0, True)


def test_what_somebody_should_know_of_a_folder_as_people_have_them(
    tmp_path: Path, config: CorpusConfig
) -> None:
    folder = tmp_path / "in"
    (folder / ".old").mkdir(parents=True)
    for index in range(6):
        tone_T = 0.3 * np.sin(np.arange(config.sample_rate) / (5 + index))
        stereo_TC = np.stack([tone_T, (0.5, -0.9)[index % 2] * tone_T], axis=1)
        soundfile.write(folder / f"{index}.wav", stereo_TC if index < 2 else tone_T, config.sample_rate)
    soundfile.write(folder / "dc.wav", tone_T * 0.9 + 0.018, config.sample_rate)
    (folder / "lose (copy).wav").write_bytes((folder / "5.wav").read_bytes())
    (folder / "empty.wav").write_bytes(b"")
    for name in (".old/a.wav", ".b.wav", "._c.wav", ".git", ".notes.txt"):
        (folder / name).write_bytes(b"")
    report = prepare_corpus([folder], tmp_path / "out", config=config)
    rows = report.findings()
    assert rows == (
        ("left out", "empty.wav", "it is empty: it holds no bytes"),
        ("copy", "lose (copy).wav", "a copy of 5.wav"),
        ("cancelling", "1.wav", "the mono mix is 26 dB weaker; --channels 2"),
        ("offset", "dc.wav", "its mean of 0.018 is learnt; high-pass it"),
        ("mixed", "2 of 7 files", "to mono; --channels 2 keeps two"),
        ("hidden", ".old, .b.wav", "a dot in front: name it to use it"),
        ("held out", f"{report.seconds_val:.1f} s", "little: the best epoch is partly chance"),
    )
    # What is kept tells the same again.
    assert prepare_corpus([folder], tmp_path / "out", config=config).findings() == rows


def test_labels_follow_the_folders_and_are_no_part_of_the_identity(
    tmp_path: Path, config: CorpusConfig, write_tone: Callable[..., Path]
) -> None:
    for index in range(12):
        write_tone(f"{'low' if index % 2 else 'high'}/{index}.wav", 1.0, seed=index)
    out = tmp_path / "out"
    first = prepare_corpus([tmp_path / "audio"], out, config=config)
    corpus = open_corpus(out)
    assert corpus.labels == ("high", "low")
    assert {Path(file.path).parent.name == file.label for file in corpus.manifest.files} == {True}
    # A corpus of before labels: it opens without, and a preparation that decodes nothing adds them.
    document = json.loads((out / MANIFEST_NAME).read_text())
    for file in document["files"]:
        del file["label"]
    (out / MANIFEST_NAME).write_text(json.dumps(document))
    assert open_corpus(out).labels == ()
    again = prepare_corpus([tmp_path / "audio"], out, config=config)
    assert (again.decoded, again.digest) == (0, first.digest)
    assert open_corpus(out).manifest == corpus.manifest
    (tmp_path / "audio" / "low").rename(tmp_path / "audio" / "high" / "low")
    prepare_corpus([tmp_path / "audio"], out, config=config)
    assert open_corpus(out).labels == ()  # all have the same

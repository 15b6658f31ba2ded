"""A pipe, a device, a folder or a link in the place of a file is never waited for and never followed out."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distill_ray.config.toml import read_toml
from distill_ray.corpus.corpus import open_corpus
from distill_ray.corpus.decode import AudioDecoder
from distill_ray.corpus.manifest import MANIFEST_NAME
from distill_ray.errors import DistillError
from distill_ray.pipeline.record import FILE, open_record
from distill_ray.prior.codes import load_code_sequences
from distill_ray.regular_file import check_regular, open_appending, open_regular, read_regular
from distill_ray.runs.run_folder import was_cut
from distill_ray.runs.settings_file import read_settings
from distill_ray.storage.checkpoints import Checkpoints
from distill_ray.storage.lock import LOCK_NAME, folder_lock
from distill_ray.storage.mirror import _read_state
from distill_ray.storage.storage import open_storage
from distill_ray.training.checkpoint import read_json, read_state, read_weights
from distill_ray.tune.folder import SweepFolder
from distill_ray.tune.table import read_trials


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """Ends a test that waits for a pipe."""

    def end(*_: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    return path


def codes(folder: Path) -> object:
    return load_code_sequences(folder, codebook_size=2, num_quantizers=1)


def audio(folder: Path) -> object:
    return list(AudioDecoder(folder / "a.wav", sample_rate=8_000, channels=1).blocks())


def locked(folder: Path) -> None:
    with folder_lock(folder, None):
        pass


# What is read, and how: each in a folder that others may be able to write.
READ: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "run settings": ("run.toml", lambda folder: read_settings(folder / "run.toml")),
    "pipeline": (FILE, lambda folder: open_record(folder, folder)),
    "trial": ("trials/k16-q1/trial.json", lambda folder: SweepFolder(path=folder).records()),
    "trials": ("trials.parquet", lambda folder: read_trials(folder / "trials.parquet")),
    "codes": (
        "codes-a.parquet",
        lambda folder: load_code_sequences(folder, codebook_size=2, num_quantizers=1),
    ),
    "checkpoint json": ("run.json", lambda folder: read_json(folder / "run.json")),
    "checkpoint state": ("state.pt", lambda folder: read_state(folder / "state.pt", "cpu")),
    "weights": ("best.safetensors", lambda folder: read_weights(folder / "best.safetensors")),
    "shard": ("shards/a.arrow", lambda folder: open_storage(folder).open("shards/a.arrow")),
    "manifest": (MANIFEST_NAME, open_corpus),
    "audio": (
        "a.wav",
        lambda folder: list(AudioDecoder(folder / "a.wav", sample_rate=8_000, channels=1).blocks()),
    ),
}


@pytest.mark.parametrize("what", READ)
def test_a_pipe_is_not_waited_for(tmp_path, what):
    name, read = READ[what]
    made(tmp_path / name)
    with pytest.raises(DistillError) as refused:
        read(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "read", "value"),
    [
        ("checkpoints/latest/progress.json", was_cut, False),
        ("latest/name", lambda folder: Checkpoints(folder).newest_name(), ""),
        (".mirror.json", lambda folder: _read_state(folder / ".mirror.json"), {}),
    ],
    ids=["progress", "name", "mirror"],
)
def test_a_pipe_is_as_nothing_where_nothing_may_be(tmp_path, name, read, value):
    made(tmp_path / name)
    assert read(tmp_path) == value


def test_a_lock_that_is_a_pipe_or_a_link_is_refused(tmp_path):
    made(tmp_path / "pipe" / LOCK_NAME)
    with pytest.raises(OSError, match="is not a regular file; remove it"):
        locked(tmp_path / "pipe")
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / LOCK_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="is not a regular file; remove it"):
        locked(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()
    storage = open_storage(tmp_path / "pipe")
    with pytest.raises(DistillError, match="is not a regular file; remove it"), storage.lock(lambda: None):
        pass


def test_events_are_not_written_through_a_link_or_into_a_pipe(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    made(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(OSError, match="not a regular file"):
            open_appending(tmp_path / name)
    assert not (tmp_path / "elsewhere").exists()
    with open_appending(tmp_path / "file") as file:
        file.write(b"one")
    with open_appending(tmp_path / "file") as file:
        file.write(b"two")
    assert (tmp_path / "file").read_bytes() == b"onetwo"


def test_a_config_of_the_user_may_come_through_a_pipe(tmp_path):
    reading, writing = os.pipe()
    os.write(writing, b"[training]\nlr = 0.1\n")
    os.close(writing)
    assert read_toml(Path(f"/dev/fd/{reading}")) == {"training.lr": 0.1}
    os.close(reading)


def test_regular_files_are_read(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"abc")
    (tmp_path / "link").symlink_to(file)
    assert read_regular(file) == read_regular(tmp_path / "link") == b"abc"
    with pytest.raises(OSError, match="longer than 2 bytes"):
        read_regular(file, 2)
    with pytest.raises(OSError, match="symbolic links"):
        open_regular(tmp_path / "link", follow_link=False)
    for other in (tmp_path, Path("/dev/zero"), made(tmp_path / "pipe")):
        with pytest.raises(OSError, match="not a regular file"):
            check_regular(other)
        with pytest.raises(OSError, match=r"not a regular file|directory"):
            read_regular(other)

from __future__ import annotations

import contextlib
import dataclasses
import errno
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from distill_ray.errors import StorageError, UsageError
from distill_ray.events.records import Event, PipelinePlan
from distill_ray.runs.workspace import BESIDE_MODEL, BusyError, enter_free_folder, result_folder
from distill_ray.storage import storage
from distill_ray.storage.checkpoints import Checkpoints, working_folder
from distill_ray.storage.filesystem import Located
from distill_ray.storage.mirror import Mirror


def ignore(event: Event) -> None: ...


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What lies at sim://, a file system without local paths."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    filesystem = pafs.SubTreeFileSystem(str(tmp_path / "far"), pafs.LocalFileSystem())
    located = storage.locate

    class Remote:
        """SubTreeFileSystem, which makes the folders that an object store does not need."""

        type_name = "sim"

        def __getattr__(self, name: str) -> object:
            return getattr(filesystem, name)

        def open_output_stream(self, path: str) -> object:
            filesystem.create_dir(path.rpartition("/")[0])
            return filesystem.open_output_stream(path)

    def locate(place: str, **options: int) -> Located:
        if not str(place).startswith("sim://"):
            return located(place, **options)
        return Located(filesystem=Remote(), root=str(place)[6:], uri=str(place), local=None)

    monkeypatch.setattr(storage, "locate", locate)
    (tmp_path / "far").mkdir()
    return tmp_path / "far"


def test_a_local_folder_is_for_one_process_at_a_time(tmp_path: Path) -> None:
    with result_folder(tmp_path / "run", listener=ignore) as results:
        assert (results.path, results.shown, results.checkpoints_uri) == (tmp_path / "run",) * 2 + (None,)
        (results.path / "run.toml").touch()
        with (
            pytest.raises(BusyError, match=f"another process is at work in {tmp_path}/run"),
            result_folder(str(tmp_path / "run"), listener=ignore),
        ):
            pass
    with result_folder(f"file://{tmp_path}/run", listener=ignore) as results:
        assert results.path == tmp_path / "run"


def test_a_refused_run_leaves_nothing(tmp_path: Path) -> None:
    with contextlib.suppress(UsageError), result_folder(tmp_path / "a" / "run", listener=ignore):
        raise UsageError("no")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with (
        pytest.raises(UsageError, match="file is a file; give a folder"),
        result_folder(tmp_path / "file", listener=ignore),
    ):
        pass


def test_a_folder_that_cannot_be_written_is_said_with_what_can_be_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("distill_ray.runs.workspace.folder_lock", denied)
    start = f"the run folder {tmp_path}/m.prior cannot be written (Permission denied); "
    for options, advice in (({}, "choose another --out"), ({"advice": BESIDE_MODEL}, BESIDE_MODEL)):
        with (
            pytest.raises(UsageError) as caught,
            result_folder(tmp_path / "m.prior", listener=ignore, **options),
        ):
            pass
        assert str(caught.value) == start + advice
    assert "--out" not in BESIDE_MODEL


def test_without_out_a_free_folder_that_nobody_works_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "m").mkdir(parents=True)
    (tmp_path / "runs" / "m" / "run.toml").touch()
    with contextlib.ExitStack() as one, contextlib.ExitStack() as two:
        assert enter_free_folder(one, "m", ignore).path == tmp_path / "runs" / "m-2"
        assert enter_free_folder(two, "m", ignore).path == tmp_path / "runs" / "m-3"


def test_what_is_made_appears_at_the_uri_and_is_there_again(far: Path) -> None:
    with result_folder("sim://b/run", listener=ignore) as results:
        assert results.path == working_folder("sim://b/run")
        (results.path / "run.toml").write_text("one")
        (results.path / "trials" / "a").mkdir(parents=True)
        (results.path / "trials" / "a" / "trial.json").write_text("{}")
        (results.path / "half.tmp").touch()
        (results.path / "checkpoints").mkdir()
        (results.path / "checkpoints" / "x").touch()
    assert sorted(path.name for path in (far / "b" / "run").rglob("*") if path.is_file()) == [
        "run.toml",
        "trial.json",
    ]
    assert not results.path.exists()
    assert results.shown_as(results.path / "m.distill") == "sim://b/run/m.distill"
    with result_folder("sim://b/run", listener=ignore) as again:
        assert (again.path / "run.toml").read_text() == "one"
        assert (again.path / "trials" / "a" / "trial.json").read_text() == "{}"


def test_a_folder_within_stands_for_the_uri_below(far: Path) -> None:
    heard: list[Event] = []
    with result_folder("sim://b/run", listener=ignore) as results:
        with result_folder(results.below("codec"), listener=ignore) as codec:
            assert codec.checkpoints_uri == "sim://b/run/codec/checkpoints"
            assert codec.shown == results.path / "codec"
            (codec.path / "run.toml").write_text("one")
            Checkpoints(codec.path / "checkpoints").keep(lambda folder: (folder / "s").touch())
            plan = PipelinePlan(output_dir=str(codec.path), stages=())
            codec.attended(heard.append)(plan)
            results.attended(heard.append)(plan)
            assert heard == [plan, dataclasses.replace(plan, uri="sim://b/run/codec")]
        assert (far / "b" / "run" / "codec" / "checkpoints" / "latest.json").exists()
        assert (far / "b" / "run" / "codec" / "run.toml").exists()


def test_an_error_keeps_what_was_made_here_and_there(far: Path) -> None:
    def fail() -> None:
        with result_folder("sim://b/run", listener=ignore) as results:
            (results.path / "run.toml").write_text("one")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (far / "b" / "run" / "run.toml").read_text() == "one"
    assert (working_folder("sim://b/run") / "run.toml").read_text() == "one"


def test_of_two_machines_the_one_that_wrote_last_goes_first(far: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"

    def at_work(folder: Path, changes: dict[str, str | None]) -> dict[str, str]:
        folder.mkdir(exist_ok=True)
        with contextlib.closing(Mirror(folder, "sim://b")) as mirror:
            mirror.pull()
            for name, text in changes.items():
                (folder / name).write_text(text) if text else (folder / name).unlink()
            mirror.start()
            mirror.push(10.0)
        return {path.name: path.read_text() for path in sorted(folder.glob("[!.]*"))}

    assert at_work(one, {"a": "1", "b": "1"}) == {"a": "1", "b": "1"}
    assert at_work(two, {"a": "22", "c": "2"}) == {"a": "22", "b": "1", "c": "2"}
    (one / "b").write_text("changed here, and not there")
    assert at_work(one, {}) == {"a": "22", "b": "changed here, and not there", "c": "2"}
    (far / "b" / "c").unlink()
    assert at_work(one, {}) == {"a": "22", "b": "changed here, and not there"}


def test_what_does_not_get_there_is_said(far: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distill_ray.runs import workspace as module

    monkeypatch.setattr(module, "_PATIENCE_S", 0.2)

    def work() -> None:
        with result_folder("sim://b/run", listener=ignore) as results:
            (far / "b").rename(far / "gone")
            (far / "b").touch()  # a file where a folder must be
            (results.path / "m.distill").write_text("model")

    with pytest.raises(
        StorageError, match=r"what was made is kept in .*runs/.* --resume sim://b/run uploads"
    ):
        work()
    assert (working_folder("sim://b/run") / "m.distill").read_text() == "model"

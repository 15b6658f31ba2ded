"""The report as a file: collected, drawn, and written at once or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_ray.errors import DistillError, UsageError
from distill_ray.events.records import Notice
from distill_ray.report.collect import collect
from distill_ray.report.numbers import count
from distill_ray.report.sounds import Wanted
from distill_ray.storage.atomic import atomic_file
from distill_ray.training.worker import Listener

NAME = "report.html"
_MARKER, _HEAD_BYTES = b'<meta name="generator" content="distill-ray ', 1 << 14


@dataclass(frozen=True, kw_only=True)
class WrittenReport:
    """A report that is written; `notes` say what it leaves out, `late` how many sounds for lack of time."""

    path: Path
    bytes: int
    sounds: int
    audio_bytes: int
    notes: tuple[str, ...]
    late: int = 0

    def to_json(self) -> dict[str, Any]:
        """The document of `distill-ray report --json`."""
        return {
            "report": str(self.path),
            "bytes": self.bytes,
            "sounds": self.sounds,
            "audio_bytes": self.audio_bytes,
            "notes": list(self.notes),
        }


def write_report(
    place: Path,
    out: Path | None = None,
    *,
    wanted: Wanted | None = None,
    most_sounds: Callable[[], int] | None = None,
) -> WrittenReport:
    """One HTML page on the run, search or model at `place`; `out` is by default report.html in its folder,
    or beside a model. `most_sounds`: how many there is time for, asked once they are collected.

    Raises UsageError where `place` holds nothing of ours, or `out` cannot be written or holds anything but a
    report, BundleError for a model that cannot be read.
    """
    from distill_ray.report.page import make_page

    path = out or default_path(place)
    _refuse_other_content(path)
    _, facts = collect(place, wanted or Wanted())
    page = make_page(facts, time_for=None if most_sounds is None else most_sounds())
    content = page.html.encode()
    with atomic_file(path, error=UsageError) as file:
        file.write(content)
    return WrittenReport(
        path=path,
        bytes=len(content),
        sounds=page.sounds,
        audio_bytes=page.audio_bytes,
        notes=page.notes,
        late=page.late,
    )


def default_path(place: Path) -> Path:
    return place.with_suffix(".html") if place.is_file() else place / NAME


def _refuse_other_content(path: Path) -> None:
    """A report takes the place of an older one only: nobody says --overwrite for it."""
    if not path.exists():
        return
    if not path.is_file():
        raise UsageError(f"{path} is not a regular file and cannot be replaced; choose another --out")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); choose another --out") from error
    if _MARKER not in head:
        raise UsageError(f"{path} is no report of distill-ray and is not replaced; choose another --out")


def report_run(
    folder: Path,
    listener: Listener,
    *,
    model: Path | None = None,
    sounds: int = 0,
    data: str | None = None,
    judge_seconds: float | None = None,
    most_sounds: Callable[[], int] | None = None,
) -> Path | None:
    """The report at the end of a training, which must not fail by it: a warning says why there is none.

    model: where the model is if it is not beside the folder. sounds: new ones of its prior. data: recordings
    that are prepared, for excerpts where the run has kept none. judge_seconds: judge generated sound where
    that takes no longer. most_sounds: as in `write_report`.
    """
    try:
        wanted = Wanted(
            model=model,
            sounds=sounds,
            data=data,
            judge=judge_seconds is not None,
            judge_seconds=judge_seconds,
            on_progress=listener,
        )
        written = write_report(folder, wanted=wanted, most_sounds=most_sounds)
    except Exception as error:
        reason = str(error) if isinstance(error, DistillError) else f"{type(error).__name__}: {error}"
        listener(Notice(level="warning", message=f"no report was written: {reason}"))
        return None
    if written.late:
        short = f"the report shows {count(written.late, 'sound')} fewer, for lack of time"
        listener(Notice(level="info", message=f"{short}: `distill-ray report` shows all of them"))
    return written.path

"""Listeners that write into the run's folder: the JSON-lines event log and TensorBoard scalars.

The log is `events.jsonl`: one `to_record` dictionary a line with a "time" (seconds since 1970), so that
`from_record` reads it back; a resumed run goes on in the same file. It starts at an event that names its
folder (`RunStarted`, `SweepStarted`, `PipelinePlan`); what was said before is written then.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from distill_ray.display.listeners import Listeners
from distill_ray.events.records import (
    Event,
    PipelinePlan,
    PriorEpochMetrics,
    PriorStepMetrics,
    RunStarted,
    StageProgress,
    SweepStarted,
    VQEpochMetrics,
    VQStepMetrics,
    to_record,
)
from distill_ray.foreign import ascii_controls
from distill_ray.jsonable import jsonable
from distill_ray.regular_file import open_appending

LOG_NAME = "events.jsonl"
SCALARS_FOLDER = "tensorboard"


class _RunFolderListener(ABC):
    """A context manager whose `close` also runs when the run fails."""

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None: ...


class EventLog(_RunFolderListener):
    """Writes every event but the progress of stages, each line flushed."""

    def __init__(self) -> None:
        self._file: BinaryIO | None = None
        self._waiting: list[bytes] = []

    def __call__(self, event: Event) -> None:
        """Write the event. Raises OSError where the folder cannot be written."""
        if isinstance(event, StageProgress):
            return
        if isinstance(event, RunStarted | SweepStarted | PipelinePlan):
            self.close()
            self._file = _open_log(Path(event.output_dir) / LOG_NAME)
        self._waiting.append(_line(event))
        if self._file is not None:
            self._file.write(b"".join(self._waiting))
            self._file.flush()
            self._waiting.clear()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class ScalarLog(_RunFolderListener):
    """Writes losses, rates and codebook health for TensorBoard, where `tensorboardX` is installed.

    Not through its SummaryWriter, which writes in a thread: a full disk ends that thread, and the next event
    but ten waits for it forever.
    """

    def __init__(self) -> None:
        self._writer: Any = None

    def __call__(self, event: Event) -> None:
        """Write the event's numbers against its step. Raises OSError where the folder cannot be written."""
        if isinstance(event, RunStarted):
            self.close()
            if importlib.util.find_spec("tensorboardX") is not None:
                folder = Path(event.output_dir) / SCALARS_FOLDER
                folder.mkdir(parents=True, exist_ok=True)
                writers = importlib.import_module("tensorboardX.event_file_writer")
                self._writer = writers.EventsWriter(str(folder / "events"))
        elif self._writer is not None:
            summary = importlib.import_module("tensorboardX.summary")
            protocol = importlib.import_module("tensorboardX.proto.event_pb2")
            for tag, value, step in scalars(event):
                self._writer.write_event(
                    protocol.Event(summary=summary.scalar(tag, value), step=step, wall_time=time.time())
                )
            self._writer.flush()

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


def trial_listener() -> Listeners:
    """What a trial of a search tells its events to, in its own process; picklable as it stands."""
    return Listeners(EventLog(), ScalarLog())


def scalars(event: Event) -> Iterator[tuple[str, float, int]]:
    """(tag, value, step) of every number of a step or an epoch that is worth a curve."""
    if isinstance(event, VQStepMetrics | PriorStepMetrics):
        yield "step/loss", event.loss, event.step
        yield "step/lr", event.lr, event.step
        yield "step/grad_norm", event.grad_norm, event.step
        if isinstance(event, VQStepMetrics):
            yield "rate/audio_seconds_per_second", event.audio_seconds_per_second, event.step
            yield "rate/data_wait_share", event.data_wait_share, event.step
            yield from ((f"step/{name}", value, event.step) for name, value in event.losses.items())
        else:
            yield "rate/codes_per_second", event.codes_per_second, event.step
    elif isinstance(event, VQEpochMetrics | PriorEpochMetrics):
        yield "epoch/train_loss", event.train_loss, event.step
        yield "epoch/val_loss", event.val_loss, event.step
        if isinstance(event, VQEpochMetrics):
            yield from ((f"epoch/val_{name}", value, event.step) for name, value in event.val_losses.items())
            yield from _health_scalars(event)
        else:
            yield "epoch/val_perplexity", event.val_perplexity, event.step
            yield "epoch/bits_per_second", event.bits_per_second, event.step


def _health_scalars(event: VQEpochMetrics) -> Iterator[tuple[str, float, int]]:
    for level, item in enumerate(event.codebook_health):
        yield f"codebook/level_{level}/utilization", item.utilization, event.step
        yield f"codebook/level_{level}/perplexity", item.perplexity, event.step
        yield f"codebook/level_{level}/dead_codes", item.dead_codes, event.step
        yield f"codebook/level_{level}/entropy", item.entropy, event.step
        if item.kept is not None:
            yield f"codebook/level_{level}/kept_at_quarter_frame", item.kept, event.step


def _line(event: Event) -> bytes:
    record = {**to_record(event), "time": round(time.time(), 3)}
    text = json.dumps(jsonable(record, as_text=True), allow_nan=False, ensure_ascii=False)
    return ascii_controls(text).encode() + b"\n"


def _open_log(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open_appending(path)
    _drop_torn_line(file)
    return file


def _drop_torn_line(file: BinaryIO) -> None:
    """A killed writer may have left half a line: each line must stay valid JSON."""
    file.seek(0)
    whole = 0
    for line in file:
        if not line.endswith(b"\n"):
            file.truncate(whole)
        whole += len(line)
    file.seek(0, 2)

"""Keeps the sounds that a training sends (`training/samples.py`): files in the run's `samples/`, TensorBoard.

Around a run's listener: what it hears of a sound is which file it is in. Codes of a prior are decoded here,
where its codec is; a rank need not have that.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import importlib.util
import io
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from distill_ray.bundle import LoadedVQModel
from distill_ray.errors import UsageError
from distill_ray.evaluate.spectrogram import RANGE_DB, spectrogram
from distill_ray.events.records import AudioSample, Event, Notice, RunStarted
from distill_ray.storage.atomic import atomic_file
from distill_ray.training.samples import flac
from distill_ray.training.worker import Listener

FOLDER = "samples"
MOST_SHARE = 0.005
"""Of the run's time for TensorBoard."""
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*\.flac")
_TENSORBOARD = Path("tensorboard") / FOLDER


class SampleKeeper:
    """A listener and a context manager; `codec` is that of a prior's run.

    It never harms the run: the first sound that cannot be kept is said as a warning and ends the keeping.
    """

    def __init__(self, listener: Listener, folder: Path, *, codec: LoadedVQModel | None = None) -> None:
        self._listener = listener
        self._folder = folder
        self._codec = codec
        self._media = _Media(folder / _TENSORBOARD)
        self._failed = False

    def __enter__(self) -> SampleKeeper:
        return self

    def __exit__(self, *_: object) -> None:
        self._media.close()

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted) and event.first_epoch == 1:
            self._clear()
        if not isinstance(event, AudioSample):
            self._listener(event)
        elif not self._failed:
            self._take(event)

    def _take(self, sample: AudioSample) -> None:
        try:
            content = self._content(sample)
            with atomic_file(self._path(sample.file), error=UsageError) as file:
                file.write(content)
            self._media.add(sample, content)
        except Exception as error:
            self._failed = True
            message = f"the sounds of this run are no longer kept: {error}"
            self._listener(Notice(level="warning", message=message))
            return
        self._listener(replace(sample, content="", codes=()))

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} is no name of a sample")
        return self._folder / FOLDER / name

    def _content(self, sample: AudioSample) -> bytes:
        if not sample.codes:
            return base64.b64decode(sample.content, validate=True)
        assert self._codec is not None, "a prior's run has a codec"
        codes_BQT = torch.tensor(sample.codes, device=self._codec.device)[None]
        with torch.inference_mode():
            audio_CT = self._codec.model.decode(codes_BQT)[0]
        return base64.b64decode(flac(audio_CT, self._codec.vqvae_config.sample_rate))

    def _clear(self) -> None:
        """Remove the sounds of a run whose place this one takes."""
        with contextlib.suppress(OSError):
            for path in (self._folder / FOLDER).glob("*.flac"):
                if _NAME.fullmatch(path.name):
                    path.unlink()


class _Media:
    """Sounds and their spectrograms for TensorBoard, where `tensorboardX` is installed; without its
    SummaryWriter, whose thread a full disk would end (`display/log.py`).

    A sound takes 0.1 s, most of it checksums in Python: those beyond `MOST_SHARE` of the time are left out.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None
        self._wanted = importlib.util.find_spec("tensorboardX") is not None
        self._began, self._spent_s = time.monotonic(), 0.0

    def add(self, sample: AudioSample, content: bytes) -> None:
        began = time.monotonic()
        if self._wanted and self._spent_s <= MOST_SHARE * (began - self._began):
            self._write(sample, content)
            self._spent_s += time.monotonic() - began

    def _write(self, sample: AudioSample, content: bytes) -> None:
        if self._writer is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            writers = importlib.import_module("tensorboardX.event_file_writer")
            self._writer = writers.EventsWriter(str(self._folder / "events"))
        summary = importlib.import_module("tensorboardX.summary")
        protocol = importlib.import_module("tensorboardX.proto.event_pb2")
        audio_TC, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
        tag = f"{sample.kind}/{sample.index}"
        for made in (
            summary.audio(tag, audio_TC if audio_TC.shape[1] <= 2 else audio_TC.mean(axis=1), rate),
            summary.image(f"{tag}/spectrogram", _picture(audio_TC, rate), dataformats="HW"),
        ):
            self._writer.write_event(protocol.Event(summary=made, step=sample.step, wall_time=time.time()))
        self._writer.flush()

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


def _picture(audio_TC: Any, rate: int) -> Any:
    """The spectrogram as grey values, low frequencies at the bottom."""
    levels_FS = spectrogram(audio_TC, rate)[::-1]
    grey = np.clip((levels_FS - levels_FS.max()) / RANGE_DB + 1, 0, 1) * 255
    return np.repeat(grey.astype(np.uint8), 2, axis=0)

"""A small real search, as a function and as a program to kill: `python tiny_sweep.py DATA OUT`.

The program writes each trial's state to stderr, one line "TRIAL STATE EPOCH" each.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import soundfile

from distill_ray.events.records import Event, RunStarted, TrialUpdate, VQEpochMetrics
from distill_ray.tune.search_report import SweepReport
from distill_ray.tune.settings import TrialListener
from distill_ray.tune.tune import tune_codec

RATE = 8_000
# For a search that is killed; else to keep checkpoints takes longer than to train.
EACH_STEP = {"training.checkpoint_seconds": 0.0}
SETTINGS: dict[str, object] = {
    "corpus.sample_rate": RATE,
    "corpus.val_fraction": 0.3,
    "model.purpose": "compression",
    "model.width": 8,
    "model.encoder_blocks": 1,
    "model.decoder_blocks": 1,
    "model.latent_dim": 8,
    "model.n_fft": 256,
    "model.hop": 64,
    "training.epochs": 3,
    "training.batch_size": 8,
    "training.window_seconds": 0.5,
    "training.min_epoch_steps": 2,
    "training.warmup_steps": 2,
    "training.val_seconds": 1.0,
    "sweep.codebook_sizes": (16, 32),
    "sweep.rvq_levels": (2, 4),
    "sweep.max_kbps": 0.7,  # 62.5 frames a second: two levels of 16 or 32 codes, not four
    "sweep.max_concurrent": 2,
    "sweep.gpus_per_trial": 0.0,
}


def recordings(folder: Path) -> Path:
    """Six recordings of a second and a half, each a plucked tone in noise."""
    folder.mkdir(parents=True)
    time_T = np.arange(round(1.5 * RATE)) / RATE
    for number in range(6):
        rng = np.random.default_rng(number)
        tone_T = np.sin(2 * np.pi * 110 * 2 ** rng.uniform(0, 3) * time_T) * np.exp(-(time_T * 3 % 1.0) * 4)
        noise_T = 0.02 * rng.standard_normal(len(time_T))
        soundfile.write(folder / f"{number}.wav", 0.3 * tone_T + noise_T, RATE)
    return folder


def search(
    data: Path,
    out: Path,
    *,
    more: Mapping[str, object] | None = None,
    resume: bool = False,
    listener: Callable[[Event], None] = lambda event: None,
    trial_listener: TrialListener | None = None,
) -> SweepReport:
    """`tune_codec` with small settings and `more` of them; resumed, with none but `more`."""
    return tune_codec(
        data=str(data),
        overrides={**({} if resume else {"model.size": "tiny", **SETTINGS}), **(more or {})},
        config_file=None,
        out=None if resume else out,
        name=None if resume else "m",
        resume=out if resume else None,
        address=None,
        listener=listener,
        trial_listener=trial_listener or pid_note,
    )


@contextlib.contextmanager
def pid_note() -> Iterator[Callable[[Event], None]]:
    """A listener that leaves in a trial's folder, a line a start, its process and the step it began with."""

    def listener(event: Event) -> None:
        if isinstance(event, RunStarted):
            folder = Path(event.output_dir)
            progress = folder / "checkpoints" / "latest" / "progress.json"
            step = json.loads(progress.read_text())["step"] if progress.exists() else 0
            folder.mkdir(exist_ok=True)
            with (folder / "starts").open("a") as starts:
                starts.write(f"{os.getpid()} {step}\n")

    yield listener


@contextlib.contextmanager
def dying_note(deaths: Mapping[str, int]) -> Iterator[Callable[[Event], None]]:
    """`pid_note`, and an end by SIGKILL after the first epoch of each of so many starts of a trial."""
    with pid_note() as note:
        folder = Path()

        def listener(event: Event) -> None:
            nonlocal folder
            note(event)
            if isinstance(event, RunStarted):
                folder = Path(event.output_dir)
            often = deaths.get(folder.name, 0)
            if isinstance(event, VQEpochMetrics) and len(starts(folder.parents[1], folder.name)) <= often:
                time.sleep(1.0)  # in which the driver hears of the start
                os.kill(os.getpid(), signal.SIGKILL)

        yield listener


@contextlib.contextmanager
def patient_note(sign: Path) -> Iterator[Callable[[Event], None]]:
    """`pid_note`; after its first epoch a trial waits for `sign`, then long enough to be asked to stop."""
    with pid_note() as note:
        epochs = 0

        def listener(event: Event) -> None:
            nonlocal epochs
            note(event)
            if isinstance(event, VQEpochMetrics):
                epochs += 1
            elif epochs == 1 and not sign.exists():  # with the next event: now the driver hears of the epoch
                for _ in range(6000):
                    if sign.exists():
                        break
                    time.sleep(0.05)
                time.sleep(3.0)

        yield listener


def starts(out: Path, trial: str) -> list[tuple[int, int]]:
    """(process, finished steps) of each start of a trial; none before its first."""
    path = out / "trials" / trial / "starts"
    text = path.read_text() if path.exists() else ""
    return [(int(pid), int(step)) for pid, step in map(str.split, text.splitlines())]


def main() -> None:
    def listener(event: Event) -> None:
        if isinstance(event, TrialUpdate):
            print(event.trial, event.state, event.epoch, file=sys.stderr, flush=True)

    search(Path(sys.argv[1]), Path(sys.argv[2]), more=EACH_STEP, listener=listener)


if __name__ == "__main__":
    main()

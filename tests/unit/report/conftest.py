"""Records of a run as a report gets them, and what reads a page."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from distill_ray.evaluate.judgement import (
    Copies,
    Floors,
    GroupScore,
    Interval,
    Judgement,
    Levels,
    Measures,
    NearestMoment,
)
from distill_ray.events.records import (
    CandidateRow,
    PriorEpochMetrics,
    PriorTrainingCompleteEvent,
    RunStarted,
    ShownSetting,
    TrainingCompleteEvent,
    TrialUpdate,
    VQEpochMetrics,
    VQStepMetrics,
)
from distill_ray.report.facts import (
    Fact,
    Judged,
    NearestPair,
    ReportFacts,
    SearchFacts,
    Setting,
    Sound,
    SoundGroup,
    TrainingRun,
)
from distill_ray.vqvae.health import LevelHealth

RATE = 8_000
HOSTILE = "<script>alert(1)</script>\"'&\u202e</script>"
"""A name that would leave any element or attribute, and turn what follows it around."""


def tone(label: str = "tone", seconds: float = 0.5, hertz: float = 440.0, rate: int = RATE) -> Sound:
    time = np.arange(round(seconds * rate)) / rate
    audio_TC = (0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)[:, None]
    return Sound(label=label, audio_TC=audio_TC, sample_rate=rate)


def health(used: float) -> tuple[LevelHealth, ...]:
    return tuple(
        LevelHealth(
            utilization=share, perplexity=16 * share, dead_codes=round(16 * (1 - share)), entropy=share
        )
        for share in (used, used / 2)
    )


def started(kind: str = "vqvae", first_epoch: int = 1, output_dir: str = "") -> RunStarted:
    return RunStarted(
        kind=kind,
        name="birds",
        output_dir=output_dir,
        device="cpu",
        world_size=1,
        parameters=1_234_567,
        epochs=3,
        max_minutes=None,
        steps_per_epoch=10,
        train_files=5,
        train_seconds=125.0,
        val_files=2,
        val_seconds=30.0,
        first_epoch=first_epoch,
        settings=(ShownSetting(name="size", value="tiny", source="auto"),),
    )


def epoch(number: int, loss: float = 0.0) -> VQEpochMetrics:
    return VQEpochMetrics(
        epoch=number,
        epochs=3,
        step=10 * number,
        train_loss=20.0 / number,
        val_loss=loss or 24.0 / number,
        best_val_loss=24.0 / number,
        best_epoch=number,
        losses={"mel": 2.0 / number},
        val_losses={"mel": 2.5 / number, "waveform": 0.1 / number},
        codebook_health=health(0.2 * number),
        utilization_warnings=(f"RVQ level 1 is low in epoch {number}",),
        reseeded_codes=0,
        skipped_steps=0,
        audio_seconds_per_second=3.0,
        elapsed_s=10.0 * number,
    )


def step(number: int, of_epoch: int) -> VQStepMetrics:
    return VQStepMetrics(
        step=number,
        epoch=of_epoch,
        epoch_step=number % 10,
        steps_per_epoch=10,
        fraction=number / 30,
        loss=20.0 / number,
        losses={"mel": 2.0 / number},
        lr=1e-3,
        grad_norm=5.0 / number,
        skipped_steps=0,
        steps_per_second=1.0,
        audio_seconds_per_second=3.0,
        eta_s=None,
    )


def complete(**changes: object) -> TrainingCompleteEvent:
    values: dict[str, object] = {
        "epochs_completed": 3,
        "steps": 30,
        "final_train_loss": 6.7,
        "final_val_loss": 8.0,
        "best_val_loss": 8.0,
        "best_epoch": 3,
        "codebook_health": health(0.6),
        "warnings": ("epoch 1: RVQ level 1 is low",),
        "audio_seconds_per_second": 3.0,
        "elapsed_s": 30.0,
        "exit_reason": "completed",
    }
    return TrainingCompleteEvent(**{**values, **changes})  # type: ignore[arg-type]


def prior_run() -> TrainingRun:
    epochs = tuple(
        PriorEpochMetrics(
            epoch=number,
            epochs=2,
            step=20 * number,
            train_loss=3.0 / number,
            val_loss=3.2 / number,
            val_perplexity=math.exp(3.2 / number),
            best_perplexity=math.exp(3.2 / number),
            best_epoch=number,
            bits_per_second=1000.0 / number,
            is_memorizing=False,
            memorization_message="",
            skipped_steps=0,
            codes_per_second=100.0,
            elapsed_s=5.0 * number,
        )
        for number in (1, 2)
    )
    done = PriorTrainingCompleteEvent(
        epochs_trained=2,
        steps=40,
        final_perplexity=5.0,
        best_perplexity=5.0,
        best_epoch=2,
        bits_per_second=500.0,
        memorization_warnings=(),
        codes_per_second=100.0,
        elapsed_s=10.0,
        exit_reason="completed",
        histogram_bits_per_second=800.0,
    )
    return TrainingRun(
        kind="prior", started=started("prior"), epochs=epochs, complete=done, uniform_bits=1200.0
    )


def codec_run() -> TrainingRun:
    return TrainingRun(
        kind="vqvae",
        started=started(),
        epochs=(epoch(1), epoch(2), epoch(3)),
        steps=tuple(step(number, 1 + number // 11) for number in range(1, 31)),
        complete=complete(),
        warnings=("epoch 1: RVQ level 1 is low",),
    )


def levels() -> Levels:
    return Levels(
        peak_dbfs=-1.0,
        loudness_lufs=-20.0,
        loudness_to_corpus_db=-2.0,
        clipped_share=0.0,
        silence_share=0.1,
        longest_silence_s=0.5,
        drift_db=None,
        centroid_drift_octaves=None,
        channel_correlation=None,
        side_share=None,
    )


def judgement() -> Judgement:
    measures = Measures(windows=240, frechet=100.0, kernel=0.02, coverage=0.5, density=0.75)
    return Judgement(
        windows=240,
        sounds=8,
        seconds=80.0,
        measures=measures,
        ratio=2.5,
        ratio_interval=Interval(low=2.1, high=3.0),
        groups={
            "spectrum": GroupScore(
                windows=240,
                frechet=50.0,
                ratio=2.0,
                ratio_interval=Interval(low=1.8, high=2.2),
                halves=25.0,
                held_out=30.0,
            )
        },
        floors=Floors(
            halves=Measures(windows=240, frechet=40.0, kernel=0.0, coverage=0.95, density=1.0), held_out=None
        ),
        levels=levels(),
        training_levels=levels(),
        copies=Copies(
            verdict="none found", share=0.01, false_positive_rate=0.02, calibration_windows=480, longest_s=1.5
        ),
        exact_continuations=0.0,
        held_out_continuations=0.0,
        warnings=("only 240 windows were compared",),
    )


def row(trial: str, levels: int, **changes: object) -> CandidateRow:
    values: dict[str, object] = {
        "trial": trial,
        "codebook_size": 256,
        "rvq_levels": levels,
        "kbps": 0.7 * levels,
        "objective": 10.0 / levels,
        "val_loss": 20.0 / levels,
        "mel": 2.0 / levels,
        "eligible": True,
        "reason": "",
        "on_front": True,
        "chosen": False,
    }
    return CandidateRow(**{**values, **changes})  # type: ignore[arg-type]


def search(name: str = "k256-q8") -> SearchFacts:
    trial = TrialUpdate(
        trial=name, round="search", state="completed", codebook_size=256, rvq_levels=8, kbps=5.6, val_loss=2.5
    )
    rows = (
        row(name, 8, chosen=True),
        row(name, 4),
        row("k64-q8", 8, eligible=False, on_front=False, reason="collapsed level 2"),
    )
    return SearchFacts(
        trials=(trial,),
        candidates=rows,
        objective="val-loss",
        definition="the held-out loss",
        prior_bits={name: 900.0},
    )


def full_facts(name: str = "birds") -> ReportFacts:
    """Every part of a page, with `name` wherever foreign text may stand."""
    moment = NearestMoment(file=name, time_s=1.0, source=name, source_time_s=62.5, distance=0.5, ratio=0.9)
    return ReportFacts(
        title=name,
        kind="The training of a codec",
        overview=(Fact(name="recordings", value=name), Fact(name=name, value="5 files")),
        warnings=(f"{name} is loud",),
        runs=(codec_run(), prior_run()),
        health=health(0.6),
        excerpts=(SoundGroup(title=name, sounds=(tone("original"), tone(name, hertz=880.0))),),
        generated=(SoundGroup(title=name, sounds=(tone(name),)),),
        judged=Judged(
            generated=judgement(),
            decoded=judgement(),
            nearest=(NearestPair(moment=moment, generated=tone("generated"), source=tone("training")),),
        ),
        search=search(name),
        settings=(
            Setting(table="training", name="lr", value=name, source="override"),
            Setting(table="model", name="width", value="64", source="auto"),
        ),
        provenance=(Fact(name="folder", value=name),),
        notes=(f"{name} is missing",),
    )


VOID = {"meta", "link", "br", "img", "input", "hr", "source", "path", "use"}


@dataclass(kw_only=True)
class Element:
    tag: str
    attributes: dict[str, str]
    text: str = ""


@dataclass
class Document(HTMLParser):
    """All elements of a page in order; `text` is their own text, `unclosed` what was never closed."""

    elements: list[Element] = field(default_factory=list)
    unclosed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[Element] = []

    @classmethod
    def of(cls, html: str) -> Document:
        document = cls()
        document.feed(html)
        document.close()
        document.unclosed = [element.tag for element in document._open]
        return document

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag=tag, attributes={name: value or "" for name, value in attrs})
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag=tag, attributes={name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1].tag == tag, f"</{tag}> closes <{self._open[-1].tag}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open:
            self._open[-1].text += data

    def all(self, tag: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag]


def figures(document: Document) -> dict[str, object]:
    (element,) = [each for each in document.all("script") if each.attributes.get("id") == "figures"]
    values = json.loads(element.text)
    assert isinstance(values, dict)
    return values


@pytest.fixture(scope="session")
def records() -> ModuleType:
    """This module: its records and readers."""
    return sys.modules[__name__]


@pytest.fixture
def write_log() -> Callable[..., Path]:
    """Writes events as a run's log."""
    from distill_ray.events.records import Event, to_record

    def write(folder: Path, *events: Event, begin: float = 1_796_000_000.0) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        lines = [
            json.dumps({**to_record(event), "time": begin + number}) for number, event in enumerate(events)
        ]
        (folder / "events.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
        return folder

    return write

"""Ray metrics of a run: its events as Prometheus gauges of the process that hears them.

That process must be connected to Ray: the driver of a DDP run, or a trial's own process. Ray exports them on
the node's metrics port with "ray_" before the name; `cluster/monitoring` scrapes and draws them. Every
metric has the tags `run` (the run's name; SEARCH/TRIAL for a trial) and `kind` ("vqvae" or "prior").
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from distill_ray.events.records import (
    CodecJudged,
    Event,
    PriorEpochMetrics,
    PriorStepMetrics,
    PriorTrainingCompleteEvent,
    RunStarted,
    TrainingCompleteEvent,
    VQEpochMetrics,
    VQStepMetrics,
)
from distill_ray.training.worker import Listener

METRICS_VARIABLE = "DISTILL_RAY_METRICS"
_PREFIX = "distill_ray_"
_RUN_TAGS = ("run", "kind")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")
_LONGEST_LABEL = 200


@dataclass(frozen=True, kw_only=True)
class Declared:
    """A metric: what it means, and its tags beside those of every metric."""

    meaning: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Figure:
    """The value of one metric, named without prefix."""

    metric: str
    value: float
    tags: Mapping[str, str] = field(default_factory=dict)


_LEVEL = ("level",)
DECLARED: Mapping[str, Declared] = {
    "running": Declared(meaning="1 while the run trains, 0 after its end"),
    "workers": Declared(meaning="training processes of the run"),
    "epoch": Declared(meaning="epoch, from 1"),
    "step": Declared(meaning="step of the whole run, from 1"),
    "budget_used_ratio": Declared(meaning="used part of the run's budget of epochs or time"),
    "loss": Declared(
        meaning="loss of a split (step, train, val) in all (term total) and by its unweighted terms; of a "
        "prior, nats per code",
        tags=("split", "term"),
    ),
    "best_val_loss": Declared(meaning="lowest held-out loss so far"),
    "learning_rate": Declared(meaning="learning rate"),
    "gradient_norm": Declared(meaning="norm of the gradient before clipping"),
    "step_seconds": Declared(meaning="time of a step"),
    "data_wait_ratio": Declared(meaning="part of the time in which training waited for its data"),
    "audio_seconds_per_second": Declared(meaning="seconds of audio trained on in a second, over all workers"),
    "codes_per_second": Declared(meaning="codes trained on in a second, over all workers"),
    "skipped_steps": Declared(meaning="steps of the run skipped for a loss or gradient that is no number"),
    "reseeded_codes": Declared(meaning="codes that fell out of use in the epoch and were re-seeded"),
    "codebook_utilization_ratio": Declared(meaning="part of an RVQ level's codes in use", tags=_LEVEL),
    "codebook_perplexity": Declared(meaning="exp of the entropy of use of an RVQ level's codes", tags=_LEVEL),
    "codebook_dead_codes": Declared(meaning="codes of an RVQ level not used in the epoch", tags=_LEVEL),
    "codebook_entropy_ratio": Declared(meaning="entropy of use of an RVQ level over its most", tags=_LEVEL),
    "codebook_kept_ratio": Declared(
        meaning="part of an RVQ level's codes that a shift by a quarter of a frame keeps", tags=_LEVEL
    ),
    "prior_gain_ratio": Declared(
        meaning="part of the cost of an RVQ level's histogram that a search's short prior saves", tags=_LEVEL
    ),
    "prior_below_histogram_ratio": Declared(
        meaning="part of the histogram's bits that a search's short prior saves"
    ),
    "judge_distance_ratio": Declared(
        meaning="joint Fréchet distance to the training audio over the floor of its interleaved halves, of "
        "what a search's trial generates or decodes",
        tags=("what", "levels"),
    ),
    "judge_copied": Declared(meaning="1 where what a search's trial generates is copied, else 0"),
    "prior_perplexity": Declared(
        meaning="held-out perplexity per code (best: the lowest so far)", tags=("which",)
    ),
    "prior_bits_per_second": Declared(meaning="held-out cost of a second of audio's codes under the prior"),
}


def with_metrics(listener: Listener, *, private: bool, run: str | None = None) -> Listener:
    """`listener`, which from now on also feeds Ray's metrics where they are wanted: see `wanted`.

    `run` overrides the name in the events, which trials of several searches may share. The metrics never harm
    the run: if they fail, they stop with a line in the log.
    """
    if not wanted(private=private):
        return listener
    metrics = RayMetrics(run=run)

    def both(event: Event) -> None:
        listener(event)
        metrics(event)

    return both


def wanted(*, private: bool, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether to export: on a cluster, and in a `private` Ray that nobody scrapes only where asked for.

    DISTILL_RAY_METRICS=1 asks for it, 0 turns it off.
    """
    said = environ.get(METRICS_VARIABLE)
    return said != "0" if said is not None else not private


class RayMetrics:
    """A listener that sets Ray's metrics of the run that it hears of. It never raises."""

    def __init__(self, *, run: str | None = None) -> None:
        self._run = run
        self._tags: dict[str, str] = {}
        self._gauges: dict[str, Any] = {}
        self._failed = False

    def __call__(self, event: Event) -> None:
        if self._failed:
            return
        try:
            if isinstance(event, RunStarted):
                self._tags = {"run": label(self._run or event.name), "kind": event.kind}
            if self._tags:
                for figure in figures(event):
                    if math.isfinite(figure.value):  # Ray has no metrics that are no number
                        self._record(figure)
        except Exception:
            self._failed = True
            logging.getLogger(__name__).warning("Ray metrics of this run end here", exc_info=True)

    def _record(self, figure: Figure) -> None:
        if figure.metric not in self._gauges:
            declared = DECLARED[figure.metric]
            tags = (*_RUN_TAGS, *declared.tags)
            self._gauges[figure.metric] = self._gauge(_PREFIX + figure.metric, declared.meaning, tags)
        self._gauges[figure.metric].set(figure.value, tags={**self._tags, **figure.tags})

    def _gauge(self, name: str, meaning: str, tags: tuple[str, ...]) -> Any:
        from ray.util.metrics import Gauge

        return Gauge(name, meaning, tag_keys=tags)


def label(text: str) -> str:
    """`text` as the value of a tag: printable ASCII with escapes for all else, as Ray takes nothing else,
    and not too long for a page of metrics.
    """
    plain = _UNPRINTABLE.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    return plain.encode("ascii", "backslashreplace").decode()[:_LONGEST_LABEL]


def figures(event: Event) -> Iterator[Figure]:
    """What an event says of the declared metrics; nothing for events without figures."""
    if isinstance(event, RunStarted):
        yield Figure(metric="running", value=1.0)
        yield Figure(metric="workers", value=event.world_size)
    elif isinstance(event, TrainingCompleteEvent | PriorTrainingCompleteEvent):
        yield Figure(metric="running", value=0.0)
    elif isinstance(event, VQStepMetrics | PriorStepMetrics):
        yield from _of_step(event)
    elif isinstance(event, VQEpochMetrics | PriorEpochMetrics):
        yield from _of_epoch(event)
    elif isinstance(event, CodecJudged):
        yield from _of_judge(event)


def _of_step(event: VQStepMetrics | PriorStepMetrics) -> Iterator[Figure]:
    yield Figure(metric="step", value=event.step)
    yield Figure(metric="budget_used_ratio", value=event.fraction)
    yield _loss("step", "total", event.loss)
    yield Figure(metric="learning_rate", value=event.lr)
    yield Figure(metric="gradient_norm", value=event.grad_norm)
    yield Figure(metric="skipped_steps", value=event.skipped_steps)
    if event.steps_per_second > 0:
        yield Figure(metric="step_seconds", value=1 / event.steps_per_second)
    if isinstance(event, VQStepMetrics):
        yield from (_loss("step", term, value) for term, value in event.losses.items())
        yield Figure(metric="audio_seconds_per_second", value=event.audio_seconds_per_second)
        yield Figure(metric="data_wait_ratio", value=event.data_wait_share)
    else:
        yield Figure(metric="codes_per_second", value=event.codes_per_second)


def _of_epoch(event: VQEpochMetrics | PriorEpochMetrics) -> Iterator[Figure]:
    yield Figure(metric="epoch", value=event.epoch)
    yield _loss("train", "total", event.train_loss)
    yield _loss("val", "total", event.val_loss)
    yield Figure(metric="skipped_steps", value=event.skipped_steps)
    if isinstance(event, PriorEpochMetrics):
        yield Figure(metric="prior_perplexity", value=event.val_perplexity, tags={"which": "newest"})
        yield Figure(metric="prior_perplexity", value=event.best_perplexity, tags={"which": "best"})
        yield Figure(metric="prior_bits_per_second", value=event.bits_per_second)
        return
    yield Figure(metric="best_val_loss", value=event.best_val_loss)
    yield Figure(metric="reseeded_codes", value=event.reseeded_codes)
    yield from (_loss("train", term, value) for term, value in event.losses.items())
    yield from (_loss("val", term, value) for term, value in event.val_losses.items())
    for level, health in enumerate(event.codebook_health):
        tags = {"level": str(level)}
        yield Figure(metric="codebook_utilization_ratio", value=health.utilization, tags=tags)
        yield Figure(metric="codebook_perplexity", value=health.perplexity, tags=tags)
        yield Figure(metric="codebook_dead_codes", value=health.dead_codes, tags=tags)
        yield Figure(metric="codebook_entropy_ratio", value=health.entropy, tags=tags)
        if health.kept is not None:
            yield Figure(metric="codebook_kept_ratio", value=health.kept, tags=tags)


def _of_judge(event: CodecJudged) -> Iterator[Figure]:
    for level, gain in enumerate(event.gains):
        yield Figure(metric="prior_gain_ratio", value=gain, tags={"level": str(level)})
    if event.histogram_bits_per_second is not None:
        saved = 1.0 - event.prior_bits_per_second / event.histogram_bits_per_second
        yield Figure(metric="prior_below_histogram_ratio", value=saved)
    for score in event.scores:
        for what, value in (("generated", score.generated), ("decoded", score.decoded)):
            tags = {"what": what, "levels": str(score.levels)}
            yield Figure(metric="judge_distance_ratio", value=value, tags=tags)
    if event.scores:
        yield Figure(metric="judge_copied", value=float(event.copied))


def _loss(split: str, term: str, value: float) -> Figure:
    return Figure(metric="loss", value=value, tags={"split": split, "term": term})

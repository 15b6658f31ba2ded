"""Events as Ray metrics: which figures, which tags, and that they never harm a run."""

from __future__ import annotations

import dataclasses
import logging
import re
from typing import Any

import pytest

from distill_ray.events.records import (
    CodecJudged,
    Event,
    GeneratedScore,
    Notice,
    PriorEpochMetrics,
    PriorStepMetrics,
    RunStarted,
    TrainingCompleteEvent,
    VQEpochMetrics,
    VQStepMetrics,
)
from distill_ray.runtime import metrics
from distill_ray.runtime.metrics import DECLARED, Figure, RayMetrics, figures, wanted, with_metrics
from distill_ray.vqvae.health import codebook_health, with_kept

STARTED = RunStarted(
    kind="vqvae",
    name="bells",
    output_dir="/runs/bells",
    device="cpu",
    world_size=2,
    parameters=10,
    epochs=3,
    max_minutes=None,
    steps_per_epoch=4,
    train_files=5,
    train_seconds=60.0,
    val_files=1,
    val_seconds=6.0,
    first_epoch=1,
)
STEP = VQStepMetrics(
    step=3,
    epoch=1,
    epoch_step=3,
    steps_per_epoch=4,
    fraction=0.25,
    loss=9.5,
    losses={"mel": 2.0, "stft": 3.5},
    lr=1e-3,
    grad_norm=0.5,
    skipped_steps=0,
    steps_per_second=4.0,
    audio_seconds_per_second=144.0,
    eta_s=None,
)
EPOCH = VQEpochMetrics(
    epoch=1,
    epochs=3,
    step=4,
    train_loss=8.0,
    val_loss=7.0,
    best_val_loss=7.0,
    best_epoch=1,
    losses={"mel": 1.5},
    val_losses={"mel": 1.25},
    codebook_health=with_kept(codebook_health([[1, 1, 1, 1], [4, 0, 0, 0]]), (0.5, 0.25)),
    utilization_warnings=(),
    reseeded_codes=3,
    skipped_steps=2,
    audio_seconds_per_second=140.0,
    elapsed_s=1.0,
)
JUDGED = CodecJudged(
    prior_bits_per_second=700.0,
    histogram_bits_per_second=1000.0,
    gains=(0.4, 0.1),
    scores=(GeneratedScore(levels=2, generated=1.4, decoded=1.1),),
    copied=False,
)
ENDED = TrainingCompleteEvent(
    epochs_completed=1,
    steps=4,
    final_train_loss=8.0,
    final_val_loss=7.0,
    best_val_loss=7.0,
    best_epoch=1,
    codebook_health=(),
    warnings=(),
    audio_seconds_per_second=140.0,
    elapsed_s=1.0,
    exit_reason="completed",
)
PRIOR_STEP = PriorStepMetrics(
    step=1,
    epoch=1,
    epoch_step=1,
    steps_per_epoch=2,
    fraction=0.5,
    loss=3.0,
    lr=3e-4,
    grad_norm=1.0,
    skipped_steps=0,
    steps_per_second=0.0,
    codes_per_second=500.0,
    eta_s=None,
)
PRIOR_EPOCH = PriorEpochMetrics(
    epoch=1,
    epochs=2,
    step=2,
    train_loss=2.5,
    val_loss=2.0,
    val_perplexity=7.4,
    best_perplexity=7.4,
    best_epoch=1,
    bits_per_second=992.0,
    is_memorizing=False,
    memorization_message="",
    skipped_steps=0,
    codes_per_second=500.0,
    elapsed_s=1.0,
)


def said(*events: Event) -> dict[tuple[str, ...], float]:
    """{(metric, tag value, …): value} of the last figures."""
    return {(item.metric, *item.tags.values()): item.value for event in events for item in figures(event)}


def test_figures_of_a_codec() -> None:
    values = said(STARTED, STEP, EPOCH)
    assert values["running",] == 1.0
    assert values["workers",] == 2
    assert values["step_seconds",] == 0.25
    assert values["audio_seconds_per_second",] == 144.0
    assert values["loss", "step", "stft"] == 3.5
    assert values["loss", "train", "mel"] == 1.5
    assert values["loss", "val", "total"] == 7.0
    assert values["codebook_utilization_ratio", "0"] == 1.0
    assert values["codebook_perplexity", "0"] == pytest.approx(4.0)
    assert values["codebook_utilization_ratio", "1"] == 0.25
    assert values["codebook_dead_codes", "1"] == 3
    assert values["codebook_entropy_ratio", "1"] == 0.0
    assert values["skipped_steps",] == 2
    assert said(ENDED) == {("running",): 0.0}


def test_figures_of_a_prior() -> None:
    values = said(PRIOR_STEP, PRIOR_EPOCH)
    assert values["codes_per_second",] == 500.0
    assert ("step_seconds",) not in values  # no step has been timed yet
    assert values["prior_perplexity", "best"] == 7.4
    assert values["prior_bits_per_second",] == 992.0
    assert values["loss", "val", "total"] == 2.0


def test_every_figure_is_declared_with_its_tags_and_every_declared_metric_is_said() -> None:
    names = set()
    for event in (STARTED, STEP, EPOCH, ENDED, PRIOR_STEP, PRIOR_EPOCH, JUDGED):
        for figure in figures(event):
            names.add(figure.metric)
            assert tuple(figure.tags) == DECLARED[figure.metric].tags, figure
    assert names == set(DECLARED)
    assert not list(figures(Notice(level="info", message="nothing to count")))


def test_the_judges_word_on_a_trial_is_exported() -> None:
    said = {(each.metric, *each.tags.values()): each.value for each in figures(JUDGED)}
    assert said == {
        ("prior_gain_ratio", "0"): 0.4,
        ("prior_gain_ratio", "1"): 0.1,
        ("prior_below_histogram_ratio",): pytest.approx(0.3),
        ("judge_distance_ratio", "generated", "2"): 1.4,
        ("judge_distance_ratio", "decoded", "2"): 1.1,
        ("judge_copied",): 0.0,
    }


def test_names_are_prometheus_names() -> None:
    for name in DECLARED:
        assert re.fullmatch(r"[a-z][a-z_]*[a-z]", name), name
        assert not name.endswith("_total"), name  # which would be a counter


class Recorded(RayMetrics):
    """Keeps what would be exported: (name, tag value, …) → value."""

    def __init__(self, run: str | None = None) -> None:
        super().__init__(run=run)
        self.values: dict[tuple[str, ...], float] = {}

    def _gauge(self, name: str, meaning: str, tags: tuple[str, ...]) -> Any:
        values = self.values

        class Gauge:
            def set(self, value: float, tags: dict[str, str]) -> None:
                assert tuple(tags) == declared
                values[name, *tags.values()] = value

        declared = tags
        return Gauge()


def test_tags_name_the_run() -> None:
    heard = Recorded()
    heard(STEP)
    assert not heard.values  # of no run that is known
    for event in (STARTED, STEP, EPOCH):
        heard(event)
    assert heard.values["distill_ray_skipped_steps", "bells", "vqvae"] == 2
    assert heard.values["distill_ray_codebook_dead_codes", "bells", "vqvae", "1"] == 3
    trial = Recorded(run="sweep/t003")
    trial(STARTED)
    assert trial.values["distill_ray_running", "sweep/t003", "vqvae"] == 1.0


def test_what_is_no_number_is_left_out() -> None:
    heard = Recorded()
    heard(STARTED)
    heard(EPOCH)
    broken = Figure(metric="loss", value=float("nan"), tags={"split": "val", "term": "total"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "figures", lambda event: iter([broken]))
        heard(EPOCH)
    assert heard.values["distill_ray_loss", "bells", "vqvae", "val", "total"] == 7.0


def test_a_failure_ends_the_metrics_and_not_the_run(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(RayMetrics):
        calls = 0

        def _gauge(self, name: str, meaning: str, tags: tuple[str, ...]) -> Any:
            self.calls += 1
            raise RuntimeError("no Ray")

    heard = Failing()
    with caplog.at_level(logging.WARNING):
        heard(STARTED)
        heard(EPOCH)
    assert heard.calls == 1
    assert [record.message for record in caplog.records] == ["Ray metrics of this run end here"]


def test_wanted_on_clusters_and_elsewhere_only_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wanted(private=False, environ={})
    assert not wanted(private=True, environ={})
    assert wanted(private=True, environ={"DISTILL_RAY_METRICS": "1"})
    assert not wanted(private=False, environ={"DISTILL_RAY_METRICS": "0"})
    events: list[Event] = []
    monkeypatch.delenv("DISTILL_RAY_METRICS", raising=False)
    listener = events.append
    assert with_metrics(listener, private=True) is listener
    monkeypatch.setattr(metrics, "RayMetrics", Recorded)
    with_metrics(listener, private=False)(STARTED)
    assert events == [STARTED]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Vögel", "V\\xf6gel"),
        ("音", "\\u97f3"),
        ('a\nray_forged{x="y"} 1', 'a\\x0aray_forged{x="y"} 1'),
        ("\x1b]0;x\x07\x7f", "\\x1b]0;x\\x07\\x7f"),
        ("a\0b", "a\\x00b"),
        ("a\udcffb", "a\\udcffb"),
        ("a\u2028b", "a\\u2028b"),
        ("x" * 20_000, "x" * 200),
        ('plain "1" {}\\', 'plain "1" {}\\'),
    ],
)
def test_a_tag_is_printable_ascii_whatever_the_run_is_called(name: str, shown: str) -> None:
    """Ray's own limit: with another name it raised, and the metrics of the run ended."""
    heard = Recorded()
    heard(dataclasses.replace(STARTED, name=name))
    assert heard.values["distill_ray_running", shown, "vqvae"] == 1.0
    assert shown.isascii()
    assert shown.isprintable()

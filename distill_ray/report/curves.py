"""The charts of one training: losses, codebook health by level, the prior's bits against the histogram."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from distill_ray.events.records import PriorEpochMetrics, VQEpochMetrics
from distill_ray.report.facts import Table, TrainingRun
from distill_ray.report.numbers import duration, number
from distill_ray.report.plots import Chart, Plots, Series

_TABLE_ROWS = 40
_MOST_POINTS = 300


def run_charts(run: TrainingRun, plots: Plots) -> Iterator[Chart]:
    """What its epochs and steps have to show; nothing of a run without a finished epoch."""
    codec = [each for each in run.epochs if isinstance(each, VQEpochMetrics)]
    prior = [each for each in run.epochs if isinstance(each, PriorEpochMetrics)]
    if codec:
        yield _losses(codec, plots, "weighted loss", _codec_table(codec))
        yield from _terms(codec, plots)
        yield _health(codec, plots)
    if prior:
        yield _bits(run, prior, plots)
        yield _losses(prior, plots, "nats per code", _prior_table(prior))
    yield from _gradient(run, plots)


def _losses(
    epochs: Sequence[VQEpochMetrics] | Sequence[PriorEpochMetrics], plots: Plots, unit: str, table: Table
) -> Chart:
    steps = [each.step for each in epochs]
    best = next((each for each in epochs if each.epoch == epochs[-1].best_epoch), None)
    training, held_out = [each.train_loss for each in epochs], [each.val_loss for each in epochs]
    alternative = f"Loss over {epochs[-1].step} steps: held-out {_way(held_out)}, training {_way(training)}"
    svg = plots.lines(
        [_series("held out", steps, held_out), _series("training", steps, training, dashed=True)],
        x_label="step",
        y_label=unit,
        alternative=alternative,
        mark=(best.step, best.val_loss, f"kept (epoch {best.epoch})") if best is not None else None,
    )
    return Chart(title="Loss", svg=svg, table=table)


def _terms(epochs: Sequence[VQEpochMetrics], plots: Plots) -> Iterator[Chart]:
    names = [name for name in epochs[-1].val_losses if all(name in each.val_losses for each in epochs)]
    values = {name: [each.val_losses[name] for each in epochs] for name in names}
    names = [name for name in names if any(value > 0 for value in values[name])]
    if not names:
        return
    svg = plots.lines(
        [_series(name.replace("_", " "), [each.step for each in epochs], values[name]) for name in names],
        x_label="step",
        y_label="held out, unweighted",
        logarithmic=True,
        alternative="Held-out terms: " + "; ".join(f"{name} {_way(values[name])}" for name in names),
    )
    yield Chart(title="Terms of the held-out loss", svg=svg)


def _health(epochs: Sequence[VQEpochMetrics], plots: Plots) -> Chart:
    levels = max(len(each.codebook_health) for each in epochs)
    shown = epochs[:: -(-len(epochs) // _MOST_POINTS)]
    used_LE = np.full((levels, len(shown)), np.nan)
    for column, each in enumerate(shown):
        for level, item in enumerate(each.codebook_health):
            used_LE[level, column] = item.utilization
    last = epochs[-1].codebook_health
    words = ", ".join(f"level {level} {item.utilization:.0%}" for level, item in enumerate(last))
    svg = plots.heat(
        used_LE,
        [each.epoch for each in shown],
        label="codes in use",
        alternative=f"Share of codes in use by level and epoch. At the end: {words}",
    )
    return Chart(title="Codebook health", svg=svg)


def _bits(run: TrainingRun, epochs: Sequence[PriorEpochMetrics], plots: Plots) -> Chart:
    bits = [each.bits_per_second for each in epochs]
    levels = {
        name: value
        for name, value in (("histogram", run.histogram_bits), ("all codes alike", run.uniform_bits))
        if value is not None
    }
    words = "".join(f", {name} {number(value)}" for name, value in levels.items())
    svg = plots.lines(
        [_series("prior, held out", [each.step for each in epochs], bits)],
        x_label="step",
        y_label="bits per second of audio",
        levels=levels,
        alternative=f"Held-out cost of a second of audio: prior {_way(bits)}{words}",
    )
    return Chart(title="What a second of held-out audio costs", svg=svg)


def _gradient(run: TrainingRun, plots: Plots) -> Iterator[Chart]:
    steps = [each for each in run.steps if math.isfinite(each.grad_norm) and each.grad_norm > 0]
    if len(steps) < 2:
        return
    shown = steps[:: -(-len(steps) // _MOST_POINTS)]
    norms = [each.grad_norm for each in shown]
    svg = plots.lines(
        [_series("gradient norm", [each.step for each in shown], norms)],
        x_label="step",
        y_label="before clipping",
        logarithmic=True,
        alternative=f"Gradient norm {_way(norms)}",
    )
    yield Chart(title="Gradient norm", svg=svg)


def _series(label: str, x: Sequence[float], y: Sequence[float], *, dashed: bool = False) -> Series:
    return Series(label=label, x=x, y=y, dashed=dashed)


def _way(values: Sequence[float]) -> str:
    return f"from {number(float(values[0]))} to {number(float(values[-1]))}"


def _codec_table(epochs: Sequence[VQEpochMetrics]) -> Table:
    return _table(
        ("epoch", "step", "training loss", "held-out loss", "codes in use, worst level", "time"),
        [
            (
                str(each.epoch),
                number(each.step),
                number(each.train_loss),
                number(each.val_loss),
                f"{min((item.utilization for item in each.codebook_health), default=math.nan):.0%}",
                duration(each.elapsed_s),
            )
            for each in epochs
        ],
    )


def _prior_table(epochs: Sequence[PriorEpochMetrics]) -> Table:
    return _table(
        ("epoch", "step", "training loss", "held-out loss", "bits per second", "time"),
        [
            (
                str(each.epoch),
                number(each.step),
                number(each.train_loss),
                number(each.val_loss),
                number(each.bits_per_second),
                duration(each.elapsed_s),
            )
            for each in epochs
        ],
    )


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    """At most `_TABLE_ROWS` of the rows, spread over all of them, the last one included."""
    every = -(-len(rows) // _TABLE_ROWS)
    shown = tuple(reversed(rows[::-1][::every]))
    caption = "Every epoch" if every == 1 else f"Every {every}. epoch"
    return Table(caption=caption, columns=columns, rows=shown, numeric=frozenset(range(1, len(columns))))

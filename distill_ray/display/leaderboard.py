"""A search as Rich tables: the leaderboard while it goes, trials and candidates at its end.

Lower objectives are better. `sweep.py` keeps what is drawn here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from distill_ray.display import figures
from distill_ray.display.fitting import FittedTable
from distill_ray.display.sweep import ENDED, RUNNING, SweepHistory
from distill_ray.display.sweep_lines import candidate_words, described, winning
from distill_ray.display.tables import facts, table, warning_line
from distill_ray.events.records import CandidateRow, SweepCompleteEvent, TrialUpdate
from distill_ray.vqvae.health import LevelHealth

STATE_STYLES = {
    "pending": "dim",
    "running": "cyan",
    "retrying": "yellow",
    "completed": "green",
    "collapsed": "red",
    "pruned": "dim",
    "failed": "bold red",
    "cancelled": "dim",
}
_JUDGED = ("kept", "below", "decoded")
"""Of objective generation: codes kept at ¼ frame (worst level), bits below histogram, decoded distance."""
_COLUMNS = (
    "trial",
    "K",
    "Q",
    "kbps",
    "epoch",
    "objective",
    "held-out",
    "mel",
    "worst level",
    *_JUDGED,
    "seconds",  # headed by `SweepHistory.unit`
    "state",
)
_LEFT = ("trial", "state", "why not")
_LEAST_OF_TRIALS = ("mel", "{unit}", "below", "decoded", "worst level", "kbps", "epoch", "held-out")
_LEAST_OF_CANDIDATES = ("mel", "front", "below", "held-out", "kbps", "trial")
_LOWER = "lower is better: objective, held-out and mel"
_NARROW_PADDING = (0, 1, 0, 0)
_WINNER_STYLE = "bold green"


class Leaderboard:
    """What the live view draws of a running search; `began` is a time of `time.monotonic`."""

    def __init__(self, sweep: SweepHistory, began: float) -> None:
        self._sweep = sweep
        self._began = began

    def view(self, *, rows: int, width: int) -> RenderableType:
        """The trials that fit into `rows` lines of `width` columns, and what all of them come to."""
        shown = self._sweep.shown(rows)
        names = _columns(self._sweep)
        made = _right_aligned(table("", _headings(names, self._sweep), ()))
        made.title, made.show_edge, made.padding = None, False, _NARROW_PADDING
        for column in made.columns[:-1]:
            column.no_wrap = True
        for trial in shown:
            cells = _trial_cells(trial, self._sweep)
            cells["state"].no_wrap, cells["state"].overflow = True, "ellipsis"
            made.add_row(*(cells[name] for name in names))
        left_out = len(self._sweep.trials) - len(shown)
        more = [Text(f"and {left_out} more", style="dim")] if left_out else []
        return Group(self, _fitted(made, self._sweep), *more)

    def __rich__(self) -> Text:
        """The line above the table, made anew at every redraw, so that its time goes on."""
        sweep = self._sweep
        name = sweep.started.name if sweep.started else ""
        return Text.assemble(
            (f"search {name}  ", "bold"),
            f"{sweep.count(RUNNING)} running, {sweep.count(ENDED)} of {sweep.expected} ended  "
            f"{figures.duration(time.monotonic() - self._began)}  {figures.number(sweep.spent)} {sweep.unit}",
        )


def trial_table(sweep: SweepHistory) -> Table:
    """One row a trial, best first, without the reasons, for which there is no room beside the figures."""
    names = _columns(sweep)
    made = _right_aligned(table("Trials", _headings(names, sweep), ()))
    made.padding = _NARROW_PADDING
    made.caption, made.caption_justify = _LOWER, "left"
    for trial in sweep.ranked():
        state = Text(trial.state, style=STATE_STYLES.get(trial.state, ""))
        cells = {**_trial_cells(trial, sweep), "state": state}
        made.add_row(*(cells[name] for name in names))
    return made


def _columns(sweep: SweepHistory) -> tuple[str, ...]:
    judged = sweep.started is not None and sweep.started.objective == "generation"
    return tuple(name for name in _COLUMNS if judged or name not in _JUDGED)


def sweep_report(sweep: SweepHistory) -> Iterator[RenderableType]:
    """All that is worth keeping of a search: trials, candidates and the outcome."""
    if sweep.trials:
        yield _fitted(trial_table(sweep), sweep)
        reasons = [(trial.trial, trial.reason) for trial in sweep.ranked() if trial.reason]
        if reasons:
            yield facts("Reasons", reasons)
    done = sweep.complete
    if done is not None and done.candidates:
        trained = {trial.trial: trial.rvq_levels for trial in sweep.trials.values()}
        yield FittedTable(candidate_table(done.candidates, trained), _LEAST_OF_CANDIDATES)
    yield facts("Search", list(_outcome(sweep)))
    if done is not None and done.advice:
        yield warning_line(done.advice)


def _fitted(made: Table, sweep: SweepHistory) -> FittedTable:
    return FittedTable(made, [name.format(unit=sweep.unit) for name in _LEAST_OF_TRIALS])


def candidate_table(candidates: Sequence[CandidateRow], trained: Mapping[str, int]) -> Table:
    """One row a candidate, eligible ones first and the best of them on top.

    `trained`: the levels that each trial was trained with, as one cut to fewer cannot win.
    """
    judged = any(row.generated is not None for row in candidates)
    figures_of = ("below", "decoded") if judged else ("mel",)
    columns = ("", "trial", "K", "Q", "kbps", "objective", "held-out", *figures_of, "front", "why not")
    made = _right_aligned(table("Candidates", columns, ()))
    made.caption, made.caption_justify = _LOWER, "left"
    for row in sorted(candidates, key=_candidate_rank):
        style = _WINNER_STYLE if row.chosen else "" if row.eligible else "dim"
        cells = (
            "winner" if row.chosen else "",
            row.trial,
            str(row.codebook_size),
            str(row.rvq_levels),
            figures.number(row.kbps),
            _figure(row.objective),
            figures.number(row.val_loss),
            *((_share(row.below_histogram), _figure(row.decoded)) if judged else (figures.number(row.mel),)),
            "front" if row.on_front else "",
            row.reason or _cut(row, trained),
        )
        made.add_row(*(Text(cell) for cell in cells), style=style)
    return made


def _outcome(sweep: SweepHistory) -> Iterator[tuple[str, object]]:
    done = sweep.complete
    if done is None:
        yield "ended", "before its last event"
    else:
        yield "ended", _ending(done)
        winner = winning(done)
        if winner is not None:
            yield "winner", f"{candidate_words(winner)}, objective {_figure(winner.objective)}"
    if sweep.started is not None:
        yield "objective", f"{sweep.started.objective}: {sweep.started.objective_definition}"
        yield "bit rate", f"at most {sweep.started.max_kbps:g} kbps"
    if done is not None and any(row.on_front for row in done.candidates):
        judged = sweep.started is not None and sweep.started.objective == "generation"
        compared = "generated distance" if judged else "held-out loss"
        yield "front", f"no healthy candidate has both a lower bit rate and a lower {compared}"
    yield sweep.unit.replace(" s", " seconds"), figures.number(sweep.spent)
    if done is not None:
        yield "time", figures.duration(done.elapsed_s)


def _ending(done: SweepCompleteEvent) -> str:
    if done.exit_reason == "health":
        return "without a healthy candidate within the bit rate"
    if done.exit_reason == "failed":
        return "failed: no trial came to its end"
    return done.exit_reason


def _cut(row: CandidateRow, trained: Mapping[str, int]) -> str:
    levels = trained.get(row.trial, row.rvq_levels)
    return "" if levels == row.rvq_levels else f"cut: trained at {levels} levels"


def _headings(names: Sequence[str], sweep: SweepHistory) -> tuple[str, ...]:
    return tuple(sweep.unit if name == "seconds" else name for name in names)


def _trial_cells(trial: TrialUpdate, sweep: SweepHistory) -> dict[str, Text]:
    """By column, in the order of `_COLUMNS`."""
    cells = (
        Text(trial.trial),
        Text(str(trial.codebook_size)),
        Text(str(trial.rvq_levels)),
        Text(figures.number(trial.kbps)),
        Text(f"{trial.epoch}/{trial.epochs}" if trial.epochs else str(trial.epoch)),
        Text(_figure(trial.objective)),
        Text(_figure(trial.val_loss)),
        Text(_figure(trial.mel)),
        _worst_level(trial),
        Text(_share(trial.worst_kept)),
        Text(_share(trial.below_histogram)),
        Text(_figure(trial.decoded)),
        Text(f"{sweep.spent_by(trial):,.0f}"),
        Text(described(trial), style=STATE_STYLES.get(trial.state, "")),
    )
    return dict(zip(_COLUMNS, cells, strict=True))


def _worst_level(trial: TrialUpdate) -> Text:
    if trial.worst_level is None or trial.worst_utilization is None:
        return Text("–")
    used = trial.worst_utilization
    # The one rule for these colours is that of a level's health.
    color = LevelHealth(utilization=used, perplexity=math.nan, dead_codes=0, entropy=math.nan).color
    return Text(f"{trial.worst_level}: {figures.percent(used)}", style=color)


def _right_aligned(made: Table) -> Table:
    for column in made.columns:
        if str(column.header) not in _LEFT:
            column.justify = "right"
        column.no_wrap = column.header == Text("trial")  # which names a folder
    return made


def _candidate_rank(row: CandidateRow) -> tuple[bool, bool, float]:
    known = row.objective is not None and math.isfinite(row.objective)
    return (not row.eligible, not known, row.objective if known and row.objective is not None else row.kbps)


def _share(value: float | None) -> str:
    return "–" if value is None else figures.percent(value)


def _figure(value: float | None) -> str:
    return "–" if value is None else figures.number(value)

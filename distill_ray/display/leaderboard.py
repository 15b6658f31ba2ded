"""A search as Rich tables: the leaderboard while it goes, trials and candidates at its end.

An arrow says which way is better. `sweep.py` keeps what is drawn here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from distill_ray.display import figures
from distill_ray.display.fitting import FittedTable
from distill_ray.display.sweep import ENDED, SweepHistory
from distill_ray.display.sweep_lines import candidate_words, described, ended_words, left_words, winning
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
_ARROWS = {
    "objective": "↓",
    "held-out": "↓",
    "mel": "↓",
    "decoded": "↓",
    "kbps": "↓",
    "worst level": "↑",
    "kept": "↑",
    "below": "↑",
}
_LEFT = ("trial", "state", "why")
_TEXT_WIDTH = 26
"""Of the column that says why, below which another one goes."""
_LEAST_OF_TRIALS = (
    "mel",
    "{unit}",
    "below",
    "kept",
    "worst level",
    "kbps",
    "epoch",
    "held-out",
    "decoded",
    "K",
    "Q",
)
_LEAST_OF_CANDIDATES = ("mel", "front", "below", "held-out", "kbps", "decoded", "K", "Q")
_CAPTION = "↓ lower is better, ↑ higher is better"
_NOTES = {
    "decoded": "decoded and objective: how far held-out recordings through the codec, and what is generated, "
    "are from the recordings, over how far the recordings' halves are",
    "below": "below: bits that the prior saves",
    "kept": "kept: codes that stay at a shift by ¼ frame",
}
_NARROW_PADDING = (0, 1, 0, 0)
_WINNER_STYLE = "bold green"


class Leaderboard:
    """What the live view draws of a running search."""

    def __init__(self, sweep: SweepHistory) -> None:
        self._sweep = sweep

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
        return Group(self, _fitted(made, _least_of_trials(self._sweep)), *more)

    def __rich__(self) -> Text:
        """The line above the table, made anew at every redraw, so that its time goes on."""
        sweep = self._sweep
        name = sweep.started.name if sweep.started else ""
        return Text.assemble(
            (f"search {name}  ", "bold"),
            "  ".join(
                [
                    ", ".join([figures.duration(sweep.clock() - sweep.began), *left_words(sweep)]),
                    ended_words(sweep),
                    f"{figures.number(sweep.spent)} {sweep.unit}",
                ]
            ),
        )


def trial_table(sweep: SweepHistory) -> Table:
    """One row a trial, best first, with a clause on why it won or not."""
    names = _columns(sweep)
    made = _right_aligned(table("Trials", _headings(names, sweep), ()))
    made.padding = _NARROW_PADDING
    made.caption, made.caption_justify = _CAPTION, "left"
    for trial in sweep.ranked():
        cells = _trial_cells(trial, sweep)
        made.add_row(*(cells[name] for name in names))
    return made


def _columns(sweep: SweepHistory) -> tuple[str, ...]:
    judged = sweep.started is not None and sweep.started.objective == "generation"
    return tuple(name for name in _COLUMNS if judged or name not in _JUDGED)


def sweep_report(sweep: SweepHistory) -> Iterator[RenderableType]:
    """All that is worth keeping of a search: trials, candidates and the outcome."""
    if sweep.trials:
        yield _fitted(trial_table(sweep), _least_of_trials(sweep))
    done = sweep.complete
    if done is not None and done.candidates:
        yield _fitted(candidate_table(done.candidates), _LEAST_OF_CANDIDATES)
    yield facts("Search", list(_outcome(sweep)))
    if done is not None and done.advice:
        yield warning_line(done.advice)


def _fitted(made: Table, least: Sequence[str]) -> FittedTable:
    notes = (
        {_headed(name): note for name, note in _NOTES.items()} if made.caption else {}
    )  # no room while live
    return FittedTable(made, [_headed(name) for name in least], notes, text=_TEXT_WIDTH)


def _least_of_trials(sweep: SweepHistory) -> list[str]:
    return [name.format(unit=sweep.unit) for name in _LEAST_OF_TRIALS]


def candidate_table(candidates: Sequence[CandidateRow]) -> Table:
    """One row a candidate, eligible ones first and the best of them on top."""
    judged = any(row.generated is not None for row in candidates)
    figures_of = ("below", "decoded") if judged else ("mel",)
    columns = ("trial", "K", "Q", "kbps", "objective", "held-out", *figures_of, "front", "why")
    made = _right_aligned(table("Candidates", [_headed(name) for name in columns], ()))
    made.caption, made.caption_justify = _CAPTION, "left"
    for row in sorted(candidates, key=_candidate_rank):
        style = _WINNER_STYLE if row.chosen else "" if row.eligible else "dim"
        cells = (
            row.trial,
            str(row.codebook_size),
            str(row.rvq_levels),
            figures.number(row.kbps),
            _figure(row.objective),
            figures.number(row.val_loss),
            *((_share(row.below_histogram), _figure(row.decoded)) if judged else (figures.number(row.mel),)),
            "front" if row.on_front else "",
            row.reason,
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


def _headings(names: Sequence[str], sweep: SweepHistory) -> tuple[str, ...]:
    return tuple(sweep.unit if name == "seconds" else _headed(name) for name in names)


def _headed(name: str) -> str:
    return f"{name} {_ARROWS[name]}" if name in _ARROWS else name


def _trial_cells(trial: TrialUpdate, sweep: SweepHistory) -> dict[str, Text]:
    """By column, in the order of `_COLUMNS`."""
    cells = (
        Text(trial.trial),
        Text(str(trial.codebook_size)),
        Text(str(trial.rvq_levels)),
        Text(figures.number(trial.kbps)),
        Text(_epochs(trial)),
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


def _epochs(trial: TrialUpdate) -> str:
    """The epoch that a trial is in or has finished; of one that is shorter, which part of it was made."""
    share = trial.passes if trial.passes is not None and 0.0 < trial.passes < 1.0 else None
    if share is not None and (trial.epochs in (None, 1) or trial.state in ENDED):
        return f"{share:.2g}" if trial.epochs in (None, 1) else f"{share:.2g}/{trial.epochs}"
    return f"{trial.epoch}/{trial.epochs}" if trial.epochs else str(trial.epoch)


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

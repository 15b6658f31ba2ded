"""A search on the page: rate, reconstruction and generation of its candidates, and its trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from distill_ray.events.records import CandidateRow, TrialUpdate
from distill_ray.report.facts import Fact, SearchFacts, Table
from distill_ray.report.numbers import MISSING, duration, number, percent
from distill_ray.report.plots import Chart, Plots, Points

_MOST_NAMES = 14  # beside points of a chart; more would lie upon each other


@dataclass(frozen=True, kw_only=True)
class SearchBlocks:
    """`tables`: candidates, then trials."""

    facts: tuple[Fact, ...]
    charts: tuple[Chart, ...]
    tables: tuple[Table, ...]


def search_blocks(search: SearchFacts, plots: Plots) -> SearchBlocks:
    """What the page shows of a search."""
    return SearchBlocks(
        facts=(Fact(name=f"objective: {search.objective}", value=search.definition),),
        charts=tuple(_charts(search, plots)),
        tables=(_candidates(search), _trials(search.trials)),
    )


def _charts(search: SearchFacts, plots: Plots) -> list[Chart]:
    rows = search.candidates
    charts = []
    if rows:
        losses = [row.val_loss for row in rows]
        charts.append(_front("Rate and reconstruction", "held-out loss", rows, losses, plots))
    rated = [row for row in rows if row.trial in search.prior_bits]
    if rated:
        bits = [search.prior_bits[row.trial] for row in rated]
        label = "prior's bits per second"
        charts.append(_front("Rate and generation", label, rated, bits, plots, has_front=False))
    return charts


def _front(
    title: str,
    y_label: str,
    rows: Sequence[CandidateRow],
    values: Sequence[float],
    plots: Plots,
    *,
    has_front: bool = True,
) -> Chart:
    points = [(row, value) for row, value in zip(rows, values, strict=True) if math.isfinite(value)]
    on_front = sorted((each for each in points if each[0].on_front), key=lambda each: each[0].kbps)
    others = [each for each in points if each not in on_front]
    fit = [each for each in others if each[0].eligible]
    unfit = [each for each in others if not each[0].eligible]
    chosen = [each for each in points if each[0].chosen]
    named = len(points) <= _MOST_NAMES

    def group(label: str, of: Sequence[tuple[CandidateRow, float]], **look: object) -> Points:
        names = [f"{row.codebook_size} × {row.rvq_levels}" for row, _ in of] if named else []
        x, y = [row.kbps for row, _ in of], [value for _, value in of]
        return Points(label=label, x=x, y=y, names=names, **look)  # type: ignore[arg-type]

    groups = [
        group("on the front", on_front, joined=has_front) if on_front else None,
        group("healthy", fit) if fit else None,
        group("not eligible", unfit, faint=True) if unfit else None,
        Points(
            label="chosen",
            x=[row.kbps for row, _ in chosen],
            y=[value for _, value in chosen],
            marker="*",
            size=170,
        )
        if chosen
        else None,
    ]
    words = "; ".join(
        f"{row.codebook_size} codes × {row.rvq_levels} levels: {row.kbps:.2f} kbps, {number(value)}"
        for row, value in on_front or points[:10]
    )
    svg = plots.scatter(
        [each for each in groups if each is not None],
        x_label="kbps",
        y_label=y_label,
        alternative=f"{title} of {len(points)} candidates. {words}",
    )
    return Chart(title=title, svg=svg)


def _candidates(search: SearchFacts) -> Table:
    return Table(
        caption="Candidates: every healthy depth of every trial, best first. Lower objectives are better; "
        "on the front no healthy candidate has both a lower rate and a lower loss.",
        columns=(
            "trial",
            "codes × levels",
            "kbps",
            "objective",
            "held-out loss",
            "mel",
            "prior bits/s",
            "",
        ),
        rows=tuple(
            (
                row.trial,
                f"{row.codebook_size}\u00a0×\u00a0{row.rvq_levels}",
                f"{row.kbps:.2f}",
                number(row.objective),
                number(row.val_loss),
                number(row.mel),
                number(search.prior_bits.get(row.trial)),
                "chosen" if row.chosen else row.reason or ("front" if row.on_front else ""),
            )
            for row in search.candidates
        ),
        numeric=frozenset(range(2, 7)),
    )


def _trials(trials: Sequence[TrialUpdate]) -> Table:
    return Table(
        caption=f"{len(trials)} trials",
        columns=("trial", "round", "state", "epochs", "held-out loss", "worst level", "time", "reason"),
        rows=tuple(
            (
                each.trial,
                each.round,
                each.state,
                number(each.epoch),
                number(each.val_loss),
                MISSING
                if each.worst_level is None
                else f"{each.worst_level}: {percent(each.worst_utilization)}",
                duration(each.elapsed_s),
                each.reason,
            )
            for each in trials
        ),
        numeric=frozenset({3, 4, 6}),
    )

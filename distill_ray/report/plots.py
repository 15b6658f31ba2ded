"""The report's charts and spectrograms, drawn by matplotlib as SVG that follows the page's colours.

matplotlib is imported when something is drawn. `svg.py` fits its output to the page; why it is matplotlib
is in docs/decisions.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from distill_ray.evaluate.spectrogram import RANGE_DB, frequencies
from distill_ray.report.facts import Table
from distill_ray.report.svg import for_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Placeholders that no chart uses otherwise, and what the page's style sheet calls these colours.
_INK, _GRID, _SURFACE = "#0a0b01", "#0a0b02", "#0a0b03"
_SERIES = tuple(f"#0a0c{number:02x}" for number in range(1, 7))
_COLOURS = {
    _INK: "var(--ink-2)",
    _GRID: "var(--grid)",
    _SURFACE: "var(--surface)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES, start=1)},
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "distill-ray",
    "text.parse_math": False,
    "font.size": 10.5,
    "axes.titlesize": 10.5,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _GRID,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.8,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}
_CHART_INCHES = (5.2, 2.9)
_SPECTROGRAM_INCHES = (5.2, 1.9)
SPECTROGRAM_BOX = (0.115, 0.19, 0.845, 0.77)
"""Left, bottom, width and height of the picture in a spectrogram's drawing, as shares of it."""
_TICKS_HZ = (100, 300, 1000, 3000, 10000)


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line of a chart."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Points:
    """Points of a scatter chart; `marker` is matplotlib's, `names` are written beside them."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    names: Sequence[str] = ()
    marker: str = "o"
    size: float = 36.0
    faint: bool = False
    joined: bool = False


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart with its title, and its figures as a table where there is one."""

    title: str
    svg: Markup
    table: Table | None = None


@dataclass(kw_only=True)
class Plots:
    """Draws for one page: ids of its drawings never meet."""

    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def lines(
        self,
        series: Sequence[Series],
        *,
        x_label: str,
        y_label: str,
        alternative: str,
        logarithmic: bool = False,
        levels: Mapping[str, float] | None = None,
        mark: tuple[float, float, str] | None = None,
    ) -> Markup:
        """A line chart. `levels`: named horizontal lines; `mark`: a point (x, y) and its name."""
        with _figure(_CHART_INCHES) as (figure, axes):
            for each, colour in zip(series, itertools.cycle(_SERIES), strict=False):
                _line(axes, each, colour)
            for name, colour in zip(levels or {}, _SERIES[len(series) :] + _SERIES, strict=False):
                axes.axhline((levels or {})[name], color=colour, linestyle=(0, (2, 2)), label=name)
            if mark is not None:
                axes.plot(*mark[:2], marker="o", markersize=7, markerfacecolor="none", color=_INK)
                axes.plot([], [], marker="o", linestyle="", markerfacecolor="none", color=_INK, label=mark[2])
            if logarithmic:
                _logarithmic(axes)
            axes.set(xlabel=x_label, ylabel=y_label)
            _legend(figure, axes)
            return self._svg(figure, alternative)

    def heat(
        self, values_LE: npt.NDArray[np.float64], epochs: Sequence[int], *, label: str, alternative: str
    ) -> Markup:
        """Shares from 0 to 1 of each level (rows) and epoch (columns) as colours."""
        with _figure(_CHART_INCHES) as (figure, axes):
            axes.grid(visible=False)
            picture = axes.imshow(
                values_LE,
                cmap="viridis",
                vmin=0,
                vmax=1,
                aspect="auto",
                interpolation="none",
                extent=(0.5, len(epochs) + 0.5, len(values_LE) - 0.5, -0.5),
            )
            at = np.unique(np.linspace(0, len(epochs) - 1, min(6, len(epochs))).round().astype(int))
            axes.set_xticks(at + 1, [str(epochs[index]) for index in at])
            _whole_numbers(axes.yaxis)
            axes.set(xlabel="epoch", ylabel="RVQ level")
            bar = figure.colorbar(picture, ax=axes, label=label, ticks=[0, 0.25, 0.5, 0.75, 1.0])
            bar.ax.set_yticklabels(["0", "25 %", "50 %", "75 %", "100 %"])
            bar.outline.set_visible(False)
            return self._svg(figure, alternative)

    def scatter(self, groups: Sequence[Points], *, x_label: str, y_label: str, alternative: str) -> Markup:
        """A scatter chart with a name beside every point."""
        with _figure((5.2, 3.4)) as (figure, axes):
            for group, colour in zip(groups, itertools.cycle(_SERIES), strict=False):
                axes.scatter(
                    group.x,
                    group.y,
                    s=group.size,
                    marker=group.marker,
                    color=_GRID if group.faint else colour,
                    edgecolors=_INK if group.faint else colour,
                    label=group.label,
                    zorder=2 if group.faint else 3,
                )
                if group.joined:
                    axes.plot(group.x, group.y, color=colour, linewidth=1.2, zorder=2)
                for x, y, name in zip(group.x, group.y, group.names, strict=False):
                    axes.annotate(name, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8.5)
            axes.margins(x=0.14, y=0.12)
            axes.set(xlabel=x_label, ylabel=y_label)
            _legend(figure, axes)
            return self._svg(figure, alternative)

    def spectrogram(
        self,
        levels_FS: npt.NDArray[np.float32],
        *,
        seconds: float,
        sample_rate: int,
        top_db: float,
        alternative: str,
    ) -> Markup:
        """`evaluate.spectrogram` as a picture, from `RANGE_DB` below `top_db` to it."""
        with _figure(_SPECTROGRAM_INCHES, box=SPECTROGRAM_BOX) as (figure, axes):
            axes.grid(visible=False)
            rows = frequencies(sample_rate)
            axes.imshow(
                levels_FS,
                cmap="magma",
                vmin=top_db - RANGE_DB,
                vmax=top_db,
                origin="lower",
                aspect="auto",
                interpolation="none",
                extent=(0.0, seconds, 0.0, 1.0),
            )
            ticks = [hertz for hertz in _TICKS_HZ if rows[0] <= hertz <= rows[-1]]
            places = [math.log(hertz / rows[0]) / math.log(rows[-1] / rows[0]) for hertz in ticks]
            axes.set_yticks(
                places, [f"{hertz / 1000:g} k" if hertz >= 1000 else str(hertz) for hertz in ticks]
            )
            axes.set_ylabel("Hz", labelpad=0)
            axes.set_xlabel("seconds", labelpad=0)
            return self._svg(figure, alternative)

    def _svg(self, figure: Figure, alternative: str) -> Markup:
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        prefix = f"p{next(self._numbers)}-"
        svg = for_page(text.getvalue(), prefix=prefix, colours=_COLOURS, alternative=alternative)
        return Markup(svg)  # noqa: S704 - serialised XML of matplotlib's, text in it escaped


@contextmanager
def _figure(
    inches: tuple[float, float], box: tuple[float, float, float, float] | None = None
) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one set of axes, laid out by itself unless its `box` is given."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=inches, layout=None if box else "constrained")
        yield figure, figure.add_axes(box) if box else figure.subplots()


def _line(axes: Axes, series: Series, colour: str) -> None:
    alone = len(series.x) == 1
    axes.plot(
        series.x,
        series.y,
        color=colour,
        label=series.label,
        linestyle="--" if series.dashed else "-",
        marker="o" if alone else "",
    )


def _logarithmic(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, ScalarFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.minorticks_off()


def _whole_numbers(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def _legend(figure: Figure, axes: Axes) -> None:
    """Above the chart, where it hides no line."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:  # a single line is what the chart is called
        figure.legend(handles, labels, loc="outside upper left", ncols=min(4, len(labels)), handlelength=1.6)

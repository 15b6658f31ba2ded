"""What reports are made of: tables of plain values, the health table, settings and warning lines.

Every text that may be foreign (names, paths, messages) becomes a `Text`, so that square brackets in it are
never read as markup, and passes `printable`, so that nothing in it is read by the terminal.
"""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from distill_ray.display import figures
from distill_ray.display.fitting import FittedTable
from distill_ray.foreign import printable
from distill_ray.vqvae.health import CodeAgreement, LevelHealth

WARNING_STYLE = "yellow"
_TEXT_WIDTH = 110
_LEAST_OF_HEALTH = ("±3 dB", "−1 ×", "kept at ¼ frame", "entropy", "dead codes")
_HEALTH_CAPTION = "higher is better, but of dead codes"
_NOTES = {
    "kept at ¼ frame": "kept: codes that stay the same when held-out audio is shifted by ¼ code frame",
    "−1 ×": "flipped",
    "±3 dB": "made louder or softer",
}


def table(title: str, columns: Sequence[str | Text], rows: Sequence[Sequence[object]]) -> Table:
    """A table of plain values or `Text`; floats get four digits and stand right, None is a dash."""
    made = Table(
        title=_cell(title),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_header=any(columns),
    )
    for index, name in enumerate(columns):
        numeric = bool(rows) and all(_is_number(row[index]) for row in rows)
        made.add_column(_cell(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        made.add_row(*(_cell(value) for value in row))
    return made


def as_lines(parts: Sequence[RenderableType]) -> list[str]:
    """The parts without colours, for a result on stdout: as wide as the terminal, or as COLUMNS says; a pipe
    without that gets names whole.
    """
    width = shutil.get_terminal_size((0, 24)).columns
    if not width:
        tables = [part.least_width(Console()) for part in parts if isinstance(part, FittedTable)]
        width = max([_TEXT_WIDTH, *tables])
    console = Console(file=io.StringIO(), width=width, highlight=False, color_system=None)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    return [line.rstrip() for line in captured.get().rstrip().split("\n")]


def health_table(
    health: Sequence[LevelHealth],
    title: str = "Codebook health",
    *,
    agreement: CodeAgreement | None = None,
) -> FittedTable:
    """One row for each RVQ level, coloured by its utilization; with `agreement`, how many of its codes stay
    the same in held-out audio that is shifted by a quarter of a code frame, flipped, and changed by 3 dB.
    It fits into 80 columns, and loses some in fewer.
    """
    kept: tuple[tuple[float, ...], ...] = ()
    if agreement is not None:
        kept = (agreement.shift_quarter, agreement.polarity, agreement.gain_3db)
    elif any(item.kept is not None for item in health):  # while training
        kept = (tuple(math.nan if item.kept is None else item.kept for item in health),)
    names = ("kept at\n¼ frame", "\n−1 ×", "\n±3 dB")[: len(kept)]
    columns = ("level", "utilization", "", "perplexity", "dead\ncodes", "entropy", *names)
    made = table(title, [Text(name) for name in columns], ())
    made.padding = (0, 1, 0, 0)
    for column in (made.columns[index] for index in range(1, len(made.columns)) if index != 2):
        column.justify = "right"
    for level, item in enumerate(health):
        made.add_row(
            str(level),
            Text(figures.percent(item.utilization), style=item.color),
            Text(figures.STATES[item.color], style=item.color),
            f"{item.perplexity:.1f}",
            str(item.dead_codes),
            f"{item.entropy:.3f}",
            *(figures.percent(shares[level]) for shares in kept),
        )
    made.caption, made.caption_justify = _HEALTH_CAPTION, "left"
    return FittedTable(made, _LEAST_OF_HEALTH, _NOTES)


def depth_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> FittedTable:
    """Scores of a codec's first levels; the longest heading takes two lines, and the table loses columns."""
    headings = [Text(name.replace("entropy-", "entropy-\n")) for name in columns]
    return FittedTable(table(title, headings, rows), ("SI-SDR dB", "STFT"))


def warning_line(message: str) -> Text:
    return Text.assemble(("warning: ", f"bold {WARNING_STYLE}"), (printable(message), WARNING_STYLE))


def facts(title: str, rows: Sequence[tuple[str, object]]) -> Table:
    """A table of labels and values without lines."""
    made = table(title, ("", ""), rows)
    made.show_header = False
    made.box = None
    made.padding = (0, 2, 0, 0)
    return made


def _cell(value: object) -> Text:
    if isinstance(value, Text):
        return value
    if value is None:
        return Text("–")
    if isinstance(value, float):
        return Text(figures.number(value))
    return Text(printable(str(value)))


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))

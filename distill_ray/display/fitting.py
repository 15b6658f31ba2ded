"""What of a line or a table is left out where a terminal is too narrow for it: the least important first.

A log file has no width, so its lines are whole.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

GAP = "  "
_LEAST_TEXT, _LEAST_NAME = 12, 8


def fitted(parts: Sequence[tuple[int, str]], width: int | None) -> str:
    """The texts in their order; those of the greatest number go first where `width` is too small.

    Number 0 always stays, and of a wide terminal (None) everything does.
    """
    kept = [part for part in parts if part[1]]
    while width is not None and len(_joined(kept)) > width and max(kept)[0] > 0:
        kept.remove(max(kept, key=lambda part: part[0]))
    return _joined(kept)


def listed(head: str, items: Sequence[str], width: int | None) -> str:
    """ "head a, b, c" in lines of at most `width` that break only between items; others are indented."""
    lines = [f"{head} {', '.join(items)}"]
    if width is None or len(lines[0]) <= width:
        return lines[0]
    lines = [head]
    for number, item in enumerate(items):
        text = item if number == len(items) - 1 else f"{item},"
        if len(lines[-1]) + 1 + len(text) > width:
            lines.append(" ")
        lines[-1] += f" {text}"
    return "\n".join(lines)


def hung(head: str, text: str, width: int | None) -> str:
    """`text` after `head`, its further lines below its first one where `width` leaves room for that."""
    room = 0 if width is None else width - len(head)
    if room < _LEAST_TEXT or len(text) <= room:
        return f"{head}{text}"
    return head + f"\n{' ' * len(head)}".join(textwrap.wrap(text, room))


def shortened(text: str, cells: int) -> str:
    """`text` in at most so many cells of a terminal: "…" stands for the middle; ends tell names apart."""
    if cell_len(text) <= cells:
        return text
    begin, end = 0, len(text)
    while cell_len(text[: begin + 1]) <= (cells - 1) // 2:
        begin += 1
    while cell_len(text[:begin]) + 1 + cell_len(text[end - 1 :]) <= cells:
        end -= 1
    return f"{text[:begin]}…{text[end:]}"


def _joined(parts: Sequence[tuple[int, str]]) -> str:
    return GAP.join(text for _, text in parts)


def heading(column: Column) -> str:
    """What stands over a column, on one line."""
    return " ".join(str(column.header).split())


class FittedTable:
    """`table`, of which the columns `least` (headings, the least important first) go where it is too wide;
    columns of `text` that wraps get as wide as that before.

    notes: by heading, what the caption says of a column that stayed.
    """

    def __init__(
        self,
        table: Table,
        least: Sequence[str],
        notes: Mapping[str, str] | None = None,
        *,
        names: Sequence[str] = (),
        text: int = _LEAST_TEXT,
    ) -> None:
        self.table = table
        self._least = least
        self._notes = notes or {}
        self._names = names
        self._text = text

    def least_width(self, console: Console) -> int:
        """What it needs so that no name is cut; 0 without names."""
        if not self._names:
            return 0
        return _needed(self.table, console, console.options, self._text, whole=self._names)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.fitting(console, options)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self.fitting(console, options))

    def fitting(self, console: Console, options: ConsoleOptions) -> Table:
        """The table with as many columns as there is room for."""
        made = self.table
        for name in self._least:
            if _needed(made, console, options, self._text) <= options.max_width:
                break
            others = [column.header for column in made.columns if heading(column) != name]
            made = _with_columns(made, others)
        if self._names:
            needed = _needed(made, console, options, self._text, whole=self._names)
            made = _with_short_names(made, self._names, needed - options.max_width)
        notes = [self._notes[name] for name in map(heading, made.columns) if name in self._notes]
        if notes:
            made = _with_columns(made, [column.header for column in made.columns])
            made.caption = "; ".join([str(self.table.caption), *notes])
        return made


def _needed(
    table: Table, console: Console, options: ConsoleOptions, text: int, *, whole: Sequence[str] = ()
) -> int:
    """Its width with figures and the columns `whole` unbroken, and other texts as narrow as can be read."""
    made = _with_columns(table, [column.header for column in table.columns])
    for column in made.columns:
        if not column.no_wrap and column.justify == "left" and heading(column) not in whole:
            column.max_width = text
    return Measurement.get(console, options.update(max_width=100_000), made).maximum


def _with_short_names(table: Table, names: Sequence[str], excess: int) -> Table:
    """The table with cells of the columns `names` shortened by `excess` in all, the widest columns first."""
    widths = {
        heading(column): max([len(heading(column)), *(cell_len(str(cell)) for cell in column.cells)])
        for column in table.columns
        if heading(column) in names
    }
    while excess > 0 and widths and max(widths.values()) > _LEAST_NAME:
        widths[max(widths, key=widths.__getitem__)] -= 1
        excess -= 1
    return _with_columns(table, [column.header for column in table.columns], widths)


def _with_columns(table: Table, names: Sequence[object], widths: Mapping[str, int] | None = None) -> Table:
    """The columns `names` of a table; those with a heading in `widths` in so many cells and one line."""
    kept = [column for column in table.columns if column.header in names]
    made = Table(
        *(column.copy() for column in kept),
        title=table.title,
        title_justify=table.title_justify,
        caption=table.caption,
        caption_justify=table.caption_justify,
        box=table.box,
        padding=table.padding,
        pad_edge=table.pad_edge,
        show_header=table.show_header,
        show_edge=table.show_edge,
    )
    cut = widths or {}
    for column in made.columns:
        if (width := cut.get(heading(column))) is not None:
            column.no_wrap = True
            column.header = Text("\n".join(textwrap.wrap(heading(column), width)))
    cells = [_cells(column, cut.get(heading(column))) for column in kept]
    for row, own in zip(table.rows, zip(*cells, strict=True), strict=True):
        made.add_row(*own, style=row.style)
    return made


def _cells(column: Column, width: int | None) -> list[RenderableType]:
    if width is None:
        return list(column.cells)
    return [Text(shortened(str(cell), width)) for cell in column.cells]

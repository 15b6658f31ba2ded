"""One HTML page that shows what a run, a search or a model is, and lets it be heard; works offline.

`collect.py` reads a folder or a `.distill` file into the records of `facts.py`; `page.py` makes the HTML of
them, `plots.py` its charts and spectrograms, `sound.py` its players.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill_ray.lazy import lazy_exports

if TYPE_CHECKING:
    from distill_ray.report.write import WrittenReport, write_report

__all__ = ["WrittenReport", "write_report"]

__getattr__ = lazy_exports(
    __name__,
    {"WrittenReport": "distill_ray.report.write", "write_report": "distill_ray.report.write"},
)

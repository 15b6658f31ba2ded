"""The rows of a bake-off as one Markdown table: python tests/bench/table.py OUT…"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

COLUMNS = (
    ("codec", "codec", ""),
    ("M param.", "parameters", ".1f"),
    ("kbps", "kbps", ".2f"),
    ("entropy-coded", "kbps_entropy", ".2f"),
    ("mel", "mel", ".3f"),
    ("STFT", "stft", ".3f"),
    ("SI-SDR dB", "si_sdr_db", ".2f"),
    ("ViSQOL", "visqol", ".2f"),
    ("codes used, least", "least_utilization", ".0%"),
    ("mean", "mean_utilization", ".0%"),
    ("bitrate efficiency", "efficiency", ".2f"),
    ("train audio-s/s", "audio_s_per_s", ".3g"),
    ("steady", "steady_audio_s_per_s", ".3g"),
    ("steps", "steps", "d"),
    ("seconds", "seconds", ".0f"),
)
DEPTH_COLUMNS = (("mel", ".2f"), ("stft", ".2f"), ("si_sdr_db", ".1f"), ("efficiency", ".2f"))


def write_table(out: Path) -> str:
    """Join all rows of a folder into OUT/bakeoff.json and OUT/table.md; the text of the latter."""
    rows = [json.loads(path.read_text()) for path in sorted(out.glob("row-*.json"))]
    rows.sort(key=_place)
    (out / "bakeoff.json").write_text(json.dumps(rows, indent=1))
    lines = [*_table([title for title, _, _ in COLUMNS], (_cells(row) for row in rows)), ""]
    trained = [row for row in rows if "depths" in row]
    for key, form in DEPTH_COLUMNS:
        depths = sorted({point["levels"] for row in trained for point in row["depths"]})
        cells = ([row["codec"], *(format(point[key], form) for point in row["depths"])] for row in trained)
        lines += [f"{key} by RVQ levels", "", *_table(["codec", *map(str, depths)], cells), ""]
    text = "\n".join(lines)
    (out / "table.md").write_text(text)
    return text


def _place(row: dict[str, Any]) -> tuple[bool, bool, float, str]:
    """Ours first, Opus last, by bit rate."""
    codec = row["codec"]
    return codec.startswith("opus"), not codec.startswith("ours"), row["kbps"], codec


def _cells(row: dict[str, Any]) -> list[str]:
    values = {**row, "parameters": row["parameters"] / 1e6 if "parameters" in row else None}
    return [_cell(values.get(key), form) for _, key, form in COLUMNS]


def _cell(value: Any, form: str) -> str:
    return "–" if value is None else format(value, form)


def _table(header: list[str], rows: Iterable[list[str]]) -> list[str]:
    return [
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        print(write_table(Path(folder)))

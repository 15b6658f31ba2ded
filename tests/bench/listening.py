"""ViSQOL of what a bake-off has kept, added to its rows: python tests/bench/listening.py OUT

ViSQOL (Chinen et al. 2020, "ViSQOL v3") in its audio mode predicts what listeners would say of a
reconstruction beside its original, from 1 to about 4.73. It wants 48 kHz, so both are resampled. It runs on a
CPU at a fraction of real time, so the GPU's machine is not kept waiting for it: run it where the files came
to. Files shorter than a second are left out: ViSQOL compares patches of 0.6 s. Needs `visqol-python` (extra
`bench`).
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import soundfile
import torch
from held_out import ORIGINAL
from table import write_table
from torchaudio.functional import resample

VISQOL_RATE = 48_000
SHORTEST_SECONDS = 1.0


def scores(out: Path, codec: str, api: object) -> list[float]:
    """MOS-LQO of each kept reconstruction."""
    found = []
    for path in sorted((out / "heard" / codec).glob("*.flac")):
        if soundfile.info(path).duration < SHORTEST_SECONDS:
            continue
        signals = []
        for each in (out / "heard" / ORIGINAL / path.name, path):
            samples, rate = soundfile.read(each, dtype="float64")
            signals.append(resample(torch.from_numpy(samples), rate, VISQOL_RATE).numpy())
        found.append(float(api.measure_from_arrays(*signals, VISQOL_RATE).moslqo))  # type: ignore[attr-defined]
    return found


def main(out: Path) -> None:
    from visqol import VisqolApi

    api = VisqolApi()
    api.create(mode="audio")
    for path in sorted(out.glob("row-*.json")):
        row = json.loads(path.read_text())
        if "visqol" in row:
            continue
        each = scores(out, row["codec"], api)
        if each:
            row["visqol"], row["visqol_each"] = statistics.fmean(each), each
            path.write_text(json.dumps(row, indent=1))
            print(row["codec"], round(row["visqol"], 3), [round(value, 2) for value in each], flush=True)
    print(write_table(out))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""`prepare` on mutated recordings of eight formats: it keeps what another decoder gives, or says why not.

preparing.py decodes in a process of its own, since a fault of a decoder would end the tests.
"""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from tests.unit.fuzz.conftest import CASES, SEED

ROOT = Path(__file__).parents[3]
PROGRAM = Path(__file__).with_name("preparing.py")
RATE = 48_000
MOST_MB = 1_500
Mutate = Callable[[bytes, random.Random], bytes]

FORMATS = {
    ".wav": {"format": "WAV", "subtype": "PCM_16"},
    ".aiff": {"format": "AIFF", "subtype": "PCM_24"},
    ".flac": {"format": "FLAC", "subtype": "PCM_16"},
    ".ogg": {"format": "OGG", "subtype": "VORBIS"},
    ".opus": {"format": "OGG", "subtype": "OPUS"},
    ".mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III"},
    ".w64": {"format": "W64", "subtype": "FLOAT"},
    ".m4a": None,
}


def originals() -> dict[str, bytes]:
    """A second of stereo in each format."""
    random_ = np.random.default_rng(0)
    time_T = np.arange(RATE) / RATE
    tone_T = 0.3 * np.sin(2 * np.pi * (300 + 500 * time_T) * time_T)
    signal_TC = np.stack((tone_T, 0.5 * tone_T), axis=1) + 0.02 * random_.standard_normal((RATE, 2))
    made = {}
    for suffix, options in FORMATS.items():
        file = io.BytesIO()
        if options is not None:
            soundfile.write(file, signal_TC, RATE, **options)
        else:
            with av.open(file, "w", format="ipod") as container:
                stream = container.add_stream("aac", rate=RATE, layout="stereo")
                frame = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(signal_TC.T, np.float32), format="fltp", layout="stereo"
                )
                frame.rate = RATE
                container.mux(stream.encode(frame))
                container.mux(stream.encode(None))
        made[suffix] = file.getvalue()
    return made


def write_cases(folder: Path, numbers: range, mutated: Mutate) -> list[str]:
    """File `number` is the same whichever others are written."""
    made, suffixes = originals(), list(FORMATS)
    (folder / "first.wav").write_bytes(made[".wav"])
    names = []
    for number in numbers:
        suffix = suffixes[number % len(suffixes)]
        chance = random.Random(SEED + number)
        names.append(f"{number:03d}{suffix}")
        (folder / names[-1]).write_bytes(mutated(made[suffix], chance))
    return names


def prepared(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """What the program says of each file; one that it ends within has a fault, and the others go on."""
    found: dict[str, dict[str, Any]] = {}
    while waiting := [name for name in names if name not in found]:
        done = subprocess.run(
            [sys.executable, PROGRAM, folder, folder / "out"],
            input="\n".join(["first.wav", *waiting]),
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert lines, done.stderr
        assert done.returncode or not done.stderr
        found |= {line["name"]: line for line in lines}
        if done.returncode:
            found[lines[-1]["name"]]["fault"] = f"it ended with {done.returncode}: {done.stderr[-2_000:]}"
    return found


def check(folder: Path, numbers: range, mutated: Mutate) -> None:
    names = write_cases(folder, numbers, mutated)
    found = prepared(folder, names)
    assert {name: found[name]["fault"] for name in names if found[name]["fault"]} == {}
    assert sum(found[name]["samples"] > 0 for name in names) > len(names) // 8  # else nothing was compared
    for each in found.values():
        assert each["samples"] or 0 < len(each["reason"]) < 1_000
        assert each["mb"] < MOST_MB


def test_twenty_mutated_recordings(tmp_path: Path, mutated: Mutate) -> None:
    check(tmp_path, range(20), mutated)


@pytest.mark.slow
def test_five_hundred_mutated_recordings(tmp_path: Path, mutated: Mutate) -> None:
    check(tmp_path, range(CASES), mutated)

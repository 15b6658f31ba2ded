"""Scores, table and pictures of what `generation.py` made.

Legend: C channels, T samples.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from generation import DECODED, GENERATED, corpus_of, sounds_of
from pictures import coloured, decibels

from distill_ray.corpus import PCM_SCALE, Corpus
from distill_ray.evaluate.audio_files import find_sounds
from distill_ray.evaluate.copies import CopyDetector
from distill_ray.evaluate.corpus_reference import corpus_reference
from distill_ray.evaluate.reference import Reference

COLUMNS = (
    "system", "FD", "ratio", "95 %", "decoded FD", "halves", "held out", "kernel", "coverage", "density",
    "copies", "nearest", "silent", "bits/s: histogram", "prior",
)  # fmt: skip
SHOWN_SOUNDS = 3
WIDTH, HEIGHT, MARGIN, TITLE = 300, 130, 6, 14


def judge_all(out: Path, systems: list[str] | None) -> str:
    """Score each system and write its `judged.json`; the table of all, which OUT/table.md holds too."""
    corpus = corpus_of(out)
    reference = corpus_reference(corpus)
    detector = CopyDetector.fit(sounds_of(corpus, "train"), sounds_of(corpus, "val"))
    rows = []
    for system in _systems(out, systems):
        judged = {
            part: _judged(out / system / part, corpus, reference, detector)
            for part in (GENERATED, DECODED)
            if (out / system / part).is_dir()
        }
        made = json.loads((out / system / "row.json").read_text())
        (out / system / "judged.json").write_text(json.dumps(judged, indent=1))
        rows.append(_cells(system, judged, made))
        print(dict(zip(COLUMNS, rows[-1], strict=True)), flush=True)
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
    (out / "table.md").write_text(table)
    return table


def _systems(out: Path, chosen: list[str] | None) -> list[str]:
    return chosen or sorted(path.parent.name for path in out.glob("*/row.json"))


def _judged(folder: Path, corpus: Corpus, reference: Reference, detector: CopyDetector) -> dict[str, Any]:
    sounds = find_sounds(folder, sample_rate=corpus.sample_rate, channels=corpus.channels)
    judged = reference.judge(sounds).to_json()
    judged["copies"] = detector.find(sounds).to_json()
    return judged


def _cells(system: str, judged: dict[str, Any], made: dict[str, Any]) -> tuple[str, ...]:
    ours, decoded = judged[GENERATED], judged.get(DECODED)
    low, high = ours["ratio_interval"]
    copies = ours["copies"]
    ratios = sorted(moment["ratio"] for moment in copies["nearest"] if moment["ratio"] is not None)
    held_out = ours["floors"]["held_out"]
    bits = (made.get("histogram_bits"), made.get("prior_bits"))
    return (
        system,
        f"{ours['frechet']:.1f}",
        f"{ours['ratio']:.2f}",
        f"{low:.2f} to {high:.2f}",
        "" if decoded is None else f"{decoded['frechet']:.1f}",
        f"{ours['floors']['halves']:.1f}",
        "" if held_out is None else f"{held_out:.1f}",
        f"{ours['kernel']:.3f}",
        f"{ours['coverage']:.2f}",
        f"{ours['density']:.2f}",
        f"{copies['share']:.1%} ({copies['verdict']})",
        f"{ratios[len(ratios) // 2]:.2f}" if ratios else "",
        f"{ours['silence_share']:.0%}",
        *("" if value is None else f"{value:.0f}" for value in bits),
    )


def spectrograms(out: Path, systems: list[str] | None) -> Path:
    """One PNG: a row each of training, held-out, and every system's decoded and generated sound."""
    from PIL import Image, ImageDraw

    corpus = corpus_of(out)
    rows: list[tuple[str, list[tuple[Any, int]]]] = []
    for split, title in (("train", "training"), ("val", "held out")):
        chosen = sorted(corpus.files(split), key=lambda file: -file.samples)[:SHOWN_SOUNDS]
        rows.append((title, [_middle(corpus.read(file)[0].numpy() / PCM_SCALE, corpus) for file in chosen]))
    for system in _systems(out, systems):
        for part in (DECODED, GENERATED):
            paths = sorted((out / system / part).glob("*.ogg"), key=lambda path: -path.stat().st_size)
            if part == GENERATED:
                paths.sort()
            sounds = [soundfile.read(path, dtype="float32")[0] for path in paths[:SHOWN_SOUNDS]]
            if sounds:
                rows.append((f"{system}, {part}", [_middle(each, corpus) for each in sounds]))
    canvas = Image.new(
        "RGB",
        (SHOWN_SOUNDS * (WIDTH + MARGIN) + MARGIN, len(rows) * (HEIGHT + TITLE + MARGIN) + MARGIN),
        "white",
    )
    draw = ImageDraw.Draw(canvas)
    top = max(float(decibels(samples, rate).max()) for samples, rate in rows[0][1])
    for number, (title, sounds) in enumerate(rows):
        high = MARGIN + number * (HEIGHT + TITLE + MARGIN)
        for column, (samples, rate) in enumerate(sounds):
            left = MARGIN + column * (WIDTH + MARGIN)
            pixels = Image.fromarray(coloured(decibels(samples, rate), top)).resize((WIDTH, HEIGHT))
            canvas.paste(pixels, (left, high + TITLE))
            draw.text((left, high), f"{title}, {len(samples) / rate:.1f} s", "black")
    place = out / "spectrograms.png"
    canvas.quantize(128).save(place, optimize=True)
    return place


def _middle(samples: Any, corpus: Corpus) -> tuple[Any, int]:
    """At most ten seconds, from the middle."""
    length = min(len(samples), 10 * corpus.sample_rate)
    start = (len(samples) - length) // 2
    return np.ascontiguousarray(samples[start : start + length], dtype=np.float32), corpus.sample_rate

"""What the judge of `evaluate --generated` says of sets whose order everybody hears, for every group.

    python tests/bench/judge.py FOLDER [--fold N --folds M]

Every M-th recording (of a hash of its name) is held out. Sets: 16 × 10 s cut out of the training audio, the
held-out recordings, them a fifth higher, 1-s grains of either in random order, noise with their long-term
spectrum, white noise, silence, a hundred times one second. docs/measurements/2026-11-30-judge.md has results.

Legend: T samples.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torchaudio.functional import resample

from distill_ray.evaluate import Reference, Sound
from distill_ray.evaluate.judgement import GROUPS

Audio = np.ndarray[Any, np.dtype[np.float32]]
SECONDS = 10


def main() -> None:
    """Print one row a set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--folds", type=int, default=12)
    asked = parser.parse_args()
    paths = sorted(path for path in asked.folder.iterdir() if path.suffix in {".ogg", ".flac", ".wav"})
    by_hash = sorted(paths, key=lambda path: zlib.crc32(path.name.encode()))
    held = set(by_hash[asked.fold :: asked.folds])
    rate = soundfile.info(paths[0]).samplerate
    training, held_out = (
        [_read(path) for path in paths if (path in held) is apart] for apart in (False, True)
    )
    reference = Reference.fit(_sounds(training, rate), _sounds(held_out, rate))
    print(
        f"{asked.folder.name}: {len(training)} recordings, held out {', '.join(sorted(p.stem for p in held))}"
    )
    columns = "| set | windows | joined | ratio | 95 % | kernel | coverage |"
    print(columns, *(f" {name} |" for name in GROUPS), sep="")
    print("|---" * (7 + len(GROUPS)) + "|")
    for name, audio in _sets(training, held_out, rate).items():
        found = reference.judge(_sounds(audio, rate))
        low, high = found.ratio_interval.to_json()
        cells = [name, found.measures.windows, f"{found.measures.frechet:.2f}", f"{found.ratio:.2f}"]
        cells += [
            f"{low:.1f} to {high:.1f}",
            f"{found.measures.kernel:.3f}",
            f"{found.measures.coverage:.2f}",
        ]
        cells += [f"{found.groups[group].frechet:.2f}" if group in found.groups else "–" for group in GROUPS]
        print("|", *(f" {cell} |" for cell in cells), sep="", flush=True)
        if name == "cut out of training":
            floors = found.floors
    for name, floor in (("halves", floors.halves), ("held out", floors.held_out)):
        if floor is not None:
            print(
                f"floor {name}: {floor.frechet:.2f}, kernel {floor.kernel:.3f}, coverage {floor.coverage:.2f}"
            )


def _sets(training: Sequence[Audio], held_out: Sequence[Audio], rate: int) -> dict[str, list[Audio]]:
    random = np.random.default_rng(0)
    train_T, held_T = np.concatenate(training), np.concatenate(held_out)
    second, loudness = rate, float(np.sqrt(np.square(held_T).mean()))
    rows = max(1, len(held_T) // (SECONDS * second))

    def cut(whole_T: Audio, pieces: int, seconds: int) -> list[Audio]:
        starts = random.integers(0, len(whole_T) - seconds * second, pieces)
        return [whole_T[start : start + seconds * second] for start in starts]

    def grains(whole_T: Audio, sounds: int) -> list[Audio]:
        return [np.concatenate(cut(whole_T, SECONDS, 1)) for _ in range(sounds)]

    spectrum = np.fft.rfft(held_T)
    turned = np.abs(spectrum) * np.exp(2j * np.pi * random.random(len(spectrum)))
    return {
        "cut out of training": cut(train_T, 16, SECONDS),
        "held out": list(held_out),
        "held out, a fifth higher": [resample(torch.from_numpy(each), 3, 2).numpy() for each in held_out],
        "held-out grains": grains(held_T, rows),
        "training grains": grains(train_T, 16),
        "noise of its spectrum": [np.fft.irfft(turned).astype(np.float32)],
        "white noise": [(loudness * random.standard_normal(len(held_T))).astype(np.float32)],
        "silence": [np.zeros(len(held_T), dtype=np.float32)],
        "one second, 100 times": [np.tile(cut(train_T, 1, 1)[0], 100)],
    }


def _read(path: Path) -> Audio:
    audio_TC, _ = soundfile.read(path, dtype="float32", always_2d=True)
    return np.ascontiguousarray(audio_TC.mean(1))


def _sounds(audio: Sequence[Audio], rate: int) -> list[Sound]:
    return [Sound(str(index), torch.from_numpy(each)[None], rate) for index, each in enumerate(audio)]


if __name__ == "__main__":
    main()

"""Spectrograms of what a bake-off has kept, one PNG an excerpt, its versions side by side:

    python tests/bench/pictures.py OUT [--codecs original ours-base encodec] [--count 3]

Writes OUT/pictures/NN.png. Decibels of a 2048-sample STFT, 0 to 16 kHz upwards, 80 dB from the loudest bin
of the original. Needs pillow, as the report does.

Legend: F frequency bins, S frames.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from held_out import ORIGINAL

WINDOW, HOP = 2048, 256
HIGHEST_HZ = 16_000
RANGE_DB = 80.0
WIDTH, HEIGHT = 480, 360
MARGIN, TITLE = 8, 18
# Black, violet, orange, pale yellow: light grows with loudness.
COLOURS = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], dtype=float)


def decibels(samples: npt.NDArray[np.float32], rate: int) -> npt.NDArray[np.float64]:
    """Levels [F, S] of the bins up to `HIGHEST_HZ`, in dB."""
    spectra = torch.stft(
        torch.from_numpy(samples), WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True
    )
    kept = spectra[: HIGHEST_HZ * WINDOW // rate].abs().clamp(min=1e-7)
    levels: npt.NDArray[np.float64] = (20 * kept.log10()).double().numpy()
    return levels


def coloured(levels_FS: npt.NDArray[np.float64], top: float) -> npt.NDArray[np.uint8]:
    """Pixels [F, S, 3], low frequencies at the bottom."""
    share = np.clip((levels_FS[::-1] - top + RANGE_DB) / RANGE_DB, 0.0, 1.0)
    stops = np.linspace(0.0, 1.0, len(COLOURS))
    return np.stack([np.interp(share, stops, COLOURS[:, part]) for part in range(3)], axis=-1).astype(
        np.uint8
    )


def picture(out: Path, codecs: list[str], index: int) -> Path:
    from PIL import Image, ImageDraw

    size = (len(codecs) * (WIDTH + MARGIN) + MARGIN, HEIGHT + TITLE + MARGIN)
    canvas = Image.new("RGB", size, "white")
    draw, top = ImageDraw.Draw(canvas), 0.0
    for column, codec in enumerate(codecs):
        samples, rate = soundfile.read(out / "heard" / codec / f"{index:02d}.flac", dtype="float32")
        levels_FS = decibels(samples, rate)
        top = float(levels_FS.max()) if column == 0 else top
        left = MARGIN + column * (WIDTH + MARGIN)
        pixels = Image.fromarray(coloured(levels_FS, top)).resize((WIDTH, HEIGHT))
        canvas.paste(pixels, (left, TITLE))
        draw.text((left, 3), f"{codec}, {len(samples) / rate:.1f} s, 0 to {HIGHEST_HZ // 1000} kHz", "black")
    place = out / "pictures"
    place.mkdir(exist_ok=True)
    canvas.save(place / f"{index:02d}.png", optimize=True)
    return place / f"{index:02d}.png"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--codecs", nargs="*", default=[ORIGINAL, "ours-base", "encodec"])
    parser.add_argument("--count", type=int, default=3)
    options = parser.parse_args()
    for index in range(options.count):
        print(picture(options.out, options.codecs, index))


if __name__ == "__main__":
    main()

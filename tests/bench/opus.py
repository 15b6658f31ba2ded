"""Opus on the held-out files of a bake-off, through libsndfile; needs no training and no GPU.

    python tests/bench/opus.py AUDIO OUT [--kbps 8 16 24]

libsndfile has no bit rate for Opus, only a `compression_level` in [0, 1] that it maps linearly to 256…6 kbps
a channel, highest first (measured: 0 → 259, 0.5 → 133, 0.9 → 33, 0.95 → 20, 1 → 6.8 kbps for one second-rate
file; Opus varies its rate with the sound). So the level asks for a rate and the rate that was spent is
measured: the bytes of all audio packets over the seconds of all files, without the container's headers, which
would count against Opus in short files. Opus works at 48 kHz: the files are resampled there and back by
torchaudio's windowed sinc, and the decoder's delay is taken out by libsndfile.

Legend: C channels, T samples.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

import soundfile
import torch
from held_out import (
    SAMPLE_RATE,
    Distances,
    Excerpt,
    bench_corpus,
    excerpts,
    mean_scores,
    save_heard,
    save_originals,
)
from torch import Tensor
from torchaudio.functional import resample

OPUS_RATE = 48_000
HIGHEST_BPS, LOWEST_BPS = 256_000, 6_000  # of libsndfile's mapping
KBPS = (8, 16, 24)


def compression_level(kbps: float) -> float:
    """libsndfile's `compression_level` for a rate of one channel."""
    return (HIGHEST_BPS - 1000 * kbps) / (HIGHEST_BPS - LOWEST_BPS)


def through_opus(audio_CT: Tensor, kbps: float) -> tuple[Tensor, int]:
    """Audio [C, T] after Opus and the bytes of its packets."""
    wide = resample(audio_CT, SAMPLE_RATE, OPUS_RATE)
    file = io.BytesIO()
    soundfile.write(
        file,
        wide.T.numpy(),
        OPUS_RATE,
        format="OGG",
        subtype="OPUS",
        compression_level=compression_level(kbps),
    )
    spent = packet_bytes(file.getvalue())
    file.seek(0)
    decoded, rate = soundfile.read(file, dtype="float32", always_2d=True)
    assert rate == OPUS_RATE
    narrow = resample(torch.from_numpy(decoded.T.copy()), OPUS_RATE, SAMPLE_RATE)[:, : audio_CT.shape[1]]
    missing = audio_CT.shape[1] - narrow.shape[1]
    return torch.nn.functional.pad(narrow, (0, missing)).clamp(-1.0, 1.0), spent


def packet_bytes(ogg: bytes) -> int:
    """Bytes of the audio packets of an Ogg file: the segments of every page without the two headers' pages.

    A page (RFC 3533, section 6) is 27 bytes, of which the last counts its segments, then one byte for the
    length of each segment, then the segments. The headers of Opus end their pages (RFC 7845, section 3), and
    audio begins on a page whose granule position is not zero.
    """
    place, total = 0, 0
    while place < len(ogg):
        assert ogg[place : place + 4] == b"OggS", "not a page"
        granule = int.from_bytes(ogg[place + 6 : place + 14], "little")
        segments = ogg[place + 26]
        size = sum(ogg[place + 27 : place + 27 + segments])
        total += size if granule else 0
        place += 27 + segments + size
    return total


def opus_row(chosen: list[Excerpt], kbps: float, *, out: Path, listen: int) -> dict[str, Any]:
    name = f"opus-{kbps:g}"
    distances, scores, spent = Distances(), [], 0
    for index, excerpt in enumerate(chosen):
        decoded_CT, used = through_opus(excerpt.audio_CT, kbps)
        spent += used
        scores.append(distances.of(excerpt.audio_CT, decoded_CT))
        if index < listen:
            save_heard(out, name, index, decoded_CT)
    seconds = sum(excerpt.audio_CT.shape[1] for excerpt in chosen) / SAMPLE_RATE
    return {"codec": name, "kbps": 8 * spent / seconds / 1000, **mean_scores(scores)}


def write_opus_rows(chosen: list[Excerpt], out: Path, *, rates: list[float], listen: int) -> None:
    for kbps in rates:
        row = opus_row(chosen, kbps, out=out, listen=listen)
        (out / f"row-{row['codec']}.json").write_text(json.dumps(row, indent=1))
        print(row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("audio")
    parser.add_argument("out", type=Path)
    parser.add_argument("--kbps", type=float, nargs="*", default=list(KBPS))
    parser.add_argument("--excerpts", type=int, default=24)
    parser.add_argument("--excerpt-seconds", type=float, default=15.0)
    parser.add_argument("--listen", type=int, default=6)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    corpus = bench_corpus(options.audio, options.out / "corpus")
    chosen = excerpts(corpus, count=options.excerpts, seconds=options.excerpt_seconds)
    save_originals(options.out, chosen[: options.listen])
    write_opus_rows(chosen, options.out, rates=options.kbps, listen=options.listen)


if __name__ == "__main__":
    main()

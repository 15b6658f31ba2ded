"""Prepare recordings one by one, as a program of its own: `python preparing.py FOLDER OUT < NAMES`.

Each name gives a JSON line when it is begun and one when it is done: how many samples a corpus of that file
alone holds, or the reason why there is none; and in what these differ from the samples that FFmpeg gives. A
crash ends the program within a name, and so do more than `HANG_S` of processor time. The first name loads
what every file needs and gives no line.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import av
import numpy as np

from distill_ray.config.corpus import CorpusConfig
from distill_ray.corpus import open_corpus, prepare_corpus
from distill_ray.errors import CorpusError

RATE = 48_000
HANG_S = 10.0
PACKET_SAMPLES, ROUNDING = 2_400, 2


def prepared(path: Path, out: Path) -> tuple[np.ndarray, str]:
    """What `prepare` keeps of the file, and the reason where that is nothing."""
    shutil.rmtree(out, ignore_errors=True)
    config = CorpusConfig(sample_rate=RATE, channels=1, val_fraction=0.0)
    try:
        prepare_corpus([path], out, config=config, workers=1)
    except CorpusError as error:
        assert not out.exists()
        return np.zeros(0, np.int16), str(error)
    corpus = open_corpus(out)
    (file,) = corpus.files("train")
    pcm_CT = np.empty((1, file.samples), np.int16)
    corpus.read_into(pcm_CT, file, 0)
    return pcm_CT[0], ""


def reference(path: Path) -> np.ndarray:
    """What decodes of the first stream of sound before an error, mixed and at `RATE`."""
    rates, mixed = set(), [np.zeros(0)]
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            for frame in container.decode(container.streams.audio[0]):
                same = av.AudioResampler(format="fltp", layout=frame.layout, rate=frame.sample_rate)
                mixed += [part.to_ndarray().mean(axis=0) for part in same.resample(frame)]
                rates.add(frame.sample_rate)
    except (av.FFmpegError, IndexError):
        pass
    mixed_T = np.concatenate(mixed)
    if len(rates) == 1 and rates != {RATE}:
        from distill_ray.corpus.resample import StreamingResampler  # and torch

        resampler = StreamingResampler(rates.pop(), RATE, 1)
        pushed_CT = resampler.push(mixed_T[None].astype(np.float32))
        mixed_T = np.concatenate([pushed_CT[0], resampler.finish()[0]])
    return np.clip(np.rint(mixed_T * 32_768), -32_768, 32_767)


def difference(ours_T: np.ndarray, theirs_T: np.ndarray) -> str:
    """What tells the two apart; nothing where they are the same to a rounding, and in length to a packet."""
    if abs(len(ours_T) - len(theirs_T)) > PACKET_SAMPLES:
        return f"{len(ours_T)} samples are kept and FFmpeg gives {len(theirs_T)}"
    samples = min(len(ours_T), len(theirs_T))
    apart_T = np.abs(ours_T[:samples] - theirs_T[:samples])
    return f"they differ by {apart_T.max():.0f} at {apart_T.argmax()}" if apart_T.max() > ROUNDING else ""


def main(folder: Path, out: Path) -> None:
    prepared(folder / sys.stdin.readline().strip(), out)
    for name in map(str.strip, sys.stdin):
        print(json.dumps({"name": name, "begun": True}), flush=True)
        found: dict[str, Any] = {"name": name, "samples": 0, "fault": ""}
        signal.setitimer(signal.ITIMER_PROF, HANG_S)  # whose signal ends the process
        try:
            kept_T, found["reason"] = prepared(folder / name, out)
            found["samples"] = len(kept_T)
            found["fault"] = difference(kept_T, reference(folder / name)) if len(kept_T) else ""
        except Exception:
            found["fault"] = traceback.format_exc()
        signal.setitimer(signal.ITIMER_PROF, 0)
        # What `resource` tells of a process begins with what its parent had when it began.
        found["mb"] = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

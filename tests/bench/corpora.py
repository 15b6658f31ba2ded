"""The three corpora of the codec benchmarks from unpacked Debian packages, each small enough to travel:

    for package in warzone2100-music sonic-pi-samples gcin-voice; do
      apt-get download $package && dpkg -x ${package}_*.deb packages
    done
    python tests/bench/corpora.py packages OUT

Writes OUT/music (about an hour of 48 kHz stereo Opus at 48 kbps, whole pieces, copied), OUT/percussive (the
drums, tablas and loops of sonic-pi, lossless, copied) and OUT/speech (syllables of gcin-voice, of one voice
after the other, joined to FLAC files of some ten seconds, since most are shorter than half a second, which is
too short for ViSQOL and for SI-SDR to mean much; the split is still by syllables). Music and speech were
coded before (Opus, Vorbis), so what is scored there is fidelity to that, and Opus meets music that Opus has
already shaped once.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import soundfile

MUSIC_SECONDS = 3600.0
NOT_MEASURED = "legacy_soundtrack-track12.opus"
"""It is to end 10 samples after its last packet, for which it was refused when the tables were made."""
PERCUSSIVE = ("bd_", "drum_", "loop_", "perc_", "sn_", "tabla_", "elec_")
SPEECH_SECONDS = 10.0
PAUSE_SECONDS = 0.1


def music(packages: Path, out: Path) -> float:
    """The shortest pieces until there is enough, so that there are several; the seconds copied."""
    pieces = []
    for path in packages.glob("usr/share/games/warzone2100/music/albums/*/*.opus"):
        info = soundfile.info(path)
        pieces.append((info.frames / info.samplerate, path))
    total = 0.0
    out.mkdir(parents=True)
    for seconds, path in sorted(pieces):
        if total >= MUSIC_SECONDS:
            break
        total += seconds
        name = f"{path.parent.name}-{path.name}"
        if name != NOT_MEASURED:
            shutil.copyfile(path, out / name)
    return total


def percussive(packages: Path, out: Path) -> float:
    out.mkdir(parents=True)
    total = 0.0
    for path in sorted(packages.glob("usr/share/sonic-pi/samples/*.flac")):
        if path.name.startswith(PERCUSSIVE):
            info = soundfile.info(path)
            total += info.frames / info.samplerate
            shutil.copyfile(path, out / path.name)
    return total


def speech(packages: Path, out: Path) -> float:
    out.mkdir(parents=True)
    total = 0.0
    folder = packages / "usr/share/gcin-voice/ogg"
    for voice in sorted({path.name for path in folder.glob("*/*.ogg")}):
        joined: list[np.ndarray] = []
        length, number = 0, 0
        syllables = sorted(folder.glob(f"*/{voice}"))
        for index, path in enumerate(syllables):
            samples, rate = soundfile.read(path, dtype="float32")
            joined += [samples, np.zeros(round(PAUSE_SECONDS * rate), np.float32)]
            length += len(samples) + len(joined[-1])
            if length >= SPEECH_SECONDS * rate or index == len(syllables) - 1:
                soundfile.write(out / f"{Path(voice).stem}-{number:03d}.flac", np.concatenate(joined), rate)
                total += length / rate
                joined, length, number = [], 0, number + 1
    return total


def main(packages: Path, out: Path) -> None:
    for build in (music, percussive, speech):
        folder = out / build.__name__
        seconds = build(packages, folder)
        files = list(folder.iterdir())
        size = sum(path.stat().st_size for path in files) / 2**20
        print(f"{folder}: {len(files)} files, {seconds:.0f} s, {size:.1f} MiB", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

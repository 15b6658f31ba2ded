"""Audio files of any tool as sounds to judge, at one rate and with one number of channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill_ray.corpus import PCM_SCALE, load_audio
from distill_ray.corpus.decode import probe
from distill_ray.corpus.scan import FoundFile, find_audio
from distill_ray.errors import AudioError
from distill_ray.evaluate.sound import Sound


@dataclass(frozen=True, kw_only=True)
class AudioFiles:
    """Sounds that are decoded whenever they are iterated over; `warnings`: what is left out or resampled."""

    folder: Path
    files: Sequence[FoundFile]
    sample_rate: int
    channels: int
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Sound]:
        for file in self.files:
            pcm_CT = load_audio(file.path, sample_rate=self.sample_rate, channels=self.channels)
            yield Sound(self._name(file), pcm_CT.float() / PCM_SCALE, self.sample_rate)

    def _name(self, file: FoundFile) -> str:
        """Its path below the folder."""
        return file.shown.removeprefix(f"{self.folder}/")


def find_sounds(folder: Path, *, sample_rate: int, channels: int) -> AudioFiles:
    """The audio files below `folder`, in the order of their paths.

    Raises CorpusError where it does not exist and AudioError where it holds no audio that can be read.
    """
    scan = find_audio([folder])
    rates = {file.path: probe(file.path).rate for file in scan.files}
    unreadable = [file.shown for file in scan.files if not rates[file.path]]
    unreadable += [file.path for file in scan.unreadable]
    files = tuple(file for file in scan.files if rates[file.path])
    if not files:
        why = f"none of its {len(unreadable)} files can be read" if unreadable else "it holds no audio files"
        raise AudioError(
            f"there is nothing to judge in {folder}: {why}; name a folder of wav, flac, ogg or mp3"
        )
    warnings = []
    if unreadable:
        named = f"{unreadable[0]}{' and others' if len(unreadable) > 1 else ''}"
        warnings.append(
            f"{len(unreadable)} of the files in {folder} cannot be read and are left out: {named}"
        )
    other = sum(rates[file.path] != sample_rate for file in files)
    if other:
        warnings.append(
            f"{other} of {len(files)} files have another sample rate and are judged at {sample_rate} Hz"
        )
    return AudioFiles(
        folder=folder, files=files, sample_rate=sample_rate, channels=channels, warnings=tuple(warnings)
    )

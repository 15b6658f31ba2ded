"""Where the sounds of `generate` and of the edits go: files of a folder, or the one file that is named."""

from __future__ import annotations

from pathlib import Path

from distill_ray.config.generation import AUDIO_FORMATS, GenerationSettings
from distill_ray.corpus.scan import AUDIO_SUFFIXES
from distill_ray.errors import AudioError, UsageError
from distill_ray.storage.ours import make_marked_folder


def is_audio_file(out: Path) -> bool:
    """Whether `out` names the file of one sound (`bird.flac`) and not a folder."""
    return out.suffix.lower().removeprefix(".") in AUDIO_FORMATS and not out.is_dir()


def sound_files(out: Path, what: str, settings: GenerationSettings) -> list[Path]:
    """`<what>_s<seed>_<index>.<format>` in the folder `out`, or the file that it names.

    Raises UsageError where one file is named for several sounds, or one of a format that is not written.
    """
    if out.suffix.lower() in AUDIO_SUFFIXES and not is_audio_file(out) and not out.is_dir():
        raise UsageError(f"{out} ends in no format that is written; end it with .{', .'.join(AUDIO_FORMATS)}")
    if is_audio_file(out):
        if settings.count != 1:
            raise UsageError(f"{out} is one file and {settings.count} sounds are asked for; name a folder")
        return [out]
    stem, suffix = f"{what}_s{settings.seed}", settings.audio_format
    return [out / f"{stem}_{index:03d}.{suffix}" for index in range(settings.count)]


def other_place(out: Path) -> str:
    """What helps where a file to write exists: the name of one that is named has no seed in it."""
    return "choose another --out" if is_audio_file(out) else "choose another --seed or --out"


def make_sound_folder(folder: Path) -> None:
    """Make the folder, marked as ours. Raises AudioError where it cannot be made."""
    try:
        make_marked_folder(folder)
    except OSError as error:
        raise AudioError(
            f"the output folder {folder} cannot be made ({error.strerror}); choose another one"
        ) from error

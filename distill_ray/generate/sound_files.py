"""Where the sounds of `generate` and of the edits go: files of a folder, or the one file that is named."""

from __future__ import annotations

from pathlib import Path

from distill_ray.config.generation import AUDIO_FORMATS, GenerationSettings
from distill_ray.errors import AudioError, UsageError
from distill_ray.storage.ours import make_marked_folder


def is_audio_file(out: Path) -> bool:
    """Whether `out` names the file of one sound (`bird.flac`) and not a folder."""
    return out.suffix.lower().removeprefix(".") in AUDIO_FORMATS and not out.is_dir()


def sound_files(out: Path, what: str, settings: GenerationSettings) -> list[Path]:
    """`<what>_s<seed>_<index>.<format>` in the folder `out`, or the file that it names.

    Raises UsageError where one file is named for several sounds.
    """
    if is_audio_file(out):
        if settings.count != 1:
            raise UsageError(f"{out} is one file and {settings.count} sounds are asked for; name a folder")
        return [out]
    stem, suffix = f"{what}_s{settings.seed}", settings.audio_format
    return [out / f"{stem}_{index:03d}.{suffix}" for index in range(settings.count)]


def make_sound_folder(folder: Path) -> None:
    """Make the folder, marked as ours. Raises AudioError where it cannot be made."""
    try:
        make_marked_folder(folder)
    except OSError as error:
        raise AudioError(
            f"the output folder {folder} cannot be made ({error.strerror}); choose another one"
        ) from error

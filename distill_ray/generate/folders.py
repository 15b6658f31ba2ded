"""A folder of recordings → a folder of codes files, and back; `transcode.py` does each file.

Names and sub-folders stay: `in/a/b.wav` becomes `out/a/b.codes`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from distill_ray.bundle.read import LoadedVQModel
from distill_ray.config.generation import AUDIO_FORMATS
from distill_ray.corpus.manifest import RejectedFile
from distill_ray.corpus.scan import find_audio
from distill_ray.errors import AudioError, BundleError, CancelledError, UsageError
from distill_ray.events.records import StageProgress
from distill_ray.generate.generation_report import AudioReport, CodesReport, FolderReport
from distill_ray.generate.transcode import Progress, checked_levels, decode_file, encode_file
from distill_ray.storage.ours import make_marked_folder
from distill_ray.storage.output_file import check_output
from distill_ray.storage.paths import AnyPath, as_path

CODES_SUFFIX = ".codes"


def encode_folder(
    loaded: LoadedVQModel,
    folder: AnyPath,
    out: AnyPath,
    *,
    levels: int | None = None,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> FolderReport:
    """Encode every recording below `folder` to the folder `out`, as `encode_file` does.

    Recordings that cannot be decoded are in the report's `rejected`. Two that differ by their suffix alone
    keep it: `b.wav.codes`. Raises AudioError where none can be used, ConfigError for levels that the model
    does not have, UsageError, before anything is encoded, where a file exists and is not to be overwritten or
    cannot be written, and CancelledError after Ctrl-C, which leaves what was made.
    """
    folder, out = as_path(folder), as_path(out)
    if levels is not None:
        checked_levels(levels, loaded.vqvae_config.num_quantizers)
    scan = find_audio([folder])
    files = _targets(folder, [file.path for file in scan.files], out, CODES_SUFFIX)
    _check(files, loaded.path, overwrite=overwrite)

    def encode(audio: Path, codes: Path) -> CodesReport:
        codes.parent.mkdir(parents=True, exist_ok=True)
        return encode_file(loaded, audio, codes, levels=levels, overwrite=overwrite)

    return _each("encode", loaded, folder, out, files, encode, scan.unreadable, on_progress)


def decode_folder(
    loaded: LoadedVQModel,
    folder: AnyPath,
    out: AnyPath,
    *,
    audio_format: str = "wav",
    force: bool = False,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> FolderReport:
    """Decode every codes file (`*.codes`) below `folder` to the folder `out`, as `decode_file` does.

    A new `out` is marked as made by distill-ray, so that what is in it is never taken for a recording. Raises
    as `encode_folder`; BundleError where no codes file can be used, UsageError for another format.
    """
    folder, out = as_path(folder), as_path(out)
    if audio_format not in AUDIO_FORMATS:
        raise UsageError(f"--format {audio_format} is not one of {', '.join(AUDIO_FORMATS)}")
    found = sorted(path for path in folder.rglob(f"*{CODES_SUFFIX}") if path.is_file())
    if not found:
        raise BundleError(f"no codes file (*{CODES_SUFFIX}) is in {folder}; `distill-ray encode` writes them")
    files = _targets(folder, found, out, f".{audio_format}")
    _check(files, loaded.path, overwrite=overwrite)
    make_marked_folder(out)

    def decode(codes: Path, audio: Path) -> AudioReport:
        audio.parent.mkdir(parents=True, exist_ok=True)
        return decode_file(loaded, codes, audio, force=force, overwrite=overwrite)

    return _each("decode", loaded, folder, out, files, decode, (), on_progress)


def _targets(folder: Path, found: Sequence[Path], out: Path, suffix: str) -> dict[Path, Path]:
    """Where what is made of each file goes; what would have one name keeps its own suffix before the new."""
    short = {path: out / path.relative_to(folder).with_suffix(suffix) for path in found}
    shared = Counter(short.values())
    return {
        path: target if shared[target] == 1 else target.with_name(path.name + suffix)
        for path, target in short.items()
    }


def _check(files: Mapping[Path, Path], model: Path, *, overwrite: bool) -> None:
    for path, target in files.items():
        check_output(target, path, model, overwrite=overwrite, otherwise="choose another --out")


def _each(
    stage: str,
    loaded: LoadedVQModel,
    folder: Path,
    out: Path,
    files: Mapping[Path, Path],
    make: Callable[[Path, Path], CodesReport | AudioReport],
    unreadable: Sequence[RejectedFile],
    on_progress: Progress | None,
) -> FolderReport:
    began = time.monotonic()
    made: list[CodesReport | AudioReport] = []
    rejected = list(unreadable)
    for number, (path, target) in enumerate(files.items()):
        if on_progress:
            on_progress(StageProgress(stage=stage, done=number, total=len(files), note=path.name))
        try:
            made.append(make(path, target))
        except (AudioError, BundleError) as error:
            reason = str(error).removeprefix(f"{path} cannot be used: ")
            rejected.append(RejectedFile(path=str(path), reason=reason))
        except KeyboardInterrupt:
            raise CancelledError(
                f"cancelled by Ctrl-C with {len(made)} of {len(files)} files made in {out}; with --overwrite "
                "the same command makes all anew"
            ) from None
    if on_progress and files:
        on_progress(StageProgress(stage=stage, done=len(files), total=len(files), note="files"))
    if not made:
        reasons = "; ".join(f"{bad.path}: {bad.reason}" for bad in rejected[:3])
        raise AudioError(f"no file in {folder} can be used{f' ({reasons})' if reasons else ''}")
    return FolderReport(
        model=str(loaded.path),
        folder=str(folder),
        output_dir=str(out),
        files=tuple(made),
        rejected=tuple(rejected),
        seconds=sum(each.seconds for each in made),
        elapsed_s=time.monotonic() - began,
    )

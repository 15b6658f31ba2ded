"""What the commands of this package report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill_ray.generate.wish import Followed

from distill_ray.corpus.manifest import RejectedFile


@dataclass(frozen=True, kw_only=True)
class GenerationReport:
    """The result of `generate_samples`; `samples` and `seconds` are of each file, `elapsed_s` of all."""

    model: str
    files: tuple[str, ...]
    output_dir: str
    seed: int
    samples: int
    seconds: float
    sample_rate: int
    channels: int
    audio_format: str
    temperature: float
    top_k: int
    top_p: float
    prompt: str | None
    prompt_seconds: float
    """How much of each file is the prompt."""
    label: str | None
    guidance: float | None
    """None where nothing was asked for."""
    controls: tuple[Mapping[str, Followed], ...]
    """What became of each control in each file; empty where nothing was asked for."""
    draws: tuple[int, ...]
    """How often each file was drawn until it was accepted."""
    device: str
    elapsed_s: float
    audio_seconds_per_second: float

    def to_json(self) -> dict[str, Any]:
        """The JSON document of `distill-ray generate --json`."""
        return _document(self)


@dataclass(frozen=True, kw_only=True)
class CodesReport:
    """The result of `encode_file`."""

    model: str
    audio: str
    codes: str
    levels: int
    frames: int
    samples: int
    seconds: float
    sample_rate: int
    channels: int
    kbps: float
    """Nominal: every code in log2 K bits."""
    warnings: tuple[str, ...]
    """What was encoded otherwise than the file has it."""
    elapsed_s: float

    @property
    def made(self) -> tuple[str, ...]:
        """The file that was written."""
        return (self.codes,)

    def to_json(self) -> dict[str, Any]:
        """The JSON document of `distill-ray encode --json`."""
        return _document(self)


@dataclass(frozen=True, kw_only=True)
class AudioReport:
    """The result of `decode_file`."""

    model: str
    codes: str
    audio: str
    levels: int
    samples: int
    seconds: float
    sample_rate: int
    channels: int
    elapsed_s: float

    @property
    def made(self) -> tuple[str, ...]:
        """The file that was written."""
        return (self.audio,)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Nothing: what is decoded is what the codes say."""
        return ()

    def to_json(self) -> dict[str, Any]:
        """The JSON document of `distill-ray decode --json`."""
        return _document(self)


@dataclass(frozen=True, kw_only=True)
class FolderReport:
    """The result of `encode_folder` and `decode_folder`: a report for each file, and what was no use."""

    model: str
    folder: str
    output_dir: str
    files: tuple[CodesReport | AudioReport, ...]
    rejected: tuple[RejectedFile, ...]
    seconds: float
    """Of audio, all files together."""
    elapsed_s: float

    @property
    def made(self) -> tuple[str, ...]:
        """The files that were written."""
        return tuple(path for each in self.files for path in each.made)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What somebody should know, in a sentence each."""
        told = [f"{bad.path} is left out: {bad.reason}" for bad in self.rejected]
        return (*told, *(warning for each in self.files for warning in each.warnings))

    def to_json(self) -> dict[str, Any]:
        """The JSON document of `distill-ray encode FOLDER --json` and `decode FOLDER --json`."""
        return {**_document(self), "files": [each.to_json() for each in self.files]}


@dataclass(frozen=True, kw_only=True)
class EditReport:
    """The result of `vary`, `fill`, `loop` and `morph`; `samples` and `seconds` are of each file."""

    model: str
    command: str
    inputs: tuple[str, ...]
    asked: dict[str, Any]
    """What is peculiar to the command: strength, from, to, at."""
    files: tuple[str, ...]
    output_dir: str
    seed: int
    samples: int
    seconds: float
    sample_rate: int
    channels: int
    audio_format: str
    method: str
    redrawn: float
    """Share of the codes that were drawn anew."""
    seam_ratios: tuple[float | None, ...]
    """Of each file, how far the sound jumps at its seams beside real sound at random moments, which is 1;
    None where it has no seam or is too short to say."""
    seam_distance_db: float | None
    real_distance_db: float | None
    compared_with: str | None
    device: str
    elapsed_s: float

    @property
    def seam_line(self) -> str:
        """The seams in a line; empty where there are none."""
        if self.seam_distance_db is None or self.real_distance_db is None:
            return ""
        ratio = self.seam_distance_db / self.real_distance_db
        return (
            f"seams: {ratio:.2f} times the change at random moments of {self.compared_with} "
            f"({self.seam_distance_db:.1f} and {self.real_distance_db:.1f} dB)"
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON document of the command with `--json`."""
        return _document(self)


def _document(
    report: GenerationReport | CodesReport | AudioReport | FolderReport | EditReport,
) -> dict[str, Any]:
    fields = dataclasses.asdict(report)
    return {"model_path": fields.pop("model"), **fields}

"""What the commands of this package report; standard library only."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


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

    def to_json(self) -> dict[str, Any]:
        """The JSON document of `distill-ray decode --json`."""
        return _document(self)


def _document(report: GenerationReport | CodesReport | AudioReport) -> dict[str, Any]:
    fields = dataclasses.asdict(report)
    return {"model_path": fields.pop("model"), **fields}

"""From a `.distill` file to sound: generate, continue, stream, encode, decode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill_ray.lazy import lazy_exports

if TYPE_CHECKING:
    from distill_ray.config.generation import AUDIO_FORMATS, GenerationSettings
    from distill_ray.generate.codes import Codes, load_codes, save_codes
    from distill_ray.generate.folders import decode_folder, encode_folder
    from distill_ray.generate.generate import generate_samples
    from distill_ray.generate.generation_report import (
        AudioReport,
        CodesReport,
        FolderReport,
        GenerationReport,
    )
    from distill_ray.generate.model import Model, Sound, load
    from distill_ray.generate.stream import generate_stream
    from distill_ray.generate.transcode import decode_file, encode_file

_WHERE = {
    "distill_ray.generate.codes": ("Codes", "load_codes", "save_codes"),
    "distill_ray.generate.generate": ("generate_samples",),
    "distill_ray.generate.model": ("Model", "Sound", "load"),
    "distill_ray.generate.generation_report": (
        "AudioReport",
        "CodesReport",
        "FolderReport",
        "GenerationReport",
    ),
    "distill_ray.generate.folders": ("decode_folder", "encode_folder"),
    "distill_ray.config.generation": ("AUDIO_FORMATS", "GenerationSettings"),
    "distill_ray.generate.stream": ("generate_stream",),
    "distill_ray.generate.transcode": ("decode_file", "encode_file"),
}

__all__ = [
    "AUDIO_FORMATS",
    "AudioReport",
    "Codes",
    "CodesReport",
    "FolderReport",
    "GenerationReport",
    "GenerationSettings",
    "Model",
    "Sound",
    "decode_file",
    "decode_folder",
    "encode_file",
    "encode_folder",
    "generate_samples",
    "generate_stream",
    "load",
    "load_codes",
    "save_codes",
]

__getattr__ = lazy_exports(__name__, {name: module for module, names in _WHERE.items() for name in names})

"""What `doctor.py` runs in a process of its own: import one package, try it, print what was found as JSON.

Started as a script (`python -P probes.py NAME`), so that a native library that crashes takes only this
process with it, and that no folder but the interpreter's own is searched for packages. Hence nothing here may
import distill_ray, and every import of a package stands inside its probe.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import sys
from collections.abc import Callable
from typing import Any

MODULES = {"pillow": "PIL"}
"""Packages whose module has another name."""


def package(name: str) -> dict[str, Any]:
    """Import a package whose import is all that matters."""
    module = importlib.import_module(MODULES.get(name, name))
    return {"version": _version(name, module)}


def torch() -> dict[str, Any]:
    module = importlib.import_module("torch")
    cuda = module.cuda.is_available()
    count = module.cuda.device_count() if cuda else 0
    gpus = [module.cuda.get_device_properties(index) for index in range(count)]
    return {
        "version": _version("torch", module),
        "cuda_build": module.version.cuda,
        "gpus": [f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB)" for gpu in gpus],
        "bf16": cuda and module.cuda.is_bf16_supported(),
    }


def torchaudio() -> dict[str, Any]:
    """Import it and resample a little, which is what the corpus needs of it."""
    module = importlib.import_module("torchaudio")
    tensor = importlib.import_module("torch").zeros(1, 480)
    functional = importlib.import_module("torchaudio.functional")
    samples = functional.resample(tensor, 48_000, 44_100).shape[-1]
    return {"version": _version("torchaudio", module), "samples": samples}


def soundfile() -> dict[str, Any]:
    """Write and read a tenth of a second in every format that can be missing from a libsndfile."""
    module = importlib.import_module("soundfile")
    numpy = importlib.import_module("numpy")
    silence = numpy.zeros(4800, dtype="float32")
    broken = {}
    for format_, subtype in (
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
    ):
        try:
            buffer = io.BytesIO()
            module.write(buffer, silence, 48_000, format=format_, subtype=subtype)
            buffer.seek(0)
            module.read(buffer)
        except Exception as error:
            broken[f"{format_.lower()}/{subtype.lower()}"] = f"{type(error).__name__}: {error}"
    return {
        "version": _version("soundfile", module),
        "libsndfile": getattr(module, "__libsndfile_version__", "unknown"),
        "broken": broken,
    }


def ray() -> dict[str, Any]:
    """Import Ray and the parts that come with its extras."""
    module = importlib.import_module("ray")
    missing = {}
    for extra, name in (
        ("default", "ray.dashboard.optional_deps"),
        ("train", "ray.train"),
        ("tune", "ray.tune"),
    ):
        try:
            importlib.import_module(name)
        except Exception as error:
            missing[extra] = f"{type(error).__name__}: {error}"
    return {"version": _version("ray", module), "missing": missing}


def _version(name: str, module: Any) -> str:
    # The installed metadata may belong to another copy; the module's own word wins where it has one.
    version = getattr(module, "__version__", None)
    if version is None:
        from importlib import metadata

        version = metadata.version(name)
    return str(version)


def _location(name: str) -> str | None:
    try:
        spec = importlib.util.find_spec(MODULES.get(name, name))
    except (ImportError, ValueError):
        return None
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    return folders[0] if folders else None


_SPECIAL: dict[str, Callable[[], dict[str, Any]]] = {
    "torch": torch,
    "torchaudio": torchaudio,
    "soundfile": soundfile,
    "ray": ray,
}


def _main(name: str) -> None:
    try:
        found = _SPECIAL[name]() if name in _SPECIAL else package(name)
    except BaseException as error:  # an import may even call sys.exit
        found = {"error": type(error).__name__, "message": " ".join(str(error).split())}
    # The last line: a package may print on import.
    print("\n" + json.dumps({**found, "location": _location(name)}))


if __name__ == "__main__":
    _main(sys.argv[1])

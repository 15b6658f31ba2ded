"""Open a prepared corpus, or make one of a folder of audio; `windows.py` takes training windows from it.

Shape suffixes: C channels, T samples.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from distill_ray.config.cache import cache_root
from distill_ray.config.corpus import CorpusConfig
from distill_ray.corpus.cache import CachedStorage, cached
from distill_ray.corpus.manifest import (
    FORMAT,
    SHARD_FOLDER,
    VERSION,
    CorpusFile,
    Manifest,
    read_manifest,
)
from distill_ray.corpus.parallel import Mapper, Progress, in_threads
from distill_ray.corpus.parts import join
from distill_ray.corpus.prepare import HashedSources, build_corpus, hash_sources
from distill_ray.corpus.prepare_report import PrepareReport
from distill_ray.corpus.scan import find_audio
from distill_ray.corpus.shards import ShardReader
from distill_ray.errors import CorpusError
from distill_ray.storage.storage import Storage, open_storage

if TYPE_CHECKING:
    import torch

# Every open shard is a file descriptor, and 1024 of them is a usual limit.
OPEN_SHARDS = 256
_FORMAT_SETTINGS = ("sample_rate", "channels")


class Corpus:
    """A prepared corpus, read-only; `digest` is its identity whatever its paths and shard layout."""

    def __init__(self, storage: Storage, manifest: Manifest) -> None:
        storage = storage if storage.local is not None else cached(storage)
        self.uri = storage.uri
        self.manifest = manifest
        shards = {shard.name: shard for shard in manifest.shards}

        @functools.lru_cache(maxsize=OPEN_SHARDS)
        def shard(name: str) -> ShardReader:
            return ShardReader(storage, shards[name], channels=manifest.channels)

        self._storage = storage
        self._shard = shard

    @property
    def digest(self) -> str:
        """Hex sha256 of the files' content, splits and format."""
        return self.manifest.digest

    @property
    def sample_rate(self) -> int:
        """Samples a second."""
        return self.manifest.sample_rate

    @property
    def channels(self) -> int:
        """Audio channels of every file."""
        return self.manifest.channels

    @property
    def recordings(self) -> int:
        """How many recordings it was made of; one that is parted is two of `files`."""
        return len(join(self.manifest.files))

    def files(self, split: str) -> tuple[CorpusFile, ...]:
        """The files of "train" or "val", in the order of their hashes."""
        return tuple(file for file in self.manifest.files if file.split == split)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the training files, by name; none where all have the same."""
        found = {file.label for file in self.files("train")}
        return tuple(sorted(found - {""})) if len(found) > 1 else ()

    def seconds(self, split: str) -> float:
        """Seconds of audio in "train" or "val"."""
        return sum(file.samples for file in self.files(split)) / self.sample_rate

    def fetch(self, split: str) -> None:
        """Have what is needed of a remote corpus on this machine, downloading several shards at a time.

        Raises CorpusError where there is no room for it. Without this call it comes as it is read.
        """
        if isinstance(self._storage, CachedStorage):
            self._storage.fetch({file.shard for file in self.files(split)})

    @property
    def validation_split(self) -> str:
        """ "val", or "train" where nothing is held out: then validation says nothing about new audio."""
        return "val" if self.files("val") else "train"

    def read(self, file: CorpusFile) -> torch.Tensor:
        """All samples of one file: int16 [C, T]."""
        import torch

        pcm_CT = np.empty((self.channels, file.samples), dtype=np.int16)
        self.read_into(pcm_CT, file, 0)
        return torch.from_numpy(pcm_CT)

    def read_into(self, out_CT: npt.NDArray[np.int16], file: CorpusFile, start: int) -> None:
        """Fill `out_CT` with the samples of `file` from `start` on."""
        assert 0 <= start <= file.samples - out_CT.shape[1], "outside the file"
        self._shard(file.shard).read_into(out_CT, file.start + start)


def open_corpus(uri: str | os.PathLike[str]) -> Corpus:
    """The corpus at a path or `pyarrow.fs` URI.

    Raises `CorpusError` where there is none, its manifest is damaged or newer, or a shard is missing.
    """
    storage = open_storage(uri)
    manifest = read_manifest(storage)
    if manifest is None:
        raise CorpusError(f"there is no corpus at {storage.uri}; make one with `distill-ray prepare`")
    return _checked(storage, manifest)


def ensure_corpus(
    data: str | os.PathLike[str],
    config: CorpusConfig | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    workers: int | None = None,
    strict: bool = False,
    required: Collection[str] = _FORMAT_SETTINGS,
    asked_by: str = "the settings are",
    on_progress: Progress | None = None,
    on_report: Callable[[PrepareReport], None] | None = None,
    mapper: Mapper = in_threads,
) -> Corpus:
    """The corpus at `data`, or one prepared from the audio at `data` into the cache.

    A prepared corpus is taken in the format it has; a `config` whose `required` settings ("sample_rate",
    "channels") ask for another is a `CorpusError`, which says of whom the wish is (`asked_by`). Other data is
    prepared as `config` says (default settings for None) below `cache_dir` (default:
    `$XDG_CACHE_HOME/distill-ray/corpora`), in a folder named after the content of the files and the settings,
    and reused while neither changes; `mapper` reads and decodes, and `on_report` is told what came of it.
    """
    storage = open_storage(data)
    manifest = read_manifest(storage)
    if manifest is not None:
        corpus = _checked(storage, manifest)
        if config is not None:
            _refuse_other_format(corpus, config, required, asked_by)
        return corpus
    if storage.local is None:
        raise CorpusError(
            f"there is no corpus at {storage.uri}; make one with `distill-ray prepare FOLDER --out "
            f"{storage.uri}`"
        )
    config = config or CorpusConfig()
    if not storage.local.exists():
        raise CorpusError(f"{storage.uri} does not exist; give a folder of audio or a prepared corpus")
    found = find_audio([storage.local])
    hashed = hash_sources(found, workers=workers, on_progress=on_progress, mapper=mapper)
    folder = Path(cache_dir) if cache_dir is not None else cache_root() / "corpora"
    place = open_storage(folder / _cache_key(hashed, config))
    report = build_corpus(
        place, hashed, config=config, workers=workers, strict=strict, on_progress=on_progress, mapper=mapper
    )
    if on_report:
        on_report(report)
    return open_corpus(place.uri)


def _checked(storage: Storage, manifest: Manifest) -> Corpus:
    sizes = storage.names(SHARD_FOLDER)
    lost = [shard.name for shard in manifest.shards if sizes.get(shard.name) != shard.bytes]
    if lost:
        raise CorpusError(
            f"{len(lost)} shards of the corpus at {storage.uri} are missing or cut off ({lost[0]}); run "
            "`distill-ray prepare` on the same sources again"
        )
    return Corpus(storage, manifest)


def _refuse_other_format(
    corpus: Corpus, config: CorpusConfig, required: Collection[str], asked_by: str
) -> None:
    names = [name for name in _FORMAT_SETTINGS if name in required]
    if any(getattr(corpus, name) != getattr(config, name) for name in names):
        options = " ".join(f"{config.flag(name)} {getattr(config, name)}" for name in names)
        raise CorpusError(
            f"the corpus at {corpus.uri} is {_format(corpus, names)}, but {asked_by} for "
            f"{_format(config, names)}; prepare it again with {options}"
        )


def _format(of: Corpus | CorpusConfig, names: Collection[str]) -> str:
    channels = {1: "mono", 2: "stereo"}.get(of.channels, f"with {of.channels} channels")
    words = {"sample_rate": f"{of.sample_rate} Hz", "channels": channels}
    return " ".join(words[name] for name in names)


def _cache_key(hashed: HashedSources, config: CorpusConfig) -> str:
    identity = [FORMAT, str(VERSION), repr(config), *(file.sha256 for file in hashed.files)]
    return hashlib.sha256("\n".join(identity).encode()).hexdigest()[:24]

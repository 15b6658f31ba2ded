"""A corpus as codes: every file encoded once, kept as Parquet shards in a cache, read back as tensors.

The cache folder belongs to one codec and one corpus (`<root>/<model hash>-<corpus digest>/`). Each shard
holds whole files, one row each: sha256, split, frames, codes (int16, little-endian, level by level) and a
checksum. A shard is written whole or not at all, and whatever is there already is not encoded again,
so that an interrupted run goes on where it was. A shard that is damaged in any way is removed, its files are
encoded again, and the fact is reported.

The codec and the corpus come in through the protocols below: this package imports neither.

Legend: C channels, Q RVQ levels, T time (samples of audio, frames of codes).
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from distill_ray.errors import BundleError
from distill_ray.storage.atomic import replacing
from distill_ray.storage.parquet import read_rows

SHARD_VERSION = b"distill-ray codes 1"
SHARD_FRAMES = 100_000  # about 20 minutes of audio: what an interruption without warning can cost
_SHARD_NAME = re.compile(r"codes-[0-9a-f]{32}\.parquet")
_LEAST_ROW_BYTES = 32  # a sha256, which nothing packs
_MOST_SHARD_BYTES = 1 << 32
_SHARD_SCHEMA = pa.schema(
    [
        ("sha256", pa.string()),
        ("split", pa.string()),
        ("frames", pa.int64()),
        ("codes", pa.binary()),
        ("checksum", pa.string()),
    ],
    metadata={b"format": SHARD_VERSION},
)


class SourceFile(Protocol):
    """What is asked of a file of the corpus."""

    @property
    def sha256(self) -> str: ...

    @property
    def split(self) -> str: ...

    @property
    def samples(self) -> int: ...


FileT = TypeVar("FileT", bound=SourceFile)
FileT_contra = TypeVar("FileT_contra", bound=SourceFile, contravariant=True)


class CodeSource(Protocol[FileT_contra]):
    """What is asked of a corpus."""

    @property
    def digest(self) -> str: ...

    def read(self, file: FileT_contra, /) -> Tensor:
        """int16 [C, T]."""
        ...


class CodeEncoder(Protocol):
    """The codec's encoder for a whole file."""

    def __call__(self, audio_CT: Tensor, /) -> Tensor:
        """codes_QT (any integer type, any device) of float audio in [-1, 1]."""
        ...


class EncodeAll(Protocol[FileT_contra]):
    """Encodes many files at once, here or elsewhere."""

    def __call__(self, files: Sequence[FileT_contra], /) -> Iterable[Tensor]:
        """codes_QT of each file, in their order."""
        ...


@dataclass(frozen=True, kw_only=True)
class CodeSequence:
    """The codes of one file: int16 [Q, T] on the CPU."""

    sha256: str
    split: str
    codes_QT: Tensor

    @property
    def frames(self) -> int:
        return self.codes_QT.shape[1]


@dataclass(frozen=True, kw_only=True)
class CodeStore:
    """The codes of a corpus, ordered by sha256; `notices`: what was wrong with the cache, if anything."""

    folder: Path
    sequences: tuple[CodeSequence, ...]
    notices: tuple[str, ...] = ()

    def codes(self, split: str) -> list[Tensor]:
        """codes_QT of every file of a split."""
        return [sequence.codes_QT for sequence in self.of(split)]

    def of(self, split: str) -> list[CodeSequence]:
        """The files of a split."""
        return [sequence for sequence in self.sequences if sequence.split == split]

    def frames(self, split: str) -> int:
        """Code frames of a split."""
        return sum(sequence.frames for sequence in self.sequences if sequence.split == split)


@dataclass(frozen=True, kw_only=True)
class EncodeProgress:
    """How far `extract_code_sequences` is, in files and in samples of audio."""

    files: int
    total_files: int
    samples: int
    total_samples: int


def extract_code_sequences(
    encode: CodeEncoder,
    corpus: CodeSource[FileT],
    files: Sequence[FileT],
    *,
    cache: Path,
    model_hash: str,
    codebook_size: int,
    num_quantizers: int,
    on_progress: Callable[[EncodeProgress], None] | None = None,
    encode_all: EncodeAll[FileT] | None = None,
) -> CodeStore:
    """The codes of `files` of `corpus`, encoded where the cache does not hold them yet.

    `encode` sees one file at a time, in this process; `encode_all` takes its place. An interruption (any
    exception, Ctrl-C included) keeps every file encoded so far. Raises BundleError where the cache cannot be
    written, or where the encoder gives no code or one outside the codebooks.
    """
    folder = cache / f"{model_hash[:32]}-{corpus.digest[:32]}"
    known, notices = _read_intact(folder, codebook_size, num_quantizers)
    wanted = {file.sha256: file for file in files}
    found = {sha256: known[sha256] for sha256 in wanted if sha256 in known}
    total_samples = sum(file.samples for file in wanted.values())
    done_samples = sum(wanted[sha256].samples for sha256 in found)

    def report() -> None:
        if on_progress is not None:
            on_progress(
                EncodeProgress(
                    files=len(found),
                    total_files=len(wanted),
                    samples=done_samples,
                    total_samples=total_samples,
                )
            )

    report()
    new = [file for sha256, file in wanted.items() if sha256 not in found]
    with _shard_writer(folder) as keep:
        encoded = encode_all(new) if encode_all else (encode_file(encode, corpus, file) for file in new)
        for file, codes_QT in zip(new, encoded, strict=True):
            sha256 = file.sha256
            if not _fits(codes_QT, codebook_size, num_quantizers):
                raise BundleError(
                    f"the codec's codes of file {sha256} are not {num_quantizers} levels of codes below "
                    f"{codebook_size}; check that the model file is intact with `distill-ray info --verify`"
                )
            found[sha256] = CodeSequence(sha256=sha256, split=file.split, codes_QT=codes_QT.to(torch.int16))
            keep(found[sha256])
            done_samples += file.samples
            report()
    # The split is the corpus's word, not the cache's.
    sequences = tuple(
        CodeSequence(sha256=sha256, split=wanted[sha256].split, codes_QT=found[sha256].codes_QT)
        for sha256 in sorted(found)
    )
    return CodeStore(folder=folder, sequences=sequences, notices=notices)


@contextlib.contextmanager
def _shard_writer(folder: Path) -> Iterator[Callable[[CodeSequence], None]]:
    """Writes the sequences that it is given as shards in `folder`; what waits for more when the block ends,
    however it does, is a shard too.
    """
    waiting: list[CodeSequence] = []

    def keep(sequence: CodeSequence) -> None:
        waiting.append(sequence)
        if sum(each.frames for each in waiting) >= SHARD_FRAMES:
            _write_shard(folder, waiting)
            waiting.clear()

    try:
        yield keep
    finally:
        if waiting:
            _write_shard(folder, waiting)


def encode_file(encode: CodeEncoder, corpus: CodeSource[FileT], file: FileT) -> Tensor:
    """codes_QT of one file of `corpus`, on the CPU."""
    audio_CT = corpus.read(file).float() / 32768.0
    return encode(audio_CT).cpu()


def load_code_sequences(folder: Path, *, codebook_size: int, num_quantizers: int) -> CodeStore:
    """The codes that a cache folder holds. Raises BundleError where a shard is damaged or none is there."""
    found: dict[str, CodeSequence] = {}
    for path in _shards(folder):
        found.update((each.sha256, each) for each in _read_shard(path, codebook_size, num_quantizers))
    if not found:
        raise BundleError(f"{folder} holds no codes; run train-prior with the corpus to make them")
    return CodeStore(folder=folder, sequences=tuple(found[sha256] for sha256 in sorted(found)))


def _shards(folder: Path) -> list[Path]:
    found = folder.glob("codes-*.parquet") if folder.is_dir() else ()
    return sorted(path for path in found if _SHARD_NAME.fullmatch(path.name))


def _read_intact(
    folder: Path, codebook_size: int, num_quantizers: int
) -> tuple[dict[str, CodeSequence], tuple[str, ...]]:
    """What can be trusted, by sha256; shards that cannot are removed, with a notice each."""
    known: dict[str, CodeSequence] = {}
    notices: list[str] = []
    for path in _shards(folder):
        try:
            shard = _read_shard(path, codebook_size, num_quantizers)
        except BundleError as error:
            path.unlink(missing_ok=True)
            notices.append(f"{error}; it was removed and its files are encoded again")
        else:
            known.update((sequence.sha256, sequence) for sequence in shard)
    return known, tuple(notices)


def _read_shard(path: Path, codebook_size: int, num_quantizers: int) -> list[CodeSequence]:
    sequences: list[CodeSequence] = []
    frames = 0
    try:
        most_rows = path.stat().st_size // _LEAST_ROW_BYTES
        for row in read_rows(path, _SHARD_SCHEMA, most_rows=most_rows, most_bytes=_MOST_SHARD_BYTES):
            if frames >= SHARD_FRAMES:  # where `_write_shard` would have begun another one
                raise ValueError("it holds more codes than a shard does")
            sequences.append(_sequence(row, codebook_size, num_quantizers))
            frames += sequences[-1].frames
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"the code shard {path} is damaged ({_one_line(error)})") from error
    return sequences


def _sequence(row: dict[str, Any], codebook_size: int, num_quantizers: int) -> CodeSequence:
    """Raises ValueError for a row whose content is not what it says."""
    sha256, split, data = row["sha256"], row["split"], row["codes"]
    if not (isinstance(sha256, str) and isinstance(split, str) and isinstance(data, bytes)):
        raise ValueError("a row lacks a value")
    if row["checksum"] != _checksum(sha256, split, data):
        raise ValueError(f"wrong checksum of file {sha256}")
    if len(data) != 2 * num_quantizers * row["frames"]:
        raise ValueError(f"the codes of file {sha256} are not of this codec")
    codes_QT = torch.from_numpy(np.frombuffer(data, dtype="<i2").astype(np.int16).reshape(num_quantizers, -1))
    if not _fits(codes_QT, codebook_size, num_quantizers):
        raise ValueError(f"the codes of file {sha256} are not of this codec")
    return CodeSequence(sha256=sha256, split=split, codes_QT=codes_QT)


def _fits(codes_QT: Tensor, codebook_size: int, num_quantizers: int) -> bool:
    if codes_QT.dim() != 2 or codes_QT.shape[0] != num_quantizers or codes_QT.shape[1] == 0:
        return False
    return int(codes_QT.min()) >= 0 and int(codes_QT.max()) < codebook_size


def _write_shard(folder: Path, sequences: Sequence[CodeSequence]) -> None:
    """The name follows from the files inside, so that two runs at once do each other no harm."""
    rows = []
    for sequence in sequences:
        data = sequence.codes_QT.numpy().astype("<i2").tobytes()
        rows.append(
            {
                "sha256": sequence.sha256,
                "split": sequence.split,
                "frames": sequence.frames,
                "codes": data,
                "checksum": _checksum(sequence.sha256, sequence.split, data),
            }
        )
    table = pa.Table.from_pylist(rows, schema=_SHARD_SCHEMA)
    path = folder / f"codes-{_digest(sequence.sha256 for sequence in sequences)[:32]}.parquet"
    try:
        with replacing(path) as file:
            pq.write_table(table, file, compression="zstd")
    except OSError as error:
        raise BundleError(
            f"the code shard {path} cannot be written ({_one_line(error)}); make room or choose another cache"
        ) from error


def _checksum(sha256: str, split: str, data: bytes) -> str:
    return hashlib.sha256(f"{sha256} {split} ".encode() + data).hexdigest()


def _digest(names: Iterable[str]) -> str:
    return hashlib.sha256(" ".join(names).encode()).hexdigest()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__

"""Turn recordings into a corpus: hash them, decode what is new, decide the split, publish.

Shards are never changed once written: a run puts its new files into new shards (`pack.py`). The manifest is
replaced last, so that whatever interrupts a run leaves the old corpus, and shards that no manifest names are
removed by the next run. A shard goes when the last of its files has left the corpus. Nothing else is removed:
not what has a name that shards do not have, and nothing behind a link.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from distill_ray.config.corpus import CorpusConfig
from distill_ray.corpus.decode import load_resampling, probe
from distill_ray.corpus.manifest import (
    MANIFEST_NAME,
    SHARD_FOLDER,
    CorpusFile,
    DuplicateFile,
    Manifest,
    RejectedFile,
    read_manifest,
    write_manifest,
)
from distill_ray.corpus.oddities import oddities
from distill_ray.corpus.pack import Packed, group_files, pack_group
from distill_ray.corpus.parallel import Job, Mapper, Progress, in_threads
from distill_ray.corpus.parts import held_out_samples, is_audible, join, parted
from distill_ray.corpus.prepare_report import LISTED, PrepareReport, listing
from distill_ray.corpus.scan import FoundFile, HashedFile, Scan, find_audio, hash_file
from distill_ray.corpus.shards import ShardReader, is_shard_name
from distill_ray.corpus.split import assign_splits, keeps_off_share
from distill_ray.corpus.twins import by_name, find_twins
from distill_ray.errors import AudioError, CorpusError
from distill_ray.storage.atomic import is_temporary
from distill_ray.storage.names import shown_name
from distill_ray.storage.storage import LOCK_NAME, Storage, open_storage

_OPEN_SHARDS = 64


@dataclass(frozen=True, kw_only=True)
class HashedSources:
    """The distinct contents of the sources, in the order of their hashes."""

    sources: tuple[str, ...]
    files: tuple[HashedFile, ...]
    duplicates: tuple[DuplicateFile, ...]
    rejected: tuple[RejectedFile, ...]
    hidden: tuple[str, ...] = ()


def prepare_corpus(
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    config: CorpusConfig,
    workers: int | None = None,
    strict: bool = False,
    on_progress: Progress | None = None,
    mapper: Mapper = in_threads,
) -> PrepareReport:
    """Make the corpus at `out` (path or `pyarrow.fs` URI) hold exactly the audio of `sources`.

    What `out` already holds in this format is not decoded again and keeps its split. `workers` None is one
    for each core, 16 at most; `mapper` does the reading and decoding. Raises `CorpusError` for sources that
    do not exist, that lie in `out`, that hold nothing usable or (`strict`) anything unusable, and for a place
    that holds anything but a corpus or cannot be written; what was there stays as it was.
    """
    started = time.monotonic()
    storage = open_storage(out)
    _refuse_foreign_folder(storage)
    scan = find_audio(sources)
    _refuse_own_sources(storage, scan.files)
    hashed = hash_sources(scan, workers=workers, on_progress=on_progress, mapper=mapper)
    report = build_corpus(
        storage,
        hashed,
        config=config,
        workers=workers,
        strict=strict,
        on_progress=on_progress,
        mapper=mapper,
    )
    return replace(report, elapsed_s=time.monotonic() - started)


def hash_sources(
    scan: Scan,
    *,
    workers: int | None = None,
    on_progress: Progress | None = None,
    mapper: Mapper = in_threads,
) -> HashedSources:
    """Read every found file once for its identity; what cannot be read is in `rejected`."""
    results = mapper(
        _hash_one,
        scan.files,
        workers=workers,
        files=len(scan.files),
        what="reading",
        on_progress=on_progress,
    )
    distinct: dict[str, HashedFile] = {}
    duplicates: list[DuplicateFile] = []
    rejected = list(scan.unreadable)
    for result in sorted(results, key=_as_named):
        if isinstance(result, RejectedFile):
            rejected.append(result)
        elif result.sha256 in distinct:
            same_as = distinct[result.sha256].found.shown
            duplicates.append(DuplicateFile(path=result.found.shown, same_as=same_as))
        else:
            distinct[result.sha256] = result
    return HashedSources(
        sources=scan.sources,
        files=tuple(distinct[digest] for digest in sorted(distinct)),
        duplicates=tuple(duplicates),
        rejected=tuple(rejected),
        hidden=scan.hidden,
    )


def build_corpus(
    storage: Storage,
    hashed: HashedSources,
    *,
    config: CorpusConfig,
    workers: int | None = None,
    strict: bool = False,
    on_progress: Progress | None = None,
    mapper: Mapper = in_threads,
) -> PrepareReport:
    """`prepare_corpus` for sources that are hashed already."""
    started = time.monotonic()
    _refuse_foreign_folder(storage)
    _refuse_own_sources(storage, (file.found for file in hashed.files))

    def waiting() -> None:
        if on_progress:
            on_progress(0, 1, "waiting for another preparation of this corpus")

    with storage.lock(waiting):
        previous = read_manifest(storage)
        _remove_unnamed(storage, previous)
        reusable = _reusable(storage, previous, config)
        twins = _known_twins(previous, hashed, reusable)
        new = [file for file in hashed.files if file.sha256 not in reusable and file.sha256 not in twins]
        try:
            with _torch_ready(new, config):
                packed = mapper(
                    lambda group, job: pack_group(storage, group, config, job),
                    group_files(new, config),
                    workers=workers,
                    files=len(new),
                    what="decoding",
                    on_progress=on_progress,
                )
            manifest = _manifest(storage, hashed, previous, reusable, packed, twins, config)
            _refuse_unusable(manifest, hashed.sources, strict=strict)
            if manifest != previous:
                write_manifest(storage, manifest)
        except BaseException:
            # Read again, for Ctrl-C may come when the new manifest is already there.
            with contextlib.suppress(CorpusError):
                _remove_unnamed(storage, read_manifest(storage))
                storage.remove_empty(SHARD_FOLDER)
            raise
        _remove_unnamed(storage, manifest)
    return _report(
        storage,
        manifest,
        decoded=len(
            {file.sha256 for result in packed for file in result.files} & join(manifest.files).keys()
        ),
        removed=_removed(previous, hashed),
        hashed=hashed,
        config=config,
        elapsed_s=time.monotonic() - started,
    )


def _as_named(result: HashedFile | RejectedFile) -> tuple[int, str]:
    return by_name(result.path if isinstance(result, RejectedFile) else result.found.shown)


def _hash_one(found: FoundFile, job: Job) -> HashedFile | RejectedFile:
    job.check()
    try:
        digest = hash_file(found.path)
    except AudioError as error:
        return RejectedFile(path=found.shown, reason=str(error))
    finally:
        job.tick()
    claim = probe(found.path)
    return HashedFile(found=found, sha256=digest, claimed_rate=claim.rate, claimed_seconds=claim.seconds)


def _refuse_foreign_folder(storage: Storage) -> None:
    """Raise CorpusError unless `storage` is empty, a corpus, or what a killed preparation leaves of one."""
    local = storage.local
    if local is not None and local.exists() and not local.is_dir():
        raise CorpusError(f"{storage.uri} is a file and no folder; choose a new folder for --out")
    if local is not None and (local / SHARD_FOLDER).is_symlink():
        raise CorpusError(
            f"{SHARD_FOLDER} in {storage.uri} is a link, and what it leads to may be somebody else's; "
            "choose a new folder for --out"
        )
    present = set(storage.names())
    if MANIFEST_NAME in present:
        return
    known = {SHARD_FOLDER, LOCK_NAME, f".{MANIFEST_NAME}.partial"}
    foreign = {name for name in present - known if not is_temporary(name)}
    if SHARD_FOLDER in present:
        inner = storage.files(SHARD_FOLDER)
        foreign |= {f"{SHARD_FOLDER}/{name}" for name in inner if not is_shard_name(name)}
    if foreign:
        raise CorpusError(
            f"{storage.uri} holds other things than a corpus ({shown_name(min(foreign))}); "
            "choose a new folder for --out"
        )


def _refuse_own_sources(storage: Storage, files: Iterable[FoundFile]) -> None:
    """Raise CorpusError where a recording lies in `storage`, through links or not."""
    if storage.local is None:
        return
    out = storage.local.resolve()
    source = next((file for file in files if out in Path(os.path.realpath(file.path)).parents), None)
    if source is not None:
        raise CorpusError(
            f"{storage.uri} holds the recording {source.shown} itself; choose a folder for --out that holds "
            "none of the sources"
        )


def _remove_unnamed(storage: Storage, manifest: Manifest | None) -> None:
    """Remove the shards that `manifest` does not name, and nothing that has not the name of a shard."""
    named = {shard.name for shard in manifest.shards} if manifest else set()
    for name in storage.files(SHARD_FOLDER):
        if name not in named and is_shard_name(name):
            storage.remove(f"{SHARD_FOLDER}/{name}")


def _reusable(storage: Storage, previous: Manifest | None, config: CorpusConfig) -> dict[str, CorpusFile]:
    """The files of `previous` whose samples are there in the right format, by sha256."""
    if previous is None:
        return {}
    if (previous.sample_rate, previous.channels) != (config.sample_rate, config.channels):
        return {}
    sizes = storage.names(SHARD_FOLDER)
    whole = {shard.name for shard in previous.shards if sizes.get(shard.name) == shard.bytes}
    return join(file for file in previous.files if file.shard in whole)


def _manifest(
    storage: Storage,
    hashed: HashedSources,
    previous: Manifest | None,
    reusable: dict[str, CorpusFile],
    packed: Sequence[Packed],
    twins: Mapping[str, DuplicateFile],
    config: CorpusConfig,
) -> Manifest:
    before = {file.sha256: file for file in previous.files} if previous else {}
    files: dict[str, CorpusFile] = {}
    for source in hashed.files:
        if source.sha256 in reusable:
            found = source.found
            files[source.sha256] = replace(reusable[source.sha256], path=found.shown, label=found.label)
    new = {file.sha256: file for result in packed for file in result.files}
    files.update(new)
    shards = {shard.name: shard for shard in previous.shards} if previous else {}
    shards.update({shard.name: shard for result in packed for shard in result.shards})

    @functools.lru_cache(maxsize=_OPEN_SHARDS)
    def shard(name: str) -> ShardReader:
        return ShardReader(storage, shards[name], channels=config.channels)

    def audible(part: CorpusFile) -> bool:
        return is_audible(part, shard(part.shard), config)

    told = find_twins(files, new, config.channels, shard)
    for each in told:
        del files[each.sha256]
    parts = parted(files, before, config, audible)
    files.update(parts)
    recorded = {digest: file.split for digest, file in (before | parts).items()}
    seconds = {digest: file.samples / config.sample_rate for digest, file in files.items()}
    splits = assign_splits(seconds, val_fraction=config.val_fraction, recorded=recorded)
    rejected = [*hashed.rejected, *(bad for result in packed for bad in result.rejected)]
    used = sorted({file.shard for file in files.values()})
    return Manifest(
        sample_rate=config.sample_rate,
        channels=config.channels,
        files=tuple(replace(files[digest], split=splits[digest]) for digest in sorted(files)),
        shards=tuple(shards[name] for name in used),
        rejected=tuple(sorted(rejected, key=lambda bad: bad.path)),
        duplicates=(*hashed.duplicates, *sorted((*twins.values(), *told), key=lambda each: each.path)),
    )


def _decoded(packed: Sequence[Packed]) -> set[str]:
    return {file.sha256 for result in packed for file in result.files}


def _known_twins(
    previous: Manifest | None, hashed: HashedSources, reusable: Collection[str]
) -> dict[str, DuplicateFile]:
    """Files that are known to hold the samples of one that stays, by hash; they need not be decoded again."""
    known = {each.sha256: each for each in previous.duplicates if each.sha256} if previous else {}
    here = {file.sha256: file.found.shown for file in hashed.files}
    return {
        digest: replace(each, path=here[digest], same_as=here[each.twin])
        for digest, each in known.items()
        if digest in here and each.twin in here and each.twin in reusable
    }


def _removed(previous: Manifest | None, hashed: HashedSources) -> int:
    there = {file.sha256 for file in hashed.files}
    return sum(digest not in there for digest in join(previous.files)) if previous else 0


def _refuse_unusable(manifest: Manifest, sources: Sequence[str], *, strict: bool) -> None:
    listed = listing(manifest.rejected)
    if not manifest.files:
        tried = f" ({listed})" if listed else ""
        found = f"no usable audio in {', '.join(sources)}{tried}"
        if [bad.path for bad in manifest.rejected] == list(sources):  # files that were named
            named = manifest.rejected[:LISTED]
            found = "; ".join(f"{bad.path} cannot be used: {bad.reason}" for bad in named)
        raise CorpusError(f"{found}; give wav, flac, aiff, ogg, opus or mp3 files")
    if strict and manifest.rejected:
        raise CorpusError(
            f"{len(manifest.rejected)} files cannot be used ({listed}); mend or remove them, or leave out "
            "--strict"
        )


def _report(
    storage: Storage,
    manifest: Manifest,
    *,
    decoded: int,
    removed: int,
    hashed: HashedSources,
    config: CorpusConfig,
    elapsed_s: float,
) -> PrepareReport:
    train = [file.samples for file in manifest.files if file.split == "train"]
    val = [file.samples for file in manifest.files if file.split == "val"]
    whole = join(manifest.files)
    recordings = len(whole)
    if recordings == 1:
        asked = held_out_samples(sum(train + val), config) / sum(train + val)
        split_kept = not decoded and abs(sum(val) / sum(train + val) - asked) > 0.01
    else:
        seconds = {file.sha256: file.samples / manifest.sample_rate for file in manifest.files}
        splits = {file.sha256: file.split for file in manifest.files}
        split_kept = keeps_off_share(seconds, splits, val_fraction=config.val_fraction)
    return PrepareReport(
        out=storage.uri,
        digest=manifest.digest,
        sample_rate=manifest.sample_rate,
        channels=manifest.channels,
        files=recordings,
        files_train=len(train),
        files_val=len(val),
        reused=recordings - decoded,
        decoded=decoded,
        removed=removed,
        split_kept=split_kept,
        parted=len(manifest.files) - recordings,
        duplicates=manifest.duplicates,
        rejected=manifest.rejected,
        seconds_train=sum(train) / manifest.sample_rate,
        seconds_val=sum(val) / manifest.sample_rate,
        clipped_samples=sum(file.clipped for file in manifest.files),
        mixed=sum(file.source_channels > manifest.channels for file in whole.values()),
        elapsed_s=elapsed_s,
        sources=hashed.sources,
        hidden=hashed.hidden,
        odd=tuple(oddities(whole.values())),
    )


def _torch_ready(new: Sequence[HashedFile], config: CorpusConfig) -> AbstractContextManager[None]:
    """One torch thread for each of ours where something will be resampled; else torch is not loaded."""
    if all(file.claimed_rate in (0, config.sample_rate) for file in new):
        return contextlib.nullcontext()
    threads: AbstractContextManager[None] = load_resampling().one_torch_thread()
    return threads

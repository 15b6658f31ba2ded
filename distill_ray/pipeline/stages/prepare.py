"""Stage `prepare`: the sources as a corpus. Which recordings there are is decided by their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distill_ray.config.build import build_sections
from distill_ray.config.corpus import CorpusConfig
from distill_ray.errors import CorpusError
from distill_ray.events.records import PlannedStage, StageProgress
from distill_ray.pipeline.stages.context import PipelineContext, skipped, will_run
from distill_ray.runs.inputs import corpus_settings, on_report
from distill_ray.runs.run_folder import OtherOriginError
from distill_ray.storage.filesystem import joined

if TYPE_CHECKING:
    from distill_ray.corpus import Corpus
    from distill_ray.corpus.prepare import HashedSources


class Prepare:
    """Sources → corpus. Which recordings there are is decided by their content."""

    name = "prepare"

    def __init__(self, context: PipelineContext, *, later_begun: bool) -> None:
        self._context = context
        self._later_begun = later_begun
        # Workers on other nodes read the corpus too, so it is at the URI itself and not in its workshop.
        results = context.results
        self._place = str(results.path / "corpus") if results.uri is None else joined(results.uri, "corpus")
        self._hashed: HashedSources | None = None

    def decide(self, after: str | None) -> PlannedStage:
        record = self._context.record
        given = _prepared(record.sources, record.settings)
        if given is not None:
            self._context.corpus = given
            return skipped(self.name, f"{record.sources[0]} is a prepared corpus")
        from distill_ray.corpus.prepare import hash_sources
        from distill_ray.corpus.scan import find_audio

        self._hashed = hash_sources(find_audio(record.sources), on_progress=self._tell)
        done = record.done.get(self.name)
        if done is None:
            return will_run(self.name, "nothing is there yet")
        if done["sources_sha256"] != _identity(self._hashed):
            if self._later_begun:
                raise OtherOriginError(
                    f"the recordings have changed since the run in {record.shown} was begun "
                    f"({done['sources_files']} then, {len(self._hashed.files)} now): put back what it was "
                    "begun with, or begin a new run with another --out"
                )
            return will_run(self.name, "the recordings have changed")
        try:
            self._context.corpus = self._open()
        except CorpusError:
            return will_run(self.name, "the corpus is missing or damaged")
        if self._context.corpus.digest != done["report"]["digest"]:
            return will_run(self.name, "the corpus in the folder is another one")
        return skipped(self.name, f"the corpus of these {done['sources_files']} recordings is there")

    def skip(self) -> None:
        context = self._context
        assert context.corpus is not None, "decide has opened it"
        done = context.record.done.get(self.name, {}).get("report")
        if done is None or done["digest"] != context.corpus.digest:
            done = _corpus_facts(context.corpus)
        context.report(self.name, done)

    def run(self) -> int:
        from distill_ray.corpus.prepare import build_corpus
        from distill_ray.storage.storage import open_storage

        context = self._context
        assert self._hashed is not None, "decide has hashed the sources"
        report = build_corpus(
            open_storage(self._place),
            self._hashed,
            config=_config(context.record.settings),
            on_progress=self._tell,
        )
        on_report(context.listener)(report)
        context.corpus = self._open()
        document = context.report(self.name, report.to_json())
        context.record.finish(
            self.name,
            {
                "sources_sha256": _identity(self._hashed),
                "sources_files": len(self._hashed.files),
                "report": document,
            },
        )
        return 0

    def _open(self) -> Corpus:
        from distill_ray.corpus import open_corpus

        return open_corpus(self._place)

    def _tell(self, done: int, total: int, note: str) -> None:
        self._context.listener(StageProgress(stage=self.name, done=done, total=total, note=note))


def _config(settings: Mapping[str, object]) -> CorpusConfig:
    return build_sections((CorpusConfig,), settings)[CorpusConfig]


def _prepared(sources: tuple[str, ...], settings: Mapping[str, object]) -> Corpus | None:
    """The corpus that the only source is, if it is one. Raises CorpusError where it has another format."""
    from distill_ray.corpus import ensure_corpus
    from distill_ray.corpus.manifest import read_manifest
    from distill_ray.storage.storage import open_storage

    if len(sources) != 1 or read_manifest(open_storage(sources[0])) is None:
        return None
    return ensure_corpus(sources[0], _config(settings), required=corpus_settings(settings))


def _identity(hashed: HashedSources) -> str:
    return hashlib.sha256(json.dumps([file.sha256 for file in hashed.files]).encode()).hexdigest()


def _corpus_facts(corpus: Corpus) -> dict[str, Any]:
    """What the report of a preparation says that a corpus itself knows."""
    return {
        "out": corpus.uri,
        "digest": corpus.digest,
        "sample_rate": corpus.sample_rate,
        "channels": corpus.channels,
        "files": corpus.recordings,
        "files_train": len(corpus.files("train")),
        "files_val": len(corpus.files("val")),
        "seconds_train": corpus.seconds("train"),
        "seconds_val": corpus.seconds("val"),
    }

"""Stages `tune` and `codec`: a search for the best codec, or one training; each leaves OUT/NAME.distill."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill_ray.config.catalogue import settings_of
from distill_ray.config.sweep import RESOURCES, SweepConfig
from distill_ray.errors import UsageError
from distill_ray.events.records import Notice, PlannedStage
from distill_ray.pipeline.stages.context import PipelineContext, manifest, skipped, will_run
from distill_ray.runs.run_folder import OtherOriginError
from distill_ray.runs.settings_file import RUN_SETTINGS, SEARCH_SETTINGS
from distill_ray.runs.workspace import ResultFolder
from distill_ray.storage.atomic import atomic_file


class _CodecStage(ABC):
    """What the search and the single training have in common: a folder, a report, a codec to take over."""

    name: str
    _what: str
    _settings_file: str

    def __init__(self, context: PipelineContext) -> None:
        self._context = context

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Where it trains."""

    @property
    def _results(self) -> ResultFolder:
        return self._context.results.below(self.folder.name)

    @property
    def trained(self) -> Path:
        """The file that the training or the search leaves in its folder."""
        return self.folder / self._context.record.model.name

    @property
    def is_begun(self) -> bool:
        """Whether there is something to go on with."""
        return (self.folder / self._settings_file).exists()

    def decide(self, after: str | None) -> PlannedStage:
        done = self._context.record.done.get(self.name)
        if done is not None:
            self._refuse_other_corpus(done)
            if self._codec_is_there(done):
                return skipped(self.name, f"the {self._what} is finished ({done['words']})")
            return will_run(self.name, f"the codec that the {self._what} made is missing")
        if self.is_begun:
            return will_run(self.name, f"goes on with the {self._what} in {self._context.shown(self.folder)}")
        return will_run(self.name, f"after {after}" if after else f"there is no {self._what} yet")

    def skip(self) -> None:
        done = self._context.record.done[self.name]
        self._refuse_other_corpus(done)  # which may have been prepared only now
        self._context.report(self.name, done["report"])
        self._place()

    def _finish(self, report: Any, words: str) -> int:
        document = self._context.report(self.name, report.to_json())
        if report.exit_code:
            return int(report.exit_code)
        codec = self._place()
        self._context.record.finish(
            self.name,
            {
                "corpus": self._context.corpus.digest if self._context.corpus else None,
                "codec_sha256": codec,
                "words": words,
                "report": document,
            },
        )
        return 0

    def _refuse_other_corpus(self, done: Mapping[str, Any]) -> None:
        corpus = self._context.corpus
        if corpus is not None and corpus.digest != done["corpus"]:
            raise OtherOriginError(
                f"{corpus.uri} is not what the codec in {self._context.record.shown} was trained on; "
                "begin a new run with another --out"
            )

    def _codec_is_there(self, done: Mapping[str, Any]) -> bool:
        if self._context.record.model.exists():
            self._refuse_other_codec(done["codec_sha256"])
            return True
        return self.trained.exists() and manifest(self.trained).codec_sha256 == done["codec_sha256"]

    def _place(self) -> str:
        """Copy the codec to where the prior will join it, unless it is there; returns its hash."""
        model = self._context.record.model
        if model.exists():
            codec = manifest(self.trained if self.trained.exists() else model).codec_sha256
            self._refuse_other_codec(codec)
            return codec
        content = self.trained.read_bytes()
        with atomic_file(model) as file:
            file.write(content)
        return manifest(model).codec_sha256

    def _refuse_other_codec(self, expected: str) -> None:
        model = self._context.record.model
        if manifest(model).codec_sha256 != expected:
            raise UsageError(
                f"{self._context.shown(model)} holds another codec than the one that this run has trained; "
                "move it elsewhere, or choose another --out"
            )


class Tune(_CodecStage):
    """The search for the best codec."""

    name = "tune"
    _what = "search"
    _settings_file = SEARCH_SETTINGS

    @property
    def folder(self) -> Path:
        return self._context.record.folder / "search"

    def _place(self) -> str:
        """The codec with the short prior of its trial, which stage `prior` trains on."""
        from distill_ray.tune.winner import copy_prior_run

        codec, run = super()._place(), self.trained.with_suffix(".prior")
        if run.exists() and "prior" not in self._context.record.done:
            copy_prior_run(run, self._context.record.model.with_suffix(".prior"))
        return codec

    def check(self, changed: Mapping[str, object]) -> None:
        """Raise ConfigError where the search that is begun cannot go on with `changed` settings."""
        from distill_ray.tune.folder import SweepFolder, resumed_sweep

        if self.is_begun:
            results = self._results
            resumed_sweep(SweepFolder(path=results.path, uri=results.uri), changed)

    def run(self) -> int:
        from distill_ray.tune.tune import tune_codec

        context, settings = self._context, self._context.settings()
        begun, budget = self.is_begun, context.budget
        if budget is not None:
            key = "sweep.max_minutes"
            settings[key] = context.shortened(key, budget.codec_s)
        report = tune_codec(
            data=context.corpus_uri(),
            overrides={key: settings[key] for key in RESOURCES if key in settings} if begun else settings,
            config_file=None,
            out=None if begun else self._results,
            name=None if begun else context.record.name,
            resume=self._results if begun else None,
            address=context.address,
            listener=context.listener,
            trial_listener=context.trial_listener,
        )
        best = report.to_json().get("best") or {}
        return self._finish(report, f"{best.get('codebook_size')} codes × {best.get('rvq_levels')} levels")


class Codec(_CodecStage):
    """One codec, its settings chosen from the corpus."""

    name = "codec"
    _what = "training"
    _settings_file = RUN_SETTINGS

    @property
    def folder(self) -> Path:
        return self._context.record.folder / "codec"

    def check(self, changed: Mapping[str, object]) -> None:
        """Raise ConfigError where the training that is begun cannot go on with `changed` settings."""
        from distill_ray.runs.run_folder import RunFolder, resumed_run

        if self.is_begun:
            resumed_run(RunFolder(path=self.folder), changed, table="training")

    def run(self) -> int:
        from distill_ray.pipeline.train import train_codec

        context, begun, budget = self._context, self.is_begun, self._context.budget
        given = context.settings()
        settings = {key: value for key, value in given.items() if not key.startswith("sweep.")}
        if not begun:
            settings |= self._of_lists(given)
            if budget is not None:  # what is begun keeps its share
                key = "training.max_minutes"
                settings[key] = context.shortened(key, budget.codec_s)
        report = train_codec(
            data=context.corpus_uri(),
            overrides=settings,
            config_file=None,
            out=None if begun else self._results,
            name=None if begun else context.record.name,
            resume=self._results if begun else None,
            plan=context.plan,
            listener=context.listener,
        )
        model = report.config.model
        return self._finish(report, f"{model.codebook_size} codes × {model.num_quantizers} levels")

    def _of_lists(self, given: Mapping[str, object]) -> dict[str, object]:
        """What lists for a search say of what nothing else does: their only values. Others are said not to be
        used.
        """
        values: dict[str, object] = {}
        for each in settings_of(SweepConfig):
            replaced = each.meta["replaces"]
            if not each.is_list or replaced is None or replaced in given:
                continue
            match given.get(each.key):
                case [only]:
                    values[replaced] = only
                case [_, *_]:
                    unused = f"without a search {each.flag} is not used"
                    message = f"{unused}; {replaced} is chosen from the recordings"
                    self._context.listener(Notice(level="warning", message=message))
        return values

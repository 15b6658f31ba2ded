"""Stage `prior`: the prior over the codec's codes, in the same file."""

from __future__ import annotations

import math
from collections.abc import Mapping

from distill_ray.events.records import PlannedStage
from distill_ray.pipeline.budget import PRIOR_MINUTES, TimeBudget
from distill_ray.pipeline.stages.context import PipelineContext, manifest, skipped, will_run
from distill_ray.runs.run_folder import RunFolder, resumed_run, trained_s, was_cut
from distill_ray.runs.settings_file import RUN_SETTINGS, read_settings


class Prior:
    """The prior over the codec's codes, in the same file."""

    name = "prior"

    def __init__(self, context: PipelineContext) -> None:
        self._context = context
        self._folder = RunFolder(path=context.record.model.with_suffix(".prior"))

    def decide(self, after: str | None) -> PlannedStage:
        record = self._context.record
        if after is None and record.model.exists() and self._is_there():
            return skipped(self.name, f"{record.model.name} has a prior for this codec")
        if self._folder.is_begun:
            return will_run(
                self.name, f"goes on with the training in {self._context.shown(self._folder.path)}"
            )
        return will_run(self.name, f"after {after}" if after else "the model has no prior yet")

    def check(self, changed: Mapping[str, object]) -> None:
        """Raise ConfigError where the training that is begun cannot go on with `changed` settings."""
        if self._folder.is_begun and self.name not in self._context.record.done:
            resumed_run(self._folder, changed, table="prior_training")

    def _is_there(self) -> bool:
        """Whether the file has a finished prior for its codec, be it by another command."""
        record = self._context.record
        found = manifest(record.model)
        prior, done = found.prior, record.done.get(self.name)
        if prior is None or prior.codec_sha256 != found.codec_sha256:
            return False
        if done is not None and done["prior_sha256"] == prior.sha256:
            return True
        return not was_cut(self._folder.path) and (done is not None or not self._folder.is_begun)

    def _minutes(self, budget: TimeBudget) -> float:
        """Of its training in all: what it had in the search or in an earlier call, and what is left now. What
        an earlier call gave it is the most.
        """
        before, most = 0.0, math.inf
        if self._folder.is_begun:
            before = trained_s(self._folder.path)
            given = read_settings(self._folder.path / RUN_SETTINGS).settings.get(PRIOR_MINUTES)
            most = given if isinstance(given, int | float) else most
        minutes = (before + budget.prior_left_s) / 60.0
        return max(0.001, round(min(most, minutes), 3))

    def skip(self) -> None:
        record = self._context.record
        prior, done = manifest(record.model).prior, record.done.get(self.name)
        assert prior is not None, "decide has seen it"
        if done is not None and done["prior_sha256"] == prior.sha256:
            self._context.report(self.name, done["report"])
            return
        # Trained by another command: what its file says of it.
        figures = {key: prior.metadata.get(key) for key in ("best_perplexity", "bits_per_second")}
        self._context.report(self.name, {"model_path": str(record.model), **figures})

    def run(self) -> int:
        from distill_ray.pipeline.train import train_code_prior

        context, budget = self._context, self._context.budget
        report = train_code_prior(
            model=context.record.model,
            data=context.corpus_uri(),
            overrides=context.settings(),
            config_file=None,
            plan=context.plan,
            listener=context.listener,
            resume=self._folder.is_begun,
            run=context.results.below(self._folder.path.name),
            minutes=None if budget is None else lambda: self._minutes(budget),
            spare_s=None if budget is None else lambda: budget.spare_s,
            overwrite=True,  # `decide` knows whether the one that is there stays
        )
        document = context.report(self.name, report.to_json())
        if not report.exit_code:
            prior = manifest(context.record.model).prior
            assert prior is not None, "its training has just put it there"
            context.record.finish(self.name, {"prior_sha256": prior.sha256, "report": document})
        return report.exit_code

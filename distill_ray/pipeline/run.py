"""`distill-ray run` from end to end: recordings in, one `.distill` file with codec and prior and samples out.

`stages/` says what there is to do and does it, `record.py` remembers what was done. Called again on
the same folder, it goes on where it was, whatever ended it.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill_ray.config.catalogue import all_settings
from distill_ray.config.check import without_search
from distill_ray.errors import CancelledError, UsageError
from distill_ray.events.records import Event, Notice, PipelinePlan, PlannedStage
from distill_ray.pipeline.advice import Advice
from distill_ray.pipeline.prologue import check_request
from distill_ray.pipeline.record import (
    FILE,
    REPORT,
    PipelineRecord,
    free_folder,
    is_free,
    newest_record,
    open_record,
)
from distill_ray.pipeline.sharing import share_out
from distill_ray.pipeline.stages.codec import Codec, Tune
from distill_ray.pipeline.stages.context import PipelineContext, Stage
from distill_ray.pipeline.stages.prepare import Prepare
from distill_ray.pipeline.stages.prior import Prior
from distill_ray.pipeline.stages.samples import Samples
from distill_ray.report.write import report_run
from distill_ray.runs.going_on import marking, tell_going_on
from distill_ray.runs.inputs import given_settings, refuse_split
from distill_ray.runs.run_folder import OtherOriginError, RunFolder
from distill_ray.runs.workspace import BusyError, Place, ResultFolder, result_folder
from distill_ray.runtime.plan import WorkerPlan
from distill_ray.storage.filesystem import absolute
from distill_ray.training.worker import Listener
from distill_ray.tune.settings import TrialListener
from distill_ray.uri import is_uri

_LEAST_JUDGING, _JUDGING_SHARE = 120.0, 0.05
"""Seconds, and share of the work's time, that judging generated sound may take for the report."""
_EXIT_REASONS = {0: "completed", 1: "failed", 3: "cancelled", 4: "health"}


@dataclass(frozen=True, kw_only=True)
class StageOutcome:
    """`state`: "done", "skipped", "ended" (`PipelineReport.exit_reason` says how) or "not run"."""

    stage: str
    state: str
    reason: str
    elapsed_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class PipelineReport:
    """What was done and what there is now; `reports` of the stages by name."""

    output_dir: Path | str
    model_path: Path | str | None
    stages: tuple[StageOutcome, ...]
    reports: Mapping[str, Mapping[str, Any]]
    samples: tuple[str, ...]
    exit_code: int
    report_path: Path | str | None = None

    @property
    def samples_dir(self) -> str | None:
        """Where the samples are; None without any."""
        return self.samples[0].rpartition("/")[0] if self.samples else None

    def to_json(self) -> dict[str, Any]:
        """The JSON document of `distill-ray run --json`; what there is no report of is null."""
        return {
            "output_dir": str(self.output_dir),
            "model_path": None if self.model_path is None else str(self.model_path),
            "stages": [vars(stage) for stage in self.stages],
            "corpus": self.reports.get("prepare"),
            "tune": self.reports.get("tune"),
            "codec": self.reports.get("codec"),
            "prior": self.reports.get("prior"),
            "samples": list(self.samples),
            "exit_reason": _EXIT_REASONS[self.exit_code],
            "report_path": None if self.report_path is None else str(self.report_path),
        }


def run_everything(
    *,
    sources: Sequence[str],
    overrides: Mapping[str, object],
    config_file: Path | None,
    out: Place | None,
    name: str | None,
    default_name: str,
    resume: Place | None,
    tune: bool | None,
    plan: WorkerPlan,
    address: str | None,
    listener: Listener,
    trial_listener: TrialListener,
    new: bool = False,
    report: bool = False,
    began: float | None = None,
) -> PipelineReport:
    """Make `OUT/NAME.distill` with codec and prior, and sounds in OUT/samples, of recordings.

    `out` is a folder or a URI. `overrides` are settings by dotted TOML key ("generate.count" and its kin
    among them) and win over `config_file`. `resume` is the place of an earlier call, as is an `out` that
    holds one: its sources and settings stand where none are given. Without either an unfinished run of the
    same sources, name and settings goes on, unless `new`. `tune` False trains one codec; None is
    what the earlier call did, else a search. `default_name` is for a new run that gets no `name`. `plan` is
    for the trainings that are no trials, `address` the Ray cluster of the search. `report` writes report.html
    into the folder, unless the work is cancelled. `began` is when the command did, by `time.monotonic`; its
    time budget counts from then.

    Raises UsageError and its kin for what cannot be used, TrainingError and ClusterError for what failed,
    CancelledError for Ctrl-C outside of a training; what is done is kept in all cases.
    """
    given = given_settings(config_file, overrides)
    if len(sources) == 1:
        refuse_split(sources[0], overrides)
    if resume is not None and out is not None:
        raise UsageError(f"--resume {resume} goes on in that folder; leave out --out")
    begin = functools.partial(
        _run,
        sources=sources,
        overrides=overrides,
        given=given,
        name=name,
        default_name=default_name,
        tune=tune,
        plan=plan,
        address=address,
        listener=listener,
        trial_listener=trial_listener,
        new=new,
        report=report,
        began=time.monotonic() if began is None else began,
    )
    if resume is not None:
        return begin(resume, is_there=True)
    if out is not None:
        return begin(out, is_there=False)
    own = None if new else _unfinished(name or default_name, sources, overrides, given, tune, report)
    if own is not None:
        tell_going_on("run", own, listener)
        try:
            return begin(own, is_there=True)
        except (OtherOriginError, BusyError) as error:
            listener(Notice(level="info", message=f"{error}: this is a new run"))
    return begin(free_folder(name or default_name), is_there=False)


def _run(
    place: Place,
    *,
    is_there: bool,
    sources: Sequence[str],
    overrides: Mapping[str, object],
    given: Mapping[str, object],
    name: str | None,
    default_name: str,
    tune: bool | None,
    plan: WorkerPlan,
    address: str | None,
    listener: Listener,
    trial_listener: TrialListener,
    new: bool,
    report: bool,
    began: float,
) -> PipelineReport:
    """`run_everything` at `place`, which must hold a run where `is_there`."""
    if not is_there and not is_uri(place):
        _refuse_foreign(Path(place).expanduser(), place)  # before a lock is put there
    with result_folder(place, listener=listener) as results, marking(RunFolder(path=results.path)):
        listener = results.attended(listener)
        if new and (results.path / FILE).exists():
            raise UsageError(f"{results.shown} holds a run, and --new begins another: choose another --out")
        if is_there or (results.path / FILE).exists():
            record = open_record(results.path, results.shown)
        else:
            _refuse_foreign(results.path, results.shown)
            record = _new_record(results, name or default_name, tune is not False, sources)
        context = PipelineContext(
            results=results,
            record=record,
            plan=plan,
            address=address,
            listener=listener,
            trial_listener=trial_listener,
        )
        codec = Tune(context) if record.tune and not record.no_search else Codec(context)
        prior = Prior(context)
        later_begun = codec.is_begun or codec.name in record.done
        if not later_begun and (name or _absolute(sources) not in ((), record.sources)):
            record.name = name or default_name  # nothing has the old one yet
        if not record.tune:
            given = without_search(given, overrides)
        changed = {stage: record.changed(given, stage) for stage in ("tune", "codec", "prior")}
        record.take(_absolute(sources), name, record.tune if tune is None else tune, given)
        check_request("run", record.settings, plan, tune=record.tune)
        context.began = began
        for stage in (codec, prior):
            stage.check(changed[stage.name])
        advice = Advice()
        context.listener = both(listener, advice, context.slowness.hear)
        stages = (Prepare(context, later_begun=later_begun), codec, prior, Samples(context))
        with _counting(context):
            done = _carry_out(context, stages, report=report)
        if not done.exit_code and (said := advice.sentence()):
            listener(Notice(level="info", message=said))
        if not report or _EXIT_REASONS[done.exit_code] == "cancelled":
            return done
        with _telling(context, "the report"):
            page = _report(context, done)
        record.finish(REPORT, {"path": page and str(page)})
        return replace(done, report_path=page)


def _unfinished(
    name: str,
    sources: Sequence[str],
    overrides: Mapping[str, object],
    given: Mapping[str, object],
    tune: bool | None,
    report: bool,
) -> Path | None:
    """The folder of the newest run of the same command, unless that is finished."""
    searches = tune is not False
    settings = {**_defaults(), **(given if searches else without_search(given, overrides))}
    own = newest_record(
        name, lambda record: record.is_asked_again(_absolute(sources), name, searches, settings)
    )
    return own.folder if own is not None and not own.is_finished(report=report) else None


def _report(context: PipelineContext, done: PipelineReport) -> Path | str | None:
    """Write report.html; what it is called. Its judging may take a share of what the stages took."""
    results, took = context.results, sum(stage.elapsed_s for stage in done.stages)
    budget, limit = context.budget, max(_LEAST_JUDGING, _JUDGING_SHARE * took)
    if budget is not None:
        limit = max(0.0, budget.left_s - budget.page_s)
    page = report_run(
        results.path,
        context.listener,
        data=context.corpus_uri(),
        judge_seconds=limit,
        most_sounds=None if budget is None else budget.page_sounds,
    )
    return page and results.shown_as(page)


def _outcome(item: PlannedStage, state: str, began: float) -> StageOutcome:
    return StageOutcome(stage=item.stage, state=state, reason=item.reason, elapsed_s=time.monotonic() - began)


def _carry_out(context: PipelineContext, stages: Sequence[Stage], *, report: bool) -> PipelineReport:
    record, (prepare, *_) = context.record, stages
    with _telling(context, "the sources are read"):
        planned = _decide(stages)
    record.save()
    began = time.monotonic()
    with _telling(context, "stage prepare"):
        if planned[0].skipped:
            prepare.skip()
        else:
            prepare.run()
        shared = share_out(context, stages, planned, report=report)
    record.save()
    context.listener(PipelinePlan(output_dir=str(record.folder), stages=shared.planned))
    state = "skipped" if planned[0].skipped else "done"
    outcomes = [_outcome(planned[0], state, began)]
    exit_code = 0
    for stage, item in shared.work:
        began = time.monotonic()
        if exit_code:
            state = "not run"
        elif stage is None or item.skipped:
            if stage is not None:
                stage.skip()
            state = "skipped"
        else:
            with _telling(context, f"stage {stage.name}"):
                exit_code = stage.run()
            state = "ended" if exit_code else "done"
        outcomes.append(_outcome(item, state, began))
    return PipelineReport(
        output_dir=context.results.shown,
        model_path=context.results.shown_as(record.model) if record.model.exists() else None,
        stages=tuple(outcomes),
        reports=context.reports,
        samples=tuple(str(context.results.shown_as(path)) for path in context.samples),
        exit_code=exit_code,
    )


@contextlib.contextmanager
def _counting(context: PipelineContext) -> Iterator[None]:
    """Keep what this call has taken for the next one, which has the rest of the budget."""
    before = context.record.spent_s
    try:
        yield
    finally:
        if context.budget is not None:
            context.record.spent_s = before + time.monotonic() - context.began
            with contextlib.suppress(UsageError):
                context.record.save()


def both(*listeners: Listener) -> Listener:
    """One that all of them hear."""

    def hear(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return hear


def _decide(stages: Sequence[Stage]) -> tuple[PlannedStage, ...]:
    planned: list[PlannedStage] = []
    for stage in stages:
        after = next((item.stage for item in reversed(planned) if not item.skipped), None)
        planned.append(stage.decide(after))
    return tuple(planned)


def _refuse_foreign(path: Path, shown: Place) -> None:
    if not is_free(path) and not (path / FILE).exists():
        raise UsageError(
            f"{shown} holds other things than a run of this command; choose a new folder for --out"
        )


def _new_record(results: ResultFolder, name: str, tune: bool, sources: Sequence[str]) -> PipelineRecord:
    if not sources:
        raise UsageError("no source was given; name a folder of recordings or audio files")
    return PipelineRecord(
        folder=results.path,
        shown=results.shown,
        name=name,
        tune=tune,
        sources=_absolute(sources),
        settings=_defaults(),
    )


def _defaults() -> dict[str, object]:
    """The settings that `run` has of its own."""
    return {row.key: row.meta["run_default"] for row in all_settings() if row.meta["run_default"]}


def _absolute(sources: Sequence[str]) -> tuple[str, ...]:
    """Sources that mean the same from another working directory."""
    return tuple(map(absolute, sources))


@contextlib.contextmanager
def _telling(context: PipelineContext, where: str) -> Iterator[None]:
    """Say of Ctrl-C outside of a training where it came."""
    try:
        yield
    except KeyboardInterrupt:
        raise CancelledError(f"stopped at {where}; {context.results.shown} keeps what is done") from None

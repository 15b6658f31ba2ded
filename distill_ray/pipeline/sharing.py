"""What each stage of `run` gets of the time: told once the corpus is there, with the search or without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from distill_ray.config.build import build_sections
from distill_ray.config.resolve import has_budget
from distill_ray.config.sweep import SweepConfig
from distill_ray.events.records import Notice, PlannedStage
from distill_ray.pipeline.budget import TimeBudget, budget_of, least_search_seconds, too_small_for
from distill_ray.pipeline.pace import codec_steps, search_steps
from distill_ray.pipeline.record import REPORT
from distill_ray.pipeline.stages.codec import Codec, Tune
from distill_ray.pipeline.stages.context import PipelineContext, Stage, skipped, will_run
from distill_ray.report.numbers import duration
from distill_ray.tune.space import first_round_size

_LONG_S = 1800.0
"""A stage that takes longer without a budget is worth a warning."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """`work`: what there is to do, without prepare; a stage that is left out is None. `planned`: the rows of
    all, that of the report last.
    """

    work: tuple[tuple[Stage | None, PlannedStage], ...]
    planned: tuple[PlannedStage, ...]


def share_out(
    context: PipelineContext, stages: Sequence[Stage], planned: Sequence[PlannedStage], *, report: bool
) -> Shared:
    """The stages with what each is expected to take; the search gives way to one codec where there is too
    little time for it. The corpus must be there.
    """
    from distill_ray.report.judging import expected_seconds

    corpus, record = context.corpus, context.record
    assert corpus is not None, "prepare comes first"
    budget = budget_of(
        record.settings,
        spent_s=record.spent_s,
        began=context.began,
        judge_s=expected_seconds(corpus) if report else 0.0,
        corpus_s=corpus.seconds("train"),
        slowness=context.slowness,
    )
    context.budget = budget
    work: list[tuple[Stage | None, PlannedStage]] = list(zip(stages[1:], planned[1:], strict=True))
    codec, row = stages[1], planned[1]
    new = isinstance(codec, Tune | Codec) and not codec.is_begun and not row.skipped
    if new and isinstance(codec, Tune) and budget is not None:
        record.no_search = _too_little_time(context, budget)
        if record.no_search:
            codec = Codec(context)
            work[:1] = [
                (None, skipped(Tune.name, record.no_search)),
                (codec, will_run(codec.name, "instead of a search")),
            ]
            work[2:] = [(later, later.decide(codec.name)) for later in stages[2:]]
    expected: Mapping[str, float] = {}
    if budget is not None:
        expected = budget.expected(codec.name)
    elif new:
        expected = _unlimited(context, codec)
    rows = [planned[0], *(item for _, item in work)]
    if report:
        judges = budget is None or budget.judges
        reason = "with the judge of generated sound" if judges else "without the judge, for lack of time"
        rows.append(will_run(REPORT, reason))
    timed = tuple(replace(item, expected_s=expected.get(item.stage)) for item in rows)
    return Shared(work=tuple(work), planned=timed)


def _too_little_time(context: PipelineContext, budget: TimeBudget) -> str:
    """Why there is no search; "" where there is time for one."""
    settings = context.settings()
    sweep = build_sections((SweepConfig,), settings)[SweepConfig]
    if budget.codec_s < least_search_seconds(sweep):
        return f"{duration(budget.codec_s)} are too little for starting the trials of a search"
    assert context.corpus is not None, "prepare comes first"
    steps, _ = search_steps(context.corpus, settings, context.address)
    return too_small_for(sweep, steps, budget.codec_s)


def _unlimited(context: PipelineContext, codec: Stage) -> Mapping[str, float]:
    """What the codec's stage takes without any budget, as far as it is worth measuring."""
    settings, corpus = context.settings(), context.corpus
    assert corpus is not None, "prepare comes first"
    if any(has_budget(settings, table) for table in ("training", "sweep")):
        return {}
    if isinstance(codec, Tune):
        sweep = build_sections((SweepConfig,), settings)[SweepConfig]
        steps, epochs = search_steps(corpus, settings, context.address)
        seconds = steps.search_seconds(sweep, trials=first_round_size(sweep), epochs=epochs or 0)
    else:
        steps, epochs = codec_steps(corpus, settings)
        seconds = (epochs or 0) * steps.per_epoch * steps.seconds
    if seconds > _LONG_S:
        takes = f"takes about {duration(seconds)} on this machine"
        message = f"without --max-minutes the stage {codec.name} {takes}"
        context.listener(Notice(level="warning", message=message))
    return {codec.name: seconds}

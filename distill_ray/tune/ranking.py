"""Which codec of a search is best: candidates, Pareto front and winner, and what to try where there is none.

A candidate is a trial at one of the depths that it was scored at. Bigger codebooks and deeper stacks nearly
always reconstruct better, so the ranking weighs rate: nothing above `max_kbps` can win, and the front shows
what each rate buys. `finalists.py` chooses with it which candidates are trained at their own depth.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from distill_ray.config.sweep import SweepConfig
from distill_ray.config.vqvae import LossConfig
from distill_ray.events.records import CandidateRow, DepthScore, GeneratedScore
from distill_ray.tune.trial import FINISHED, TrialRecord, kbps
from distill_ray.vqvae.health import HealthRule


def _is_within(rate: float, sweep: SweepConfig) -> bool:
    """Whether a codec of this rate in kbit/s may win."""
    return rate <= sweep.max_kbps * (1.0 + 1e-9)  # a limit typed as the exact rate admits it


def missed_limit(rates: Sequence[float], sweep: SweepConfig) -> float | None:
    """The least limit in hundredths of a kbit/s that admits one of the rates; None where one is within."""
    if not rates or any(_is_within(rate, sweep) for rate in rates):
        return None
    return math.ceil(min(rates) * 100.0) / 100.0


def candidates(
    records: Sequence[TrialRecord], sweep: SweepConfig, rule: HealthRule
) -> tuple[CandidateRow, ...]:
    """Every scored (trial, depth) of all rounds: eligible ones first, best first.

    At most one is `chosen`: the best eligible one that was trained at just this depth, so that its file is
    what was scored. Trials without scores have no row. The order of `records` does not matter.
    """
    rows: list[CandidateRow] = []
    healthy: list[CandidateRow] = []
    as_trained: set[CandidateRow] = set()
    margin = _Margin.of(records, sweep, rule)
    for record in records:
        for score in record.depth_scores:
            illness = _illness(record, score, rule)
            objection = _objection(record, score, sweep) or margin.objection(record, score)
            judged = generated_at(record, score.levels)
            row = CandidateRow(
                trial=record.spec.id,
                codebook_size=record.spec.codebook_size,
                rvq_levels=score.levels,
                kbps=_kbps_of(record, score),
                objective=_objective(record, score, sweep),
                val_loss=score.val_loss,
                mel=score.mel,
                eligible=not illness and not objection,
                reason=illness or objection,
                on_front=False,
                chosen=False,
                decoded=judged.decoded if judged else None,
                generated=judged.generated if judged else None,
                below_histogram=record.below_histogram,
            )
            rows.append(row)
            if not illness:
                healthy.append(row)
            if score.levels == record.spec.rvq_levels:
                as_trained.add(row)
    front = set(pareto_front(healthy, sweep.objective))
    able = [row for row in as_trained if row.eligible and row.objective is not None]
    best = min(able, key=lambda row: (row.objective, *order(row, sweep.objective)), default=None)
    marked = [
        dataclasses.replace(
            row,
            on_front=row in front,
            chosen=row is best,
            reason=row.reason or _standing(row, best, is_cut=row not in as_trained),
        )
        for row in rows
    ]
    return tuple(sorted(marked, key=lambda row: (not row.eligible, *order(row, sweep.objective))))


def _standing(row: CandidateRow, best: CandidateRow | None, *, is_cut: bool) -> str:
    """What there is to say of an eligible row."""
    if row is best:
        return "best"
    if is_cut:
        return "cut short: its trial has more levels"
    if row.objective is None or best is None or best.objective is None:
        return "no prior was trained on its codes"
    if row.objective == best.objective:
        return "as good as the best, which comes first by rate or name"
    behind = row.objective / best.objective - 1.0
    return f"{behind:.0%} behind the best" if behind >= 0.005 else "less than 1% behind the best"


def order(row: CandidateRow, objective: str = "reconstruction") -> tuple[float, float, str, int]:
    """Sorts candidates by held-out loss, for generation by the generated distance, best first; then the lower
    rate, then the smaller id.

    A retrained finalist takes the place that the trial it comes from has in the alphabet.
    """
    return _compared(row, objective), row.kbps, row.trial.removeprefix("final-"), row.rvq_levels


def _compared(row: CandidateRow, objective: str) -> float:
    value = row.generated if objective == "generation" else row.val_loss
    return value if value is not None and math.isfinite(value) else math.inf


def pareto_front(rows: Sequence[CandidateRow], objective: str = "reconstruction") -> tuple[CandidateRow, ...]:
    """The rows that no other one beats in both rate and what `order` compares, by rising rate.

    Of rows that are equal in both, the first by `order` is on the front.
    """
    front: list[CandidateRow] = []
    for row in sorted(rows, key=lambda row: (row.kbps, order(row, objective))):
        if not front or _compared(row, objective) < _compared(front[-1], objective):
            front.append(row)
    return tuple(front)


def generated_at(record: TrialRecord, levels: int) -> GeneratedScore | None:
    """The judge's word on a trial with its first `levels` levels."""
    return next((score for score in record.generated if score.levels == levels), None)


def best_generated(record: TrialRecord, sweep: SweepConfig) -> GeneratedScore | None:
    """The judge's word on the depth within the rate limit that generates best; None where there is none."""
    spec = record.spec
    within = [
        score
        for score in record.generated
        if math.isfinite(score.generated)
        and _is_within(kbps(spec.codebook_size, score.levels, record.frame_rate), sweep)
    ]
    return min(within, key=lambda score: (score.generated, score.levels), default=None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Margin:
    """What objective generation has against a candidate. `least`: the smallest distance that decoded held-out
    audio has among healthy candidates; None for other objectives, or before anything was judged.
    """

    sweep: SweepConfig
    least: float | None

    @classmethod
    def of(cls, records: Sequence[TrialRecord], sweep: SweepConfig, rule: HealthRule) -> _Margin:
        decoded = [
            judged.decoded
            for record in records
            for score in record.depth_scores
            if (judged := generated_at(record, score.levels)) is not None
            and not _illness(record, score, rule)
            and not _objection(record, score, sweep)
            and math.isfinite(judged.decoded)
        ]
        return cls(sweep=sweep, least=min(decoded, default=None))

    def objection(self, record: TrialRecord, score: DepthScore) -> str:
        if self.sweep.objective != "generation":
            return ""
        judged = generated_at(record, score.levels)
        if judged is None or self.least is None:
            return "its sounds were not judged"
        if record.copied:
            return "copies training audio"
        most = self.least * (1.0 + self.sweep.decoded_margin)
        if judged.decoded <= most:
            return ""
        above = judged.decoded / self.least - 1.0
        return (
            f"decoded {above:.0%} above the best's {self.least:.2f}, margin {self.sweep.decoded_margin:.0%}"
        )


def winner(rows: Sequence[CandidateRow]) -> CandidateRow | None:
    """The chosen one of `candidates`, if there is one."""
    return next((row for row in rows if row.chosen), None)


def trial_objective(
    scores: Sequence[DepthScore], sweep: SweepConfig, codebook_size: int, frame_rate: float
) -> float | None:
    """The figure by which a running trial is compared with others (ASHA, Optuna); lower is better.

    The best held-out loss of the depths within the rate limit; where none is, that of the shallowest depth.
    None without a finite score.
    """
    finite = [score for score in scores if math.isfinite(score.val_loss)]
    within = [
        score.val_loss for score in finite if _is_within(kbps(codebook_size, score.levels, frame_rate), sweep)
    ]
    if within:
        return min(within)
    return min(finite, key=lambda score: score.levels).val_loss if finite else None


def definition(sweep: SweepConfig, loss: LossConfig | None = None) -> str:
    """One sentence that says what the winner is best in. `loss`: the weights that the trials train with."""
    weights = loss or LossConfig()
    measured = (
        f"held-out reconstruction loss ({weights.mel:g} × log-mel + {weights.bands:g} × band levels "
        f"+ {weights.complex_stft:g} × complex STFT + {weights.waveform:g} × waveform, of the averaged "
        "weights of the best epoch, on the corpus's validation split by file)"
    )
    limits = f"codecs without a collapsed codebook at or below {sweep.max_kbps:g} kbit/s"
    if sweep.objective == "generation":
        return (
            "the least joint Fréchet distance to the training audio (ratio to the floor of its interleaved "
            "halves) of what a short prior on the codec's codes generates, among "
            f"{limits} of which no level is lost to a shift by a quarter of a frame or to the prior, whose "
            f"decoded held-out audio is at most {sweep.decoded_margin:.0%} farther off than the best one's, "
            "and whose sounds are no copies"
        )
    if sweep.objective == "reconstruction":
        return f"the lowest {measured} among {limits}; equal ones by the lower rate"
    return (
        f"the fewest held-out bits per second under a short prior among {limits}, taking of each of the best "
        f"{sweep.finalists} codebook sizes the smallest depth whose {measured} is no higher than that of the "
        "worst of these sizes at its best depth"
    )


def advice(records: Sequence[TrialRecord], sweep: SweepConfig, rule: HealthRule) -> str:
    """What to try where no codec could be chosen, in one sentence; empty where one was."""
    rows = candidates(records, sweep, rule)
    if winner(rows) is not None:
        return ""
    if not records:
        return "no trial has run"
    judged = [
        (record, score, _illness(record, score, rule)) for record in records for score in record.depth_scores
    ]
    healthy = [(record, score) for record, score, illness in judged if not illness]
    parts = [
        *_finals_advice(records, rows),
        *_rate_advice([_kbps_of(record, score) for record, score in healthy], sweep),
        *_health_advice(records, judged),
        *_early_end_advice(records),
        *_failure_advice(records),
    ]
    return "; ".join(parts) or "no trial has finished: go on with --resume"


def _finals_advice(records: Sequence[TrialRecord], rows: Sequence[CandidateRow]) -> list[str]:
    depths = {record.spec.id: record.spec.rvq_levels for record in records}
    eligible = [row for row in rows if row.eligible]
    if not eligible:
        return []
    if any(row.rvq_levels == depths[row.trial] for row in eligible):
        return ["no prior was trained on the codes of a finalist: go on with --resume"]
    lost = [record for record in records if record.spec.round == "final" and record.state in FINISHED]
    if not lost:
        return ["no finalist was trained at its own depth: go on with --resume"]
    names = ", ".join(f"{record.spec.id} ({record.reason or record.state})" for record in lost)
    return [f"no finalist came through the training at its own depth: {names}"]


def _rate_advice(rates: Sequence[float], sweep: SweepConfig) -> list[str]:
    least = missed_limit(rates, sweep)
    if least is None:
        return []
    return [
        f"every healthy codec is above {sweep.max_kbps:g} kbit/s: raise --max-kbps to at least {least:g}, "
        "or add lower --rvq-levels or smaller --codebook-sizes"
    ]


def _health_advice(
    records: Sequence[TrialRecord], judged: Sequence[tuple[TrialRecord, DepthScore, str]]
) -> list[str]:
    low = {
        record.spec.id: record
        for record, score, illness in judged
        if record.state in ("completed", "pruned") and illness and math.isfinite(score.val_loss)
    }
    low |= {record.spec.id: record for record in records if record.state == "collapsed"}
    if not low:
        return []
    smaller = max(16, min(record.spec.codebook_size for record in low.values()) // 2)
    return [
        f"{len(low)} of {len(records)} trials had a level below a floor of the health rule: try smaller "
        f"--codebook-sizes (such as {smaller}), fewer --rvq-levels or more audio, and leave re-seeding on "
        "(model.reseed_threshold above 0)"
    ]


def _early_end_advice(records: Sequence[TrialRecord]) -> list[str]:
    pruned = sum(record.state == "pruned" for record in records)
    return [f"{pruned} trials were ended early: try --scheduler none"] if pruned else []


def _failure_advice(records: Sequence[TrialRecord]) -> list[str]:
    failed = [record for record in records if record.state == "failed"]
    if not failed:
        return []
    first = f"{failed[0].spec.id}: {failed[0].reason or 'no reason recorded'}"
    named = ", ".join(sorted(f"trials/{record.spec.id}" for record in failed)[:_NAMED])
    more = f" and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
    return [f"{len(failed)} of {len(records)} trials failed ({first}): look at the logs in {named}{more}"]


_NAMED = 5  # folders that a sentence can hold


def _illness(record: TrialRecord, score: DepthScore, rule: HealthRule) -> str:
    """Why this codec is not healthy; empty where it is."""
    if record.state not in FINISHED:
        return "not finished"
    if record.state == "failed":
        return f"failed: {record.reason}" if record.reason else "failed"
    if record.state == "collapsed":
        return record.reason or f"collapsed level {record.collapsed_level}"
    if not math.isfinite(score.val_loss):
        return f"its held-out loss is {score.val_loss}"
    if len(record.codebook_health) < score.levels:
        return "codebook health was not measured"
    for level, health in enumerate(record.codebook_health[: score.levels]):
        low = rule.low(health)
        if math.isnan(health.utilization):
            return f"level {level}: its utilization is no number"
        if low is not None:
            return f"level {level}: {low.words}"
    return ""


def _objection(record: TrialRecord, score: DepthScore, sweep: SweepConfig) -> str:
    """Why a healthy codec may not win all the same."""
    if record.state == "pruned":
        return record.reason or f"ended early by {sweep.scheduler}"
    return "" if _is_within(_kbps_of(record, score), sweep) else f"over {sweep.max_kbps:g} kbit/s"


def _objective(record: TrialRecord, score: DepthScore, sweep: SweepConfig) -> float | None:
    figure: float | None = score.val_loss
    if sweep.objective == "generation":
        judged = generated_at(record, score.levels)
        figure = None if judged is None else judged.generated
    if sweep.objective == "prior-bits":
        # The prior was trained on the codes of all levels, so only that depth has the figure.
        figure = record.prior_bits_per_second if score.levels == record.spec.rvq_levels else None
    return figure if figure is not None and math.isfinite(figure) else None


def _kbps_of(record: TrialRecord, score: DepthScore) -> float:
    return kbps(record.spec.codebook_size, score.levels, record.frame_rate)

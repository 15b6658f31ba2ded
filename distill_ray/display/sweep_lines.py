"""A search and a pipeline's plan as plain lines."""

from __future__ import annotations

from distill_ray.display import figures
from distill_ray.display.fitting import hung, listed
from distill_ray.display.sweep import ENDED, RUNNING, SweepHistory
from distill_ray.events.records import (
    CandidateRow,
    PipelinePlan,
    ShownSetting,
    SweepCompleteEvent,
    SweepStarted,
    TrialUpdate,
)


def sweep_opening(event: SweepStarted, width: int | None = None) -> list[str]:
    """What is searched, how, on what and what the winner is best in."""
    finals = f", then {figures.count(event.finalists, 'finalist')}" if event.finalists else ""
    gpus = "the CPU" if not event.gpus_per_trial else f"{event.gpus_per_trial:g} GPU"
    lines = [
        f"searching the codec {event.name}: {figures.count(event.trials, 'trial')} (plan {event.plan}, "
        f"{event.search} search){finals}; {event.concurrent} at a time, each "
        f"{figures.count(event.workers_per_trial, 'worker')} on {gpus}",
        f"objective {event.objective}: {event.objective_definition}",
        f"bit rate of the winner: at most {event.max_kbps:g} kbps",
    ]
    return [*lines, *settings_lines(event.settings, width), f"search folder: {event.output_dir}"]


def settings_lines(settings: tuple[ShownSetting, ...], width: int | None = None) -> list[str]:
    """One paragraph, or none where there is no setting to show."""
    shown = [f"{item.name} {item.value} ({item.source})" for item in settings]
    return [listed("settings:", shown, width)] if shown else []


def state_line(event: TrialUpdate, sweep: SweepHistory) -> str:
    """A trial has begun, ended or is tried again: its state, why, its figures, and how many are left."""
    parts = [f"trial {event.trial}: {described(event)}"]
    if event.state in RUNNING:
        parts.append(f"{event.codebook_size} codes × {event.rvq_levels} levels")
        parts.append(f"{figures.number(event.kbps)} kbps")
        if event.device:
            parts.append(f"on {event.device}")
    else:
        parts += [f"after {figures.count(event.epoch, 'epoch')}", *trial_figures(event)]
        spent = sweep.spent_by(event)
        if spent:
            parts.append(f"{figures.number(spent)} {sweep.unit}")
    return "  ".join([*parts, f"({', '.join([ended_words(sweep), *left_words(sweep)])})"])


def ended_words(sweep: SweepHistory) -> str:
    """ "2 of 9 ended, 1 running"."""
    return f"{sweep.count(ENDED)} of {sweep.expected} ended, {sweep.count(RUNNING)} running"


def left_words(sweep: SweepHistory) -> list[str]:
    """ "about 5:00 left"; none where nobody knows."""
    left = sweep.left_s()
    return [] if left is None else [f"about {figures.duration(left)} left"]


def trial_epoch_line(event: TrialUpdate) -> str:
    """The figures of a running trial's newest epoch."""
    of = f"/{event.epochs}" if event.epochs else ""
    return "  ".join([f"trial {event.trial}: epoch {event.epoch}{of}", *trial_figures(event)])


def trial_figures(event: TrialUpdate) -> list[str]:
    """Held-out loss, mel, the worst level and the judge's figures, as far as they are known."""
    parts = []
    if event.val_loss is not None:
        parts.append(f"held-out {figures.number(event.val_loss)}")
    if event.mel is not None:
        parts.append(f"mel {figures.number(event.mel)}")
    if event.worst_level is not None and event.worst_utilization is not None:
        parts.append(f"worst level {event.worst_level}: {figures.percent(event.worst_utilization)} used")
    if event.worst_kept is not None:
        parts.append(f"kept {figures.percent(event.worst_kept)}")
    if event.below_histogram is not None:
        parts.append(f"prior {figures.percent(event.below_histogram)} below histogram")
    if event.generated is not None and event.decoded is not None:
        parts.append(f"generated {figures.number(event.generated)} × the floor")
        parts.append(f"decoded {figures.number(event.decoded)} ×")
    return parts


_STAGES = {
    "start": "starts",
    "encode": "encodes",
    "prior": "its prior",
    "generate": "generates",
    "judge": "is judged",
}


def described(event: TrialUpdate) -> str:
    """The state and its reason without saying a word twice; how far a running trial is; how a completed one
    stands.
    """
    state = event.state
    if state == "running" and event.stage:
        state = f"running: {_STAGES.get(event.stage, event.stage)}"
    elif state == "running" and event.fraction:
        state = f"running {figures.percent(event.fraction)}"
        if event.eta_s is not None:
            state += f", {figures.duration(event.eta_s)} left"
    if state == "completed" and event.verdict:
        return event.verdict
    if not event.reason:
        return state
    return event.reason if event.reason.startswith(event.state) else f"{state}: {event.reason}"


def sweep_ending(event: SweepCompleteEvent, sweep: SweepHistory) -> list[str]:
    """Who has won, or what to do where nobody has."""
    spent = f"{figures.duration(event.elapsed_s)}, {figures.number(sweep.spent)} {sweep.unit}"
    if event.exit_reason == "cancelled":
        head = f"search cancelled after {spent}"
    elif event.exit_reason == "health":
        head = f"search ended without a healthy codec within the bit rate after {spent}"
    elif event.exit_reason == "failed":
        head = f"search failed after {spent}: no trial came to its end"
    else:
        head = f"search completed in {spent}"
    winner = winning(event)
    lines = [head if winner is None else f"{head}; best: {candidate_words(winner)}"]
    return [*lines, event.advice] if event.advice else lines


def winning(event: SweepCompleteEvent) -> CandidateRow | None:
    """The candidate that was chosen."""
    return next((row for row in event.candidates if row.chosen), None)


def candidate_words(row: CandidateRow) -> str:
    """ "256 codes × 4 levels, 2.756 kbps (trial k256-q8)"."""
    return (
        f"{row.codebook_size} codes × {row.rvq_levels} levels, {figures.number(row.kbps)} kbps "
        f"(trial {row.trial})"
    )


def plan_lines(event: PipelinePlan, columns: int | None = None) -> list[str]:
    """One line a stage: will it run, how long it is expected to take, and why."""
    width = max((len(item.stage) for item in event.stages), default=0)
    times = [
        "" if item.skipped or item.expected_s is None else f"about {figures.budget(item.expected_s / 60)}"
        for item in event.stages
    ]
    column = max(map(len, times), default=0)
    stages = (
        hung(
            f"  {item.stage:<{width}}  {'skipped ' if item.skipped else 'will run'}"
            f"{f'  {time:<{column}}' if column else ''}  ",
            item.reason,
            columns,
        )
        for item, time in zip(event.stages, times, strict=True)
    )
    return [f"stages of {event.output_dir}:", *stages]

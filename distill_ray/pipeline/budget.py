"""How the one time budget of `distill-ray run` is shared out, and how long a run without one takes.

Each stage gets its share of what is left when it begins, so that what an earlier one took too long or did not
need is the later ones' loss or gain. `pace.py` measures what a step takes on this machine's CPUs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from distill_ray.config.build import build_sections
from distill_ray.config.generation import GenerationSettings
from distill_ray.config.sweep import SweepConfig
from distill_ray.pipeline.slowness import Slowness
from distill_ray.report.numbers import duration
from distill_ray.tune.space import final_round_size, first_round_size, waves
from distill_ray.tune.step_budget import LEAST_EPOCHS

TOTAL, PRIOR_MINUTES = "pipeline.max_minutes", "prior_training.max_minutes"
_PRIOR_SHARES = {"generation": 0.65, "compression": 0.35}
"""Of the time of both trainings, by the codec's purpose, unless --prior-minutes says otherwise; a search
takes the codec's part. A codec for generation is as good as ready when it starts (decision 27).
"""
_SOUNDS_SHARE, _PAGE_SHARE, _JUDGE_SHARE = 0.04, 0.01, 0.15
"""Of the whole: the sounds and the page without its judge at least, and the judge at most."""
_PRIOR_ENDING = 0.1
"""Of the prior's time at least: its last validation, memorisation and writing the file."""
_SOUND_S, _ENDING_S, _COPIES_S = 0.08, 9.0, 0.01
_PAGE_S, _PAGE_SOUND_S, _PAGE_SOUNDS = 3.0, 0.18, 24
"""What these take on a core that nobody else wants (2026-11-30, the smallest models): a second of sound; the
prior's temperatures, last validation and file; looking for copies of a second of training audio; the page
and the end of the program; each sound of the page, which has about so many."""
_MOST_SOUNDS, _MOST_PAGE, _MOST_ENDING = 0.2, 0.1, 0.2
"""Of the whole, however slow the machine is at the moment: what keeps it busy may be over by then."""
_LEAST_S = 1.0
_LEAST_SOUND_S, _LEAST_PAGE_SOUNDS = 1.0, 4
"""What is made however late it is."""
_RAY_S, _TRIAL_S = 15.0, 10.0
"""What starting Ray and each round of trials takes before the first step, about."""


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What a search would do: `per_epoch` steps of `seconds` each, of one trial with the machine for itself;
    `concurrent` trials run at a time.
    """

    per_epoch: int
    seconds: float
    concurrent: int

    def search_seconds(self, sweep: SweepConfig, *, trials: int, epochs: int) -> float:
        """What a search of `trials` takes where each trains for so many epochs."""
        begun = waves(sweep, trials=trials, concurrent=self.concurrent)
        return _RAY_S + begun * (_TRIAL_S + epochs * self.per_epoch * self.seconds * self.concurrent)


@dataclass(kw_only=True)
class TimeBudget:
    """`total_s` seconds for the whole command, of which `spent_s` went before `began` (by `clock`).

    prior_share: the prior's of what both trainings take; prior_s: what its stage may take instead; judge_s:
    what the judge takes; sound_s: seconds of sound to be made; corpus_s: of training audio. What the last
    stages take is reckoned with the `slowness` of the moment.
    """

    total_s: float
    spent_s: float
    began: float
    prior_share: float = _PRIOR_SHARES["generation"]
    prior_s: float | None = None
    judge_s: float = 0.0
    sound_s: float = 0.0
    corpus_s: float = 0.0
    clock: Callable[[], float] = time.monotonic
    slowness: Callable[[], float] = field(default_factory=Slowness)

    @property
    def left_s(self) -> float:
        return self.total_s - self.spent_s - (self.clock() - self.began)

    @property
    def page_s(self) -> float:
        """What the page takes without its judge."""
        needed = (_PAGE_S + _PAGE_SOUNDS * _PAGE_SOUND_S) * self.slowness()
        return min(max(_PAGE_SHARE * self.total_s, needed), _MOST_PAGE * self.total_s)

    @property
    def report_s(self) -> float:
        """What the page takes, with its judge where there is time for it."""
        return self.page_s + (self.judge_s * self.slowness() if self.judges else 0.0)

    @property
    def judges(self) -> bool:
        """Whether there is time to judge the sounds."""
        return self.judge_s * self.slowness() <= _JUDGE_SHARE * self.total_s

    @property
    def sounds_s(self) -> float:
        needed = _SOUND_S * self.sound_s * self.slowness()
        return min(max(_SOUNDS_SHARE * self.total_s, needed), _MOST_SOUNDS * self.total_s)

    @property
    def trainings_s(self) -> float:
        """What is left for the trainings that have not begun, with their endings."""
        return max(0.0, self.left_s - self.report_s - self.sounds_s)

    @property
    def ending_s(self) -> float:
        """What follows the prior's last step, where it has all the time that it might need."""
        needed = (_ENDING_S + _COPIES_S * self.corpus_s) * self.slowness()
        return min(needed, _MOST_ENDING * self.total_s)

    @property
    def codec_s(self) -> float:
        """For the search or the codec, as they begin."""
        left, ending = self.trainings_s, self.ending_s
        prior = (
            self.prior_s if self.prior_s is not None else self.prior_share * max(0.0, left - ending) + ending
        )
        return max(_LEAST_S, left - prior)

    @property
    def prior_left_s(self) -> float:
        """For the prior's steps, as the first one begins."""
        left = self.trainings_s
        if self.prior_s is not None and self.prior_s < left:
            return max(
                _LEAST_S, self.prior_s - max(_PRIOR_ENDING * self.prior_s, self.ending_s), self.prior_s / 2
            )
        return max(_LEAST_S, left - max(_PRIOR_ENDING * left, self.ending_s))

    @property
    def spare_s(self) -> float:
        """What sounds and page leave of the rest, for what the end of the prior can do without."""
        return self.left_s - self.page_s - self.sounds_s

    def seconds_of_sound(self, wanted: float) -> float:
        """How long a sound of `wanted` seconds is, of which at least one is made."""
        fits = (self.left_s - self.page_s) / (_SOUND_S * self.slowness())
        return min(wanted, max(_LEAST_SOUND_S, round(fits, 1)))

    def has_time_for_sound(self, takes_s: float) -> bool:
        """Whether another sound that takes so long is made before the page."""
        return self.left_s - self.page_s >= takes_s

    def page_sounds(self) -> int:
        """How many sounds the page has time for, as it begins."""
        fits = (self.left_s / self.slowness() - _PAGE_S) / _PAGE_SOUND_S
        return max(_LEAST_PAGE_SOUNDS, math.floor(fits))

    def expected(self, codec: str) -> dict[str, float]:
        """Seconds by stage, `codec` being the one that trains or searches for the codec."""
        prior = self.trainings_s - self.codec_s
        return {codec: self.codec_s, "prior": prior, "samples": self.sounds_s, "report": self.report_s}


def least_search_seconds(sweep: SweepConfig) -> float:
    """What the rounds of the smallest search take before their first steps, however fast the machine."""
    return _RAY_S + _TRIAL_S * (1 + (final_round_size(sweep) > 0))


def too_small_for(sweep: SweepConfig, steps: Steps, seconds: float) -> str:
    """Why there is no search in so many seconds; "" where there is time for one."""
    trials = min(first_round_size(sweep), max(2, steps.concurrent))
    needed = steps.search_seconds(sweep, trials=trials, epochs=LEAST_EPOCHS)
    if needed <= seconds:
        return ""
    return (
        f"{trials} trials of {LEAST_EPOCHS} epochs take about {duration(needed)} here, and the budget leaves "
        f"{duration(seconds)} for a search"
    )


def budget_of(
    settings: Mapping[str, object],
    *,
    spent_s: float,
    began: float,
    judge_s: float,
    corpus_s: float,
    slowness: Callable[[], float],
) -> TimeBudget | None:
    """The time budget that settings give, by dotted key; None without one."""
    total, prior = settings.get(TOTAL), settings.get(PRIOR_MINUTES)
    if not isinstance(total, int | float):
        return None
    sounds = build_sections((GenerationSettings,), settings)[GenerationSettings]
    return TimeBudget(
        total_s=60.0 * total,
        spent_s=spent_s,
        began=began,
        prior_share=_PRIOR_SHARES[str(settings.get("model.purpose", "generation"))],
        prior_s=60.0 * prior if isinstance(prior, int | float) else None,
        judge_s=judge_s,
        sound_s=sounds.count * sounds.seconds,
        corpus_s=corpus_s,
        slowness=slowness,
    )

"""The outer guard of the health rule: ends a trial that reports on although its codebook has collapsed.

The loop itself obeys the rule (`training/vqvae.py`) and keeps a checkpoint as it ends; Ray Tune would end it
at once. So the guard waits for a report that a loop that obeys does not make.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray import tune

from distill_ray.vqvae.health import Collapse, EpochHealth, HealthRule, LevelHealth, reports


class HealthStopper(tune.Stopper):  # type: ignore[misc]
    """A report has the keys "trial", "epoch" (from 1), "measured" and "health" (a dictionary of each
    `LevelHealth`), as `EpochHealth` has them.

    rule: None where it shall end no trial. before: the epochs of a trial that its checkpoint had when it was
    (re)started. on_collapse: is told of each trial that is ended. is_aborted: whether all shall end at once.
    All are called in Tune's thread.
    """

    def __init__(
        self,
        rule: HealthRule | None,
        *,
        before: Callable[[str], Sequence[EpochHealth]],
        on_collapse: Callable[[str, Collapse], None],
        is_aborted: Callable[[], bool],
    ) -> None:
        self._rule = rule
        self._before = before
        self._on_collapse = on_collapse
        self._is_aborted = is_aborted
        self._epochs: dict[str, list[EpochHealth]] = {}

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Whether the trial of this report is to be ended."""
        if self._rule is None or "epoch" not in result:  # stopped before its first epoch
            return False
        trial, epoch = result["trial"], result["epoch"]
        known = self._epochs.setdefault(trial, list(self._before(trial)))
        del known[epoch - 1 :]  # the trial went on from a checkpoint before them
        collapse = self._rule.judge(reports(known))
        levels = tuple(LevelHealth(**level) for level in result["health"])
        known.append(EpochHealth(levels=levels, measured=result["measured"]))
        if collapse is not None:
            self._on_collapse(trial, collapse)
        return collapse is not None

    def stop_all(self) -> bool:
        return self._is_aborted()

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        """Tune keeps a copy for `Tuner.restore`, which is not used here."""
        return object, ()

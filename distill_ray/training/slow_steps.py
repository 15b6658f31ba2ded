"""Tells when the steps of a run have become much slower than they were, as other programs make them."""

from __future__ import annotations

import math
import os

from distill_ray.events.records import Notice

_TIMES = 3.0
_WINDOW_S, _WINDOW_STEPS = 5.0, 5
_SKIPPED_STEPS = 3  # the first ones also set up and compile


class SlowSteps:
    """Compares windows of some seconds with the fastest one before; warns once in a run.

    `on_cpu`: whether the steps are computed there. On a GPU they may also grow by design, when discriminators
    begin to take part, so there the machine's load must say the same.
    """

    def __init__(self, *, on_cpu: bool) -> None:
        self._on_cpu = on_cpu
        self._fastest_s = math.inf
        self._steps = -_SKIPPED_STEPS
        self._start_s: float | None = None
        self._warned = False

    def after_step(self, training_s: float) -> Notice | None:
        """A step has ended after `training_s` seconds of training; the warning, if it is due."""
        self._steps += 1
        if self._steps <= 0 or self._start_s is None:
            self._start_s, self._steps = training_s, min(self._steps, 0)
            return None
        spent_s = training_s - self._start_s
        if spent_s < _WINDOW_S or self._steps < _WINDOW_STEPS:
            return None
        step_s = spent_s / self._steps
        slower, self._start_s, self._steps = step_s / self._fastest_s, training_s, 0
        self._fastest_s = min(self._fastest_s, step_s)
        if slower < _TIMES or self._warned:
            return None
        reason = _reason(self._on_cpu)
        if not reason:
            return None
        self._warned = True
        return Notice(
            level="warning", message=f"steps took {slower:.1f} × as long as before in this run: {reason}"
        )


def _reason(on_cpu: bool) -> str:
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores + 1:
        return (
            f"other programs were using this machine too (load {load:.1f} on {cores} cores), and a budget of "
            "minutes holds fewer steps then"
        )
    if not on_cpu:
        return ""
    return (
        f"the machine's load ({load:.1f} on {cores} cores) does not explain it; its processor may have been "
        "throttled or shared with other machines, or the corpus slow to read"
    )

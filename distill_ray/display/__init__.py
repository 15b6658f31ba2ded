"""What a run looks like, and the only package that imports Rich.

events ─► Listeners ─┬─► Display ─► live view (terminal) or plain lines; history ─► final report
                     ├─► EventLog (events.jsonl)
                     └─► ScalarLog (TensorBoard)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill_ray.lazy import lazy_exports

if TYPE_CHECKING:
    from distill_ray.display.display import Display
    from distill_ray.display.listeners import Listeners
    from distill_ray.display.log import EventLog, ScalarLog, trial_listener

__all__ = ["Display", "EventLog", "Listeners", "ScalarLog", "trial_listener"]

__getattr__ = lazy_exports(
    __name__,
    {
        "Display": "distill_ray.display.display",
        "EventLog": "distill_ray.display.log",
        "Listeners": "distill_ray.display.listeners",
        "ScalarLog": "distill_ray.display.log",
        "trial_listener": "distill_ray.display.log",
    },
)

"""What would help a finished run most, told from the epochs that it has just trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from distill_ray.events.records import Event, PriorEpochMetrics, RunStarted, VQEpochMetrics
from distill_ray.report.numbers import percent

_LATE = 0.25
"""The last quarter of the epochs says whether longer would have helped."""
_WORTH = 0.01
_FEWEST = 4  # epochs that say anything


@dataclass(kw_only=True)
class Advice:
    """A listener; `sentence` when the run is over, "" where it has trained too little to say anything."""

    losses: dict[str, list[float]] = field(default_factory=dict)
    memorizes: bool = False

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self.losses[event.kind] = []
        elif isinstance(event, VQEpochMetrics):
            self.losses.setdefault("vqvae", []).append(event.val_loss)
        elif isinstance(event, PriorEpochMetrics):
            self.losses.setdefault("prior", []).append(event.val_loss)
            self.memorizes = event.is_memorizing

    def sentence(self) -> str:
        known = {kind: losses for kind, losses in self.losses.items() if len(losses) >= _FEWEST}
        parts = []
        prior = known.get("prior", [])
        best = prior.index(min(prior)) + 1 if prior else 0
        if prior and (self.memorizes or len(prior) - best > _LATE * len(prior)):
            parts.append(
                f"more audio, as the prior's held-out cost was lowest after {best} of {len(prior)} epochs"
            )
            known.pop("prior")
        falling = {kind: gain for kind, losses in known.items() if (gain := _late_gain(losses)) is not None}
        for kind, gain in sorted(falling.items(), key=lambda item: -item[1]):
            what = "codec's held-out loss" if kind == "vqvae" else "prior's held-out cost"
            if gain >= _WORTH:
                parts.append(f"longer, as the {what} still fell by {percent(gain)} in its last quarter")
        if parts:
            return f"what would help most: {'; '.join(parts)}"
        return "longer would hardly help: codec and prior had settled" if len(falling) == 2 else ""


def _late_gain(losses: list[float]) -> float | None:
    """By what share the best loss fell within the last quarter of the epochs."""
    before = losses[: max(1, round((1.0 - _LATE) * len(losses)))]
    return 1.0 - min(losses) / min(before) if min(before) > 0.0 else None

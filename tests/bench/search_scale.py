"""What the driver of a large search costs: the real ledger, records, rounds and ranking under made-up trials.

    python tests/bench/search_scale.py [--trials 1000] [--concurrent 64] [--epochs 20]

Each trial says what a real one says (a step each half second, epochs, its prior, the judge's word). Nothing
trains: the time is the driver's alone, and `minutes` of training is what it is compared with.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill_ray.config.sweep import SweepConfig
from distill_ray.events.records import (
    CodecJudged,
    DepthScore,
    GeneratedScore,
    PriorEpochMetrics,
    TrainingCompleteEvent,
    VQEpochMetrics,
    VQStepMetrics,
    to_record,
)
from distill_ray.tune.folder import SweepFolder
from distill_ray.tune.ledger import Ledger
from distill_ray.tune.ranking import candidates
from distill_ray.tune.rounds import Rounds
from distill_ray.vqvae.health import EpochHealth, HealthRule, LevelHealth

RULE = HealthRule(measure="utilization", floor=0.3, patience=3, warmup=2, kept_floor=0.1, gain_floor=0.01)
LEVELS = (2, 4, 8)


def said(epochs: int, steps: int, draw: random.Random) -> Iterator[dict[str, Any]]:
    """The events of a trial, as they come through the mailbox."""
    health = tuple(
        LevelHealth(utilization=0.9, perplexity=200.0, dead_codes=3, entropy=0.9, kept=0.5) for _ in range(8)
    )
    for epoch in range(1, epochs + 1):
        loss = draw.uniform(4.0, 9.0)
        scores = tuple(DepthScore(levels=depth, val_loss=loss, mel=0.3) for depth in LEVELS)
        for step in range(steps):
            yield to_record(
                VQStepMetrics(
                    step=epoch * steps + step, epoch=epoch, epoch_step=step, steps_per_epoch=steps,
                    fraction=epoch / epochs, loss=loss, losses={"mel": 1.0, "bands": 0.1}, lr=1e-3,
                    grad_norm=1.0, skipped_steps=0, steps_per_second=10.0, audio_seconds_per_second=900.0,
                    eta_s=10.0,
                )
            )  # fmt: skip
        yield to_record(
            VQEpochMetrics(
                epoch=epoch, epochs=epochs, step=epoch * steps, train_loss=loss, val_loss=loss,
                best_val_loss=loss, best_epoch=epoch, losses={"mel": 1.0}, val_losses={"mel": 1.0},
                codebook_health=health, utilization_warnings=(), reseeded_codes=0, skipped_steps=0,
                audio_seconds_per_second=900.0, elapsed_s=1.0, depth_scores=scores,
            )
        )  # fmt: skip
    yield to_record(
        TrainingCompleteEvent(
            epochs_completed=epochs, steps=epochs * steps, final_train_loss=loss, final_val_loss=loss,
            best_val_loss=loss, best_epoch=epochs, codebook_health=health, warnings=(),
            audio_seconds_per_second=900.0, elapsed_s=1.0, exit_reason="completed", depth_scores=scores,
        )
    )  # fmt: skip
    for epoch in range(1, 9):
        yield to_record(
            PriorEpochMetrics(
                epoch=epoch, epochs=8, step=epoch, train_loss=3.0, val_loss=3.0, val_perplexity=20.0,
                best_perplexity=20.0, best_epoch=epoch, bits_per_second=700.0, is_memorizing=False,
                memorization_message="", skipped_steps=0, codes_per_second=1e5, elapsed_s=1.0,
            )
        )  # fmt: skip
    judged = tuple(
        GeneratedScore(levels=depth, generated=draw.uniform(1.2, 3.0), decoded=1.5) for depth in LEVELS
    )
    yield to_record(
        CodecJudged(
            prior_bits_per_second=700.0, histogram_bits_per_second=1000.0, gains=(0.3,) * 8, scores=judged,
            copied=False,
        )
    )  # fmt: skip


class Clocks:
    """Seconds of the driver by what it does, and what it writes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.saves = self.bytes = self.updates = 0

    def timed(self, name: str, call: Any, *args: Any) -> Any:
        began = time.perf_counter()
        found = call(*args)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--concurrent", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    sweep = SweepConfig(
        objective="generation",
        search="random",
        trials=options.trials,
        codebook_sizes=(256, 512, 1024),
        rvq_levels=LEVELS,
        strides=(4, 8, 16),
        lr_range=(1e-4, 1e-2),
    )
    clocks, draw, events = Clocks(), random.Random(0), 0
    with tempfile.TemporaryDirectory() as place:
        folder = SweepFolder(path=Path(place))

        def save(record: Any) -> None:
            path = folder.trial(record.spec.id).path
            path.mkdir(parents=True, exist_ok=True)
            clocks.timed("writing trial.json (part of events)", folder.save, record)
            clocks.saves += 1
            clocks.bytes += (path / "trial.json").stat().st_size

        def tell(_: Any) -> None:
            clocks.updates += 1

        ledger = Ledger((), sweep, RULE, gpus=1.0, save=save, tell=tell)
        rounds = Rounds(sweep, RULE, seed=0, records=(), objective=ledger.objective)
        live: dict[str, Iterator[dict[str, Any]]] = {}
        while True:
            while len(live) < options.concurrent:
                spec = clocks.timed("choosing trials", rounds.next, ledger.finished(), live)
                if spec is None:
                    break
                clocks.timed("events", lambda spec=spec: ledger.add(spec, frame_rate=21.5))
                ledger.begun(spec.id, "GPU 0")
                live[spec.id] = said(options.epochs, 6, draw)
            if not live:
                break
            for trial in list(live):
                record = next(live[trial], None)
                if record is not None:
                    events += 1
                    clocks.timed("events", ledger.take_event, trial, record)
                    continue
                health = (EpochHealth(levels=ledger.records()[0].codebook_health),) * options.epochs
                clocks.timed("events", ledger.ended, trial, health)
                del live[trial]
        rows = clocks.timed("ranking at the end", candidates, ledger.finished(), sweep, RULE)
        clocks.timed("reading records for --resume", folder.records)
    print(f"{len(ledger.records())} trials, {options.concurrent} at a time, {len(rows)} candidates")
    print(f"{events} events, {clocks.updates} updates of the leaderboard")
    print(f"{clocks.saves} writes of trial.json, {clocks.bytes / 1e6:.1f} MB")
    for name, seconds in clocks.seconds.items():
        print(f"{name}: {seconds:.2f} s")
    print(f"an event: {1000 * clocks.seconds['events'] / events:.3f} ms")


if __name__ == "__main__":
    main()

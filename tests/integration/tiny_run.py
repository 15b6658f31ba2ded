"""A small real training loop and a program to launch it: `python tiny_run.py RUN_DIR WORKERS STEPS PAUSE`.

The program writes each event's record to stderr and the result to stdout, one JSON line each.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from pathlib import Path

import torch

from distill_ray.errors import DistillError
from distill_ray.events.records import Event, Notice, PriorTrainingCompleteEvent, to_record
from distill_ray.runtime.launch import launch
from distill_ray.runtime.plan import WorkerPlan
from distill_ray.training.worker import Worker

BATCH = 16


def loop(worker: Worker, *, steps: int, pause: float = 0.0) -> Event:
    """Fit a two-layer network; every step is emitted ("step loss pid time") and kept as a checkpoint."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
    wrapped = worker.wrap(model)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    first, loss = 1, torch.tensor(float("nan"))
    folder = worker.restore()
    if folder is not None:
        state = torch.load(folder / "state.pt", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, loss = state["step"] + 1, state["loss"]
    step, reason = first - 1, "completed"
    for step in range(first, steps + 1):
        inputs = torch.randn(BATCH, 8, generator=torch.Generator().manual_seed(step))
        share = slice(
            worker.rank * BATCH // worker.world_size, (worker.rank + 1) * BATCH // worker.world_size
        )
        mine = inputs[share]
        local = (wrapped(mine) - mine.sum(dim=1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        local.backward()
        optimizer.step()
        loss = worker.all_reduce(local.detach().clone()) / worker.world_size

        def write(new: Path, step: int = step, loss: torch.Tensor = loss) -> None:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "step": step, "loss": loss}, new / "state.pt")

        said = f"{step} {loss.item()!r} {os.getpid()} {time.time()}"
        worker.checkpoint(Notice(level="info", message=said), write)
        time.sleep(pause)
        if worker.all_reduce(torch.tensor(float(worker.stop_requested()))).item():
            reason = "cancelled"
            break
    return PriorTrainingCompleteEvent(
        epochs_trained=step,
        steps=step,
        final_perplexity=loss.item(),
        best_perplexity=loss.item(),
        best_epoch=step,
        bits_per_second=0.0,
        memorization_warnings=(),
        codes_per_second=0.0,
        elapsed_s=0.0,
        exit_reason=reason,
    )


def main() -> int:
    run_dir, workers, steps, pause = sys.argv[1:]

    def listener(event: Event) -> None:
        print(json.dumps(to_record(event)), file=sys.stderr, flush=True)

    try:
        result = launch(
            functools.partial(loop, steps=int(steps), pause=float(pause)),
            run_dir=Path(run_dir),
            plan=WorkerPlan(num_workers=int(workers)),
            listener=listener,
        )
    except DistillError as error:
        said = {"error": type(error).__name__, "message": str(error), "ray_imported": "ray" in sys.modules}
        print(json.dumps(said))
        return error.exit_code
    print(json.dumps({"final": to_record(result.final), "checkpoint": str(result.checkpoint)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Whether long codec runs stay sound: losses, gradients and re-seeded codes of each recipe, by hand:

    python tests/bench/stability.py AUDIO OUT RECIPE…
    python tests/bench/stability.py .bench/corpora/music /tmp/out plain "slow training.lr=0.0005 steps=4000" \
      "cosine model.codebook_lookup=cosine"

A recipe is a name and settings; besides dotted keys `steps` (6000), `every` (250) and `size` (base). The rate
follows a cosine over the steps, and nothing is rewound: what blows up is seen to. Prints a line for every
`every` steps and writes OUT/NAME.json. On a CPU give "size=tiny training.batch_size=4" or a few blocks.

Columns: mean loss and its terms; held-out loss of averaged weights and of those that are trained; mel and
waveform distance of averaged weights; gradient norms' median, 95th percentile and maximum before clipping;
re-seeded codes; mean length of the first and last level's codes; root mean square of the decoder's residual
stream at its end, and the share of the energy of the features after its norm that is the same in all frames
of a batch. Where held-out loss and gradient norms rise while the loss falls, look at the decoder's gains.

Shapes: F frames of a batch, W width.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from bakeoff import settings_of
from held_out import bench_corpus

from distill_ray.config.resolve import MachineFacts, resolve_vqvae
from distill_ray.corpus import Corpus
from distill_ray.runs.inputs import corpus_facts
from distill_ray.training.vq_objective import Objective
from distill_ray.training.vqvae import VQTask
from distill_ray.training.worker import LocalWorker

LEVELS: dict[str, object] = {"model.codebook_size": 1024, "model.num_quantizers": 9}


def main(audio: str, out: Path, recipes: list[str]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    corpus = bench_corpus(audio, out / "corpus")
    for recipe in recipes:
        name, *settings = recipe.split()
        rows = run(corpus, name, out, settings_of(settings))
        (out / f"{name}.json").write_text(json.dumps({"recipe": recipe, "rows": rows}, indent=1))


def run(corpus: Corpus, name: str, out: Path, given: dict[str, Any]) -> list[dict[str, Any]]:
    steps, every, size = (
        given.pop(key, default) for key, default in (("steps", 6000), ("every", 250), ("size", "base"))
    )
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    facts = corpus_facts(corpus)
    overrides = {**LEVELS, "training.epochs": 1000, "training.val_seconds": 30.0, **given}
    config = resolve_vqvae(
        facts,
        overrides={**overrides, "model.size": size},
        machine=MachineFacts(accelerator=device.type == "cuda"),
    ).config
    task = VQTask(corpus, config, LocalWorker(out / "scratch" / name, device=device))
    rows: list[dict[str, Any]] = []
    norms: list[torch.Tensor] = []
    before, began = task.sums.clone(), time.perf_counter()
    for step in range(1, steps + 1):
        task.train_step(step - 1, (step - 1) / steps)
        norms.append(task.grad_norm.clone())
        if step % every:
            continue
        *sums, _, count = (task.sums - before).tolist()
        before = task.sums.clone()
        norms_S = torch.stack(norms).double()
        norms.clear()
        terms = dict(zip(Objective.terms, (value / max(count, 1.0) for value in sums), strict=False))
        lengths = task.model.quantizer.codebooks_QKD.norm(dim=-1).mean(1).tolist()
        row = {
            "steps": step,
            **{term: round(value, 3) for term, value in terms.items()},
            "held_out": round(task.validate(), 3),
            "held_out_live": round(live(task), 3),
            "held_out_mel": round(task.figures.val_losses["mel"], 3),
            "held_out_waveform": round(task.figures.val_losses["waveform"], 3),
            "norm_50": round(float(norms_S.quantile(0.5)), 1),
            "norm_95": round(float(norms_S.quantile(0.95)), 1),
            "norm_most": round(float(norms_S.max()), 1),
            "reseeded": task.codes.reseeded,
            "lengths": [round(lengths[0], 2), round(lengths[-1], 2)],
            **stream(task, step),
            "seconds": round(time.perf_counter() - began, 1),
        }
        rows.append(row)
        print(name, row, flush=True)
    return rows


def live(task: VQTask) -> float:
    """The held-out loss of the weights that are trained, not of their average."""
    with task._kernels():
        return task.held_out.score(task.model, task.loss, bf16=task.bf16)[0]


@torch.no_grad()
def stream(task: VQTask, step: int) -> dict[str, float]:
    """Size of the decoder's residual stream, and the common part of the features made of it."""
    seen: list[torch.Tensor] = []
    norm = task.average.module.decoder.norm
    hook = norm.register_forward_hook(lambda _, given, made: seen.extend((given[0].float(), made.float())))
    task.average.module(task.batches.unchanged(step))
    hook.remove()
    stream_FW, features_FW = (each.flatten(0, 1) for each in seen)
    common = features_FW.mean(0).square().sum() / features_FW.square().sum(1).mean()
    return {"stream": round(float(stream_FW.square().mean().sqrt()), 2), "common": round(float(common), 3)}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])

"""Codecs trained from scratch for the same wall seconds on the same recordings, scored on held-out files:

    python tests/bench/bakeoff.py AUDIO OUT --seconds 60 [--codecs ours-base encodec dac-small dac] [--opus]

`rivals.py` says what the rivals are, `held_out.py` what is scored. The clock runs while steps are made (what
a codec compiles or captures on the way is inside it); it stands still for set-up and for the looks: `--looks`
times, evenly over the budget, every codec's averaged weights are scored by the weighted reconstruction loss
on the same held-out windows, and on as many of the training files, to see what is learnt by heart. The best
of them are what the table shows, the newest once discriminators take part, as our own training chooses.

Each codec leaves OUT/row-NAME.json and OUT/heard/NAME/*.flac, so that a long bake-off can be spread over
several calls; the table (OUT/table.md, OUT/bakeoff.json) is made of all rows found there. `listening.py` adds
ViSQOL to the rows afterwards, on a CPU. "ours-SIZE" is ours, and "ours-SIZE_LABEL:KEY=VALUE,KEY=VALUE" ours
with settings of its own; --set gives settings to all of ours, and to no rival. Under torchrun, and with a
--corpus prepared before, ours trains on several GPUs.

Shapes: B windows, C channels, T samples.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import gc
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from bench_device import begin, wait, worker_in
from held_out import Excerpt, bench_corpus, excerpts, limited_corpus, save_originals, score_codec
from opus import KBPS, write_opus_rows
from rivals import Coder, Contest, Trainee, build
from table import write_table

from distill_ray.config.length import steps_per_epoch
from distill_ray.config.resolve import MachineFacts, resolve_vqvae
from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.corpus import AudioStore, Corpus
from distill_ray.runs.inputs import corpus_facts
from distill_ray.training.vq_validation import HeldOut
from distill_ray.training.worker import LocalWorker, Worker
from distill_ray.vqvae import ReconstructionLoss

DIVERGED = 1.25
"""As in our own training, for every codec: a look that much above the best one takes it back to that."""
STEPS_BETWEEN_CHECKS = 5
"""The host runs ahead of a GPU; it waits for it this often, so that the clock tells the truth."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """A codec after its budget."""

    coder: Coder
    figures: dict[str, Any]


def main() -> None:
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    device = begin()
    rank = dist.get_rank() if dist.is_initialized() else 0
    ours_only = all(_is_ours(codec) for codec in options.codecs)
    if dist.is_initialized() and not (ours_only and options.corpus and options.train_seconds is None):
        raise SystemExit("under torchrun: ours only, with a --corpus prepared before, all of it")
    torch.backends.cudnn.benchmark = True  # fixed shapes; what full-rate convolutions want
    corpus = bench_corpus(options.audio, options.corpus or options.out / "corpus")
    trained_on = corpus
    if options.train_seconds is not None:
        trained_on = limited_corpus(
            corpus, options.train_seconds, options.out / f"limited-{options.train_seconds:g}"
        )
    chosen = excerpts(corpus, count=options.excerpts, seconds=options.excerpt_seconds)
    if rank == 0:
        save_originals(options.out, chosen[: options.listen])
    print(
        f"{device}: train {trained_on.seconds('train'):.0f} s, held out {corpus.seconds('val'):.0f} s, "
        f"scored {len(chosen)} excerpts",
        flush=True,
    )
    for codec in options.codecs:
        name, _, own = codec.partition(":")
        given = settings_of([*options.settings, *filter(None, own.split(","))]) if _is_ours(name) else {}
        worker = worker_in(options.out / "scratch" / name, device)
        config = _config(trained_on, name, given, options, worker)
        contest = Contest(
            corpus=trained_on,
            held_out=corpus,
            config=config,
            worker=worker,
            snake_front=options.snake_front,
        )
        trained = train(name, contest, seconds=options.seconds, looks=options.looks, most=options.most_steps)
        if rank == 0:
            row = {**_row(name, trained, chosen, config, worker, options), "settings": given}
            (options.out / f"row-{name}.json").write_text(json.dumps(row, indent=1))
            print(
                {key: value for key, value in row.items() if isinstance(value, float | int | str)}, flush=True
            )
        del trained
        if device.type == "cuda":
            gc.collect()  # a captured step refers to itself
            torch.cuda.empty_cache()
    if dist.is_initialized():
        dist.destroy_process_group()
    if rank > 0:
        return
    if options.opus:
        write_opus_rows(chosen, options.out, rates=list(KBPS), listen=options.listen)
    print(write_table(options.out))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("audio")
    parser.add_argument("out", type=Path)
    parser.add_argument("--corpus", type=Path, default=None, help="where it is prepared, if not in OUT")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--codecs", nargs="*", default=["ours-base", "encodec", "dac-small", "dac"])
    parser.add_argument("--opus", action="store_true")
    parser.add_argument("--most-steps", type=float, default=math.inf, help="end after so many")
    parser.add_argument("--looks", type=int, default=6)
    parser.add_argument("--levels", type=int, default=9)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--rival-lr", type=float, default=1e-3, help="peak rate of the rivals")
    parser.add_argument("--val-seconds", type=float, default=30.0)
    parser.add_argument("--train-seconds", type=float, default=None, help="train on so much only")
    parser.add_argument("--excerpts", type=int, default=24)
    parser.add_argument("--excerpt-seconds", type=float, default=15.0)
    parser.add_argument("--listen", type=int, default=6, help="excerpts kept for ViSQOL and pictures")
    parser.add_argument("--snake-front", action="store_true", help="ours with DAC's encoder")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", dest="settings")
    return parser.parse_args()


def _is_ours(name: str) -> bool:
    return name.startswith("ours")


def _config(
    corpus: Corpus, name: str, given: dict[str, Any], options: argparse.Namespace, worker: Worker
) -> VQTrainConfig:
    ours = _is_ours(name)
    size = name.partition("-")[2].partition("_")[0] if ours else "base"
    overrides: dict[str, object] = {
        "model.codebook_size": options.size,
        "model.num_quantizers": options.levels,
        "training.max_minutes": options.seconds / 60,
        "training.val_seconds": options.val_seconds,
    }
    if not ours:
        overrides |= {
            "training.batch_size": 48,
            "training.weight_decay": 0.01,
            "training.lr": options.rival_lr,
        }
    if options.batch is not None:
        overrides["training.batch_size"] = options.batch
    overrides |= given
    facts = corpus_facts(corpus)
    gpu, ranks = worker.device.type == "cuda", worker.world_size
    return resolve_vqvae(
        facts,
        overrides={**overrides, "model.size": size},
        machine=MachineFacts(accelerator=gpu, workers=ranks),
    ).config


def settings_of(texts: list[str]) -> dict[str, Any]:
    """Settings written key=value; a value that is no JSON is a word."""
    return {key: _value(text) for key, _, text in (each.partition("=") for each in texts)}


def _value(text: str) -> object:
    try:
        value: object = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value


class Look:
    """The weighted reconstruction loss of a codec on fixed windows of one split."""

    def __init__(self, contest: Contest, corpus: Corpus, split: str) -> None:
        alone = LocalWorker(Path(), device=contest.device)  # every rank looks at all of it
        self._windows = HeldOut(AudioStore(corpus, split, contest.device), contest.config, alone)
        self._loss = ReconstructionLoss(contest.config.model, contest.config.loss).to(contest.device)

    @torch.no_grad()
    def loss(self, coder: Coder) -> float:
        total, count = 0.0, 0
        for audio_BCT in self._windows.windows():
            decoded_BCT = coder.decode(coder.encode(audio_BCT), audio_BCT.shape[2])
            total += float(self._loss.total(self._loss(decoded_BCT, audio_BCT))) * len(audio_BCT)
            count += len(audio_BCT)
        return total / count


def train(name: str, contest: Contest, *, seconds: float, looks: int, most: float = math.inf) -> Trained:
    """Train the codec called `name` and leave it with the best weights of all looks.

    A corpus that is worth no more steps (`config.training.epochs`) ends the training before its time, and so
    do `most` steps.
    """
    began = time.perf_counter()
    training = contest.config.training
    if training.epochs is not None:
        per_epoch = steps_per_epoch(contest.config, contest.corpus.seconds("train"))
        most = min(most, training.epochs * per_epoch)
    torch.manual_seed(contest.config.training.seed)
    trainee = build(name, contest)
    look, look_back = Look(contest, contest.held_out, "val"), Look(contest, contest.corpus, "train")
    wait(contest.device)
    setup_s = time.perf_counter() - began
    if contest.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    curve: list[dict[str, float]] = []
    best, best_state = math.inf, None
    step, spent = 0, 0.0
    for number in range(1, looks + 1):
        first, started = step, spent
        step, spent = _until(
            trainee, contest, step=step, spent=spent, end=number / looks, seconds=seconds, most=most
        )
        if step == first:
            continue  # one step took longer than this part of the budget, or the corpus is worth no more
        loss, train_loss = look.loss(trainee.coder), look_back.loss(trainee.coder)
        pace = (step - first) * batch_seconds(contest.config) / (spent - started)
        curve.append(
            {
                "seconds": spent,
                "steps": step,
                "val_loss": loss,
                "train_loss": train_loss,
                "audio_s_per_s": pace,
            }
        )
        print(
            f"{name}: {spent:.1f} s, {step} steps, loss held out {loss:.3f}, of training files "
            f"{train_loss:.3f}, {pace:.0f} audio-s/s",
            flush=True,
        )
        if loss < best or trainee.keeps_newest():
            best, best_state = loss, copy.deepcopy(trainee.coder.module.state_dict())
        elif best_state is not None and not loss <= DIVERGED * best:
            print(f"{name}: diverged, goes on from its best weights at half the learning rate", flush=True)
            trainee.rewind(best_state)
    assert best_state is not None, "no held-out loss was finite"
    trainee.coder.module.load_state_dict(best_state)
    peak = torch.cuda.max_memory_allocated() / 1e9 if contest.device.type == "cuda" else math.nan
    return Trained(
        coder=trainee.coder,
        figures={
            "parameters": trainee.parameters,
            "setup_s": setup_s,
            "seconds": spent,
            "steps": step,
            "audio_s_per_s": step * batch_seconds(contest.config) / spent,
            # Without what is compiled and captured in the first part.
            "steady_audio_s_per_s": statistics.median(point["audio_s_per_s"] for point in curve),
            "peak_gigabytes": peak,
            "best_val_loss": best,
            "last_val_loss": curve[-1]["val_loss"],
            "curve": curve,
        },
    )


def _until(
    trainee: Trainee, contest: Contest, *, step: int, spent: float, end: float, seconds: float, most: float
) -> tuple[int, float]:
    """Train until the part `end` of the budget is used, or `most` steps are made; the steps and seconds so
    far.
    """
    wait(contest.device)
    began = time.perf_counter() - spent
    while spent < end * seconds and step < most:
        for _ in range(STEPS_BETWEEN_CHECKS if contest.device.type == "cuda" else 1):
            trainee.train_step(step, min(1.0, max(spent / seconds, step / most)))
            step += 1
        wait(contest.device)
        spent = time.perf_counter() - began if contest.worker.rank == 0 else 0.0
        spent = float(contest.worker.all_reduce(torch.tensor(spent, device=contest.device)))
    return step, spent


def batch_seconds(config: VQTrainConfig) -> float:
    """Seconds of audio in a step."""
    return config.training.batch_size * config.window_samples / config.model.sample_rate


def _row(
    name: str,
    trained: Trained,
    chosen: list[Excerpt],
    config: VQTrainConfig,
    worker: Worker,
    options: argparse.Namespace,
) -> dict[str, Any]:
    began = time.perf_counter()
    scores = score_codec(
        trained.coder,
        chosen,
        device=worker.device,
        levels=config.model.num_quantizers,
        size=config.model.codebook_size,
        hop=config.model.frame_hop,
        heard=(options.out, name, options.listen),
    )
    full = scores["depths"][-1]
    return {
        "codec": name,
        "budget_s": options.seconds,
        "device": torch.cuda.get_device_name() if worker.device.type == "cuda" else "cpu",
        "ranks": worker.world_size,
        "torch": torch.__version__,
        "lr": config.training.lr,
        "kbps": full["kbps"],
        "kbps_entropy": full["kbps_entropy"],
        "efficiency": full["efficiency"],
        "mel": full["mel"],
        "stft": full["stft"],
        "si_sdr_db": full["si_sdr_db"],
        "least_utilization": min(scores["utilization"]),
        "mean_utilization": statistics.fmean(scores["utilization"]),
        **trained.figures,
        **scores,
        "scoring_s": time.perf_counter() - began,
    }


if __name__ == "__main__":
    main()

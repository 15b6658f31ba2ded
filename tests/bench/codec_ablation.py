"""Codecs of different settings, trained one after the other for the same GPU seconds and scored on held-out
files, by hand:

    python tests/bench/codec_ablation.py AUDIO OUT SECONDS [NAME ...]

Prints one line a codec and writes OUT/ablation.json. Times include what the loop itself does beside steps
(validation), as for a user.
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from distill_ray.bundle import load_model_v2, save_model_v2
from distill_ray.config.corpus import CorpusConfig
from distill_ray.config.resolve import resolve_vqvae
from distill_ray.corpus import Corpus, open_corpus, prepare_corpus
from distill_ray.evaluate import evaluate_model
from distill_ray.orchestrate.inputs import corpus_facts
from distill_ray.training.checkpoint import read_weights
from distill_ray.training.vqvae import train_vqvae
from distill_ray.training.worker import LocalWorker
from distill_ray.vqvae import VQVAE, blocks, decoder, encoder

CODES: dict[str, object] = {"model.codebook_size": 1024, "model.num_quantizers": 9}  # 7.75 kbps
RECIPES: dict[str, dict[str, object]] = {
    "base": {},
    "base-ema": {"model.codebook_learning": "ema"},
    "base-scale1": {},
    "base-dropout": {"model.dropout": 0.1},
    "base-decay": {"training.weight_decay": 0.01},
    "base-mix": {"augment.mix": 0.3},
    "base-nodrop": {"model.quantizer_dropout": 0.0},
    "base-complex120": {"loss.complex_stft": 120.0},
    "small": {"model.size": "small"},
}


def patched(name: str, build: Callable[[], Any]) -> Any:
    """Run `build` with the start of the layer scale that the recipe's name asks for."""
    if name != "base-scale1":
        return build()
    kept = blocks.convnext_stack
    try:
        for module in (encoder, decoder):
            module.convnext_stack = functools.partial(_unit_scale, kept)
        return build()
    finally:
        for module in (encoder, decoder):
            module.convnext_stack = kept


def _unit_scale(stack: Any, *arguments: Any, **settings: Any) -> Any:
    return stack(*arguments, **{**settings, "total": 1})


def run(name: str, corpus: Corpus, seconds: float, out: Path) -> dict[str, Any]:
    facts = corpus_facts(corpus)
    overrides = {"model.size": "base", "training.max_minutes": seconds / 60, **CODES, **RECIPES[name]}
    config = resolve_vqvae(
        facts, overrides=overrides, size=None, accelerator=torch.cuda.is_available(), workers=1
    ).config
    with tempfile.TemporaryDirectory() as folder:
        worker = LocalWorker(Path(folder))
        completed = patched(name, lambda: train_vqvae(corpus.uri, config, worker))
        model = VQVAE(config.model)
        model.load_state_dict(read_weights(Path(folder) / "latest" / "best.safetensors"))
    path = save_model_v2(
        out / f"{name}.distill", model, metadata={}, codebook_health=completed.codebook_health
    )
    report = evaluate_model(load_model_v2(path, device=worker.device), corpus).to_json()
    path.unlink()
    full, half = report["depths"][-1], report["depths"][len(report["depths"]) // 2]
    return {
        "name": name,
        "audio_seconds_per_second": completed.audio_seconds_per_second,
        "val_loss": completed.best_val_loss,
        "best_epoch": completed.best_epoch,
        "epochs": completed.epochs_completed,
        "mel": full["mel_distance"],
        "stft": full["stft_distance"],
        "si_sdr_db": full["si_sdr_db"],
        "mel_half_depth": half["mel_distance"],
        "si_sdr_half_depth": half["si_sdr_db"],
        "utilization": [level.utilization for level in completed.codebook_health],
        "kbps": full["kbps_nominal"],
        "kbps_entropy": full["kbps_entropy"],
    }


def main(audio: str, out: Path, seconds: float, names: list[str]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    prepare_corpus([audio], out / "corpus", config=CorpusConfig(val_fraction=0.2))
    corpus = open_corpus(out / "corpus")
    print(f"train {corpus.seconds('train'):.0f} s, held out {corpus.seconds('val'):.0f} s", flush=True)
    rows = []
    for name in names or list(RECIPES):
        rows.append(run(name, corpus, seconds, out))
        (out / "ablation.json").write_text(json.dumps(rows, indent=1))
        shown = {k: round(v, 3) for k, v in rows[-1].items() if isinstance(v, float | int)}
        print(name, shown, "least use", round(min(rows[-1]["utilization"]), 3), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])

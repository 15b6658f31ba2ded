"""What filling in costs the continuing mode: held-out bits a second by share of masked windows, equal steps.

    python tests/bench/masked_share.py MODEL.distill CORPUS --shares 0,0.125,0.25 --steps 600

Every share starts from the same weights and sees the same windows; of `batch` windows that share is filled in
and the rest continued, so a share costs the continuing mode windows, too. Masked held-out nats are those of
the coarsest masked level of the masks that training draws, the same for all.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from distill_ray.bundle import load_model_v2
from distill_ray.config.resolve import MachineFacts, resolve_prior
from distill_ray.corpus import PCM_SCALE, AudioStore, open_corpus
from distill_ray.prior import CodePrior, bits_per_second
from distill_ray.prior.masking import training_mask
from distill_ray.prior.windows import validation_windows
from distill_ray.training.retokenise import CodePool, Retokeniser
from distill_ray.vqvae import encode_long

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("corpus")
    parser.add_argument("--shares", default="0,0.125,0.25")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--variants", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    device = torch.device(asked.device)
    loaded = load_model_v2(asked.model, device=device)
    codes = {split: encoded(loaded.model, asked.corpus, split, device) for split in ("train", "val")}
    config = resolve_prior(
        loaded.vqvae_config,
        file_count=len(codes["train"]),
        train_frames=sum(codes_QF.shape[1] for codes_QF in codes["train"]),
        overrides={
            "prior.controls": 0,
            "prior_training.batch_size": asked.batch,
            "prior_training.variants": asked.variants,
            "prior_training.variant_steps": max(1, asked.steps // (2 * asked.variants)),
            "prior_training.seed": asked.seed,
            "prior_training.epochs": 1,
        },
        machine=MachineFacts(accelerator=device.type == "cuda"),
    ).config
    retokeniser = Retokeniser(asked.corpus, loaded.model, config, device=device)
    made: dict[int, list[torch.Tensor]] = {}
    fresh = retokeniser.variant
    retokeniser.variant = lambda number, **_: made.setdefault(number, fresh(number))  # type: ignore[method-assign]
    for share in map(float, asked.shares.split(",")):
        began = time.monotonic()
        model = replace(config.model, masked_share=share)
        pool = CodePool(codes["train"], replace(config, model=model), retokeniser, device)
        torch.manual_seed(asked.seed)
        prior = CodePrior(model)
        prior.init_from_vectors(loaded.model.quantizer.vectors())
        prior.to(device)
        optimizer = torch.optim.AdamW(prior.parameters(), lr=config.training.lr, betas=(0.9, 0.95))
        for step in range(asked.steps):
            for group in optimizer.param_groups:
                group["lr"] = config.training.lr * min(1.0, (step + 1) / 50, 2 * (1 - step / asked.steps))
            torch.manual_seed(asked.seed * 1_000_003 + step)
            windows = pool.sampler(step).batch(step, asked.batch)
            prior.train()
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = prior(**vars(windows)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(prior.parameters(), 1.0)
            optimizer.step()
        nats, masked = held_out(prior, codes["val"], device)
        config_codec = loaded.vqvae_config
        figures = {
            "share": share,
            "steps": asked.steps,
            "batch": asked.batch,
            "nats": round(nats, 4),
            "bits_per_second": round(
                bits_per_second(nats, config_codec.frame_rate, config_codec.num_quantizers), 1
            ),
            "masked_nats": masked and round(masked, 4),
            "seconds": round(time.monotonic() - began, 1),
        }
        print(json.dumps(figures), flush=True)


def encoded(codec: torch.nn.Module, uri: str, split: str, device: torch.device) -> list[torch.Tensor]:
    store = AudioStore(open_corpus(uri), split, CPU)
    codes = []
    for file, samples in enumerate(store.lengths_N.tolist()):
        audio_BCT = store.gather(np.array([file]), np.array([0]), samples, np.array([samples])).float()
        codes.append(encode_long(codec, audio_BCT[0] / PCM_SCALE, chunk_frames=1024).to(torch.int16))  # type: ignore[arg-type]
    return codes


@torch.no_grad()
def held_out(prior: CodePrior, codes: list[torch.Tensor], device: torch.device) -> tuple[float, float | None]:
    prior.eval()
    nats = count = masked = rows = 0.0
    for number, windows in enumerate(
        validation_windows(codes, prior.config.training_frames, 16, device=device)
    ):
        output = prior(**vars(windows))
        nats, count = nats + float(output.nats_Q.sum()), count + float(output.codes_Q.sum())
        if prior.masks is not None:
            _, levels, frames = windows.codes_BQT.shape
            masks = [
                training_mask(np.random.default_rng([number, row]), levels, frames, int(length))
                for row, length in enumerate(windows.lengths_B.tolist())
            ]
            mask_BQT = torch.from_numpy(np.stack(masks)).to(device)
            nats_B = prior.masked_nats(windows.codes_BQT, mask_BQT, windows.lengths_B)
            masked, rows = masked + float(nats_B.sum()), rows + len(nats_B)
    return nats / count, masked / rows if rows else None


if __name__ == "__main__":
    main()

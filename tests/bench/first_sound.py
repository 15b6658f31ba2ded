"""When the first sound of `generate` can be heard, and how fast the rest follows, streamed and not:

    taskset -c 0 python tests/bench/first_sound.py [--seconds 10] [--rounds 3] [--sizes tiny small base]
    python tests/bench/first_sound.py --device cuda

Random weights (what is drawn changes no time), 44.1 kHz mono, 8 × 256 codes and the prior that 10 minutes of
audio get on the device. Without streaming the first sound is heard when the file is done. A real-time factor
of 2 means that a second of audio takes 1/2 s; below 1, a player has to wait. Figures are medians over rounds,
in which all ways take turns, by the clock.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import torch

from distill_ray.bundle import LoadedVQModel, load_model_v2, save_model_v2
from distill_ray.config.resolve import CorpusFacts, MachineFacts, resolve_prior, resolve_vqvae
from distill_ray.generate import generate_samples, generate_stream
from distill_ray.prior import CodePrior
from distill_ray.vqvae import VQVAE

SAMPLE_RATE = 44_100
CORPUS_SECONDS = 600.0
BLOCKS = (4, 8, 16, 32, 64)
"""Code frames of a block."""


def model(size: str, pattern: str, device: str, folder: Path) -> LoadedVQModel:
    """A model of the automatic choices for ten minutes of audio."""
    torch.manual_seed(0)
    accelerator = device != "cpu"
    facts = CorpusFacts(file_count=20, train_seconds=CORPUS_SECONDS, sample_rate=SAMPLE_RATE, channels=1)
    codes: dict[str, object] = {"model.codebook_size": 256, "model.num_quantizers": 8}
    codec = resolve_vqvae(
        facts, overrides={**codes, "model.size": size}, machine=MachineFacts(accelerator=accelerator)
    ).config.model
    frames = round(CORPUS_SECONDS * codec.frame_rate)
    found = resolve_prior(
        codec, file_count=20, train_frames=frames, overrides={}, machine=MachineFacts(accelerator=accelerator)
    )
    prior = CodePrior(dataclasses.replace(found.config.model, pattern=pattern))
    path = folder / f"{size}.distill"
    save_model_v2(path, VQVAE(codec), metadata={}, codebook_health=(), prior=prior)
    return load_model_v2(path, device=device)


def whole(loaded: LoadedVQModel, seconds: float, folder: Path) -> tuple[float, float]:
    """Seconds to the first sound and to the end, through a file."""
    began = time.perf_counter()
    generate_samples(loaded, seconds=seconds, out_dir=folder, overwrite=True)
    spent = time.perf_counter() - began
    return spent, spent


def streamed(loaded: LoadedVQModel, seconds: float, block_frames: int) -> tuple[float, float]:
    """Seconds to the first block and to the end."""
    began = time.perf_counter()
    blocks_CT = generate_stream(loaded, seconds=seconds, block_frames=block_frames)
    next(blocks_CT)
    first = time.perf_counter() - began
    for _ in blocks_CT:
        pass
    return first, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", nargs="*", default=["tiny", "small", "base"])
    parser.add_argument("--pattern", default="delay")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {options.device}, {options.seconds:g} s of sound, {options.pattern}\n")
    print("| codec | context, frames | block | first sound, s | real-time factor |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size in options.sizes:
            loaded = model(size, options.pattern, options.device, folder)
            streamed(loaded, 1.0, BLOCKS[0])  # warms up
            times: dict[int, list[tuple[float, float]]] = {block: [] for block in (0, *BLOCKS)}
            for _ in range(options.rounds):
                times[0].append(whole(loaded, options.seconds, folder))
                for block in BLOCKS:
                    times[block].append(streamed(loaded, options.seconds, block))
            for block, pairs in times.items():
                first, end = (statistics.median(pair[index] for pair in pairs) for index in (0, 1))
                context = loaded.model.decoder.context_frames
                print(
                    f"| {size} | {context} | {block or 'not streamed'} | {first:.3f} | "
                    f"{options.seconds / end:.2f} × |",
                    flush=True,
                )


if __name__ == "__main__":
    main()

"""One training step of the quantiser, ours against `vector-quantize-pytorch`'s ResidualVQ, in turn:

    python tests/bench/rvq_step.py [--device cuda] [--rounds 5] [--steps 20] [--out FILE]

A step is look-up at every level, straight-through output, losses, backward to the latents and the learned
projections, and the EMA update of the codebooks, on latents [64, 172, 128]. Three settings of the rival: its
default (one Euclidean search in all 128 dimensions, no projection), with `codebook_dim=8` and cosine search
(nearest to ours, but it projects once and not at every level), and that without its rotation trick, that is
with plain straight-through gradients as ours has. On a GPU ours is also measured as a CUDA graph; the rival
makes the host wait inside its step, so it cannot be one (tried with 1.32).
`tests/unit/vqvae/test_parity.py` shows that both choose the same codes.

Shapes: B windows, F frames, L latent channels.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench_device import wait
from torch import Tensor

from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.vqvae import kernels
from distill_ray.vqvae.quantizer import ResidualVectorQuantizer

SHAPE = (64, 172, 128)
SETTINGS = ((8, 1024), (4, 256))
OURS = "ours"
RIVALS: dict[str, dict[str, Any]] = {
    "ResidualVQ": {},
    "ResidualVQ dim 8 cosine": {"codebook_dim": 8, "use_cosine_sim": True},
    "… straight-through": {"codebook_dim": 8, "use_cosine_sim": True, "rotation_trick": False},
}

Step = Callable[[], None]


def our_step(levels: int, size: int, latent_BFL: Tensor) -> Step:
    config = VQVAEConfig(
        codebook_size=size, num_quantizers=levels, latent_dim=latent_BFL.shape[2], codebook_learning="ema"
    )
    quantizer = ResidualVectorQuantizer(config).to(latent_BFL.device)
    output_BFL = torch.randn_like(latent_BFL)
    sound = torch.ones((), dtype=torch.bool, device=latent_BFL.device)

    def step() -> None:
        _forget(quantizer, latent_BFL)
        with kernels.enabled():
            output = quantizer(latent_BFL)
        (
            config.commitment_weight * output.commitment_loss + (output.latent_BFL * output_BFL).mean()
        ).backward()
        counts_QK = quantizer.counts(output.codes_BQT, output.used_QN)
        with kernels.enabled():
            sums_QKD = quantizer.ema_statistics(output)
        quantizer.ema_update(counts_QK, sums_QKD, sound)

    return step


def rival_step(levels: int, size: int, latent_BFL: Tensor, **settings: Any) -> Step:
    from vector_quantize_pytorch import ResidualVQ

    quantizer = ResidualVQ(
        dim=latent_BFL.shape[2], num_quantizers=levels, codebook_size=size, decay=0.99, **settings
    ).to(latent_BFL.device)
    output_BFL = torch.randn_like(latent_BFL)

    def step() -> None:
        _forget(quantizer, latent_BFL)
        quantised_BFL, _, losses_Q = quantizer(latent_BFL)
        (losses_Q.mean() + (quantised_BFL * output_BFL).mean()).backward()

    return step


def _forget(quantizer: torch.nn.Module, latent_BFL: Tensor) -> None:
    latent_BFL.grad = None
    for parameter in quantizer.parameters():
        parameter.grad = None


def captured(step: Step) -> Step:
    """The step as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def in_turn(steps: dict[str, Step], *, rounds: int, count: int, device: torch.device) -> dict[str, float]:
    """Median over rounds of the milliseconds that each step takes."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):  # the first one warms up
        for name, step in steps.items():
            wait(device)
            began = time.perf_counter()
            for _ in range(count):
                step()
            wait(device)
            if turn:
                times[name].append(1e3 * (time.perf_counter() - began) / count)
    return {name: statistics.median(each) for name, each in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--shape", type=int, nargs=3, default=list(SHAPE))
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    device = torch.device(options.device)
    found: dict[str, Any] = {"torch": torch.__version__, "device": str(device), "shape": options.shape}
    for levels, size in SETTINGS:
        torch.manual_seed(0)
        latent_BFL = torch.randn(options.shape, device=device, requires_grad=True)
        steps = {OURS: our_step(levels, size, latent_BFL)}
        steps |= {name: rival_step(levels, size, latent_BFL, **settings) for name, settings in RIVALS.items()}
        if device.type == "cuda":
            steps[f"{OURS} (graph)"] = captured(steps[OURS])
        times = in_turn(steps, rounds=options.rounds, count=options.steps, device=device)
        best_of_ours = min(value for name, value in times.items() if name.startswith(OURS))
        found[f"{levels}x{size}"] = times
        print(f"\n{levels} × {size} codes, {options.shape} on {device}\n")
        print("| step | ms | ours is faster by |\n|---|---|---|")
        for name, value in times.items():
            print(f"| {name} | {value:.2f} | {value / best_of_ours:.1f} × |", flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

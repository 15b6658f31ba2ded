"""How fast codecs encode and decode on one CPU core (or a GPU), against EnCodec's and DAC's layouts:

    taskset -c 0 python tests/bench/realtime.py [--seconds 4] [--rounds 5] [--out FILE] [--codecs NAME…]
    python tests/bench/realtime.py --device cuda --seconds 30

Random weights, 44.1 kHz mono, 9 × 1024 codes (purpose generation: its own), float32, weight normalisation
folded as in a deployed codec; all codecs take turns, and the figures are medians over rounds. On a CPU what
counts is the processor time of this process, which other processes on the machine disturb less than the
clock. A real-time factor of 20 means that a second of audio takes 1/20 s. `--stream` also shows what decoding
in small blocks costs.

Shapes: B items, C channels, T samples, Q RVQ levels, F code frames.
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
from held_out import SAMPLE_RATE
from rivals import DAC_WIDTHS, Coder, DacLayout, EncodecLayout, OursInUse, without_parametrizations

from distill_ray.config.resolve import CorpusFacts, resolve_vqvae
from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.vqvae import VQVAE

CODECS = (
    "generation-tiny",
    "generation-small",
    "ours-tiny",
    "ours-small",
    "ours-base",
    "encodec",
    "dac-small",
    "dac",
)
OURS = ("generation", "ours")
BLOCKS = (1, 8, 32, 128)
"""Code frames that a streaming decoder gives out at a time."""


def settings(name: str) -> VQTrainConfig:
    facts = CorpusFacts(file_count=1, train_seconds=600.0, sample_rate=SAMPLE_RATE, channels=1)
    kind, _, size = name.partition("-")
    given: dict[str, object] = {"model.size": size if kind in OURS else "base"}
    if kind != "generation":
        given |= {"model.purpose": "compression", "model.codebook_size": 1024, "model.num_quantizers": 9}
    return resolve_vqvae(facts, overrides=given).config


def coder(name: str, device: torch.device) -> Coder:
    """A codec with random weights, ready to be used."""
    torch.manual_seed(0)
    config = settings(name)
    if name.partition("-")[0] in OURS:
        return OursInUse(VQVAE(config.model).eval().to(device))
    if name == "encodec":
        layout: EncodecLayout | DacLayout = EncodecLayout(config)
        with torch.no_grad():
            for level in layout.levels:  # all zero in the library: every look-up would be a tie
                level.embed.normal_()
    else:
        layout = DacLayout(config, *DAC_WIDTHS[name])
    without_parametrizations(layout)
    return layout.eval().to(device)


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Seconds by the clock and of this process's processor time (on a GPU, by the clock twice)."""
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if gpu:
        torch.cuda.synchronize()
    spent = time.perf_counter() - wall
    return spent, spent if gpu else time.process_time() - cpu


@torch.inference_mode()
def measure(names: list[str], *, seconds: float, rounds: int, device: torch.device) -> dict[str, Any]:
    """Medians of seconds for encoding and decoding, by codec."""
    samples = round(seconds * SAMPLE_RATE)
    audio_BCT = 0.1 * torch.randn(1, 1, samples, generator=torch.Generator().manual_seed(0)).to(device)
    coders = {name: coder(name, device) for name in names}
    codes = {name: each.encode(audio_BCT) for name, each in coders.items()}
    for name, each in coders.items():
        each.decode(codes[name], samples)
    times: dict[str, dict[str, list[tuple[float, float]]]] = {
        name: {"encode": [], "decode": []} for name in names
    }
    for turn in range(rounds):
        for name, each in coders.items():
            times[name]["encode"].append(timed(lambda each=each: each.encode(audio_BCT), device))
            work = timed(lambda each=each, name=name: each.decode(codes[name], samples), device)
            times[name]["decode"].append(work)
        print(f"round {turn + 1} of {rounds}", flush=True)
    return {
        name: {
            "parameters": sum(value.numel() for value in coders[name].module.parameters()),
            **{
                f"{way}_{clock}_factor": seconds / statistics.median(pair[index] for pair in pairs)
                for way, pairs in ways.items()
                for index, clock in enumerate(("wall", "cpu"))
            },
        }
        for name, ways in times.items()
    }


def table(found: dict[str, Any], *, against: str = "encodec") -> str:
    """Markdown: real-time factors by processor time, by the clock, and over those of `against`."""
    lines = [
        "| codec | M param. | encode | decode | … by the clock | encode over EnCodec's | decode |",
        "|---|---|---|---|---|---|---|",
    ]
    base = found.get(against)
    for name, row in found.items():
        ratios = [
            f"{row[f'{way}_cpu_factor'] / base[f'{way}_cpu_factor']:.1f} ×" if base else "–"
            for way in ("encode", "decode")
        ]
        lines.append(
            f"| {name} | {row['parameters'] / 1e6:.1f} | {row['encode_cpu_factor']:.2f} × | "
            f"{row['decode_cpu_factor']:.2f} × | {row['encode_wall_factor']:.2f}, "
            f"{row['decode_wall_factor']:.2f} | {ratios[0]} | {ratios[1]} |"
        )
    return "\n".join(lines)


@torch.inference_mode()
def stream(name: str, *, rounds: int, device: torch.device) -> dict[str, Any]:
    """Decoding in blocks: what a block waits for, and what it costs, context on both sides included."""
    model = coder(name, device).module
    assert isinstance(model, VQVAE)
    config, context = model.config, model.decoder.context_frames
    found: dict[str, Any] = {"look_ahead_ms": 1e3 * context / config.frame_rate}
    print(f"\n{name}: a frame's audio needs {context} frames after it: {found['look_ahead_ms']:.0f} ms\n")
    print("| block, frames | latency ms | to decode ms | real-time factor |\n|---|---|---|---|")
    for block in BLOCKS:
        codes_BQF = torch.randint(1024, (1, config.num_quantizers, block + 2 * context), device=device)
        spent = [timed(lambda codes=codes_BQF: model.decode(codes), device)[1] for _ in range(rounds + 1)]
        cost = statistics.median(spent[1:])
        latency = (block + context) / config.frame_rate + cost
        factor = block / config.frame_rate / cost
        found[str(block)] = {"latency_ms": 1e3 * latency, "cost_ms": 1e3 * cost, "factor": factor}
        print(f"| {block} | {1e3 * latency:.0f} | {1e3 * cost:.1f} | {factor:.1f} × |", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--codecs", nargs="*", default=list(CODECS))
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    found: dict[str, Any] = {"torch": torch.__version__, "device": str(device), "seconds": options.seconds}
    found["codecs"] = measure(options.codecs, seconds=options.seconds, rounds=options.rounds, device=device)
    print(table(found["codecs"]), flush=True)
    if options.stream:
        ours = [name for name in options.codecs if name.startswith("ours")]
        found["stream"] = {name: stream(name, rounds=options.rounds, device=device) for name in ours}
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

"""Training and sampling of a prior against `transformers`, in one run of under 100 s on an H200:

    PYTHONPATH=. python3 tests/bench/prior_speed.py --out "$OUT" --profile

(`--skip training`, `sampling` or `rivals` leaves these out.)

Training: a step with and without kernels, captured and not, and GPT-2 of the same shape as it comes (bf16
autocast, SDPA, fused AdamW), one head and one embedding for each level as ours. Sampling: as a CUDA graph and
plain, and MusicGen's decoder of the same shape with its static and its growing cache. Rivals without
`transformers` are left out.

"equal" is the share of codes that graph and plain draw alike. Rounding moves a boundary now and then, after
which a sound goes another way: "draws_apart" is how often, among draws after the same past.

With `--profile` the GPU's kernels by time go to DIR/kernels-*.txt. `--tiny` runs on a CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent))
from bench_device import begin, wait, worker_in
from musicgen import MusicgenPrior

from distill_ray.config.prior import PriorConfig, PriorTrainConfig, PriorTrainingConfig
from distill_ray.prior import CodePrior, SamplingConfig, fixed_steps, sample_codes
from distill_ray.prior.codes import CodeSequence
from distill_ray.prior.codes import _write_shard as write_shard
from distill_ray.training.prior import PriorTask

Row = dict[str, Any]
OURS: dict[str, Any] = {
    "plain, eager": {"capture": "off", "kernels": "off"},
    "plain, captured": {"kernels": "off"},
    "kernels, eager": {"capture": "off"},
    "kernels, captured": {},
}


def shape_of(*, tiny: bool) -> PriorConfig:
    """26 M parameters in the transformer, windows of 1152 frames."""
    if tiny:
        return PriorConfig(
            codebook_size=32, num_quantizers=4, hidden_size=32, num_layers=2, num_heads=2, context_frames=16
        )
    return PriorConfig(
        codebook_size=1024, num_quantizers=4, hidden_size=512, num_layers=8, num_heads=8, context_frames=768
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--skip", nargs="*", default=[], choices=("training", "sampling", "rivals"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    device, began = begin(), time.perf_counter()
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "shape": str(shape_of(tiny=options.tiny)),
    }
    with_rivals = "rivals" not in options.skip
    for name, part in (("sampling", sampling), ("training", training)):
        if name in options.skip:
            continue
        found[name] = []
        try:
            for row in part(device, options, rivals=with_rivals):
                found[name].append(row)
                write(options.out, found)
        except Exception:  # what was measured stays, and so does the other part
            found[f"{name}_failed"] = traceback.format_exc()
            print(found[f"{name}_failed"], flush=True)
    found["seconds"] = time.perf_counter() - began
    write(options.out, found)


def write(out: Path, found: dict[str, Any]) -> None:
    (out / "prior_speed.json").write_text(json.dumps(found, indent=1))


def said(**row: Any) -> Row:
    shown = {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
    print(*(f"{key} {value}" for key, value in shown.items()), sep="  ", flush=True)
    return row


@contextlib.contextmanager
def peak(device: torch.device) -> Iterator[dict[str, float]]:
    """Gigabytes at most, over what was there before."""
    found: dict[str, float] = {}
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    yield found
    if device.type == "cuda":
        found["peak_gb"] = (torch.cuda.max_memory_allocated() - before) / 1e9
        found["reserved_gb"] = torch.cuda.max_memory_reserved() / 1e9


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds."""
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - began


def profiled(out: Path, name: str, work: Callable[[], object]) -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        torch.cuda.synchronize()
    table = profile.key_averages().table(sort_by="cuda_time_total", row_limit=40, max_name_column_width=70)
    (out / f"kernels-{name}.txt").write_text(table)


def training(device: torch.device, options: argparse.Namespace, *, rivals: bool) -> Iterator[Row]:
    """Milliseconds a step of 16 windows, and codes a second."""
    model = shape_of(tiny=options.tiny)
    losses: dict[str, list[float]] = {}
    for name, changes in OURS.items():
        with codes_in(model) as folder, peak(device):
            settings = PriorTrainingConfig(epochs=10_000, batch_size=16, **changes)
            config = PriorTrainConfig(model=model, training=settings)
            task = PriorTask(
                folder, config, worker_in(folder / "run", device), frame_rate=86.0, vectors_QKL=None
            )
            losses[name] = []
            for step in range(8):
                before = float(task.sums[0])
                task.train_step(step, 0.1)
                losses[name].append(float(task.sums[0]) - before)
            yield steps_timed(device, options, name, task.train_step, model, losses=losses[name])
            del task
    for kind in ("plain", "kernels"):
        yield said(kind=kind, captured_as_eager=losses[f"{kind}, captured"] == losses[f"{kind}, eager"])
    if rivals:
        with contextlib.suppress(ImportError), peak(device):
            rival = Gpt2(model).to(device)
            yield steps_timed(device, options, "GPT-2", rival.train_step, model, parameters=count(rival))


def steps_timed(
    device: torch.device,
    options: argparse.Namespace,
    name: str,
    train_step: Callable[[int, float], None],
    model: PriorConfig,
    **more: Any,
) -> Row:
    steps = 3 if options.tiny else 30
    for step in range(8, 12):
        train_step(step, 0.1)
    turns = [
        timed(device, lambda turn=turn: [train_step(12 + turn * steps + n, 0.1) for n in range(steps)])  # type: ignore[misc]
        for turn in range(3)
    ]
    step_s = sorted(turns)[1] / steps
    wait(device)
    began = time.perf_counter()
    train_step(200, 0.1)
    host_s = time.perf_counter() - began
    wait(device)
    if options.profile and device.type == "cuda":
        name_of_file = name.replace(", ", "-")
        profiled(options.out, name_of_file, lambda: [train_step(300 + n, 0.1) for n in range(5)])
    peak_gb = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else 0.0
    return said(
        way=name,
        step_ms=1e3 * step_s,
        codes_a_second=16 * model.training_frames * model.num_quantizers / step_s,
        host_ms=1e3 * host_s,
        peak_gb=peak_gb,
        **more,
    )


@contextlib.contextmanager
def codes_in(model: PriorConfig) -> Iterator[Path]:
    """A folder with codes of random recordings."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rng = torch.Generator().manual_seed(0)
        shape = (model.num_quantizers, 4 * model.training_frames)
        write_shard(
            folder,
            [
                CodeSequence(
                    sha256=f"{index:064x}",
                    split="val" if index == 0 else "train",
                    codes_QT=torch.randint(model.codebook_size, shape, generator=rng).to(torch.int16),
                )
                for index in range(8)
            ],
        )
        yield folder


class Gpt2(nn.Module):
    """`transformers`' GPT-2 over the same windows, with the delay pattern laid out beforehand."""

    def __init__(self, model: PriorConfig) -> None:
        from transformers import GPT2Config, GPT2Model

        super().__init__()
        torch.manual_seed(0)
        self.shape = model
        self.steps = model.training_frames + model.num_quantizers - 1
        settings = GPT2Config(
            vocab_size=1,
            n_positions=self.steps,
            n_embd=model.hidden_size,
            n_layer=model.num_layers,
            n_head=model.num_heads,
            resid_pdrop=model.dropout,
            embd_pdrop=model.dropout,
            attn_pdrop=0.0,
        )
        self.net = GPT2Model(settings)
        self.embeddings = nn.ModuleList(
            nn.Embedding(model.codebook_size + 2, model.hidden_size) for _ in range(model.num_quantizers)
        )
        self.heads = nn.ModuleList(
            nn.Linear(model.hidden_size, model.codebook_size, bias=False) for _ in range(model.num_quantizers)
        )
        self.optimizer: torch.optim.Optimizer | None = None

    def train_step(self, step: int, fraction: float) -> None:
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(self.parameters(), lr=3e-4, weight_decay=0.1, fused=True)
        self.train()
        device = self.net.wte.weight.device
        shape = (self.shape.num_quantizers, 16, self.steps)
        codes_QBS = torch.randint(self.shape.codebook_size, shape, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            embedded_BSE = sum(
                embedding(codes_BS) for embedding, codes_BS in zip(self.embeddings, codes_QBS, strict=True)
            )
            hidden_BSE = self.net(inputs_embeds=embedded_BSE, use_cache=False).last_hidden_state
            losses = [
                functional.cross_entropy(head(hidden_BSE).flatten(0, 1).float(), codes_BS.flatten())
                for head, codes_BS in zip(self.heads, codes_QBS, strict=True)
            ]
        self.optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        self.optimizer.step()


def new_prior(config: PriorConfig, device: torch.device) -> CodePrior:
    """One whose distributions are about as peaked as a trained one's."""
    torch.manual_seed(0)
    prior = CodePrior(config)
    with torch.no_grad():
        prior.heads_QKE.mul_(6.0)
        prior.embedding.weight.mul_(6.0)
    return prior.to(device).eval()


def sampling(device: torch.device, options: argparse.Namespace, *, rivals: bool) -> Iterator[Row]:
    """Milliseconds a frame and frames a second of all sounds together."""
    config = shape_of(tiny=options.tiny)
    prior = new_prior(config, device)
    drawn(device, prior, 1, 8, way="plain")  # warm
    frames, plain_frames = (40, 40) if options.tiny else (860, 430)
    for batch in (1, 64):
        plain = drawn(device, prior, batch, plain_frames, way="plain")
        yield plain.row
        ways = ["graph", "graph, torch", *(["graph, tensor cores"] if batch > 8 else [])]
        for way in ways if device.type == "cuda" else []:
            found = drawn(device, prior, batch, frames, way=way)
            yield {**found.row, **likeness(found.codes_BQT, plain.codes_BQT)}
            if options.profile:
                again = functools.partial(drawn, device, prior, batch, 100, way=way)
                profiled(options.out, f"{way.replace(', ', '-')}-{batch}", again)
        if rivals:
            for cache in ("static", "dynamic"):
                # Unlike ours it takes a full cache's time, or grows, for every frame.
                rival_frames = 20 if options.tiny else 100
                with contextlib.suppress(ImportError):
                    yield musicgen(device, config, batch, rival_frames, cache)


@contextlib.contextmanager
def tensor_cores(wanted: bool) -> Iterator[None]:
    if not wanted:  # without Triton, too
        yield
        return
    from distill_ray.prior import kernels

    with mock.patch.object(kernels, "BY_TENSOR_CORES", True):
        yield


class Drawn:
    """What was drawn, and its row of the table."""

    def __init__(self, codes_BQT: Tensor, row: Row) -> None:
        self.codes_BQT, self.row = codes_BQT, row


def drawn(device: torch.device, prior: CodePrior, batch: int, frames: int, *, way: str) -> Drawn:
    """`way`: "plain", or "graph"; "graph, torch" is without kernels of our own, "graph, tensor cores" with
    those that take the place of cuBLAS.
    """
    never = 10**9
    least = {"plain": (never, never), "graph, torch": (1, never)}.get(way, (1, 1))

    def sample() -> Tensor:
        return sample_codes(
            prior,
            frames=frames,
            batch=batch,
            sampling=SamplingConfig(),
            generator=torch.Generator().manual_seed(1),
        )

    with (
        mock.patch.object(fixed_steps, "LEAST_STEPS", least[0]),
        mock.patch.object(fixed_steps, "LEAST_STEPS_OF_KERNELS", least[1]),
        peak(device) as memory,
        fixed_steps.graph_kept(),
    ):
        first_s = timed(device, sample)
        codes: list[Tensor] = []
        spent_s = min(
            timed(device, lambda: codes.append(sample())) for _ in range(1 if way == "plain" else 2)
        )
    return Drawn(
        codes[-1],
        said(
            way=way,
            batch=batch,
            frames=frames,
            ms_a_frame=1e3 * spent_s / frames,
            frames_a_second=batch * frames / spent_s,
            first_call_s=first_s,
            **memory,
        ),
    )


def likeness(codes_BQT: Tensor, other_BQT: Tensor) -> Row:
    frames = min(codes_BQT.shape[2], other_BQT.shape[2])
    equal_BQT = codes_BQT[:, :, :frames] == other_BQT[:, :, :frames]
    # Frames up to the first that differs, of each sound: its draws had the same past.
    same_BT = equal_BQT.all(1).int().cumprod(1)
    apart = int((same_BT[:, -1] == 0).sum())
    draws = (int(same_BT.sum()) + apart) * codes_BQT.shape[1]
    return said(equal=float(equal_BQT.float().mean()), draws_apart=apart / draws, draws=draws)


def musicgen(device: torch.device, config: PriorConfig, batch: int, frames: int, kind: str) -> Row:
    from transformers import DynamicCache, StaticCache

    training = PriorTrainConfig(model=config, training=PriorTrainingConfig(epochs=1))
    torch.manual_seed(0)
    # As far as ours looks back, which is what its cache holds.
    rival = MusicgenPrior(training, config.context_frames + 8).to(device).eval()
    settings = rival.net.config

    @torch.inference_mode()
    def sample() -> None:
        cache: Any = (
            StaticCache(config=settings, max_cache_len=config.context_frames)
            if kind == "static"
            else DynamicCache(config=settings)
        )
        inputs_BQ = torch.full((batch, rival.levels), rival.blank, device=device)
        for _ in range(min(frames, config.context_frames)):
            with (
                device
            ):  # it makes positions on the default device and adds the cache's length, which is here
                logits = rival.net(
                    input_ids=inputs_BQ.flatten()[:, None], past_key_values=cache, use_cache=True
                ).logits[:, -1]
            codes = torch.multinomial(logits.float().softmax(-1), 1)
            inputs_BQ = codes.view(batch, rival.levels)

    frames = min(frames, config.context_frames)
    with peak(device) as memory:
        timed(device, sample)
        spent_s = timed(device, sample)
    return said(
        way=f"MusicGen, {kind} cache",
        batch=batch,
        frames=frames,
        ms_a_frame=1e3 * spent_s / frames,
        frames_a_second=batch * frames / spent_s,
        parameters=count(rival),
        **memory,
    )


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


if __name__ == "__main__":
    main()

"""What a corpus and some seconds of a device give to hear: ours and others, judged alike.

    python tests/bench/generation.py make AUDIO OUT --systems ours compression encodec grains
    python tests/bench/generation.py judge OUT
    python tests/bench/generation.py pictures OUT

`make` prepares AUDIO once (the same split on every machine), then trains each system's codec and prior for
so many seconds each and writes OUT/SYSTEM/generated and OUT/SYSTEM/decoded (the held-out files through the
codec) as Ogg, and OUT/SYSTEM/row.json. `judge` scores both on any machine: distances with floors, copies,
levels, into OUT/SYSTEM/judged.json and OUT/table.md. `pictures` writes OUT/spectrograms.png.

Systems:
- `ours`: the product's commands on their defaults. "ours_LABEL:KEY=VALUE,KEY=VALUE" is ours with settings
  of its own; a KEY is a table and a name ("model.stride", "prior.dropout"), or an option of `train`
  ("--purpose").
- `compression`: what the product did on 2026-11-29, a codec for reconstruction and a plain prior: its
  defaults then, `--purpose compression` where there is such an option.
- `encodec`: EnCodec's layout (`rivals.py`) at 43 frames a second with 4 × 2048 codes, as MusicGen's, our
  losses and discriminators, no quantiser dropout; and MusicGen's recipe over its codes (`musicgen.py`).
- `grains`: training audio cut at random into grains of a second, in random order, faded over 10 ms.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from bakeoff import settings_of, train
from bench_device import begin, worker_in
from held_out import bench_corpus
from musicgen import train_musicgen
from rivals import Coder, Contest
from torch import Tensor

from distill_ray.config.resolve import MachineFacts, resolve_prior, resolve_vqvae
from distill_ray.corpus import PCM_SCALE, Corpus, open_corpus
from distill_ray.evaluate.sound import Sound
from distill_ray.runs.inputs import corpus_facts

FADE_SECONDS = 0.01
GRAIN_SECONDS = 1.0
ENCODEC = {
    "model.purpose": "compression",  # whose losses the rival takes
    "model.codebook_size": 2048,
    "model.num_quantizers": 4,
    "model.quantizer_dropout": 0.0,
    "model.hop": 256,
    "model.stride": 4,
    "adversarial.enabled": True,
    "adversarial.start": 0.2,
}
"""MusicGen's codec has 50 frames a second; strides that fit 44.1 kHz give 43."""
PIECE_SECONDS = 20.0
GENERATED, DECODED = "generated", "decoded"


def main() -> None:
    options = _options()
    if options.command == "make":
        make(options)
    elif options.command == "judge":
        from generation_judge import judge_all

        print(judge_all(options.out, options.systems))
    else:
        from generation_judge import spectrograms

        print(spectrograms(options.out, options.systems))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    maker = commands.add_parser("make")
    maker.add_argument("audio")
    maker.add_argument("out", type=Path)
    maker.add_argument("--systems", nargs="+", default=["ours", "compression", "encodec", "grains"])
    maker.add_argument("--codec-seconds", type=float, default=60.0)
    maker.add_argument("--prior-seconds", type=float, default=30.0)
    maker.add_argument("--count", type=int, default=16)
    maker.add_argument("--seconds", type=float, default=10.0)
    maker.add_argument("--val-fraction", type=float, default=0.15)
    maker.add_argument("--size", default=None, help="of ours; left out, the product chooses")
    maker.add_argument("--seed", type=int, default=0)
    maker.add_argument("--encodec", nargs="*", default=[], metavar="KEY=VALUE", help="settings of its own")
    for name in ("judge", "pictures"):
        looker = commands.add_parser(name)
        looker.add_argument("out", type=Path)
        looker.add_argument("--systems", nargs="*", default=None, help="left out: all that are there")
    return parser.parse_args()


def make(options: argparse.Namespace) -> None:
    corpus = bench_corpus(options.audio, options.out / "corpus", val_fraction=options.val_fraction)
    device = begin()
    print(
        f"{device}: train {corpus.seconds('train'):.0f} s, held out {corpus.seconds('val'):.0f} s", flush=True
    )
    for system in options.systems:
        name, _, given = system.partition(":")
        began = time.perf_counter()
        folder = options.out / name
        folder.mkdir(parents=True, exist_ok=True)
        if name == "grains":
            figures = make_grains(corpus, folder, options)
        elif name == "encodec":
            figures = make_encodec(corpus, folder, device, options)
        else:
            figures = make_ours(corpus, folder, name, [*filter(None, given.split(","))], options)
        row = {
            "system": name,
            "settings": given,
            "codec_seconds": options.codec_seconds,
            "prior_seconds": options.prior_seconds,
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "torch": torch.__version__,
            "wall_s": time.perf_counter() - began,
            **figures,
        }
        (folder / "row.json").write_text(json.dumps(row, indent=1))
        shown = {key: value for key, value in row.items() if isinstance(value, float | int | str)}
        print(shown, flush=True)


def make_grains(corpus: Corpus, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The concatenator: it has the corpus's sound, and no structure beyond a second."""
    generator = np.random.default_rng(options.seed)
    files = corpus.files("train")
    weights = np.array([file.samples for file in files], dtype=float)
    grain, fade = (round(seconds * corpus.sample_rate) for seconds in (GRAIN_SECONDS, FADE_SECONDS))
    ramp_T = np.minimum(1.0, np.arange(1, grain + fade + 1) / fade)
    envelope_T = ramp_T * ramp_T[::-1]
    for number in range(options.count):
        length = round(options.seconds * corpus.sample_rate)
        audio_T = np.zeros(length + grain + fade)
        for start in range(0, length, grain):
            file = files[generator.choice(len(files), p=weights / weights.sum())]
            count = min(file.samples, grain + fade)
            pcm_CT = np.empty((1, count), dtype=np.int16)
            corpus.read_into(pcm_CT, file, int(generator.integers(file.samples - count + 1)))
            audio_T[start : start + count] += pcm_CT[0] / PCM_SCALE * envelope_T[:count]
        write_ogg(folder / GENERATED / f"{number:02d}.ogg", torch.from_numpy(audio_T[None, :length]), corpus)
    return {}


def make_ours(
    corpus: Corpus, folder: Path, name: str, given: list[str], options: argparse.Namespace
) -> dict[str, Any]:
    """The product's own commands, one process each, as a user gives them."""
    flags = [text.replace("=", " ") for text in given if text.startswith("--")]
    if name == "compression" and "--purpose" in _help("train"):
        flags.append("--purpose compression")
    if options.size:
        flags.append(f"--size {options.size}")
    values = settings_of([text for text in given if not text.startswith("--")])
    model = folder / f"{name}.distill"
    train_prior = {key: value for key, value in values.items() if key.startswith("prior")}
    train_codec = {key: value for key, value in values.items() if not key.startswith("prior")}
    model.unlink(missing_ok=True)
    codec = _run(
        *("train", corpus.uri, "-o", str(folder), "--name", name, "--num-workers", "0"),
        *("--max-minutes", str(options.codec_seconds / 60), "--seed", str(options.seed)),
        *(word for flag in flags for word in flag.split()),
        *_toml(folder / "train.toml", train_codec),
    )
    prior = _run(
        *("train-prior", str(model), corpus.uri, "--num-workers", "0"),
        *("--max-minutes", str(options.prior_seconds / 60), "--seed", str(options.seed)),
        *_toml(folder / "train-prior.toml", train_prior),
    )
    _run(
        *("generate", str(model), "-n", str(options.count), "-d", str(options.seconds)),
        *("--seed", str(options.seed), "--format", "ogg", "--overwrite", "-o", str(folder / GENERATED)),
    )
    from distill_ray.bundle import choose_device, load_model_v2

    loaded = load_model_v2(model, device=choose_device("auto"))
    codes = _codes(loaded.model.encode, corpus, "val", loaded.device)
    for (file, number), codes_BQT in codes.items():
        decoded_BCT = loaded.model.decode(codes_BQT, codes_BQT.shape[2] * loaded.vqvae_config.frame_hop)
        write_ogg(folder / DECODED / f"{file:02d}-{number:02d}.ogg", decoded_BCT[0].detach(), corpus)
    learnt = _codes(loaded.model.encode, corpus, "train", loaded.device)
    rate = loaded.vqvae_config.frame_rate
    return {
        "codec": codec,
        "prior": prior,
        "frame_rate": rate,
        "levels": loaded.vqvae_config.num_quantizers,
        "codebook_size": loaded.vqvae_config.codebook_size,
        **_histogram_bits(learnt, codes, loaded.vqvae_config.codebook_size, rate),
        "prior_bits": prior["bits_per_second"],
    }


def make_encodec(
    corpus: Corpus, folder: Path, device: torch.device, options: argparse.Namespace
) -> dict[str, Any]:
    worker = worker_in(folder / "scratch", device)
    overrides = {
        **ENCODEC,
        "training.max_minutes": options.codec_seconds / 60,
        "training.batch_size": 48 if device.type == "cuda" else 4,
        "training.weight_decay": 0.01,
        "training.lr": 1e-3,
        "training.seed": options.seed,
        **settings_of(options.encodec),
    }
    gpu = device.type == "cuda"
    machine = MachineFacts(accelerator=gpu)
    config = resolve_vqvae(
        corpus_facts(corpus), overrides={**overrides, "model.size": "base"}, machine=machine
    ).config
    contest = Contest(corpus=corpus, held_out=corpus, config=config, worker=worker)
    trained = train("encodec", contest, seconds=options.codec_seconds, looks=4)
    coder: Coder = trained.coder
    coder.module.eval()
    train_codes = _codes(coder.encode, corpus, "train", device)
    val_codes = _codes(coder.encode, corpus, "val", device)
    hop, rate = config.model.frame_hop, config.model.frame_rate
    for (file, number), codes_BQT in val_codes.items():
        decoded_BCT = coder.decode(codes_BQT, codes_BQT.shape[2] * hop)
        write_ogg(folder / DECODED / f"{file:02d}-{number:02d}.ogg", decoded_BCT[0], corpus)
    joined, held_out = _joined(train_codes), _joined(val_codes)
    prior_config = resolve_prior(
        config.model,
        file_count=len(corpus.files("train")),
        train_frames=sum(each.shape[1] for each in joined),
        overrides={
            "prior_training.max_minutes": options.prior_seconds / 60,
            "prior_training.seed": options.seed,
        },
        machine=machine,
    ).config
    frames = math.ceil(options.seconds * rate)
    prior, figures = train_musicgen(
        joined, held_out, prior_config, frames=frames, seconds=options.prior_seconds, device=device
    )
    codes_BQT = prior.sample(options.count, frames, options.seed)
    length = round(options.seconds * corpus.sample_rate)
    for number, codes_QT in enumerate(codes_BQT):
        audio_BCT = coder.decode(codes_QT[None], length)
        write_ogg(folder / GENERATED / f"{number:02d}.ogg", audio_BCT[0], corpus)
    bits = figures["val_loss"] / math.log(2) * rate * config.model.num_quantizers
    return {
        "codec": trained.figures,
        "prior": figures,
        "frame_rate": rate,
        "levels": config.model.num_quantizers,
        "codebook_size": config.model.codebook_size,
        **_histogram_bits(train_codes, val_codes, config.model.codebook_size, rate),
        "prior_bits": bits,
    }


Pieces = dict[tuple[int, int], Tensor]
"""codes_BQT (B = 1) of each piece of each file of a split."""


@torch.no_grad()
def _codes(encode: Any, corpus: Corpus, split: str, device: torch.device) -> Pieces:
    """Codes of all files in pieces of whole frames, so that memory stays bounded."""
    length = round(PIECE_SECONDS * corpus.sample_rate) // 4096 * 4096
    found: Pieces = {}
    for index, file in enumerate(corpus.files(split)):
        audio_CT = corpus.read(file).float() / PCM_SCALE
        for number, part_CT in enumerate(audio_CT.split(length, dim=1)):
            found[index, number] = encode(part_CT[None].to(device))
    return found


def _joined(pieces: Pieces) -> list[Tensor]:
    """codes_QT of each file."""
    files = sorted({file for file, _ in pieces})
    return [
        torch.cat([codes[0] for (of, _), codes in sorted(pieces.items()) if of == file], dim=1).cpu()
        for file in files
    ]


def _histogram_bits(train: Pieces, held_out: Pieces, size: int, rate: float) -> dict[str, float]:
    """Bits a second of held-out codes by each level's own histogram of the training codes (add-one)."""
    learnt_QN, said_QN = (torch.cat(_joined(pieces), dim=1) for pieces in (train, held_out))
    bits = 0.0
    for learnt_N, said_N in zip(learnt_QN, said_QN, strict=True):
        counts_K = torch.bincount(learnt_N, minlength=size).double() + 1
        bits += float(-(counts_K / counts_K.sum()).log2()[said_N].mean())
    return {"histogram_bits": bits * rate, "uniform_bits": len(said_QN) * math.log2(size) * rate}


def _run(*arguments: str) -> dict[str, Any]:
    """One command of the product; its JSON document."""
    command = [sys.executable, "-m", "distill_ray", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments[:3])} ended with {done.returncode}")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def _help(command: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "distill_ray", command, "--help"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


def _toml(path: Path, values: dict[str, Any]) -> list[str]:
    """--config with settings named table.key; nothing for none."""
    if not values:
        return []
    tables: dict[str, list[str]] = {}
    for key, value in values.items():
        table, _, name = key.partition(".")
        tables.setdefault(table, []).append(f"{name} = {json.dumps(value)}")
    path.write_text("\n".join(f"[{table}]\n" + "\n".join(lines) + "\n" for table, lines in tables.items()))
    return ["--config", str(path)]


def write_ogg(path: Path, audio_CT: Tensor, corpus: Corpus) -> None:
    """Ogg Vorbis at about 140 kbit/s for one channel: what comes back of a GPU host is limited."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples_TC = audio_CT.float().cpu().clamp(-1, 1).numpy().T
    with soundfile.SoundFile(
        path, "w", corpus.sample_rate, samples_TC.shape[1], "VORBIS", format="OGG", compression_level=0.2
    ) as file:
        for start in range(0, len(samples_TC), 1 << 15):
            file.write(samples_TC[start : start + (1 << 15)])


def corpus_of(out: Path) -> Corpus:
    return open_corpus(out / "corpus")


def sounds_of(corpus: Corpus, split: str) -> Iterator[Sound]:
    """Whole files of a split."""
    for file in corpus.files(split):
        yield Sound(file.path, corpus.read(file).float() / PCM_SCALE, corpus.sample_rate)


if __name__ == "__main__":
    main()

"""`distill-ray evaluate`: how well a codec reconstructs held-out audio, at every depth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distill_ray.cli import options
from distill_ray.cli.device import Device
from distill_ray.cli.output import finish
from distill_ray.errors import ConfigError, Problem, UsageError
from distill_ray.generate.settings import GenerationSettings

_SPLITS = ("val", "train", "all")


def command(
    model: Annotated[Path, typer.Argument(help="The .distill file.", metavar="MODEL")],
    data: Annotated[str, typer.Argument(help="Prepared corpus or folder of audio.", metavar="DATA")],
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="With --generated: audio of any tool to judge instead of the model's.",
            metavar="[FOLDER]",
            show_default=False,
        ),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Which files: val (held out), train or all.")] = "val",
    generated: Annotated[
        bool,
        typer.Option(
            "--generated",
            help="Judge generated sound too: of the model, or of FOLDER.",
        ),
    ] = False,
    count: Annotated[
        int | None,
        typer.Option("-n", help="How many sounds to generate; default: 240 windows.", show_default=False),
    ] = None,
    seconds: Annotated[float, options.from_setting(GenerationSettings, "seconds")] = 10.0,
    temperature: Annotated[
        float, typer.Option("--temperature", help="Divides the logits; 0 always takes the likeliest code.")
    ] = 1.0,
    top_k: Annotated[
        int, typer.Option("--top-k", help="Draw among the K likeliest codes; 0: among all.")
    ] = 0,
    top_p: Annotated[
        float, typer.Option("--top-p", help="Draw among the likeliest codes that reach this probability.")
    ] = 1.0,
    seed: Annotated[int, options.from_setting(GenerationSettings, "seed")] = 0,
    device: Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Score reconstructions: mel distance (DAC's), STFT distance, SI-SDR, kbps, codebook health.

    With --generated also how near generated sound is to the training audio, beside what interleaved halves
    of the training audio and held-out recordings reach, and the same of decoded held-out audio.
    """
    if split not in _SPLITS:
        raise ConfigError([Problem("split", f"{split!r} is not one of {', '.join(_SPLITS)}", "--split")])
    _check_folder(model, folder, generated=generated, count=count)
    from distill_ray.bundle import choose_device, load_model_v2
    from distill_ray.config.corpus import CorpusConfig
    from distill_ray.corpus import ensure_corpus
    from distill_ray.display import Display
    from distill_ray.display.tables import as_lines, facts, health_table, table
    from distill_ray.evaluate import evaluate_model
    from distill_ray.evaluate.generated import WhatToGenerate, check_generates, evaluate_generated
    from distill_ray.evaluate.judgement import JUDGEMENT_HEADER
    from distill_ray.evaluate.report import DEPTH_HEADER
    from distill_ray.events.records import StageProgress
    from distill_ray.prior import SamplingConfig
    from distill_ray.runs.inputs import on_report

    loaded = load_model_v2(model, device=choose_device(device))
    codec = loaded.vqvae_config
    what = WhatToGenerate(
        count=count,
        seconds=seconds,
        sampling=SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p),
        seed=seed,
    )
    if generated:
        check_generates(loaded, folder)
    with Display() as display:
        corpus = ensure_corpus(
            data,
            CorpusConfig(sample_rate=codec.sample_rate, channels=codec.channels),
            asked_by="the model is",
            on_progress=lambda done, total, note: display(
                StageProgress(stage="prepare", done=done, total=total, note=note)
            ),
            on_report=on_report(display),
        )
        report = evaluate_model(loaded, corpus, split=split, on_progress=display)
        if generated:
            report = evaluate_generated(loaded, corpus, report, folder=folder, what=what, on_progress=display)
    title = f"{len(report.files)} files of {report.split}, {report.seconds:.1f} s at {report.sample_rate} Hz"
    for warning in report.warnings:
        display.warn(warning)
    tables = [
        table(title, DEPTH_HEADER, report.depth_rows()),
        health_table(report.health, "Codebook use in these files", agreement=report.codes),
    ]
    for name, judgement in (("Generated", report.generated), ("Decoded", report.decoded)):
        if judgement is not None:
            amount = f"{judgement.sounds} sounds, {judgement.seconds:.0f} s, {judgement.windows} windows"
            title = f"{name} sound against the training audio: {amount}"
            tables.append(table(title, JUDGEMENT_HEADER, judgement.rows()))
            tables.append(facts("Levels", judgement.level_rows()))
    finish(report.to_json(), result=as_lines(tables), as_json=as_json)


def _check_folder(model: Path, folder: Path | None, *, generated: bool, count: int | None) -> None:
    if folder is not None and not generated:
        raise UsageError(f"{folder} is audio to judge only with --generated; add it or leave the folder out")
    if folder is not None and model.is_dir():
        raise UsageError(f"{model} is a folder; the order is MODEL DATA --generated FOLDER")
    if folder is not None and count is not None:
        raise UsageError(
            f"-n says how many sounds to generate and {folder} holds what to judge; leave one out"
        )

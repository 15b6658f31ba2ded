"""`distill-ray evaluate`: how well a codec reconstructs held-out audio, at every depth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distill_ray.cli import options
from distill_ray.cli.device import Device
from distill_ray.cli.output import finish
from distill_ray.errors import ConfigError, Problem

_SPLITS = ("val", "train", "all")


def command(
    model: Annotated[Path, typer.Argument(help="The .distill file.", metavar="MODEL")],
    data: Annotated[str, typer.Argument(help="Prepared corpus or folder of audio.", metavar="DATA")],
    split: Annotated[str, typer.Option("--split", help="Which files: val (held out), train or all.")] = "val",
    device: Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Score reconstructions: mel distance (DAC's), STFT distance, SI-SDR, kbps, codebook health."""
    if split not in _SPLITS:
        raise ConfigError([Problem("split", f"{split!r} is not one of {', '.join(_SPLITS)}", "--split")])
    from distill_ray.bundle import choose_device, load_model_v2
    from distill_ray.config.corpus import CorpusConfig
    from distill_ray.corpus import ensure_corpus
    from distill_ray.display import Display
    from distill_ray.display.tables import as_lines, health_table, table
    from distill_ray.evaluate import evaluate_model
    from distill_ray.evaluate.report import DEPTH_HEADER
    from distill_ray.events.records import StageProgress
    from distill_ray.runs.inputs import on_report

    loaded = load_model_v2(model, device=choose_device(device))
    codec = loaded.vqvae_config
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
    title = f"{len(report.files)} files of {report.split}, {report.seconds:.1f} s at {report.sample_rate} Hz"
    for warning in report.warnings:
        display.warn(warning)
    tables = [
        table(title, DEPTH_HEADER, report.depth_rows()),
        health_table(report.health, "Codebook use in these files", agreement=report.codes),
    ]
    finish(report.to_json(), result=as_lines(tables), as_json=as_json)

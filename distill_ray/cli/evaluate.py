"""`distill-ray evaluate`: how well a codec reconstructs held-out audio, at every depth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distill_ray.cli import options
from distill_ray.cli.device import Device
from distill_ray.cli.output import finish
from distill_ray.cli.recordings import showing_findings
from distill_ray.cli.settings import Settings, takes_settings
from distill_ray.config.build import build_sections
from distill_ray.config.catalogue import setting_of
from distill_ray.config.generation import JudgeSettings, SamplingConfig
from distill_ray.errors import ConfigError, Problem, UsageError

if TYPE_CHECKING:
    from distill_ray.display.fitting import FittedTable

_SPLITS = ("val", "train", "all")


@takes_settings("evaluate")
def command(
    *,
    model: Annotated[Path, typer.Argument(help="The .distill file.", metavar="MODEL")],
    data: Annotated[str, typer.Argument(help="Prepared corpus or folder of audio.", metavar="DATA")],
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="With --generated: audio of any tool to judge instead of the model's.",
            metavar="FOLDER",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", metavar="val|train|all", help="Which files; val: held out.")
    ] = "val",
    generated: Annotated[
        bool,
        typer.Option(
            "--generated",
            help="Judge generated sound too: of the model, or of FOLDER.",
        ),
    ] = False,
    settings: Settings,
    device: Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Score reconstructions: mel distance (DAC's), STFT distance, SI-SDR, kbps, codebook health.

    With --generated also how near generated sound is to the training audio, beside what interleaved halves
    of the training audio and held-out recordings reach, and the same of decoded held-out audio.
    """
    if split not in _SPLITS:
        raise ConfigError([Problem("split", f"{split!r} is not one of {', '.join(_SPLITS)}", "--split")])
    sections = build_sections((JudgeSettings, SamplingConfig), settings)
    _check_folder(model, folder, generated=generated, chosen=settings)
    from distill_ray.bundle import choose_device, load_model_v2
    from distill_ray.config.corpus import CorpusConfig
    from distill_ray.corpus import ensure_corpus
    from distill_ray.display import Display, figures
    from distill_ray.display.tables import as_lines, depth_table, facts, health_table, table
    from distill_ray.evaluate import evaluate_model
    from distill_ray.evaluate.generated import check_generated, evaluate_generated
    from distill_ray.evaluate.judgement import (
        LEVEL_HEADER,
        copy_rows,
        level_rows,
        nearest_rows,
    )
    from distill_ray.evaluate.report import DEPTH_HEADER
    from distill_ray.events.records import StageProgress
    from distill_ray.runs.inputs import on_report

    loaded = load_model_v2(model, device=choose_device(device))
    codec = loaded.vqvae_config
    if generated:
        check_generated(loaded, folder)
    with Display() as display:
        corpus = ensure_corpus(
            data,
            CorpusConfig(sample_rate=codec.sample_rate, channels=codec.channels),
            asked_by="the model is",
            on_progress=lambda done, total, note: display(
                StageProgress(stage="prepare", done=done, total=total, note=note)
            ),
            on_report=on_report(showing_findings(display)),
        )
        report = evaluate_model(loaded, corpus, split=split, on_progress=display)
        if generated:
            report = evaluate_generated(
                loaded,
                corpus,
                report,
                folder=folder,
                settings=sections[JudgeSettings],
                sampling=sections[SamplingConfig],
                on_progress=display,
            )
    which = {"val": "held-out ", "train": "training "}.get(report.split, "")
    files = figures.count(len(report.files), f"{which}file")
    title = f"{files}, {report.seconds:.1f} s at {report.sample_rate} Hz"
    for warning in report.warnings:
        display.warn(warning)
    tables: list[Any] = [
        depth_table(title, DEPTH_HEADER, report.depth_rows()),
        health_table(report.health, "Codebook use in these files", agreement=report.codes),
    ]
    for name, judgement in (("Generated", report.generated), ("Decoded", report.decoded)):
        if judgement is not None:
            amount = f"{judgement.sounds} sounds, {judgement.seconds:.0f} s, {judgement.windows} windows"
            title = f"{name} sound against the training audio: {amount}"
            tables.append(judgement_table(title, judgement.rows()))
    if report.generated is not None and report.decoded is not None:
        tables.append(table("Levels", LEVEL_HEADER, level_rows(report.generated, report.decoded)))
    if report.generated is not None:
        tables.append(facts("Copies of the training audio", copy_rows(report.generated)))
        nearest = nearest_rows(report.generated)
        if nearest:
            tables.append(nearest_table(nearest))
    finish(report.to_json(), result=as_lines(tables), as_json=as_json)


_MEASURE_WIDTH = 14  # an interval, and the longest word of a measure with its indent


def judgement_table(title: str, rows: Sequence[tuple[object, ...]]) -> FittedTable:
    """The judge's measures; those that say least go where a terminal is too narrow for whole words. Without
    their values kernel, coverage and density would be empty rows.
    """
    from distill_ray.display.fitting import FittedTable
    from distill_ray.display.tables import table
    from distill_ray.evaluate.judgement import JUDGEMENT_HEADER

    made = table(title, JUDGEMENT_HEADER, rows)
    return FittedTable(made, ("halves", "held out", "value"), text=_MEASURE_WIDTH)


def nearest_table(rows: Sequence[tuple[object, ...]]) -> FittedTable:
    """One line a sound, however long the names of files are."""
    from distill_ray.display.fitting import FittedTable
    from distill_ray.display.tables import table
    from distill_ray.evaluate.judgement import NEAREST_HEADER

    made = table("Nearest training moments", NEAREST_HEADER, rows)
    return FittedTable(made, ("distance",), names=(NEAREST_HEADER[0], NEAREST_HEADER[2]))


def _check_folder(model: Path, folder: Path | None, *, generated: bool, chosen: Settings) -> None:
    if folder is not None and not generated:
        raise UsageError(f"{folder} is audio to judge only with --generated; add it or leave the folder out")
    if folder is not None and model.is_dir():
        raise UsageError(f"{model} is a folder; the order is MODEL DATA --generated FOLDER")
    if chosen and not generated:
        raise UsageError(f"{_flags(chosen)} is of use only with --generated; add it or leave that out")
    what_to_make = {key: value for key, value in chosen.items() if key != "judge.seed"}
    if folder is not None and what_to_make:
        raise UsageError(
            f"{_flags(what_to_make)} is for generating and {folder} holds what to judge; leave one out"
        )


def _flags(chosen: Settings) -> str:
    return " and ".join(setting_of(key).flag_in("evaluate") for key in chosen)

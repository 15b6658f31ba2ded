"""`distill-ray prepare`: folders of recordings → a corpus of PCM shards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from distill_ray.cli import options
from distill_ray.cli.output import finish
from distill_ray.cli.recordings import show_findings
from distill_ray.cli.settings import Settings, takes_settings
from distill_ray.config.build import build_sections
from distill_ray.config.corpus import CorpusConfig
from distill_ray.errors import ConfigError, Problem

if TYPE_CHECKING:
    from distill_ray.corpus import PrepareReport
    from distill_ray.display import Display


@takes_settings("prepare")
def command(
    *,
    sources: Annotated[list[str], typer.Argument(help="Folders or files of audio.", metavar="SOURCE...")],
    out: Annotated[str, typer.Option("--out", "-o", help="Where the corpus goes: a folder or a URI.")],
    settings: Settings,
    workers: Annotated[
        int | None,
        typer.Option("--workers", help="Decoding threads. [default: one a core]", show_default=False),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail if any file cannot be used.")] = False,
    as_json: options.Json = False,
) -> None:
    """Turn recordings into a corpus; run again, only what is new is decoded.

    Files are found recursively (wav, flac, aiff, ogg, opus, mp3, caf, au and others). The corpus then holds
    what the given sources hold: files of sources that are not named again are removed from it, and the others
    keep their side of the split. train and train-prior also take a plain folder and do this themselves.
    """
    problems: list[Problem] = []
    try:
        config = build_sections((CorpusConfig,), settings)[CorpusConfig]
    except ConfigError as error:
        problems += error.problems
    if workers is not None and workers < 1:
        problems.append(Problem("workers", f"{workers} is below the least allowed value 1", "--workers"))
    if problems:
        raise ConfigError(problems)

    from distill_ray.corpus import prepare_corpus
    from distill_ray.display import Display
    from distill_ray.events.records import StageProgress

    with Display() as display:
        report = prepare_corpus(
            sources,
            out,
            config=config,
            workers=workers,
            strict=strict,
            on_progress=lambda done, total, note: display(
                StageProgress(stage="prepare", done=done, total=total, note=note)
            ),
        )
    _summarise(report, display)
    if report.split_kept and "corpus.val_fraction" in settings:
        display.warn(
            f"files keep the side that they had: {report.seconds_val:.1f} of "
            f"{report.seconds_train + report.seconds_val:.1f} s are held out ({report.held_out()}); for "
            "another split prepare into a new --out"
        )
    finish(report.to_json(), result=report.out, as_json=as_json)


def _summarise(report: PrepareReport, display: Display) -> None:
    display.table("Corpus", ("", ""), list(_facts(report)))
    rows = report.findings()
    if rows:
        show_findings(display, report.files, rows)


def _facts(report: PrepareReport) -> Iterator[tuple[str, str]]:
    from distill_ray.display.figures import count

    yield "files kept", f"{report.files} ({report.decoded} decoded, {report.reused} reused)"
    yield "left out", f"{len(report.rejected)}, and {count(len(report.duplicates), 'duplicate')}"
    yield "training", f"{count(report.files_train, 'file')}, {report.seconds_train:.1f} s"
    yield "held out", f"{report.held_out()}, {report.seconds_val:.1f} s"
    yield "format", f"{report.sample_rate} Hz, {count(report.channels, 'channel')}"
    yield "time", f"{report.elapsed_s:.1f} s"

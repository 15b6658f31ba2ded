"""`distill-ray run`: recordings → corpus → best codec → prior → one NAME.distill and samples of it."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from distill_ray.cli import options
from distill_ray.cli.output import finish
from distill_ray.cli.settings import Settings, takes_settings
from distill_ray.errors import UsageError


@takes_settings("run")
def command(
    *,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders or files of audio, or one prepared corpus; not needed with --resume.",
            metavar="SOURCE",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder or URI for everything; given again, the run in it goes on. [default: runs/NAME]",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name of the model. [default: the first source's]", show_default=False),
    ] = None,
    no_tune: Annotated[
        bool, typer.Option("--no-tune", help="Train one codec, chosen from the corpus, without a search.")
    ] = False,
    settings: Settings,
    num_workers: options.NumWorkers = "auto",
    gpus_per_worker: options.GpusPerWorker = None,
    address: options.Address = None,
    resume: Annotated[
        str | None,
        typer.Option("--resume", help="Folder or URI of an earlier run to go on with.", show_default=False),
    ] = None,
    new: options.New = False,
    with_report: options.WithReport = True,
    config: options.ConfigFile = None,
    as_json: options.Json = False,
) -> None:
    """Do all of it: prepare the recordings, search for the best codec, train the prior, generate samples.

    The same command goes on where it was interrupted: what is done is not done again. With the same --out or
    with --resume, settings that are not given again stay. --max-minutes is for all of it, --epochs
    for the codec, in a search each trial. --num-workers and --gpus-per-worker are for the prior, and for the
    codec with --no-tune.
    """
    began = time.monotonic()
    if not sources and resume is None and out is None:  # said before anything heavy is loaded
        raise UsageError("no source was given; name a folder of recordings or audio files")
    # Without workers the prior is trained in this process, wherever the search is.
    workers = options.worker_plan(num_workers, gpus_per_worker, None if num_workers == "0" else address)

    from distill_ray.cli.attended import attended
    from distill_ray.display import trial_listener
    from distill_ray.pipeline.run import run_everything

    with attended() as view:
        report = run_everything(
            sources=sources or (),
            overrides=settings,
            config_file=config,
            out=out,
            name=None if name is None else options.run_name(name, ""),
            default_name=options.run_name(None, sources[0]) if sources else "distill",
            resume=resume,
            tune=False if no_tune else None,
            plan=workers,
            address=address,
            listener=view,
            trial_listener=trial_listener,
            new=new,
            began=began,
            report=with_report,
        )
    document = {**report.to_json(), "warnings": view.warnings}
    paths = {
        "model": report.model_path,
        "samples": report.samples_dir,
        "run": report.output_dir,
        "report": report.report_path,
    }
    view.final_report(paths)
    finish(document, result=report.model_path, as_json=as_json, exit_code=report.exit_code)

"""`distill-ray run`: recordings → corpus → best codec → prior → one NAME.distill and samples of it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Annotated

import typer

from distill_ray.cli import options
from distill_ray.cli import sweep_options as sweep
from distill_ray.cli.attended import attended
from distill_ray.cli.output import finish
from distill_ray.config.prior import PriorTrainingConfig
from distill_ray.errors import ConfigError
from distill_ray.generate.settings import GenerationSettings

# Flags of this command for settings whose own flag means another stage's here, or does not exist.
_FLAGS = {
    f"{PriorTrainingConfig.table}.epochs": "--prior-epochs",
    f"{PriorTrainingConfig.table}.max_minutes": "--prior-minutes",
    f"{GenerationSettings.table}.count": "--samples",
    f"{GenerationSettings.table}.seconds": "--seconds",
}


def command(
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
            help="Folder or URI for everything; again: goes on with what is there.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name of the model; default: the first source's.", show_default=False),
    ] = None,
    no_tune: Annotated[
        bool, typer.Option("--no-tune", help="Train one codec, chosen from the corpus, without a search.")
    ] = False,
    samples: Annotated[
        int | None,
        typer.Option("--samples", help="How many sounds to generate [default 8].", show_default=False),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", help="Length of each in seconds [default 10].", show_default=False),
    ] = None,
    codebook_sizes: sweep.CodebookSizes = None,
    rvq_levels: sweep.RvqLevels = None,
    trials: sweep.Trials = None,
    max_minutes: sweep.MaxMinutes = None,
    max_kbps: sweep.MaxKbps = None,
    objective: sweep.Objective = None,
    scheduler: sweep.Scheduler = None,
    search: sweep.Search = None,
    plan: sweep.Plan = None,
    finalists: sweep.Finalists = None,
    gpus_per_trial: sweep.GpusPerTrial = None,
    workers_per_trial: sweep.WorkersPerTrial = None,
    max_concurrent: sweep.MaxConcurrent = None,
    health_floor: sweep.HealthFloor = None,
    health_patience: sweep.HealthPatience = None,
    health_warmup: sweep.HealthWarmup = None,
    no_health_stop: sweep.NoHealthStop = False,
    size: sweep.Size = None,
    epochs: sweep.Epochs = None,
    batch_size: sweep.BatchSize = None,
    lr: sweep.Lr = None,
    commitment_weight: sweep.CommitmentWeight = None,
    seed: sweep.Seed = None,
    prior_epochs: Annotated[
        int | None,
        typer.Option("--prior-epochs", help="Epochs of the prior [at least 1].", show_default=False),
    ] = None,
    prior_minutes: Annotated[
        float | None,
        typer.Option("--prior-minutes", help="Time budget of the prior in minutes.", show_default=False),
    ] = None,
    num_workers: options.NumWorkers = "auto",
    gpus_per_worker: options.GpusPerWorker = None,
    address: options.Address = None,
    resume: Annotated[
        str | None,
        typer.Option("--resume", help="Folder or URI of an earlier run to go on with.", show_default=False),
    ] = None,
    config: options.ConfigFile = None,
    as_json: options.Json = False,
) -> None:
    """Do all of it: prepare the recordings, search for the best codec, train the prior, generate samples.

    The same command with the same --out goes on where it was: what is done is not done again, and settings
    that are not given again stay. --epochs and --max-minutes are the codec's (of each trial, and of the whole
    search). --num-workers and --gpus-per-worker are for the prior, and for the codec with --no-tune.
    """
    overrides = sweep.sweep_overrides(locals())
    if no_tune and "sweep.max_minutes" in overrides:
        overrides["training.max_minutes"] = overrides.pop("sweep.max_minutes")
    overrides |= options.given(
        {
            f"{PriorTrainingConfig.table}.epochs": prior_epochs,
            f"{PriorTrainingConfig.table}.max_minutes": prior_minutes,
            f"{PriorTrainingConfig.table}.seed": seed,
            f"{GenerationSettings.table}.count": samples,
            f"{GenerationSettings.table}.seconds": seconds,
            f"{GenerationSettings.table}.seed": seed,
        }
    )
    # Without workers the prior is trained in this process, wherever the search is.
    workers = options.worker_plan(num_workers, gpus_per_worker, None if num_workers == "0" else address)

    from distill_ray.display import trial_listener
    from distill_ray.pipeline.run import run_everything

    with attended() as view, _own_flags():
        report = run_everything(
            sources=sources or (),
            overrides=overrides,
            config_file=config,
            size=size,
            out=out,
            name=None if name is None else options.run_name(name, ""),
            default_name=options.run_name(None, sources[0]) if sources else "distill",
            resume=resume,
            tune=False if no_tune else None,
            plan=workers,
            address=address,
            listener=view,
            trial_listener=trial_listener,
        )
    document = report.to_json()
    paths = {"model": report.model_path, "samples": report.samples_dir, "run": report.output_dir}
    view.final_report(options.given(paths))
    finish(document, result=report.model_path, as_json=as_json, exit_code=report.exit_code)


@contextlib.contextmanager
def _own_flags() -> Iterator[None]:
    """Name wrong settings by the flags that this command has for them."""
    try:
        yield
    except ConfigError as error:
        problems = [
            dataclasses.replace(problem, flag=_FLAGS.get(problem.key, problem.flag))
            for problem in error.problems
        ]
        raise ConfigError(problems) from error

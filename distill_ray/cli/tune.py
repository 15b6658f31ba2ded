"""`distill-ray tune`: a search over codebook sizes and RVQ depths → the best healthy codec: NAME.distill."""

from __future__ import annotations

from typing import Annotated

import typer

from distill_ray.cli import options
from distill_ray.cli import sweep_options as sweep
from distill_ray.cli.attended import attended
from distill_ray.cli.output import finish


def command(
    data: Annotated[str, typer.Argument(help="Prepared corpus or folder of audio.", metavar="DATA")],
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", help="Folder for the search and its best model.", show_default=False),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name of the model; default: the data folder's.", show_default=False),
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
    address: options.Address = None,
    resume: Annotated[
        str | None,
        typer.Option("--resume", help="Folder of an interrupted search to go on with.", show_default=False),
    ] = None,
    config: options.ConfigFile = None,
    as_json: options.Json = False,
) -> None:
    """Train codecs of several codebook sizes and depths, and keep the best one that is healthy.

    Lower is better in the objective: the held-out reconstruction loss among the codecs within --max-kbps, or
    the bits that a prior needs (prior-bits). A trial whose codebooks collapse is ended early. --epochs is for
    each trial, --max-minutes for all of them. Ctrl-C keeps what is done; --resume goes on from there.
    """
    overrides = sweep.sweep_overrides(locals())
    # A resumed search keeps the name that it has.
    named = name if resume is not None and name is None else options.run_name(name, data)

    from distill_ray.display import trial_listener
    from distill_ray.tune.tune import tune_codec

    with attended() as view:
        report = tune_codec(
            data=data,
            overrides=overrides,
            config_file=config,
            size=size,
            out=out,
            name=named,
            resume=resume,
            address=address,
            listener=view,
            trial_listener=trial_listener,
        )
    document = report.to_json()
    paths = {"model": report.model_path, "search": document["output_dir"]}
    view.final_report(options.given(paths))
    finish(document, result=report.model_path, as_json=as_json, exit_code=report.exit_code)

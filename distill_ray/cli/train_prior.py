"""`distill-ray train-prior`: a codec and the recordings → a prior over their codes, in the same file."""

from __future__ import annotations

from typing import Annotated

import typer

from distill_ray.cli import options
from distill_ray.cli.attended import attended
from distill_ray.cli.output import finish
from distill_ray.config.prior import PriorConfig, PriorTrainingConfig


def command(
    model: Annotated[str, typer.Argument(help="The .distill file: a path or URI.", metavar="MODEL")],
    data: Annotated[str, typer.Argument(help="Prepared corpus or folder of audio.", metavar="DATA")],
    epochs: Annotated[int | None, options.from_setting(PriorTrainingConfig, "epochs")] = None,
    max_minutes: Annotated[float | None, options.from_setting(PriorTrainingConfig, "max_minutes")] = None,
    hidden_size: Annotated[int | None, options.from_setting(PriorConfig, "hidden_size")] = None,
    layers: Annotated[int | None, options.from_setting(PriorConfig, "num_layers")] = None,
    heads: Annotated[int | None, options.from_setting(PriorConfig, "num_heads")] = None,
    pattern: Annotated[str | None, options.from_setting(PriorConfig, "pattern")] = None,
    lr: Annotated[float | None, options.from_setting(PriorTrainingConfig, "lr")] = None,
    batch_size: Annotated[int | None, options.from_setting(PriorTrainingConfig, "batch_size")] = None,
    seed: Annotated[int | None, options.from_setting(PriorTrainingConfig, "seed")] = None,
    num_workers: options.NumWorkers = "auto",
    gpus_per_worker: options.GpusPerWorker = None,
    address: options.Address = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the prior that the file has.")
    ] = False,
    config: options.ConfigFile = None,
    as_json: options.Json = False,
) -> None:
    """Train the prior over the codec's codes and put it into the same file."""
    overrides = options.given(
        {
            "prior.hidden_size": hidden_size,
            "prior.num_layers": layers,
            "prior.num_heads": heads,
            "prior.pattern": pattern,
            "prior_training.epochs": epochs,
            "prior_training.max_minutes": max_minutes,
            "prior_training.lr": lr,
            "prior_training.batch_size": batch_size,
            "prior_training.seed": seed,
        }
    )
    plan = options.worker_plan(num_workers, gpus_per_worker, address)

    from distill_ray.pipeline.train import train_code_prior

    with attended() as view:
        report = train_code_prior(
            model=model,
            data=data,
            overrides=overrides,
            config_file=config,
            plan=plan,
            listener=view,
            resume=resume,
            overwrite=overwrite,
        )
    document = report.to_json()
    view.final_report({"model": document["model_path"]})
    finish(document, result=document["model_path"], as_json=as_json, exit_code=report.exit_code)

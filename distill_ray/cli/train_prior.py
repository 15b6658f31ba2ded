"""`distill-ray train-prior`: a codec and the recordings → a prior over their codes, in the same file."""

from __future__ import annotations

from typing import Annotated

import typer

from distill_ray.cli import options
from distill_ray.cli.output import finish
from distill_ray.cli.settings import Settings, takes_settings


@takes_settings("train-prior")
def command(
    *,
    model: Annotated[str, typer.Argument(help="The .distill file: a path or URI.", metavar="MODEL")],
    data: options.Data = None,
    settings: Settings,
    num_workers: options.NumWorkers = "auto",
    gpus_per_worker: options.GpusPerWorker = None,
    address: options.Address = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the prior that the file has.")
    ] = False,
    new: options.New = False,
    with_report: options.WithReport = True,
    config: options.ConfigFile = None,
    as_json: options.Json = False,
) -> None:
    """Train the prior over the codec's codes and put it into the same file.

    Ctrl-C keeps a usable prior; the same command goes on from there.
    """
    options.data(data, "" if resume else None)
    plan = options.worker_plan(num_workers, gpus_per_worker, address)

    from distill_ray.cli.attended import attended
    from distill_ray.pipeline.train import train_code_prior

    with attended() as view:
        report = train_code_prior(
            model=model,
            data=data,
            overrides=settings,
            config_file=config,
            plan=plan,
            listener=view,
            resume=resume,
            overwrite=overwrite,
            new=new,
            report=with_report,
        )
    document = {**report.to_json(), "warnings": view.warnings}
    view.final_report({"model": document["model_path"], "report": document["report_path"]})
    finish(document, result=document["model_path"], as_json=as_json, exit_code=report.exit_code)

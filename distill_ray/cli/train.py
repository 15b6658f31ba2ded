"""`distill-ray train`: a corpus or a folder of audio → the codec, in NAME.distill."""

from __future__ import annotations

from typing import Annotated

import typer

from distill_ray.cli import options
from distill_ray.cli.output import finish
from distill_ray.cli.settings import Settings, takes_settings


@takes_settings("train")
def command(
    *,
    data: options.Data = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder or URI for the run and its model. [default: runs/NAME]",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name of the model. [default: the data folder's]", show_default=False),
    ] = None,
    settings: Settings,
    num_workers: options.NumWorkers = "auto",
    gpus_per_worker: options.GpusPerWorker = None,
    address: options.Address = None,
    resume: Annotated[
        str | None,
        typer.Option("--resume", help="Folder or URI of an interrupted run.", show_default=False),
    ] = None,
    new: options.New = False,
    with_report: options.WithReport = True,
    config: options.ConfigFile = None,
    as_json: options.Json = False,
) -> None:
    """Train the codec on recordings; what is left open is chosen from their number and length.

    Ctrl-C ends the run after the current step and keeps a usable model; the same command goes on from there.
    With --resume a run may get another budget: its learning rate then follows that one, and rises if it is
    longer.
    """
    # A resumed run keeps the name that it has.
    source = options.data(data, resume)
    named = name if resume is not None and name is None else options.run_name(name, source)
    plan = options.worker_plan(num_workers, gpus_per_worker, address)

    from distill_ray.cli.attended import attended
    from distill_ray.pipeline.train import train_codec

    with attended() as view:
        report = train_codec(
            data=data,
            overrides=settings,
            config_file=config,
            out=out,
            name=named,
            resume=resume,
            plan=plan,
            listener=view,
            new=new,
            report=with_report,
        )
    document = {**report.to_json(), "warnings": view.warnings}
    paths = {"run": document["output_dir"], "report": document["report_path"]}
    view.final_report({"model": document["model_path"], **paths})
    finish(document, result=document["model_path"], as_json=as_json, exit_code=report.exit_code)

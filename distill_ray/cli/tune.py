"""`distill-ray tune`: a search over codebook sizes and RVQ depths → the best healthy codec: NAME.distill."""

from __future__ import annotations

from typing import Annotated

import typer

from distill_ray.cli import options
from distill_ray.cli.output import finish
from distill_ray.cli.settings import Settings, takes_settings


@takes_settings("tune")
def command(
    *,
    data: options.Data = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for the search and its best model. [default: runs/NAME]",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name of the model. [default: the data folder's]", show_default=False),
    ] = None,
    settings: Settings,
    address: options.Address = None,
    resume: Annotated[
        str | None,
        typer.Option("--resume", help="Folder of an interrupted search to go on with.", show_default=False),
    ] = None,
    new: options.New = False,
    with_report: options.WithReport = True,
    config: options.ConfigFile = None,
    as_json: options.Json = False,
) -> None:
    """Train codecs of several codebook sizes and depths, and keep the best one that is healthy.

    Lower is better in the objective: how far from the recordings is what a short prior generates
    (generation), the held-out reconstruction loss among the codecs within --max-kbps (reconstruction), or the
    bits that a prior needs (prior-bits). A trial whose codebooks collapse is ended early. --epochs is for
    each trial, --max-minutes for all of them. Ctrl-C keeps what is done; the same command goes on from there.
    """
    # A resumed search keeps the name that it has.
    source = options.data(data, resume)
    named = name if resume is not None and name is None else options.run_name(name, source)

    from distill_ray.cli.attended import attended
    from distill_ray.display import trial_listener
    from distill_ray.tune.tune import tune_codec

    with attended() as view:
        report = tune_codec(
            data=data,
            overrides=settings,
            config_file=config,
            out=out,
            name=named,
            resume=resume,
            address=address,
            listener=view,
            trial_listener=trial_listener,
            new=new,
            report=with_report,
        )
    document = {**report.to_json(), "warnings": view.warnings}
    paths = {"search": document["output_dir"], "report": document["report_path"]}
    view.final_report({"model": report.model_path, **paths})
    finish(document, result=report.model_path, as_json=as_json, exit_code=report.exit_code)

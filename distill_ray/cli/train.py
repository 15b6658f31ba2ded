"""`distill-ray train`: a corpus or a folder of audio → the codec, in NAME.distill."""

from __future__ import annotations

from typing import Annotated

import typer

from distill_ray.cli import options
from distill_ray.cli.attended import attended
from distill_ray.cli.output import finish
from distill_ray.config.adversarial import AdversarialConfig
from distill_ray.config.health import HealthConfig
from distill_ray.config.vqvae import SIZES, TrainingConfig, VQVAEConfig


def command(
    data: Annotated[str, typer.Argument(help="Prepared corpus or folder of audio.", metavar="DATA")],
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", help="Folder or URI for the run and its model.", show_default=False),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name of the model; default: the data folder's.", show_default=False),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option("--size", help="Size of the network.", metavar="|".join(SIZES), show_default=False),
    ] = None,
    codebook_size: Annotated[int | None, options.from_setting(VQVAEConfig, "codebook_size")] = None,
    rvq_levels: Annotated[int | None, options.from_setting(VQVAEConfig, "num_quantizers")] = None,
    commitment_weight: Annotated[float | None, options.from_setting(VQVAEConfig, "commitment_weight")] = None,
    epochs: Annotated[int | None, options.from_setting(TrainingConfig, "epochs")] = None,
    max_minutes: Annotated[float | None, options.from_setting(TrainingConfig, "max_minutes")] = None,
    batch_size: Annotated[int | None, options.from_setting(TrainingConfig, "batch_size")] = None,
    lr: Annotated[float | None, options.from_setting(TrainingConfig, "lr")] = None,
    seed: Annotated[int | None, options.from_setting(TrainingConfig, "seed")] = None,
    adversarial: Annotated[
        bool | None,
        typer.Option(
            "--adversarial/--no-adversarial",
            help="Train against discriminators in the later part of the budget; off unless asked for.",
            show_default=False,
        ),
    ] = None,
    adversarial_start: Annotated[
        float | None, options.from_setting(AdversarialConfig, "start", default=True)
    ] = None,
    health_stop: Annotated[
        bool | None,
        typer.Option(
            "--health-stop/--no-health-stop",
            help="End the run (exit code 4) when a codebook has collapsed; off unless asked for.",
            show_default=False,
        ),
    ] = None,
    health_floor: Annotated[float | None, options.from_setting(HealthConfig, "floor", default=True)] = None,
    health_patience: Annotated[
        int | None, options.from_setting(HealthConfig, "patience", default=True)
    ] = None,
    health_warmup: Annotated[int | None, options.from_setting(HealthConfig, "warmup", default=True)] = None,
    num_workers: options.NumWorkers = "auto",
    gpus_per_worker: options.GpusPerWorker = None,
    address: options.Address = None,
    resume: Annotated[
        str | None,
        typer.Option("--resume", help="Folder or URI of an interrupted run.", show_default=False),
    ] = None,
    config: options.ConfigFile = None,
    as_json: options.Json = False,
) -> None:
    """Train the codec on recordings; what is left open is chosen from their number and length.

    Ctrl-C ends the run after the current step and keeps a usable model; --resume goes on from there. A
    resumed run may have another budget: its learning rate then follows that one, and rises if it is longer.
    """
    overrides = options.given(
        {
            "model.codebook_size": codebook_size,
            "model.num_quantizers": rvq_levels,
            "model.commitment_weight": commitment_weight,
            "training.epochs": epochs,
            "training.max_minutes": max_minutes,
            "training.batch_size": batch_size,
            "training.lr": lr,
            "training.seed": seed,
            "adversarial.enabled": adversarial,
            "adversarial.start": adversarial_start,
            "health.stop": health_stop,
            "health.floor": health_floor,
            "health.patience": health_patience,
            "health.warmup": health_warmup,
        }
    )
    # A resumed run keeps the name that it has.
    named = name if resume is not None and name is None else options.run_name(name, data)
    plan = options.worker_plan(num_workers, gpus_per_worker, address)

    from distill_ray.pipeline.train import train_codec

    with attended() as view:
        report = train_codec(
            data=data,
            overrides=overrides,
            config_file=config,
            size=size,
            out=out,
            name=named,
            resume=resume,
            plan=plan,
            listener=view,
        )
    document = report.to_json()
    view.final_report({"model": document["model_path"], "run": document["output_dir"]})
    finish(document, result=document["model_path"], as_json=as_json, exit_code=report.exit_code)

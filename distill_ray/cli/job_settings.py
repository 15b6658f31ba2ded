"""The settings of a command that is to be submitted, checked on the client as far as they need no data.

The job would say the same of them, a minute later.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from distill_ray.cli import options
from distill_ray.cli.job_arguments import JobCommand
from distill_ray.config.catalogue import overrides_of
from distill_ray.config.resolve import CorpusFacts, resolve_prior, resolve_vqvae
from distill_ray.config.vqvae import VQVAEConfig

# Settings of the prior that the codec decides, which is on the cluster.
_OF_CODEC = ("prior.codebook_size", "prior.num_quantizers", "prior.codebook_dim")
_SOME_CORPUS = CorpusFacts(file_count=1, train_seconds=1.0, sample_rate=None, channels=None)


def check_settings(command: JobCommand, resources: Mapping[str, float], address: str) -> None:
    """Raise ConfigError with every wrong setting, ClusterError where `resources` are too few.

    resources: what the cluster at `address` (HOST:PORT) has, "CPU" and "GPU".
    """
    workers = _check_workers(command, resources, address)
    if command.name == "train-prior":
        given = _file_settings(command) | overrides_of(command.name, command.values)
        resolve_prior(
            VQVAEConfig(),
            file_count=1,
            train_frames=1,
            overrides={key: value for key, value in given.items() if key not in _OF_CODEC},
            accelerator=resources.get("GPU", 0.0) > 0,
            workers=workers,
        )
    elif command.name == "train":
        resolve_vqvae(
            _SOME_CORPUS,
            overrides=_file_settings(command) | overrides_of(command.name, command.values),
            size=command.values["size"],
            accelerator=resources.get("GPU", 0.0) > 0,
            workers=workers,
        )
    elif not command.values.get("no_tune"):
        _check_sweep(command, resources, address)


def _check_sweep(command: JobCommand, resources: Mapping[str, float], address: str) -> None:
    from distill_ray.tune.machine import Scale
    from distill_ray.tune.settings import SweepSettings

    given = _file_settings(command) | overrides_of(command.name, command.values)
    settings = SweepSettings.of(given, command.values["size"])
    Scale.of(settings.sweep, resources, cores=1, where=f"the cluster at {address}")


def _check_workers(command: JobCommand, resources: Mapping[str, float], address: str) -> int:
    """The number of workers that the command gets on the cluster, 1 where it has no such option."""
    if "num_workers" not in command.values:
        return 1
    from distill_ray.runtime.plan import check_resources, resolve_plan

    values = command.values
    plan = options.worker_plan(values["num_workers"], values["gpus_per_worker"], None)
    resolved = resolve_plan(plan, environ={"RAY_ADDRESS": address})
    if resolved.in_process:
        return 1
    return check_resources(resolved, resources).num_workers or 1


def _file_settings(command: JobCommand) -> dict[str, object]:
    from distill_ray.runs.inputs import file_settings

    config = command.values["config"]
    return file_settings(config and Path(config), size=command.values.get("size"))

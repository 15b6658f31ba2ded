"""The settings of a command that is to be submitted, checked on the client as far as they need no data.

The job would say the same of them, a minute later.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from distill_ray.cli import options
from distill_ray.cli.job_arguments import JobCommand
from distill_ray.config.health import HealthConfig
from distill_ray.config.prior import PriorConfig, PriorTrainingConfig
from distill_ray.config.resolve import CorpusFacts, resolve_prior, resolve_vqvae
from distill_ray.config.setting import Section
from distill_ray.config.toml import read_toml
from distill_ray.config.vqvae import TrainingConfig, VQVAEConfig

_SECTIONS: Mapping[str, tuple[type[Section], ...]] = {
    "train": (VQVAEConfig, TrainingConfig, HealthConfig),
    "train-prior": (PriorConfig, PriorTrainingConfig),
}
# Settings of the prior that the codec decides, which is on the cluster.
_OF_CODEC = ("prior.codebook_size", "prior.num_quantizers", "prior.codebook_dim")
_SOME_CORPUS = CorpusFacts(file_count=1, train_seconds=1.0, sample_rate=None, channels=None)


def check_settings(command: JobCommand, resources: Mapping[str, float], address: str) -> None:
    """Raise ConfigError with every wrong setting, ClusterError where `resources` are too few for it.

    The settings of tune and run are checked by the job.
    """
    workers = _check_workers(command, resources, address)
    if command.name not in _SECTIONS:
        return
    config = command.values.get("config")
    # A file that an earlier run wrote also says what that run was.
    given = {
        key: value
        for key, value in (read_toml(Path(config)) if config is not None else {}).items()
        if not key.startswith("run.")
    }
    flags = {
        section.flag(field): f"{section.table}.{field}"
        for section in _SECTIONS[command.name]
        for field in section.__dataclass_fields__
        if section.flag(field)
    }
    given |= {flags[flag]: value for flag, value in command.by_flag().items() if flag in flags}
    accelerator = resources.get("GPU", 0.0) > 0
    if command.name == "train":
        resolve_vqvae(
            _SOME_CORPUS,
            overrides=given,
            size=command.values.get("size"),
            accelerator=accelerator,
            workers=workers,
        )
        return
    resolve_prior(
        VQVAEConfig(),
        file_count=1,
        train_frames=1,
        overrides={key: value for key, value in given.items() if key not in _OF_CODEC},
        accelerator=accelerator,
        workers=workers,
    )


def _check_workers(command: JobCommand, resources: Mapping[str, float], address: str) -> int:
    """The number of workers that the command gets on the cluster, 1 where it has no such option."""
    if not command.takes("num_workers"):
        return 1
    from distill_ray.orchestrate.plan import check_resources, resolve_plan

    values = command.values
    plan = options.worker_plan(str(values["num_workers"]), values.get("gpus_per_worker"), None)
    resolved = resolve_plan(plan, environ={"RAY_ADDRESS": address})
    if resolved.in_process:
        return 1
    return check_resources(resolved, resources).num_workers or 1

"""What trainings and searches make of what they are given: settings, corpus, progress of its preparation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from distill_ray.config.cache import cache_root
from distill_ray.config.catalogue import flag_of
from distill_ray.config.corpus import VAL_FRACTION
from distill_ray.config.resolve import BY_SIZE, SIZE, CorpusFacts, Resolved
from distill_ray.config.toml import read_toml
from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.errors import ConfigError, Problem, UsageError
from distill_ray.events.recordings import RecordingsFound
from distill_ray.events.records import Listener, StageProgress
from distill_ray.runs.settings_file import OVERRIDES, without_run
from distill_ray.storage.paths import AnyPath

if TYPE_CHECKING:
    from distill_ray.corpus import Corpus, PrepareReport
    from distill_ray.corpus.parallel import Mapper


def given_settings(config_file: Path | None, overrides: Mapping[str, object]) -> dict[str, object]:
    """The settings of a `--config` file and of the command line, which wins. Raises UsageError.

    Where the command line has a size, it wins over what a run of another size had chosen and recorded in the
    file.
    """
    if config_file is None:
        return dict(overrides)
    found = read_toml(config_file)
    settings, chosen = without_run(found), found.get(OVERRIDES)
    if SIZE in overrides and isinstance(chosen, tuple):
        settings = {key: value for key, value in settings.items() if key not in BY_SIZE or key in chosen}
    return {**settings, **overrides}


def refuse_split(data: AnyPath | None, overrides: Mapping[str, object]) -> None:
    """Raise ConfigError where a split is asked for of `data` that is a prepared corpus, which has its own.

    A file of settings may serve runs on recordings and on corpora; only what the command says is refused.
    """
    if data is None or VAL_FRACTION not in overrides:
        return
    from distill_ray.corpus.manifest import read_manifest
    from distill_ray.storage.storage import open_storage

    if read_manifest(open_storage(data)) is not None:
        message = (
            f"{data} is a prepared corpus, which keeps the split that it was prepared with; leave "
            "this out, or give the recordings"
        )
        raise ConfigError([Problem(VAL_FRACTION, message, flag_of(VAL_FRACTION))])


def corpus_settings(given: Mapping[str, object]) -> dict[str, object]:
    """How a folder of audio is to be prepared, as far as the user said."""
    return {key.partition(".")[2]: value for key, value in given.items() if key.startswith("corpus.")}


def idle_settings(resolved: Resolved[VQTrainConfig]) -> Iterator[str]:
    """What was chosen and has no effect, in a sentence each."""
    config, chosen = resolved.config, resolved.overrides
    for table, on, switch in (
        ("adversarial.", config.adversarial.enabled or "adversarial.enabled" in chosen, "--adversarial"),
        ("health.", config.health.stop or "health.stop" in chosen, "--health-stop"),
    ):
        idle = sorted(key for key in chosen if key.startswith(table))
        if idle and not on:
            yield f"{', '.join(idle)}: no effect without {switch}"


def corpus_facts(corpus: Corpus) -> CorpusFacts:
    """What the automatic choices look at."""
    return CorpusFacts(
        file_count=corpus.recordings,
        train_seconds=corpus.seconds("train"),
        sample_rate=corpus.sample_rate,
        channels=corpus.channels,
    )


def corpus_mapper(address: str | None, data: str, listener: Listener) -> Mapper:
    """Reads and decodes the recordings at `data` for the cache: on this machine, or on all nodes of the
    cluster at `address`, to which this process is connected.
    """
    if address is None:
        from distill_ray.corpus.parallel import in_threads

        return in_threads
    from distill_ray.runtime.spread import ClusterMapper

    return ClusterMapper(data, cache_root() / "corpora", listener)


def on_stage(listener: Listener, stage: str) -> Callable[[int, int, str], None]:
    """Progress of `stage` as events."""
    return lambda done, total, note: listener(StageProgress(stage=stage, done=done, total=total, note=note))


def on_report(listener: Listener) -> Callable[[PrepareReport], None]:
    """What somebody should know of a preparation, as an event; none where there is nothing."""

    def tell(report: PrepareReport) -> None:
        rows = report.findings()
        if rows:
            listener(RecordingsFound(used=report.files, rows=rows))

    return tell


def refuse_with_resume(out: object) -> None:
    """Raise UsageError where a folder was given, which only a new run can have."""
    if out is not None:
        raise UsageError("--resume goes on with a run as it was begun; leave out --out")

"""A run, search or model → the records that the page shows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from distill_ray.bundle import Manifest, file_facts, read_manifest
from distill_ray.events.records import (
    PriorTrainingCompleteEvent,
    RunStarted,
    TrainingCompleteEvent,
    VQEpochMetrics,
)
from distill_ray.report.event_log import Told, read_log
from distill_ray.report.facts import Fact, ReportFacts, SearchFacts, Setting, TrainingRun
from distill_ray.report.find import PIPELINE, Found, find, read_json, settings_of
from distill_ray.report.numbers import count, duration, number, percent
from distill_ray.report.sounds import Wanted, collect_sounds
from distill_ray.vqvae.health import CodeAgreement, LevelHealth

_ENDED = {
    "completed": "completed",
    "cancelled": "stopped by the user",
    "early_stop": "held-out loss stopped falling",
    "health": "stopped by the health rule",
}


def collect(place: Path, wanted: Wanted) -> tuple[Found, ReportFacts]:
    """All that a report on `place` shows. Raises UsageError for a place that holds nothing of ours."""
    found = find(place)
    if wanted.model is not None:
        found = replace(found, model=wanted.model)
    codec, prior, search = (
        read_log(folder) if folder is not None else Told()
        for folder in (found.codec, found.prior, found.search)
    )
    own = read_log(found.folder) if (found.folder / PIPELINE).exists() else Told()
    manifest = _manifest(found)
    runs = tuple(_runs(codec, prior, manifest))
    sounds = collect_sounds(found, codec, prior, wanted)
    return found, ReportFacts(
        title=found.title,
        kind=found.kind,
        overview=tuple(_overview(found, manifest, runs)),
        warnings=tuple(dict.fromkeys(_warnings(runs, own, search, codec, prior))),
        runs=runs,
        health=(manifest.codebook_health if manifest is not None else ()) or _health(codec),
        agreement=_agreement(codec, manifest),
        excerpts=sounds.excerpts,
        generated=sounds.generated,
        judged=sounds.judged,
        search=_search(found, search),
        settings=tuple(_settings(found, manifest)),
        provenance=tuple(_provenance(found, manifest, (codec, prior, search))),
        notes=tuple(sounds.notes),
    )


def _manifest(found: Found) -> Manifest | None:
    return read_manifest(found.model) if found.model is not None else None


def _runs(codec: Told, prior: Told, manifest: Manifest | None) -> Iterator[TrainingRun]:
    if codec.run is not None:
        yield codec.run
    if prior.run is not None:
        uniform = None if manifest is None else 1000 * manifest.kbps
        yield replace(prior.run, uniform_bits=uniform)


def _overview(found: Found, manifest: Manifest | None, runs: Sequence[TrainingRun]) -> Iterator[Fact]:
    record = manifest.metadata.get("corpus") if manifest is not None else None
    recorded = [str(record["source"])] if isinstance(record, Mapping) and record.get("source") else []
    sources = found.sources or recorded
    if sources:
        yield Fact(name="recordings", value=", ".join(sources))
    started = next((run.started for run in runs if run.started is not None), None)
    if started is not None:
        yield from _data(started)
    elif isinstance(record, Mapping):
        yield Fact(name="data", value=_recorded(record))
    if manifest is not None:
        yield from _model(found, manifest)
    for run in runs:
        yield from _run(run)


def _data(started: RunStarted) -> Iterator[Fact]:
    train = f"{count(started.train_files, 'file')}, {duration(started.train_seconds)}"
    held_out = f"{count(started.val_files, 'file')}, {duration(started.val_seconds)}"
    yield Fact(name="trained on", value=train)
    yield Fact(name="held out", value=held_out if started.val_files else "nothing")


def _recorded(record: Mapping[str, Any]) -> str:
    shown = {key: record.get(key) for key in ("files", "train_seconds", "val_seconds")}
    return ", ".join(
        f"{key.replace('_', ' ')} {number(value)}" for key, value in shown.items() if value is not None
    )


def _model(found: Found, manifest: Manifest) -> Iterator[Fact]:
    config = manifest.vqvae_config
    channels = {1: "mono", 2: "stereo"}.get(config.channels, f"{config.channels} channels")
    yield Fact(name="audio", value=f"{config.sample_rate:,} Hz, {channels}")
    yield Fact(
        name="codes",
        value=f"{config.num_quantizers} levels of {config.codebook_size}, {config.frame_rate:.1f} frames/s, "
        f"{manifest.kbps:.2f} kbit/s",
    )
    if found.model is not None:
        facts = file_facts(found.model)
        prior = (
            f", prior {facts.prior_parameters / 1e6:.2f} M" if manifest.prior is not None else ", no prior"
        )
        yield Fact(
            name="model",
            value=f"{found.model.name}, {facts.bytes / 1e6:.1f} MB: "
            f"codec {facts.codec_parameters / 1e6:.2f} M values{prior}",
        )


def _run(run: TrainingRun) -> Iterator[Fact]:
    name = "codec" if run.kind == "vqvae" else run.kind
    started, done = run.started, run.complete
    if started is not None:
        workers = count(started.world_size, "worker")
        parameters = f"{started.parameters / 1e6:.2f} M parameters"
        yield Fact(name=f"{name} trained", value=f"{parameters} on {started.device}, {workers}")
    if isinstance(done, TrainingCompleteEvent):
        yield Fact(
            name=f"{name} ended",
            value=f"{_ENDED.get(done.exit_reason, done.exit_reason)} after "
            f"{count(done.epochs_completed, 'epoch')}, {count(done.steps, 'step')}, "
            f"{duration(done.elapsed_s)}; best held-out loss {number(done.best_val_loss)} "
            f"(epoch {done.best_epoch})" + (f"; {done.collapse.reason}" if done.collapse is not None else ""),
        )
    elif isinstance(done, PriorTrainingCompleteEvent):
        yield Fact(name=f"{name} ended", value=_prior_end(done))
    elif started is not None:
        yield Fact(name=f"{name} ended", value="not yet, or cut short")


def _prior_end(done: PriorTrainingCompleteEvent) -> str:
    gain = ""
    if done.below_histogram is not None:
        gain = f", {percent(done.below_histogram)} below each level's histogram"
    return (
        f"{_ENDED.get(done.exit_reason, done.exit_reason)} after {count(done.epochs_trained, 'epoch')}, "
        f"{count(done.steps, 'step')}, {duration(done.elapsed_s)}; held-out cost "
        f"{number(done.bits_per_second)} bits per second of audio (epoch {done.best_epoch}){gain}"
    )


def _warnings(runs: Sequence[TrainingRun], *logs: Told) -> Iterator[str]:
    for run in runs:
        yield from run.warnings
    for log in logs:
        if log.run is None:
            yield from log.warnings
        if log.damaged:
            lines = count(log.damaged, "line")
            yield f"{lines} of an events.jsonl cannot be read and are left out"


def _health(codec: Told) -> tuple[LevelHealth, ...]:
    run = codec.run
    if run is None:
        return ()
    if isinstance(run.complete, TrainingCompleteEvent):
        return run.complete.codebook_health
    last = run.epochs[-1] if run.epochs else None
    return last.codebook_health if isinstance(last, VQEpochMetrics) else ()


def _agreement(codec: Told, manifest: Manifest | None) -> CodeAgreement | None:
    if manifest is not None and manifest.code_agreement is not None:
        return manifest.code_agreement
    done = codec.run.complete if codec.run is not None else None
    return done.code_agreement if isinstance(done, TrainingCompleteEvent) else None


def _search(found: Found, log: Told) -> SearchFacts | None:
    if found.search is None or log.started is None:
        return None
    leaderboard = read_json(found.search / "leaderboard.json")
    bits = {
        str(trial.get("trial", trial.get("id"))): float(trial["prior_bits_per_second"])
        for trial in leaderboard.get("trials", ())
        if isinstance(trial, dict) and trial.get("prior_bits_per_second") is not None
    }
    done = log.complete
    return SearchFacts(
        trials=log.trials,
        candidates=tuple(sorted(done.candidates, key=_rank)) if done is not None else (),
        objective=log.started.objective,
        definition=log.started.objective_definition,
        prior_bits=bits,
        advice=done.advice if done is not None else "the search has not ended",
    )


def _rank(row: Any) -> tuple[bool, bool, float]:
    known = row.objective is not None and math.isfinite(row.objective)
    return (not row.eligible, not known, row.objective if known else row.kbps)


def _settings(found: Found, manifest: Manifest | None) -> Iterator[Setting]:
    """Of the search, the codec and the prior as recorded; of a model alone, what its manifest says."""
    seen: set[str] = set()
    for folder in (found.codec, found.prior, found.search):
        for begun in settings_of(folder):
            for key, value in begun.settings.items():
                if key in seen:
                    continue
                seen.add(key)
                table, _, name = key.rpartition(".")
                source = "override" if key in begun.overrides else "auto"
                yield Setting(table=table, name=name, value=_shown(value), source=source)
    if not seen and manifest is not None:
        parts = [manifest.vqvae_config, *([manifest.prior.config] if manifest.prior is not None else [])]
        for part in parts:
            for key, value in vars(part).items():
                yield Setting(table=part.table, name=key, value=_shown(value), source="")


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _provenance(found: Found, manifest: Manifest | None, logs: Sequence[Told]) -> Iterator[Fact]:
    yield Fact(name="folder", value=str(found.folder))
    times = [time for log in logs for time in (log.first_time, log.last_time) if time is not None]
    if times:
        yield Fact(name="trained", value=f"{_utc(min(times))} to {_utc(max(times))}")
    if manifest is None:
        return
    record = manifest.metadata.get("corpus")
    if isinstance(record, Mapping):
        yield Fact(name="corpus digest", value=str(record.get("digest")))
    yield Fact(name="codec sha256", value=manifest.codec_sha256)
    if manifest.prior is not None:
        yield Fact(name="prior sha256", value=manifest.prior.sha256)
    provenance = manifest.metadata.get("provenance")
    if isinstance(provenance, Mapping):
        for key, value in provenance.items():
            if isinstance(value, Mapping):
                text = ", ".join(f"{name} {version}" for name, version in value.items())
                yield Fact(name=key, value=text)
            elif value is not None:
                yield Fact(name=key.replace("_", " "), value=str(value))


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")

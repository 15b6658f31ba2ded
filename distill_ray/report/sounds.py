"""What there is to hear of a run or model, and what the judge says of it."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from distill_ray.errors import DistillError, UsageError
from distill_ray.events.records import StageProgress
from distill_ray.report import listen
from distill_ray.report.event_log import Told
from distill_ray.report.facts import Judged, SoundGroup
from distill_ray.report.find import Found
from distill_ray.report.numbers import duration

if TYPE_CHECKING:
    from distill_ray.bundle import LoadedVQModel
    from distill_ray.corpus import Corpus
    from distill_ray.evaluate.generated import OnProgress

_JUDGED_SOUNDS, _JUDGED_SECONDS = 22, 10.0
"""Windows for the judge to be trusted, where there are no sounds of the finished model: 242."""
_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to do beside reading.

    model: the model where it is elsewhere. sounds, seed: new sounds of a model's prior of which there are
    none. data: the recordings, for held-out excerpts where a run has kept none and for the judge; by default
    those that the model names, for the judge only. judge: measure generated and decoded sound. Where that
    would take more than `judge_seconds`, or cannot be done, it is left out and said; None: whatever it takes.
    """

    model: Path | None = None
    sounds: int = 0
    seed: int = 0
    data: str | None = None
    judge: bool = False
    judge_seconds: float | None = None
    on_progress: Callable[[StageProgress], None] | None = None


@dataclass(kw_only=True)
class Heard:
    """`notes`: what is missing, and how to get it."""

    excerpts: tuple[SoundGroup, ...] = ()
    generated: tuple[SoundGroup, ...] = ()
    judged: Judged | None = None
    notes: list[str] = field(default_factory=list)


def collect_sounds(found: Found, codec: Told, prior: Told, wanted: Wanted) -> Heard:
    """Kept samples, sounds of the finished model, and the judge's figures of these.

    Raises BundleError for a model that cannot be read, CorpusError for recordings that cannot be used, and
    where the judge was asked for without a limit UsageError and AudioError for what it cannot judge.
    """
    model = _loaded(found)
    heard = Heard()
    with contextlib.ExitStack() as stack:
        if found.codec is not None:
            heard.excerpts = listen.held_out(found.codec, codec, model)
        if not heard.excerpts and model is not None:
            heard.excerpts = _excerpts(found, model, wanted)
        if found.prior is not None:
            heard.generated = listen.generated(found.prior, prior)
        if model is not None and model.prior is not None:
            made = found.made or _made_now(model, wanted, stack)
            heard.generated += listen.made(made[:_SHOWN])
            _judge(found, model, made, wanted, heard)
        elif wanted.judge and wanted.judge_seconds is None:
            raise UsageError(f"there is no prior in {found.folder}, so that there is no sound to judge")
    _say_what_is_missing(heard, found, model)
    return heard


def _excerpts(found: Found, model: LoadedVQModel, wanted: Wanted) -> tuple[SoundGroup, ...]:
    """Of the recordings that are given, or of those that a run has beside its model, if they can be used."""
    if wanted.data is not None:
        return listen.held_out_of(_corpus(wanted.data, model), model)
    if found.corpus is None:
        return ()
    try:
        return listen.held_out_of(_corpus(str(found.corpus), model), model)
    except DistillError:
        return ()


def _loaded(found: Found) -> LoadedVQModel | None:
    if found.model is None:
        return None
    from distill_ray.bundle import choose_device, load_model_v2

    return load_model_v2(found.model, device=choose_device("auto"))


def _made_now(model: LoadedVQModel, wanted: Wanted, stack: contextlib.ExitStack) -> tuple[Path, ...]:
    """New sounds, in a folder that goes with `stack`: as many as are wanted, or as the judge needs."""
    from distill_ray.generate import generate_samples

    needed = wanted.judge and wanted.judge_seconds is None
    count = max(wanted.sounds, _JUDGED_SOUNDS) if needed else wanted.sounds
    if not count:
        return ()
    report = generate_samples(
        model,
        count=count,
        seconds=_JUDGED_SECONDS if needed else listen.NEW_SECONDS,
        seed=wanted.seed,
        out_dir=Path(stack.enter_context(TemporaryDirectory(prefix="distill-ray-report-"))),
        on_progress=wanted.on_progress,
    )
    return tuple(map(Path, report.files))


class _OutOfTimeError(Exception):
    """The judge has taken the time that there was for it."""


def _within(seconds: float, on_progress: OnProgress | None) -> OnProgress:
    """`on_progress`, which ends what it hears of after so many seconds."""
    ends_at = time.monotonic() + seconds

    def hear(event: StageProgress) -> None:
        if time.monotonic() > ends_at:
            raise _OutOfTimeError
        if on_progress is not None:
            on_progress(event)

    return hear


def _judge(found: Found, model: LoadedVQModel, made: Sequence[Path], wanted: Wanted, heard: Heard) -> None:
    if not wanted.judge or not made:
        return
    from distill_ray.report.judging import expected_seconds, judge

    limit = wanted.judge_seconds
    try:
        corpus = _corpus(wanted.data or _recorded_source(model), model)
        takes = expected_seconds(corpus)
        if limit is not None and takes > limit:
            heard.notes.append(
                f"How near generated sound is to the recordings: left out, as it would take up to "
                f"{duration(takes)}; {_again(found, '--judge')} measures it."
            )
            return
        within = wanted.on_progress if limit is None else _within(limit, wanted.on_progress)
        heard.judged = judge(model, corpus, made[0].parent, seed=wanted.seed, on_progress=within)
    except _OutOfTimeError:
        heard.notes.append(
            f"How near generated sound is to the recordings: given up after {duration(limit or 0.0)}, as the "
            f"machine is too busy; {_again(found, '--judge')} measures it."
        )
    except DistillError as error:
        if limit is None:
            raise
        heard.notes.append(f"How near generated sound is to the recordings: {error}.")


def _recorded_source(model: LoadedVQModel) -> str:
    record = model.metadata.get("corpus")
    source = record.get("source") if isinstance(record, dict) else None
    if not isinstance(source, str):
        raise UsageError(f"{model.path} does not say what it was trained on; give the recordings with --data")
    return source


def _corpus(data: str, model: LoadedVQModel) -> Corpus:
    """The recordings in the model's format, prepared where they are not."""
    from distill_ray.config.corpus import CorpusConfig
    from distill_ray.corpus import ensure_corpus

    config = model.vqvae_config
    wanted = CorpusConfig(sample_rate=config.sample_rate, channels=config.channels)
    return ensure_corpus(data, wanted, asked_by="the model is")


def _again(found: Found, *options: str) -> str:
    """The command that makes the report with more in it."""
    place = found.model if found.is_file else found.folder
    return f"`{shlex.join(['distill-ray', 'report', str(place), *options])}`"


def _say_what_is_missing(heard: Heard, found: Found, model: LoadedVQModel | None) -> None:
    notes = list(_missing(heard, found, has_prior=model is not None and model.prior is not None))
    heard.notes[:0] = notes


def _missing(heard: Heard, found: Found, *, has_prior: bool) -> Iterator[str]:
    if not heard.excerpts:
        yield f"Held-out recordings: no samples were kept. {_again(found, '--data', 'DATA')} adds them."
    if has_prior and not heard.generated:
        yield f"Generated sounds: none were kept. {_again(found, '--sounds', '4')} makes some."
    if has_prior and heard.judged is None and not heard.notes:
        yield f"How near generated sound is to the recordings: {_again(found, '--judge')} measures it."

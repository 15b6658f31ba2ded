"""The main job's two trainings from end to end: data and settings in, a `.distill` file out.

`cli/train.py` and `cli/train_prior.py` call these; `runtime/launch.py` runs the loops of `training/`;
`bundle/` writes the file. Nothing here knows whether Ray is used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from distill_ray.config.build import build_sections
from distill_ray.config.corpus import CorpusConfig
from distill_ray.config.prior import PriorTrainConfig, PriorTrainingConfig
from distill_ray.config.resolve import (
    SIZE,
    Resolved,
    check_codec_of_prior,
    dotted,
    resolve_prior,
    resolve_vqvae,
)
from distill_ray.config.vqvae import TrainingConfig, VQTrainConfig, VQVAEConfig
from distill_ray.errors import CancelledError, TrainingError
from distill_ray.events.records import (
    Event,
    Notice,
    PriorTrainingCompleteEvent,
    ShownSetting,
    TrainingCompleteEvent,
)
from distill_ray.pipeline.prologue import Ready, check_request, ready
from distill_ray.pipeline.saving import save_model
from distill_ray.report.write import report_run
from distill_ray.runs.carried_codes import CarriedCodes
from distill_ray.runs.copies import judged_copies
from distill_ray.runs.export import corpus_codes, corpus_record, export_codec, export_prior
from distill_ray.runs.going_on import (
    Asked,
    carry_out,
    is_asked_again,
    marking,
    recorded_data,
    tell_going_on,
)
from distill_ray.runs.inputs import (
    corpus_facts,
    corpus_mapper,
    corpus_settings,
    given_settings,
    idle_settings,
    on_report,
    on_stage,
    refuse_split,
    refuse_with_resume,
)
from distill_ray.runs.reports import CodecReport, PriorReport
from distill_ray.runs.run_folder import (
    RunFolder,
    Start,
    new_prior_run,
    resumed_run,
)
from distill_ray.runs.samples import SampleKeeper
from distill_ray.runs.shown import shown_settings
from distill_ray.runs.workspace import (
    BESIDE_MODEL,
    ModelFile,
    Place,
    ResultFolder,
    open_model,
    result_folder,
)
from distill_ray.runtime.launch import LaunchResult, launch
from distill_ray.runtime.plan import WorkerPlan
from distill_ray.storage.uploaded import settle
from distill_ray.training.worker import Listener, Worker

if TYPE_CHECKING:
    from distill_ray.bundle import LoadedVQModel
    from distill_ray.corpus import Corpus
    from distill_ray.prior import CodeStore

CompletedT = TypeVar("CompletedT", TrainingCompleteEvent, PriorTrainingCompleteEvent)

_OTHER_CORPUS = (
    "this is not the corpus that the codec was trained on, so that recordings held out here may be among "
    "those that it knows"
)
_REPORT_SOUNDS = 2
"""New ones of a finished prior in its report."""
_VQ_SHOWN = (
    SIZE,
    "model.codebook_size",
    "model.num_quantizers",
    "model.commitment_weight",
    "model.width",
    "training.epochs",
    "training.max_minutes",
    "training.batch_size",
    "training.lr",
    "training.seed",
)
_PRIOR_SHOWN = (
    "prior.pattern",
    "prior.hidden_size",
    "prior.num_layers",
    "prior.num_heads",
    "prior.dropout",
    "prior.context_frames",
    "prior_training.epochs",
    "prior_training.max_minutes",
    "prior_training.batch_size",
    "prior_training.lr",
    "prior_training.seed",
)


def train_codec(
    *,
    data: str | None,
    overrides: Mapping[str, object],
    config_file: Path | None,
    out: Place | ResultFolder | None,
    name: str | None,
    resume: Place | ResultFolder | None,
    plan: WorkerPlan,
    listener: Listener,
    new: bool = False,
    report: bool = False,
) -> CodecReport:
    """Train a codec on `data` (a prepared corpus or a folder of audio) and write `OUT/NAME.distill`.

    `overrides` are settings by dotted TOML key and win over `config_file`. `resume` is the folder of an
    interrupted run, which keeps its settings; only its budget and health rule may change. It and
    `out` are paths or URIs. Without it an unfinished run of the same name, settings and recordings goes on,
    unless `new`. `data` may be None where the run that goes on has recorded it. `report` writes report.html
    into the run's folder, unless it is cancelled.

    Raises UsageError and its kin for what cannot be used, TrainingError and ClusterError for what failed,
    StorageError where a URI could not be written in the end.
    """
    given = given_settings(config_file, overrides)
    refuse_split(data, overrides)
    if resume is not None:
        refuse_with_resume(out)

    def work(results: ResultFolder, start: Start[RunFolder]) -> CodecReport:
        heard = results.attended(listener)
        found = recorded_data(start, data)
        with SampleKeeper(heard, results.path) as keeper:
            trained = _train_codec(start, results, data=found, name=name, plan=plan, listener=keeper)
        if not report or trained.completed.exit_reason == "cancelled":
            return trained
        page = report_run(results.path, heard)
        return replace(trained, report_path=page and results.shown_as(page))

    asked = Asked(
        kind=RunFolder,
        given=given,
        name=name,
        out=out,
        resume=resume,
        new=new,
        resumed=functools.partial(resumed_run, table=TrainingConfig.table),
        report=report,
    )
    return carry_out(asked, work, listener)


def _train_codec(
    start: Start[RunFolder],
    results: ResultFolder,
    *,
    data: str,
    name: str | None,
    plan: WorkerPlan,
    listener: Listener,
) -> CodecReport:
    from distill_ray.corpus import ensure_corpus
    from distill_ray.storage.filesystem import absolute
    from distill_ray.training.vqvae import train_vqvae

    check_request("train", start.settings, plan)
    with ready(plan, start.settings, TrainingConfig) as found:
        said = corpus_settings(start.settings)
        corpus = ensure_corpus(
            data,
            build_sections((CorpusConfig,), start.settings)[CorpusConfig],
            required=said,
            on_progress=on_stage(listener, "prepare"),
            on_report=on_report(listener),
            mapper=corpus_mapper(found.plan.address, data, listener),
        )
        start.check({"corpus": corpus.digest})
        resolved = start.with_recorded_sources(
            resolve_vqvae(corpus_facts(corpus), overrides=start.settings, machine=found.machine)
        )
        for message in idle_settings(resolved):
            listener(Notice(level="warning", message=message))
        name = start.identity.get("name", name or "distill")
        start.record(
            dotted(resolved.config),
            {"name": name, "size": resolved.size, "corpus": corpus.digest, "data": absolute(data)},
            overrides=resolved.overrides,
            corpus=said,
        )
        loop = functools.partial(
            train_vqvae,
            absolute(corpus.uri),
            resolved.config,
            name=name,
            output_dir=str(start.folder.path),
            settings=_shown(resolved, _VQ_SHOWN),
            samples=True,
        )
        result = _launch(loop, start, found, plan, listener)
    completed = _ended(result.final, TrainingCompleteEvent)
    model_path = start.folder.path / f"{name}.distill"

    def write(weights: Path, release: bool) -> None:
        record = corpus_record(corpus, data)
        export_codec(weights, model_path, resolved.config, completed, record, release=release)

    cancelled = completed.exit_reason == "cancelled"
    save_model(write, _kept(result.checkpoint), model_path, cancelled=cancelled, listener=listener)
    return CodecReport(
        output_dir=results.shown,
        model_path=results.shown_as(model_path),
        model_name=name,
        config=resolved.config,
        codebook_size_source=resolved.source("model.codebook_size"),
        completed=completed,
    )


def train_code_prior(
    *,
    model: Place,
    data: str | None,
    overrides: Mapping[str, object],
    config_file: Path | None,
    plan: WorkerPlan,
    listener: Listener,
    resume: bool = False,
    new: bool = False,
    overwrite: bool = False,
    run: ResultFolder | None = None,
    minutes: Callable[[], float] | None = None,
    spare_s: Callable[[], float] | None = None,
    report: bool = False,
) -> PriorReport:
    """Train a prior on the codes that `model` gives `data`, and put it into the same file.

    The run is kept in `run`, by default in `MODEL.prior/` beside the model, which is a path or a URI;
    `resume` goes on with an interrupted one, and so does the same call again, unless `new`, which begins
    another in its place. A prior that the file has is replaced only with `overwrite`, or where its training
    was interrupted. `data` may be None where the run that goes on has recorded it. `minutes`
    is asked for the time budget once the codes are there, `spare_s` for the seconds that there are for copies
    once it is trained. `report` writes report.html into the run's folder,
    unless it is cancelled.

    Raises UsageError and its kin for what cannot be used, TrainingError and ClusterError for what failed,
    CancelledError where it was stopped within its first epoch and the file has a prior, which stays,
    StorageError where a URI could not be written in the end.
    """
    given = given_settings(config_file, overrides)
    refuse_split(data, overrides)
    file = open_model(model)
    with result_folder(run or file.prior_run, listener=listener, advice=BESIDE_MODEL) as results:
        folder = RunFolder(path=results.path, uri=results.uri, advice=BESIDE_MODEL)
        start = _prior_start(
            folder, file, given, resume=resume, new=new, overwrite=overwrite, report=report, tell=listener
        )
        listener = results.attended(listener)
        with marking(folder):
            found = recorded_data(start, data)
            trained = _train_code_prior(
                start, file, data=found, plan=plan, listener=listener, minutes=minutes, spare_s=spare_s
            )
            if not report or trained.completed.exit_reason == "cancelled":
                return trained
            page = report_run(results.path, listener, model=file.path, sounds=_REPORT_SOUNDS)
            return replace(trained, report_path=page and results.shown_as(page))


def _prior_start(
    folder: RunFolder,
    file: ModelFile,
    given: Mapping[str, object],
    *,
    resume: bool,
    new: bool,
    overwrite: bool,
    report: bool,
    tell: Listener,
) -> Start[RunFolder]:
    """What the prior's run begins with; the other arguments as in `train_code_prior`."""
    table = PriorTrainingConfig.table
    if resume:
        return resumed_run(folder, given, table=table)
    settle(folder.checkpoints, folder.checkpoints_uri)
    unfinished = folder.is_begun and not folder.is_finished(report=report)
    if unfinished and not new and is_asked_again(folder, given, table=table):
        tell_going_on("training of the prior", folder.shown, tell)
        return resumed_run(folder, given, table=table)
    start = new_prior_run(folder, given, new=new)
    if not overwrite and not (new and unfinished):
        file.refuse_replacing()
    return start


def _train_code_prior(
    start: Start[RunFolder],
    file: ModelFile,
    *,
    data: str,
    plan: WorkerPlan,
    listener: Listener,
    minutes: Callable[[], float] | None,
    spare_s: Callable[[], float] | None,
) -> PriorReport:
    from distill_ray.bundle import load_model_v2
    from distill_ray.storage.filesystem import absolute
    from distill_ray.training.prior import train_prior
    from distill_ray.training.retokenise import Recordings

    check_request("train-prior", start.settings, plan)
    loaded = load_model_v2(file.path)
    codec, codec_hash = loaded.vqvae_config, loaded.codec_sha256
    check_codec_of_prior(start.settings, codec)
    with ready(plan, start.settings, PriorTrainingConfig) as found:
        corpus = _corpus_for(codec, data, start, found, listener)
        start.check({"corpus": corpus.digest, "codec": codec_hash})
        if not loaded.is_trained_on(corpus.digest):
            listener(Notice(level="warning", message=_OTHER_CORPUS))
        store = _codes(loaded, corpus, start, found, listener)
        budget = {f"{PriorTrainingConfig.table}.max_minutes": minutes()} if minutes is not None else {}
        resolved = start.with_recorded_sources(
            resolve_prior(
                codec,
                file_count=corpus.recordings,
                train_frames=store.frames("train"),
                labels=len(corpus.labels),
                overrides={**start.settings, **budget},
                machine=found.machine,
            )
        )
        start.record(
            dotted(resolved.config),
            {"corpus": corpus.digest, "codec": codec_hash, "data": absolute(data)},
            overrides=resolved.overrides,
            corpus=corpus_settings(start.settings),
        )
        train = functools.partial(
            train_prior,
            config=resolved.config,
            frame_rate=codec.frame_rate,
            vectors_QKL=loaded.model.quantizer.vectors(),
            recordings=Recordings(corpus=absolute(corpus.uri), codec=loaded.model.cpu()),
            name=file.path.stem,
            output_dir=str(start.folder.path),
            settings=_shown(resolved, _PRIOR_SHOWN),
            samples=True,
            tells_budget=minutes is None,  # `run` shares its time out anew each time
        )
        travels = found.plan.address is not None and start.folder.uri is not None
        loop = CarriedCodes.of(train, store.folder, travels=travels)
        with SampleKeeper(listener, start.folder.path, codec=loaded) as keeper:
            result = _launch(loop, start, found, plan, keeper)
    completed = _ended(result.final, PriorTrainingCompleteEvent)
    if completed.exit_reason == "cancelled" and loaded.prior is not None:
        _keep_former_prior(file, completed, listener)
    else:

        def write(weights: Path, release: bool) -> None:
            record = corpus_record(corpus, data)
            export_prior(
                weights,
                file.path,
                resolved.config,
                completed,
                record,
                codec_sha256=codec_hash,
                release=release,
            )

        cancelled = completed.exit_reason == "cancelled"
        save_model(write, _kept(result.checkpoint), file.path, cancelled=cancelled, listener=listener)
        if not cancelled:
            within_s = None if spare_s is None else spare_s()
            completed = judged_copies(file.path, corpus, completed, listener, within_s=within_s)
        file.put()
    return PriorReport(model_path=file.shown, dataset=data, config=resolved.config, completed=completed)


def _corpus_for(
    codec: VQVAEConfig, data: str, start: Start[RunFolder], found: Ready, listener: Listener
) -> Corpus:
    """The recordings at `data` with the rate and channels of the codec."""
    from distill_ray.corpus import ensure_corpus

    format_of_codec = {"corpus.sample_rate": codec.sample_rate, "corpus.channels": codec.channels}
    return ensure_corpus(
        data,
        build_sections((CorpusConfig,), {**start.settings, **format_of_codec})[CorpusConfig],
        asked_by="the model is",
        on_progress=on_stage(listener, "prepare"),
        on_report=on_report(listener),
        mapper=corpus_mapper(found.plan.address, data, listener),
    )


def _codes(
    loaded: LoadedVQModel, corpus: Corpus, start: Start[RunFolder], found: Ready, listener: Listener
) -> CodeStore:
    on_cluster = found.plan.address is not None
    store = corpus_codes(
        loaded,
        corpus,
        found.machine.accelerator,
        on_progress=on_stage(listener, "encode"),
        # The nodes of a cluster may share the run's folder, and hardly the user's cache.
        cache=start.folder.path / "codes" if on_cluster else None,
        on_cluster=listener if on_cluster else None,
    )
    for notice in store.notices:
        listener(Notice(level="warning", message=notice))
    return store


def _launch(
    loop: Callable[[Worker], Event],
    start: Start[RunFolder],
    found: Ready,
    plan: WorkerPlan,
    listener: Listener,
) -> LaunchResult:
    return launch(
        loop,
        run_dir=start.folder.path,
        plan=replace(plan, num_workers=found.plan.num_workers),
        listener=listener,
        checkpoints_uri=start.folder.checkpoints_uri,
    )


def _keep_former_prior(file: ModelFile, completed: PriorTrainingCompleteEvent, listener: Listener) -> None:
    """Half a training must not take the place of a whole one.

    Raises CancelledError where there is nothing else to report.
    """
    if not completed.epochs_trained:
        raise CancelledError(
            f"stopped within the first epoch: {file.shown} and the prior that it has are as they were"
        )
    listener(Notice(level="info", message=f"the prior that {file.shown} has is kept"))


def _shown(
    resolved: Resolved[VQTrainConfig] | Resolved[PriorTrainConfig], keys: tuple[str, ...]
) -> tuple[ShownSetting, ...]:
    values = {SIZE: resolved.size, **dotted(resolved.config)}
    return shown_settings({key: values[key] for key in keys}, resolved.source)


def _ended(final: object, kind: type[CompletedT]) -> CompletedT:
    assert isinstance(final, kind), final
    return final


def _kept(checkpoint: Path | None) -> Path:
    if checkpoint is None:
        raise TrainingError("the run ended without a checkpoint, so there is nothing to save; run it again")
    return checkpoint

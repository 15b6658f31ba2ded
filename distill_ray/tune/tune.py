"""A search from end to end: data and settings in, the best codec's `.distill` file out.

`cli/tune.py` and `pipeline/run.py` call `tune_codec`. `settings.py` says what trials train with,
`driver.py` runs them on Ray Tune, `ranking.py` ranks them, `winner.py` writes the file.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from distill_ray.config.build import build_sections
from distill_ray.config.corpus import CorpusConfig
from distill_ray.config.resolve import Resolved, dotted
from distill_ray.config.sweep import RESOURCES
from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.errors import AudioError, CancelledError
from distill_ray.events.records import Notice, ShownSetting, SweepCompleteEvent, SweepStarted
from distill_ray.report.write import report_run
from distill_ray.runs.export import corpus_record
from distill_ray.runs.going_on import Asked, carry_out, recorded_data
from distill_ray.runs.inputs import (
    corpus_facts,
    corpus_settings,
    given_settings,
    on_report,
    on_stage,
    refuse_split,
    refuse_with_resume,
)
from distill_ray.runs.run_folder import Start, begun_by_size
from distill_ray.runs.shown import shown_settings
from distill_ray.runs.workspace import Place, ResultFolder
from distill_ray.runtime.interrupt import Interrupts
from distill_ray.storage.filesystem import absolute
from distill_ray.training.worker import Listener
from distill_ray.tune.finalists import chosen_finalists
from distill_ray.tune.folder import EPOCH_STEPS, SweepFolder, resumed_sweep
from distill_ray.tune.ledger import Ledger
from distill_ray.tune.machine import SearchMachine, TrialResources, find_machine
from distill_ray.tune.ranking import advice, candidates, definition, winner
from distill_ray.tune.rounds import Rounds, require_optuna
from distill_ray.tune.search_report import SweepReport, provenance
from distill_ray.tune.settings import SweepSettings, TrialListener, TrialPlanner, settings_of_search
from distill_ray.tune.short_prior import PriorTrainer, StageListener
from distill_ray.tune.space import final_round_size, first_round_size, needs_no_final_round
from distill_ray.tune.step_budget import Settled, StepBudget, read_settled, write_settled
from distill_ray.tune.table import write_trials
from distill_ray.tune.trial import TrialSpec
from distill_ray.tune.winner import export_trial, join_short_prior
from distill_ray.vqvae.health import HealthRule

if TYPE_CHECKING:
    from distill_ray.corpus import Corpus
    from distill_ray.tune.rating import SoundJudge, TrialRater
    from distill_ray.tune.run_trial import TrialTask

_TABLE = "trials.parquet"
_END_SHARE, _END_SECONDS = 0.06, 20.0
"""Of a time budget: what the winner's file and the page take at most."""
_OWN_TABLES = ("prior", "prior_training")  # of short priors: recorded, as trials do not


def tune_codec(
    *,
    data: str | None,
    overrides: Mapping[str, object],
    config_file: Path | None,
    out: Place | ResultFolder | None,
    name: str | None,
    resume: Place | ResultFolder | None,
    address: str | None,
    listener: Listener,
    trial_listener: TrialListener | None = None,
    new: bool = False,
    report: bool = False,
) -> SweepReport:
    """Search for the best codec for `data` (a prepared corpus or a folder of audio): `OUT/NAME.distill`.

    `overrides` are settings by dotted TOML key ("sweep.codebook_sizes", "training.epochs") and win over
    `config_file`. `resume` is the folder of an interrupted search, which keeps its settings: finished trials
    are kept, others go on from their checkpoints. Without it an unfinished search of the same name, settings
    and recordings goes on, unless `new`. `data` may be None where the search that goes on has recorded it.
    `address`: the Ray cluster to use, else RAY_ADDRESS, else a private Ray on this machine. `trial_listener`
    makes the listener of a trial in the trial's own process. `report` writes report.html into the search's
    folder, unless it is cancelled.

    Raises UsageError and its kin for what cannot be used, ClusterError and TrainingError for what failed,
    CancelledError after a second Ctrl-C. A trial that fails raises nothing.
    """
    given = given_settings(config_file, overrides)
    refuse_split(data, overrides)
    if resume is not None:
        refuse_with_resume(out)

    def work(results: ResultFolder, start: Start[SweepFolder]) -> SweepReport:
        heard, found = results.attended(listener), recorded_data(start, data)
        searched = _tune(
            start,
            data=found,
            name=name,
            address=address,
            listener=heard,
            trial_listener=trial_listener,
        )
        wanted = report and searched.exit_reason != "cancelled"
        page = report_run(results.path, heard, data=found) if wanted else None
        return replace(
            searched,
            output_dir=results.shown,
            model_path=searched.model_path and results.shown_as(Path(searched.model_path)),
            report_path=page and results.shown_as(page),
        )

    asked = Asked(
        kind=SweepFolder,
        given=given,
        name=name,
        out=out,
        resume=resume,
        new=new,
        resumed=resumed_sweep,
        free=(*RESOURCES, EPOCH_STEPS),
        report=report,
    )
    return carry_out(asked, work, listener)


def _tune(
    start: Start[SweepFolder],
    *,
    data: str,
    name: str | None,
    address: str | None,
    listener: Listener,
    trial_listener: TrialListener | None,
) -> SweepReport:
    from distill_ray.corpus import ensure_corpus

    began = time.monotonic()
    settings = SweepSettings.of(start.settings)
    if settings.sweep.plan == "grid" and "sweep.finalists" in start.overrides:
        listener(Notice(level="warning", message="sweep.finalists: no effect with --plan grid"))
    if settings.sweep.search == "optuna":
        require_optuna()
    with find_machine(address, settings.sweep) as machine:
        said = corpus_settings(start.settings)
        corpus = ensure_corpus(
            data,
            build_sections((CorpusConfig,), start.settings)[CorpusConfig],
            required=said,
            on_progress=on_stage(listener, "prepare"),
            on_report=on_report(listener),
        )
        start.check({"corpus": corpus.digest})
        accelerator = machine.trials.gpus > 0
        settings, judge = _judged(settings, start, corpus, accelerator, listener)
        search = _Search(
            name=start.identity.get("name", name or "distill"),
            data=data,
            start=start,
            settings=settings,
            machine=machine,
            planner=TrialPlanner(
                settings,
                corpus_facts(corpus),
                machine.trials,
                resumed=not start.is_new,
                said=start.overrides,
            ),
            corpus=corpus,
            said=said,
            listener=listener,
            trial_listener=trial_listener,
            began=began,
            judge=judge,
        )
        return search.run()


def _judged(
    settings: SweepSettings,
    start: Start[SweepFolder],
    corpus: Corpus,
    accelerator: bool,
    listener: Listener,
) -> tuple[SweepSettings, SoundJudge | None]:
    """What all trials are judged by, measured before the first of them; none for other objectives.

    A corpus that is too short for it is searched by reconstruction, with a warning, where nobody asked for
    objective generation; else raises AudioError.
    """
    if settings.sweep.objective != "generation":
        return settings, None
    from distill_ray.tune.rating import CorpusJudge

    try:
        return settings, CorpusJudge.fit(
            corpus, seed=settings.seed, accelerator=accelerator, on_progress=listener
        )
    except AudioError as error:
        if "sweep.objective" in start.settings:
            raise
        listener(Notice(level="warning", message=f"--objective reconstruction is taken: {error}"))
        return SweepSettings.of({**start.settings, "sweep.objective": "reconstruction"}), None


@dataclass(frozen=True, kw_only=True)
class _Search:
    """A search whose corpus is ready."""

    name: str
    data: str
    start: Start[SweepFolder]
    settings: SweepSettings
    machine: SearchMachine
    planner: TrialPlanner
    corpus: Corpus
    said: Mapping[str, object]
    listener: Listener
    trial_listener: TrialListener | None
    began: float
    judge: SoundJudge | None

    def run(self) -> SweepReport:
        """Trials, short priors, the winner's file."""
        sweep = self.settings.sweep
        self._record()
        ledger = Ledger(
            self.start.folder.records(),
            sweep,
            HealthRule.of(self.settings.health),
            gpus=self.machine.trials.gpus,
            save=self.start.folder.save,
            tell=self.listener,
        )
        self.listener(self._started())
        ledger.announce()
        interrupts = Interrupts(self.listener)
        try:
            with interrupts.handling():
                self._train(ledger, interrupts)
        except KeyboardInterrupt:
            raise CancelledError(
                "the search was stopped at once; its trials keep their checkpoints"
            ) from None
        finished = not interrupts.requested()
        if finished and sweep.objective == "prior-bits":
            with interrupts.handling():
                finished = self._train_priors(ledger, interrupts)
        if finished and needs_no_final_round(ledger.finished(), sweep, HealthRule.of(self.settings.health)):
            message = "no finalist is trained again: the best candidates have the depth of their trials"
            self.listener(Notice(level="info", message=message))
        report = self._report(ledger, finished)
        write_trials(self.start.folder.path / _TABLE, report.records, report.candidates)
        self.start.folder.write_leaderboard(report.to_json())
        chosen = winner(report.candidates)
        self.listener(
            SweepCompleteEvent(
                exit_reason=report.exit_reason,
                chosen=chosen.trial if chosen is not None and finished else "",
                candidates=report.candidates,
                gpu_seconds=report.gpu_seconds,
                elapsed_s=report.elapsed_s,
                advice=report.advice,
            )
        )
        return report

    def _record(self) -> None:
        """Record the settings, so that a resumed search finds what this one was told and chose."""
        sweep = self.settings.sweep
        own = {f"sweep.{key}": value for key, value in asdict(sweep).items()}
        priors = {
            key: value for key, value in self.settings.given.items() if key.partition(".")[0] in _OWN_TABLES
        }
        identity = {
            "name": self.name,
            "size": "" if sweep.sizes else self.planner.size,
            "corpus": self.corpus.digest,
            "data": absolute(self.data),
        }
        self.start.record(
            own | self.planner.shared() | priors, identity, overrides=self.start.overrides, corpus=self.said
        )

    def _train(self, ledger: Ledger, interrupts: Interrupts) -> None:
        """Run the trials that are not finished."""
        rounds = Rounds(
            self.settings.sweep,
            HealthRule.of(self.settings.health),
            seed=self.settings.seed,
            records=ledger.records(),
            objective=ledger.objective,
        )
        if not rounds.has_more(ledger.finished()):
            return
        if self.machine.plan.address is None:
            self.listener(Notice(level="info", message="starting Ray on this machine (some 10 seconds)"))
        with contextlib.ExitStack() as stack:
            with interrupts.starting():
                session = stack.enter_context(self.machine.session())
            from distill_ray.tune.driver import SweepRun  # Ray is imported in its session's environment
            from distill_ray.tune.run_trial import TrialHome

            scale = self.machine.trials_of(self.settings.sweep, session)
            steps = self._step_budget(scale, rounds)
            rater = self._rater(self.judge) if self.judge is not None else None
            SweepRun(
                storage=self.start.folder.ray_storage,
                sweep=self.settings.sweep,
                health=self.settings.health,
                rounds=rounds,
                ledger=ledger,
                task=self._task,
                concurrent=scale.concurrent,
                interrupts=interrupts,
                steps=steps,
                settle=functools.partial(self._settle, steps),
                tell=self.listener,
            ).run(
                lambda mailbox: TrialHome(
                    name=self.name,
                    mailbox=mailbox,
                    sweep=self.settings.sweep,
                    gpus=scale.gpus,
                    workers=scale.workers,
                    threads=scale.threads,
                    session_folder=session.folder,
                    listener=self.trial_listener,
                    rater=rater,
                )
            )

    def _step_budget(self, scale: TrialResources, rounds: Rounds) -> StepBudget | None:
        """What tells the trials how many steps they make; None where epochs end them."""
        minutes = self.settings.sweep.max_minutes
        if minutes is None or not self.planner.steps_are_said:
            return None
        settled = read_settled(self.start.folder.path)
        if settled is not None:
            rounds.take_only(settled.trials)
        seconds = 60.0 * minutes
        return StepBudget(
            sweep=self.settings.sweep,
            concurrent=scale.concurrent,
            ends_at=self.began + seconds - min(_END_SHARE * seconds, _END_SECONDS),
            settled=settled,
        )

    def _settle(self, steps: StepBudget | None, settled: Settled) -> None:
        write_settled(self.start.folder.path, settled)
        notice = steps.notice() if steps is not None else None
        if notice is not None:
            self.listener(notice)

    def _rater(self, judge: SoundJudge) -> TrialRater:
        """`judge` goes once to each node."""
        import ray

        from distill_ray.tune.rating import TrialRater

        return TrialRater(
            trainer=self._priors(),
            rule=HealthRule.of(self.settings.health),
            judge=functools.partial(ray.get, ray.put(judge)),
        )

    def _priors(self) -> PriorTrainer:
        return PriorTrainer(
            corpus=absolute(self.corpus.uri),
            record=corpus_record(self.corpus, self.data),
            settings=self.settings.given,
            accelerator=self.machine.trials.gpus > 0,
        )

    def _resolved(self, spec: TrialSpec) -> Resolved[VQTrainConfig]:
        return self.planner.resolve(spec, begun_by_size(self.start.folder.trial(spec.id)))

    def _task(self, spec: TrialSpec) -> TrialTask:
        """What the trial does; its run folder is begun."""
        from distill_ray.training.vqvae import train_vqvae
        from distill_ray.tune.run_trial import TrialTask

        resolved = self._resolved(spec)
        folder = self.start.folder.trial(spec.id)
        if not folder.is_begun:
            identity = {"name": spec.id, "size": resolved.size, "corpus": self.corpus.digest}
            Start(folder=folder, settings={}, overrides=frozenset()).record(
                dotted(resolved.config), identity, overrides=resolved.overrides, corpus=self.said
            )
        loop = functools.partial(
            train_vqvae,
            self.corpus.uri,
            resolved.config,
            name=spec.id,
            output_dir=str(folder.path),
            settings=(ShownSetting(name="size", value=resolved.size, source=resolved.source("model.size")),),
            depths=spec.depths,
        )
        return TrialTask(
            trial=spec.id,
            config=resolved.config,
            depths=spec.depths,
            loop=loop,
            folder=folder,
            compared=spec.round == "search",
        )

    def _train_priors(self, ledger: Ledger, interrupts: Interrupts) -> bool:
        """Rate each finalist by a short prior; False where Ctrl-C came first."""
        rule, trainer = HealthRule.of(self.settings.health), self._priors()
        for finalist in chosen_finalists(ledger.finished(), self.settings.sweep, rule):
            record = finalist.record
            if record is None or record.prior_bits_per_second is not None:
                continue
            config, run = self._resolved(record.spec).config, self.start.folder.trial(record.spec.id)
            model = run.path / f"{record.spec.id}.distill"
            export_trial(record, run, model, config, trainer.record)
            logs = contextlib.nullcontext(None) if self.trial_listener is None else self.trial_listener()
            with logs as told, interrupts.abortable():
                heard = StageListener(f"prior of {record.spec.id}", self.listener, told)
                prior = trainer.train(model, run, config, listener=heard, stop=interrupts)
            if prior is None:
                return False
            ledger.rated(record.spec.id, prior.completed.bits_per_second)
        return True

    def _report(self, ledger: Ledger, finished: bool) -> SweepReport:
        """The search as it ended; the winner's file is written."""
        sweep, rule = self.settings.sweep, HealthRule.of(self.settings.health)
        records = ledger.records()
        rows = candidates(ledger.finished(), sweep, rule)
        chosen = winner(rows)
        if not finished:
            reason = "cancelled"
        elif chosen is not None:
            reason = "completed"
        else:
            reason = "failed" if all(record.state == "failed" for record in records) else "health"
        report = SweepReport(
            output_dir=self.start.folder.path,
            model_path=None,
            sweep=sweep,
            objective_definition=self._definition(),
            records=records,
            candidates=rows if finished else tuple(replace(row, chosen=False) for row in rows),
            advice=advice(records, sweep, rule) if finished else "",
            elapsed_s=time.monotonic() - self.began,
            exit_reason=reason,
        )
        if chosen is None or not finished:
            return report
        path = self.start.folder.path / f"{self.name}.distill"
        record = next(record for record in records if record.spec.id == chosen.trial)
        export_trial(
            record,
            self.start.folder.trial(chosen.trial),
            path,
            self._resolved(record.spec).config,
            corpus_record(self.corpus, self.data),
            sweep=provenance(report, self.settings.health, seed=self.settings.seed, chosen=chosen),
        )
        join_short_prior(self.start.folder.trial(chosen.trial), path)
        return replace(report, model_path=path)

    def _definition(self) -> str:
        return definition(self.settings.sweep, self.planner.loss)

    def _started(self) -> SweepStarted:
        sweep, scale = self.settings.sweep, self.machine.trials
        return SweepStarted(
            name=self.name,
            output_dir=str(self.start.folder.path),
            plan=sweep.plan,
            search=sweep.search,
            objective=sweep.objective,
            objective_definition=self._definition(),
            trials=first_round_size(sweep),
            finalists=final_round_size(sweep),
            concurrent=scale.concurrent,
            gpus_per_trial=scale.gpus,
            workers_per_trial=scale.workers,
            max_kbps=sweep.max_kbps,
            settings=shown_settings(settings_of_search(sweep, self.planner), self.start.source),
            left_s=sweep.max_minutes and self.began + 60.0 * sweep.max_minutes - time.monotonic(),
        )

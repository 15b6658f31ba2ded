"""The codec's training, read from top to bottom: `train_vqvae` on every rank, `VQTask` step by step.

`loop.py` decides when; this file says what: forward, loss, statistics, re-seeding, validation, what is saved.
The model is single-device maths; whatever crosses ranks goes through the `Worker` and is done here.

Shapes: B windows of this rank, C channels, T samples, Q RVQ levels, K codes, N vectors, D code dimensions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from distill_ray.argument_types import checks_arguments
from distill_ray.config.length import measurable_steps, steps_per_epoch
from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.corpus import AudioStore, Corpus, open_corpus
from distill_ray.errors import UsageError
from distill_ray.events.records import (
    DepthScore,
    Event,
    Notice,
    ShownSetting,
    TrainingCompleteEvent,
    VQEpochMetrics,
    VQStepMetrics,
    to_record,
)
from distill_ray.training.adversary import Adversary
from distill_ray.training.capture import Gradients
from distill_ray.training.ema import WeightAverage
from distill_ray.training.loop import Pace, Progress
from distill_ray.training.muon import falling
from distill_ray.training.optimizer import uses_bf16
from distill_ray.training.samples import ExcerptDecoder
from distill_ray.training.start import Start
from distill_ray.training.task import Amounts, Figures, ModelTask, nan_for_null, run_task
from distill_ray.training.vq_batch import VQBatches
from distill_ray.training.vq_codes import CodeKeeper
from distill_ray.training.vq_objective import ADVERSARIAL_TERMS, Objective, Outcome
from distill_ray.training.vq_validation import HeldOut
from distill_ray.training.worker import Worker
from distill_ray.vqvae import (
    VQVAE,
    Collapse,
    HealthRule,
    LevelHealth,
    codebook_health,
    codec_loss,
    kernels,
    utilization_warnings,
)
from distill_ray.vqvae.basis import POWER_ITERATIONS
from distill_ray.vqvae.health import EpochHealth, reports, with_kept
from distill_ray.vqvae.kmeans import ITERATIONS, VECTORS_PER_CENTRE

_INITIAL_VECTORS_PER_CODE = 8
_BASIS_VECTORS_PER_CODE = 16
"""For what is not learnt later: the spectral basis; codebooks that stay have all that k-means looks at."""
# What Triton takes to compile all kernels, and what they save of a second and of a step of 48 windows, 40 M
# parameters (tests/bench/step_time.py on one H100: 12 to 14 s, and 19.0 ms a step instead of 8.2); of larger
# batches they save more.
_COMPILE_SECONDS, _SAVED_SHARE, _SAVED_SECONDS = 12.0, 0.57, 0.011
_DIVERGED = 1.25
"""A held-out loss that many times the best one is no noise and no overfitting: the weights are spoilt."""
_CONSISTENT_FROM, _CONSISTENT_RAMP = 0.1, 0.3
"""Share of the budget from which, and within which, the weight of consistency rises."""


@checks_arguments
def train_vqvae(
    corpus: str,
    config: VQTrainConfig,
    worker: Worker,
    *,
    name: str = "vqvae",
    output_dir: str = "",
    settings: tuple[ShownSetting, ...] = (),
    depths: tuple[int, ...] = (),
    samples: bool = False,
) -> TrainingCompleteEvent:
    """Train a codec on the prepared corpus at URI `corpus`; every rank calls it.

    All that is kept is in the worker's checkpoints: `best.safetensors` (EMA weights of the best epoch by
    held-out loss, of the newest once discriminators take part), `run.json` (configuration, history, figures)
    and the state to resume from. Where the worker has a checkpoint, the run goes on from it. `depths` are
    numbers of RVQ levels that each epoch is scored at besides all of them; `samples` sends held-out excerpts
    and their decodings as events (`samples.py`). With `health.stop` the run ends
    after the epoch by which the health rule calls a codebook collapsed.

    Raises UsageError for a depth that the codec does not have, CorpusError for a corpus that cannot be
    read, CheckpointError for a damaged checkpoint, TrainingError where every step of an epoch was skipped
    because its gradients were not finite.
    """
    began = time.monotonic()
    opened = open_corpus(corpus)
    return run_task(
        VQTask(
            opened,
            config,
            worker,
            depths=depths,
            samples=samples,
            from_audio=worker.restore() is None,  # a checkpoint has its own
            began=began,
        ),
        kind="vqvae",
        name=name,
        output_dir=output_dir,
        settings=settings,
        amounts=Amounts(
            train_files=len(opened.files("train")),
            train_seconds=opened.seconds("train"),
            val_files=len(opened.files("val")),
            val_seconds=opened.seconds("val"),
        ),
        began=began,
    )


@dataclass(kw_only=True)
class VQFigures(Figures):
    """The figures of a codec run."""

    val_losses: dict[str, float] = field(default_factory=dict)
    codebook_health: tuple[LevelHealth, ...] = ()

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        figures = super().from_json(values)
        figures.codebook_health = _levels(values["codebook_health"])
        return figures

    def depth_scores(self, epoch: int) -> tuple[DepthScore, ...]:
        """The scores of a finished epoch; none for another."""
        scores = (record.get("depth_scores", ()) for record in self.history if record["epoch"] == epoch)
        return tuple(DepthScore(**nan_for_null(score)) for score in next(scores, ()))


def epoch_health(history: Iterable[Mapping[str, Any]]) -> list[EpochHealth]:
    """That of each epoch of `VQFigures.history`."""
    return [
        EpochHealth(levels=_levels(epoch["codebook_health"]), measured=epoch.get("measured", True))
        for epoch in history
    ]


def _levels(health: Iterable[Mapping[str, Any]]) -> tuple[LevelHealth, ...]:
    return tuple(
        LevelHealth(**{**nan_for_null(level), **{key: level.get(key) for key in ("kept", "gain")}})
        for level in health
    )


class VQTask(ModelTask[TrainingCompleteEvent]):
    """A codec in training on one rank."""

    config: VQTrainConfig
    figures: VQFigures
    model: VQVAE

    def __init__(
        self,
        corpus: Corpus,
        config: VQTrainConfig,
        worker: Worker,
        *,
        depths: tuple[int, ...] = (),
        samples: bool = False,
        from_audio: bool = True,
        began: float | None = None,
    ) -> None:
        """`from_audio`: begin with the corpus's codes, as a training does; not where only steps are timed or
        a checkpoint follows. `began`: when the training did, by `time.monotonic`.

        Raises CancelledError where a stop was asked for meanwhile (collective).
        """
        levels = config.model.num_quantizers
        for depth in depths:
            if not 1 <= depth <= levels:
                raise UsageError(f"a depth of {depth} levels cannot be scored: this codec has 1 to {levels}")
        device, training = worker.device, config.training
        self.steps_per_epoch = steps_per_epoch(config, corpus.seconds("train"))
        torch.manual_seed(training.seed)
        model = VQVAE(config.model).to(device)
        self.loss = codec_loss(config.model, config.loss).to(device)
        store = AudioStore(corpus, "train", device)
        self.batches = VQBatches(store, config, rank=worker.rank, world_size=worker.world_size)
        held_out = AudioStore(corpus, "val", device) if corpus.validation_split == "val" else store
        self.held_out = HeldOut(held_out, config, worker)
        began = time.monotonic() if began is None else began
        cut_short = _initialise(model, self.batches, config, worker, began) if from_audio else None
        bf16 = uses_bf16(training.precision, device)
        # A graph would draw the random numbers of its own seed where none is set before a step.
        capture = device.type == "cuda" and training.capture == "auto" and config.model.dropout == 0.0
        self.uses_kernels = training.kernels == "auto" and _pays_off(config, self.steps_per_epoch)
        if device.type == "cuda" and self.uses_kernels and (reason := kernels.missing(device.type)):
            message = f"steps run without Triton kernels, which makes them slower: {reason}"
            worker.emit(Notice(level="warning", message=message))
        self.consistency = torch.zeros((), device=device)
        objective = Objective(model, self.loss, config.loss, self.consistency)
        self.gradients: Gradients[Outcome] = Gradients(
            objective, objective.trained(), worker, bf16=bf16, capture=capture
        )
        self.adversary = (
            Adversary(model, self.loss, config, worker, self.consistency, bf16=bf16, capture=capture)
            if config.adversarial.enabled
            else None
        )
        self.terms = (*objective.terms, *(ADVERSARIAL_TERMS if self.adversary is not None else ()))
        self.average = WeightAverage(model, decay=training.ema_decay)
        super().__init__(
            config,
            worker,
            model=model,
            kept=self.average.module,
            no_decay=[model.quantizer.codebooks_QKD],
            figures=VQFigures(),
            sums=len(self.terms) + 2,  # terms, judged steps, steps
            matrices=model.hidden_matrices(),
            muon_rate=training.muon_rate,
            head=model.decoder.head.parameters(),
            head_rate=training.head_rate,
        )
        if cut_short is not None:
            self.opening.append(self.warn(cut_short.message))
        self.codes = CodeKeeper(model, config, worker, self.optimizer, self.average)
        self.excerpts = ExcerptDecoder(corpus) if samples and worker.rank == 0 else None
        self.depths = depths
        self.depth_scores: tuple[DepthScore, ...] = ()
        self.kept_codes: tuple[float, ...] = ()
        self.waited_s = 0.0
        self.lr_factor = 1.0
        self.batch_seconds = training.batch_size * config.window_samples / config.model.sample_rate

    def train_step(self, step: int, fraction: float) -> None:
        training = self.config.training
        if self.config.model.dropout > 0.0 or self.config.model.decoder_head == "flow":
            # The same after a resume, another on each rank.
            torch.manual_seed((training.seed << 32) + (self.worker.rank << 24) + step)
        began = time.perf_counter()
        batch = self.batches.batch(step)
        self.waited_s += time.perf_counter() - began
        judge = self.adversary if self.adversary is not None and self.adversary.has_begun(fraction) else None
        gradients = judge.gradients() if judge is not None else self.gradients
        # From the start on, it would leave latents that say nothing.
        self.consistency.fill_(min(1.0, max(0.0, (fraction - _CONSISTENT_FROM) / _CONSISTENT_RAMP)))
        with self._kernels():
            _, terms, output = gradients(batch.audio_BCT, batch.depth_B)
            self.grad_norm = self.optimizer.step(self.lr_scale(step, fraction), falling(step))
            sound = torch.isfinite(self.grad_norm)
            if judge is not None:
                judge.step(fraction)
            self.average.update(step)
            self.codes.follow(step, output, sound)
        self.sums[: len(terms)] += torch.where(sound, terms, 0.0)
        self.sums[-1 if judge is None else -2 :] += sound

    def lr_scale(self, step: int, fraction: float) -> float:
        return self.lr_factor * super().lr_scale(step, fraction)

    def recover(self, progress: Progress) -> Notice | None:
        loss = self.figures.val_loss
        if self.keeps_newest() or self.best is None or loss <= _DIVERGED * progress.best_loss:
            return None
        self.rewind(self.best)
        return self.warn(
            f"epoch {progress.epoch}: held-out loss rose to {loss:.4g} from {progress.best_loss:.4g}; "
            f"training went on from the weights of epoch {progress.best_epoch} at half the learning rate"
        )

    def rewind(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from averaged weights of before, at half the learning rate and without moments."""
        for module in (self.model, self.average.module):
            module.load_state_dict(weights)
        self.optimizer.forget()
        self.lr_factor /= 2

    def _kernels(self) -> AbstractContextManager[None]:
        return kernels.enabled() if self.uses_kernels else nullcontext()

    def keeps_newest(self) -> bool:
        # Discriminators trade distance, which held-out loss measures, for what passes as a recording.
        return self.adversary is not None and self.adversary.steps > 0

    def _means(self, sums: list[float]) -> tuple[float, dict[str, float]]:
        """The mean total of the summed steps and the mean of each term, discriminators' where they judged."""
        *terms, judged, steps = sums
        (_, total), *named = zip(self.terms, terms, strict=True)
        losses = {name: value / max(steps, 1.0) for name, value in named if name not in ADVERSARIAL_TERMS}
        if judged:
            losses |= {name: value / judged for name, value in named if name in ADVERSARIAL_TERMS}
        return total / max(steps, 1.0), losses

    def validate(self) -> float:
        with self._kernels():
            scores = self.held_out.score_depths(self.average.module, self.loss, self.depths, bf16=self.bf16)
        full = scores[self.config.model.num_quantizers]
        self.figures.val_loss, self.figures.val_losses = full.loss, full.terms
        if self.config.model.purpose == "generation":
            self.kept_codes = self.held_out.kept_codes(self.average.module)
        self.depth_scores = tuple(
            DepthScore(levels=depth, val_loss=scores[depth].loss, mel=scores[depth].terms["mel"])
            for depth in self.depths
        )
        return full.loss

    def step_event(self, progress: Progress, pace: Pace) -> Event:
        sums = self.sums.tolist()
        # Right after an epoch nothing is summed yet, and no loss at all would read as one of 0.
        loss, losses = self._means(sums) if sums[-1] else (self.figures.train_loss, {})
        return VQStepMetrics(
            step=progress.step,
            epoch=progress.epoch + 1,
            epoch_step=progress.step - progress.epoch_start_step,
            steps_per_epoch=self.steps_per_epoch,
            fraction=pace.fraction,
            loss=loss,
            losses=losses,
            lr=self.config.training.lr * self.lr_scale(progress.step, pace.fraction),
            grad_norm=float(self.grad_norm),
            skipped_steps=int(self.optimizer.skipped),
            steps_per_second=pace.steps_per_second,
            audio_seconds_per_second=pace.steps_per_second * self.batch_seconds,
            eta_s=pace.eta_s,
            data_wait_share=self.waited_s / pace.training_s if pace.training_s > 0 else 0.0,
        )

    def epoch_event(self, progress: Progress, pace: Pace) -> Event:
        self._align_ranks()
        sums = self.take_sums(progress, advice="lower --lr or look for damaged audio")
        figures = self.figures
        figures.train_loss, losses = self._means(sums)
        # The part of an epoch in which a time budget ends may be too short to measure health by itself.
        measured = progress.step - progress.epoch_start_step >= measurable_steps(self.config)
        counted = codebook_health(self.codes.epoch_counts(with_previous=not measured))
        figures.codebook_health = with_kept(counted, self.kept_codes)
        warnings = utilization_warnings(figures.codebook_health)
        figures.warnings += [f"epoch {progress.epoch}: {text}" for text in warnings]
        event = VQEpochMetrics(
            epoch=progress.epoch,
            epochs=self.config.training.epochs,
            step=progress.step,
            train_loss=figures.train_loss,
            val_loss=figures.val_loss,
            best_val_loss=progress.best_loss,
            best_epoch=progress.best_epoch,
            losses=losses,
            val_losses=figures.val_losses,
            codebook_health=figures.codebook_health,
            utilization_warnings=warnings,
            reseeded_codes=self.codes.reseeded,
            skipped_steps=int(self.optimizer.skipped),
            audio_seconds_per_second=pace.steps_per_second * self.batch_seconds,
            elapsed_s=pace.elapsed_s,
            depth_scores=self.depth_scores,
            measured=measured,
        )
        figures.history.append(to_record(event))
        self.codes.new_epoch()
        if self.excerpts is not None:
            for sample in self.excerpts.samples(
                self.average.module,
                progress,
                pace,
                audio_seconds_per_second=event.audio_seconds_per_second,
            ):
                self.worker.emit(sample)
        return event

    @torch.no_grad()
    def _align_ranks(self) -> None:
        """Give all ranks rank 0's hidden matrices: each computes Muon's updates for itself, from the same
        gradients, and products round differently on other hardware.
        """
        if self.worker.world_size == 1 or self.optimizer.muon is None:
            return
        for matrix in self.model.hidden_matrices():
            if self.worker.rank != 0:
                matrix.zero_()
            self.worker.all_reduce(matrix)

    def verdict(self) -> str:
        return "health" if self._collapse() is not None else ""

    def _collapse(self) -> Collapse | None:
        """What the health rule says of the run so far: of all-reduced figures, so the same on every rank."""
        health = self.config.health
        if not health.stop:
            return None
        return HealthRule.of(health).judge(reports(epoch_health(self.figures.history)))

    def completed(self, progress: Progress) -> TrainingCompleteEvent:
        figures = self.figures
        counts_QK = self.codes.epoch_counts()
        counted = codebook_health(counts_QK) if counts_QK.any() else ()
        scores = figures.depth_scores(progress.best_epoch) if progress.best_epoch else self.depth_scores
        return TrainingCompleteEvent(
            epochs_completed=progress.epoch,
            steps=progress.step,
            final_train_loss=figures.train_loss,
            final_val_loss=figures.val_loss,
            best_val_loss=min(progress.best_loss, figures.val_loss),
            best_epoch=progress.best_epoch,
            codebook_health=figures.codebook_health or counted,
            warnings=tuple(figures.warnings),
            audio_seconds_per_second=progress.step * self.batch_seconds / max(progress.training_s, 1e-9),
            elapsed_s=progress.elapsed_s,
            exit_reason=progress.ended,
            depth_scores=scores,
            collapse=self._collapse(),
            code_agreement=self.held_out.code_agreement(self.best or self.kept.state_dict()),
        )

    def consolidate(self) -> None:
        super().consolidate()
        self.codes.consolidate()

    def state(self) -> dict[str, Any]:
        return {
            **super().state(),
            "average": self.average.module.state_dict(),
            "lr_factor": self.lr_factor,
            "codes": self.codes.state_dict(),
            **({"adversary": self.adversary.state_dict()} if self.adversary is not None else {}),
        }

    def _sums_as_now(self, sums: Tensor) -> Tensor:
        """Sums of a checkpoint from before there was a term of consistency, with none of it."""
        if len(sums) == len(self.sums):
            return sums
        place = self.terms.index("consistency")
        return torch.cat([sums[:place], sums.new_zeros(1), sums[place:]])

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state({**state, "sums": self._sums_as_now(state["sums"])})
        self.average.module.load_state_dict(state["average"])
        self.lr_factor = state.get("lr_factor", 1.0)
        self.codes.load_state_dict(state["codes"])
        if self.adversary is not None:
            self.adversary.load_state_dict(state["adversary"])


def _pays_off(config: VQTrainConfig, steps_per_epoch: int) -> bool:
    """Whether a run is long enough for kernels to save more time than compiling them takes."""
    training = config.training
    seconds = math.inf if training.max_minutes is None else training.max_minutes * 60
    steps = math.inf if training.epochs is None else training.epochs * steps_per_epoch
    steps = min(steps, training.max_steps or math.inf)
    return min(seconds * _SAVED_SHARE, steps * _SAVED_SECONDS) > _COMPILE_SECONDS


def _initialise(
    model: VQVAE, batches: VQBatches, config: VQTrainConfig, worker: Worker, began: float
) -> Notice | None:
    """K-means on whole batches, all ranks' windows; DDP then gives every rank rank 0's result. What is to be
    said of it.
    """
    frames = config.training.batch_size * config.window_frames
    has_basis = config.model.gives_magnitudes
    per_code = _BASIS_VECTORS_PER_CODE if has_basis else _INITIAL_VECTORS_PER_CODE
    count = -(-per_code * config.model.codebook_size // frames)
    audio_BCT = torch.cat([batches.unchanged(step) for step in range(count)])
    stays = config.model.codebook_learning == "kmeans"
    wanted = -(-VECTORS_PER_CENTRE * config.model.codebook_size // frames) if stays else count
    more = (batches.unchanged(step) for step in range(count, wanted))
    parts = (POWER_ITERATIONS if has_basis else 0) + max(0, wanted - count) + 1
    start = Start(
        worker,
        parts=parts + ITERATIONS * config.model.num_quantizers,
        began=began,
        max_minutes=config.training.max_minutes,
    )
    model.initialise(audio_BCT, torch.Generator().manual_seed(config.training.seed), more, start)
    return start.end()

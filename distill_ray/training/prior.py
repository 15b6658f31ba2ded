"""The prior's training, read from top to bottom: `train_prior` on every rank, `PriorTask` step by step.

`loop.py` decides when; this file says what. The codes were extracted beforehand (`prior/codes.py`); every
rank reads them all, which for hours of audio is some tens of megabytes.

Shapes: B windows, Q RVQ levels, T code frames, K codes, L latent channels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Self

import torch
from torch import Tensor, nn

from distill_ray.argument_types import checks_arguments
from distill_ray.config.length import prior_steps_per_epoch
from distill_ray.config.prior import PriorTrainConfig
from distill_ray.errors import first_line
from distill_ray.events.records import (
    Event,
    Notice,
    PriorEpochMetrics,
    PriorStepMetrics,
    PriorTrainingCompleteEvent,
    ShownSetting,
    to_record,
)
from distill_ray.prior import (
    CodePrior,
    MemorizationReport,
    PriorOutput,
    SamplingConfig,
    bits_per_second,
    check_memorization,
    fusing,
    load_code_sequences,
    perplexity,
    sample_codes,
)
from distill_ray.prior.calibration import Calibration, calibrate
from distill_ray.prior.extraction import prompted_extraction
from distill_ray.prior.histogram import LEAST_GAIN, histogram_nats
from distill_ray.prior.likeness import CodeLikeness
from distill_ray.prior.openings import openings
from distill_ray.prior.windows import validation_windows
from distill_ray.training.capture import Gradients
from distill_ray.training.loop import Pace, Progress
from distill_ray.training.optimizer import uses_bf16
from distill_ray.training.retokenise import CodePool, Recordings
from distill_ray.training.samples import CodeGenerator
from distill_ray.training.task import Amounts, Figures, ModelTask, run_task
from distill_ray.training.worker import Worker

_VALIDATION_BATCH = 16
_LEAST_MINUTES_OF_KERNELS, _LEAST_STEPS_OF_KERNELS = 0.5, 500
"""Of a training that Triton kernels are compiled for, which takes seconds where it was not done before."""
_CHOOSING_SHARE, _LEAST_CHOOSING_S = 0.1, 10.0
"""Of a budget of minutes, and seconds: what trying temperatures may take after it."""
_CHECKED_WINDOWS = 8  # generated at the end and compared with the training codes


@checks_arguments
def train_prior(
    codes: str,
    config: PriorTrainConfig,
    worker: Worker,
    *,
    frame_rate: float,
    vectors_QKL: Tensor | None = None,
    recordings: Recordings | None = None,
    name: str = "prior",
    output_dir: str = "",
    settings: tuple[ShownSetting, ...] = (),
    samples: bool = False,
    tells_budget: bool = True,
) -> PriorTrainingCompleteEvent:
    """Train a prior on the code shards in folder `codes`; every rank calls it.

    frame_rate: code frames per second, for bits per second. vectors_QKL: what each code adds to the codec's
    latents, from which embeddings start and by which temperatures are found. recordings: what altered copies
    are made of, where the configuration asks for some. samples: send codes that the prior generates as
    events (`samples.py`). tells_budget: as in `run_task`. What is kept is in the worker's checkpoints, as in
    `training/vqvae.py`: the weights of the epoch with the least held-out loss or the newest, whichever
    generates codes more like the training codes.

    Raises BundleError for codes that cannot be read, CheckpointError, TrainingError.
    """
    began = time.monotonic()
    task = PriorTask(
        Path(codes),
        config,
        worker,
        frame_rate=frame_rate,
        vectors_QKL=vectors_QKL,
        recordings=recordings,
        samples=samples,
    )
    return run_task(
        task,
        kind="prior",
        name=name,
        output_dir=output_dir,
        settings=settings,
        amounts=Amounts(
            train_files=len(task.train),
            train_seconds=sum(item.shape[1] for item in task.train) / frame_rate,
            val_files=len(task.val),
            val_seconds=sum(item.shape[1] for item in task.val) / frame_rate,
        ),
        began=began,
        tells_budget=tells_budget,
    )


@dataclass(kw_only=True)
class PriorFigures(Figures):
    """The same of a prior, and what its conditions mean (`Controls.to_json`); None: it learns none.

    level_nats: what a held-out code of each level cost at best. unvaried_from: number of the first variant
    that has the recordings' own level and speed; None: none has yet.
    """

    controls: dict[str, Any] | None = None
    level_nats: list[float] = field(default_factory=list)
    unvaried_from: int | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        return super().from_json({"controls": None, "level_nats": [], "unvaried_from": None, **values})


PriorOutcome = tuple[Tensor, Tensor]


class PriorObjective(nn.Module):
    """A prior and its loss as one module, of tensors alone: DDP sees one forward, a graph its memory."""

    def __init__(self, prior: CodePrior) -> None:
        super().__init__()
        self.prior = prior

    def forward(
        self,
        codes_BQT: Tensor,
        heard_BQT: Tensor | None,
        lengths_B: Tensor,
        starts_B: Tensor,
        conditions_BAT: Tensor | None,
        masked_MQT: Tensor | None,
    ) -> PriorOutcome:
        """The loss, and summed nats and number of codes."""
        output: PriorOutput = self.prior(
            codes_BQT,
            heard_BQT=heard_BQT,
            lengths_B=lengths_B,
            starts_B=starts_B,
            conditions_BAT=conditions_BAT,
            masked_MQT=masked_MQT,
        )
        return output.loss, torch.stack([output.nats_Q.sum(), output.codes_Q.sum()])


class PriorTask(ModelTask[PriorTrainingCompleteEvent]):
    """A prior in training on one rank."""

    config: PriorTrainConfig
    model: CodePrior
    figures: PriorFigures

    def __init__(
        self,
        codes: Path,
        config: PriorTrainConfig,
        worker: Worker,
        *,
        frame_rate: float,
        vectors_QKL: Tensor | None,
        recordings: Recordings | None = None,
        samples: bool = False,
    ) -> None:
        self.frame_rate = frame_rate
        self.vectors_QKL = vectors_QKL
        self.calibration: Calibration | None = None
        self.held_out_distance: float | None = None
        self.purpose = recordings.codec.config.purpose if recordings is not None else ""
        shape, training = config.model, config.training
        store = load_code_sequences(
            codes, codebook_size=shape.codebook_size, num_quantizers=shape.num_quantizers
        )
        self.train, self.val = store.codes("train"), store.codes("val")
        # As many training recordings as held-out ones, to compare their losses.
        self.train_sample = self.train[:: max(1, len(self.train) // max(1, len(self.val)))]
        self.steps_per_epoch = prior_steps_per_epoch(config, store.frames("train"))
        figures, sequences = PriorFigures(), self.train
        retokeniser = None
        if recordings is not None and (training.variants or shape.controls):
            retokeniser = recordings.retokeniser(config, worker.device)
            if retokeniser.conditions is not None:
                figures.controls = retokeniser.conditions.controls.to_json()
                sequences = retokeniser.conditions.below(store.of("train"))
        self.pool = CodePool(sequences, config, retokeniser if training.variants else None, worker.device)
        torch.manual_seed(training.seed)
        model = CodePrior(shape)
        if vectors_QKL is not None:
            model.init_from_vectors(vectors_QKL)
        if shape.openings:
            model.openings_NQT.copy_(openings(self.train, shape.openings))
        model.to(worker.device)
        bf16 = uses_bf16(training.precision, worker.device)
        self.uses_kernels = bf16 and self._kernels_pay_off(config) and self._kernels_run(model, worker)
        objective = PriorObjective(model)
        self.gradients: Gradients[PriorOutcome] = Gradients(
            objective,
            [value for value in model.parameters() if value.requires_grad],
            worker,
            bf16=bf16,
            capture=worker.device.type == "cuda" and training.capture == "auto",
        )
        self.sounds = (
            CodeGenerator(frame_rate=frame_rate, seed=training.seed) if samples and worker.rank == 0 else None
        )
        super().__init__(
            config,
            worker,
            model=model,
            kept=model,
            no_decay=[
                weight
                for part in (model.embedding, model.conditions, model.masks)
                if part is not None
                for weight in part.parameters()
            ],
            figures=figures,
            sums=2,  # nats, codes
        )

    def _kernels_pay_off(self, config: PriorTrainConfig) -> bool:
        """Whether the training is long enough for what compiling them may take."""
        training = config.training
        is_long = training.max_minutes is None or training.max_minutes >= _LEAST_MINUTES_OF_KERNELS
        steps = math.inf if training.epochs is None else training.epochs * self.steps_per_epoch
        return training.kernels == "auto" and is_long and steps >= _LEAST_STEPS_OF_KERNELS

    def _kernels_run(self, model: CodePrior, worker: Worker) -> bool:
        """Whether the kernels of training can be had here, after trying them; says why not."""
        if worker.device.type != "cuda":
            return False
        codes_BQT = torch.zeros(2, model.config.num_quantizers, 16, dtype=torch.int64, device=worker.device)
        try:
            with fusing.enabled(), torch.autocast(worker.device.type, torch.bfloat16):
                loss = model(codes_BQT).loss
            loss.backward()
            gradients = [value.grad for value in model.parameters() if value.grad is not None]
            if not all(bool(gradient.isfinite().all()) for gradient in gradients):
                raise RuntimeError("a gradient is not finite")
        except Exception as error:  # whatever a compiler, a driver or a missing header may raise
            reason = first_line(error)
            message = f"steps run without Triton kernels, which makes them slower: {reason}"
            worker.emit(Notice(level="warning", message=message))
            return False
        finally:
            model.zero_grad()
        return True

    def train_step(self, step: int, fraction: float) -> None:
        training, worker = self.config.training, self.worker
        # Dropout must be the same after a resume, and different on each rank.
        torch.manual_seed((training.seed << 32) + step * worker.world_size + worker.rank)
        figures = self.figures
        if fraction < 1.0 - training.unvaried_share:  # also of a run that goes on with a greater budget
            figures.unvaried_from = None
        elif figures.unvaried_from is None:
            figures.unvaried_from = self.pool.made_before(step)
        windows = self.pool.sampler(step, figures.unvaried_from).batch(
            step, training.batch_size, rank=worker.rank, world_size=worker.world_size
        )
        self.model.train()
        with fusing.enabled(self.uses_kernels):
            _, row = self.gradients(
                windows.codes_BQT,
                windows.heard_BQT,
                windows.lengths_B,
                windows.starts_B,
                windows.conditions_BAT,
                windows.masked_MQT,
            )
        self.grad_norm = self.optimizer.step(self.lr_scale(step, fraction))
        self.sums += torch.where(torch.isfinite(self.grad_norm), row, 0.0)

    def validate(self) -> float:
        figures, level_nats = self.figures, self._score(self.val or self.train)
        figures.val_loss = fmean(level_nats)
        if not figures.level_nats or figures.val_loss < fmean(figures.level_nats):
            figures.level_nats = level_nats
        return figures.val_loss

    @torch.no_grad()
    def _score(self, sequences: list[Tensor]) -> list[float]:
        """Nats a code of each level in eval mode, over every frame of the sequences (collective)."""
        worker = self.worker
        self.model.eval()
        levels = self.config.model.num_quantizers
        sums_2Q = torch.zeros(2, levels, dtype=torch.float64, device=worker.device)
        for windows in validation_windows(
            sequences,
            self.config.model.training_frames,
            _VALIDATION_BATCH,
            device=worker.device,
            rank=worker.rank,
            world_size=worker.world_size,
        ):
            with torch.autocast(worker.device.type, torch.bfloat16, enabled=self.bf16):
                output = self.model(windows.codes_BQT, lengths_B=windows.lengths_B, starts_B=windows.starts_B)
            sums_2Q += torch.stack([output.nats_Q.double(), output.codes_Q.double()])
        nats_Q, codes_Q = worker.all_reduce(sums_2Q)
        found: list[float] = (nats_Q / codes_Q).tolist()
        return found

    def step_event(self, progress: Progress, pace: Pace) -> Event:
        nats, codes = self.sums.tolist()
        # Right after an epoch nothing is summed yet, and no loss at all would read as one of 0.
        loss = nats / codes if codes else self.figures.train_loss
        return PriorStepMetrics(
            step=progress.step,
            epoch=progress.epoch + 1,
            epoch_step=progress.step - progress.epoch_start_step,
            steps_per_epoch=self.steps_per_epoch,
            fraction=pace.fraction,
            loss=loss,
            lr=self.config.training.lr * self.lr_scale(progress.step, pace.fraction),
            grad_norm=float(self.grad_norm),
            skipped_steps=int(self.optimizer.skipped),
            steps_per_second=pace.steps_per_second,
            codes_per_second=pace.steps_per_second * self._codes_per_step,
            eta_s=pace.eta_s,
        )

    def epoch_event(self, progress: Progress, pace: Pace) -> Event:
        nats, codes = self.take_sums(progress, advice="lower --lr")
        figures = self.figures
        figures.train_loss = nats / codes
        # Both losses without dropout, or the gap would be smaller than it is.
        known = fmean(self._score(self.train_sample)) if self.val else None
        report = check_memorization(train_loss=known, val_loss=figures.val_loss if self.val else None)
        was_memorizing = bool(figures.history) and figures.history[-1]["is_memorizing"]
        # One line for a stretch of epochs. Codes for generation are trained on beyond this on purpose.
        if report.is_memorizing and not was_memorizing and self.purpose != "generation":
            figures.warnings.append(
                f"from epoch {progress.epoch} on single recordings are being learnt by heart ({known:.2f} "
                f"nats a code for training and {figures.val_loss:.2f} for held-out audio); which epoch is "
                "kept is decided at the end, by what it generates"
            )
        event = PriorEpochMetrics(
            epoch=progress.epoch,
            epochs=self.config.training.epochs,
            step=progress.step,
            train_loss=figures.train_loss,
            val_loss=figures.val_loss,
            val_perplexity=perplexity(figures.val_loss),
            best_perplexity=perplexity(progress.best_loss),
            best_epoch=progress.best_epoch,
            bits_per_second=self._bits(figures.val_loss),
            is_memorizing=report.is_memorizing,
            memorization_message=report.message,
            skipped_steps=int(self.optimizer.skipped),
            codes_per_second=pace.steps_per_second * self._codes_per_step,
            elapsed_s=pace.elapsed_s,
        )
        figures.history.append(to_record(event))
        if self.sounds is not None:
            for sample in self.sounds.samples(self.model, progress, pace):
                self.worker.emit(sample)
        return event

    def settle(self, progress: Progress) -> None:
        """Keep the weights of the least held-out loss or the newest, at the temperatures at which either
        generates codes that are most like the training codes. Of a budget of minutes that takes a tenth at
        most, or what one temperature of each takes. The newest are tried first: mostly they are kept.

        Held-out loss rises as soon as single recordings are learnt by heart, while what is generated may
        still become more like all of them. Newest weights that give training codes back are not kept.
        """
        if self.worker.rank != 0 or self.vectors_QKL is None:
            return
        message = "choosing temperatures, and which epoch is kept, by what the prior generates"
        self.worker.emit(Notice(level="info", message=message))
        minutes = self.config.training.max_minutes
        choosing_s = math.inf if minutes is None else max(_LEAST_CHOOSING_S, _CHOOSING_SHARE * 60.0 * minutes)
        likeness = CodeLikeness(self.train, self.vectors_QKL, self.frame_rate)
        self.held_out_distance = likeness.distance(self.val) if self.val else None
        newest = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        is_newest = self.best is None or progress.kept_epoch == progress.epoch
        began, of_newest = time.monotonic(), None
        if not is_newest and progress.ended != "cancelled":
            of_newest = self._calibrated(likeness, ends_at=began + 0.5 * choosing_s)
        self.model.load_state_dict(self.best or newest)
        best = self.calibration = self._calibrated(likeness, ends_at=began + choosing_s)
        self.model.load_state_dict(newest)
        if best.cut_short or (of_newest is not None and of_newest.cut_short):
            message = "not all temperatures were tried, for lack of time"
            self.worker.emit(Notice(level="info", message=message))
        if of_newest is None or of_newest.distance >= best.distance:
            return
        self.model.temperature_Q.copy_(torch.tensor(of_newest.temperatures))
        if not self._copies(extracted=False).is_memorizing:
            self.best, self.calibration = newest, of_newest
            progress.kept_epoch = progress.epoch

    def _calibrated(self, likeness: CodeLikeness, *, ends_at: float) -> Calibration:
        return calibrate(self.model.eval(), likeness, seed=self.config.training.seed, ends_at=ends_at)

    def completed(self, progress: Progress) -> PriorTrainingCompleteEvent:
        """The figures of the run as it ended; rank 0 compares what the prior makes with its codes."""
        figures = self.figures
        best_loss = min(progress.best_loss, figures.val_loss)
        memorization = None
        if self.worker.rank == 0 and self.val:
            self.model.load_state_dict(self.best or self.model.state_dict())
            self.model.eval()
            if self.calibration is not None:
                self.model.temperature_Q.copy_(torch.tensor(self.calibration.temperatures))
            report = self._copies()
            memorization = report.to_json()
            if report.is_memorizing:
                self.warn(report.message)
        done = PriorTrainingCompleteEvent(
            epochs_trained=progress.epoch,
            steps=progress.step,
            final_perplexity=perplexity(figures.val_loss),
            best_perplexity=perplexity(best_loss),
            best_epoch=progress.best_epoch,
            bits_per_second=self._bits(best_loss),
            memorization_warnings=tuple(figures.warnings),
            codes_per_second=progress.step * self._codes_per_step / max(progress.training_s, 1e-9),
            elapsed_s=progress.elapsed_s,
            exit_reason=progress.ended,
            histogram_bits_per_second=self._histogram_bits(),
            memorization=memorization,
            kept_epoch=progress.kept_epoch,
            temperatures=() if self.calibration is None else self.calibration.temperatures,
            code_distance=None if self.calibration is None else self.calibration.distance,
            held_out_code_distance=self.held_out_distance,
            level_nats=tuple(figures.level_nats),
        )
        if done.below_histogram is None or done.below_histogram >= LEAST_GAIN:
            return done
        other = "" if self.purpose == "generation" else ", or train a codec with --purpose generation"
        self.worker.emit(
            self.warn(
                f"the prior costs {done.bits_per_second:,.0f} bits for a second of held-out audio, "
                f"{_compared(done.below_histogram)} than a histogram of each level's codes "
                f"({done.histogram_bits_per_second:,.0f}): generated sound will be noise; train on more "
                f"audio or longer{other}"
            )
        )
        return replace(done, memorization_warnings=tuple(figures.warnings))

    def _histogram_bits(self) -> float | None:
        if not self.val:
            return None
        return self._bits(histogram_nats(self.train, self.val, self.config.model.codebook_size))

    @property
    def _codes_per_step(self) -> float:
        model = self.config.model
        return self.config.training.batch_size * model.training_frames * model.num_quantizers

    def _bits(self, loss: float) -> float:
        return bits_per_second(loss, self.frame_rate, self.config.model.num_quantizers)

    def _copies(self, *, extracted: bool = True) -> MemorizationReport:
        """What the weights generate, compared with the training codes; `extracted`: also from prompts."""
        generator = torch.Generator().manual_seed(self.config.training.seed)
        generated = sample_codes(
            self.model,
            frames=self.config.model.context_frames,
            batch=_CHECKED_WINDOWS,
            sampling=SamplingConfig(),
            generator=generator,
        )
        return check_memorization(
            generated=list(generated.cpu()),
            train=self.train,
            held_out=self.val,
            frame_rate=self.frame_rate,
            extraction=prompted_extraction(self.model, self.train, self.val, frame_rate=self.frame_rate)
            if extracted
            else None,
        )


def _compared(gain: float) -> str:
    return f"only {gain:.1%} less" if gain > 0 else f"{-gain:.1%} more"

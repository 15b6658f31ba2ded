"""Settings of the code prior and of its training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from distill_ray.config.setting import Section, setting
from distill_ray.errors import Problem

CONTROLS = ("loudness", "brightness", "density", "pitch")
"""What generated sound can be asked to have more or less of (`prior/controls.py`); new ones go to the end."""
CONTROL_STEPS = 9
"""Steps of each control that are told apart."""
MOST_LABELS = 1024


@dataclass(frozen=True, kw_only=True)
class PriorConfig(Section):
    """The prior: everything needed to rebuild the module that a set of weights belongs to."""

    table: ClassVar[str] = "prior"

    codebook_size: int = setting(256, "codes in each codebook of the codec", auto=True, low=2, high=16_384)
    num_quantizers: int = setting(8, "RVQ levels of the codec", auto=True, low=1, high=16)
    codebook_dim: int = setting(
        8, "dimension of the codec's codes (initial embeddings)", auto=True, low=1, high=256
    )
    pattern: str = setting(
        "delay", "order in which the prior models the codes", flag="--pattern", choices=("delay", "flatten")
    )
    hidden_size: int = setting(
        256, "width of the prior's transformer", flag="--hidden-size", auto=True, low=16, high=8192
    )
    num_layers: int = setting(
        6, "layers of the prior's transformer", flag="--layers", auto=True, low=1, high=96
    )
    num_heads: int = setting(
        4, "attention heads of the prior's transformer", flag="--heads", auto=True, low=1, high=128
    )
    dropout: float = setting(0.1, "dropout inside the transformer", auto=True, low=0.0, high=0.9)
    context_frames: int = setting(
        512, "code frames that the prior looks back on", auto=True, low=8, high=65_536
    )

    controls: int = setting(
        0,
        f"how many of the controls {', '.join(CONTROLS)} the prior learns to follow; 0: none, and no labels",
        flag="--controls",
        low=0,
        high=len(CONTROLS),
    )
    labels: int = setting(0, "names of folders learnt as labels", auto=True, low=0, high=MOST_LABELS)

    openings: int = setting(
        0,
        "moments of the training recordings, 8 code frames each, from which sounds go on, unheard; 0: none",
        auto=True,
        low=0,
        high=65_536,
    )

    masked_share: float = setting(
        0.0,
        "share of the windows that teach to fill gaps, for fill, vary and loop; 0: none",
        flag="--masked-share",
        low=0.0,
        high=0.5,
    )

    def cross_checks(self) -> Iterator[Problem]:
        if self.labels and not self.controls:
            yield self.problem("labels", "labels are learnt with controls only")
        if self.hidden_size % self.num_heads:
            yield self.problem(
                "num_heads", f"{self.num_heads} heads do not divide the hidden size {self.hidden_size}"
            )
        elif (self.hidden_size // self.num_heads) % 2:
            yield self.problem("num_heads", "each head needs an even width (rotary positions)")

    @property
    def attributes(self) -> int:
        """Conditions of a frame: the label and each control."""
        return 1 + self.controls if self.controls else 0

    @property
    def condition_rows(self) -> int:
        """Rows of the embedding of labels and controls; the first one says nothing. 0: there is none."""
        return 1 + self.labels + self.controls * CONTROL_STEPS if self.controls else 0

    @property
    def training_frames(self) -> int:
        """Code frames of a training window: half as many again as attention spans.

        The last third of its steps sees no special token, as in all generation beyond the span; with windows
        of one span held-out loss beyond it was 2 to 6 % worse, with windows of two no better.
        """
        return 3 * self.context_frames // 2


@dataclass(frozen=True, kw_only=True)
class PriorTrainingConfig(Section):
    """The prior's training loop: budget, batch, optimizer."""

    table: ClassVar[str] = "prior_training"

    epochs: int | None = setting(
        None,
        "epochs of the prior; with a time budget, for generation at most as many as the corpus is worth",
        flag="--epochs",
        run_flag="--prior-epochs",
        auto=True,
        low=1,
    )
    max_minutes: float | None = setting(
        None,
        "time budget of the prior in minutes",
        flag="--max-minutes",
        run_flag="--prior-minutes",
        above=0.0,
    )
    batch_size: int = setting(
        16,
        "training windows in a step of the prior, over all workers",
        flag="--batch-size",
        run_flag="--prior-batch-size",
        auto=True,
        low=1,
    )
    lr: float = setting(
        3e-4,
        "peak learning rate of the prior",
        flag="--lr",
        run_flag="--prior-lr",
        auto=True,
        above=0.0,
        high=1.0,
    )
    beta1: float = setting(0.9, "AdamW beta 1", low=0.0, high=0.9999)
    beta2: float = setting(0.95, "AdamW beta 2", low=0.0, high=0.99999)
    weight_decay: float = setting(0.1, "AdamW weight decay of matrices", low=0.0, high=1.0)
    warmup_steps: int = setting(100, "steps of linear warm-up", low=0)
    clip_norm: float = setting(1.0, "gradient norm limit", above=0.0)
    variants: int = setting(
        0,
        "recordings shifted, amplified and played faster or slower to train on too, so many of each",
        auto=True,
        low=0,
    )
    variant_steps: int = setting(
        40, "steps for each new variant, which takes the oldest one's place", auto=True, low=1
    )
    unvaried_share: float = setting(
        0.0,
        "share of the training, its end, in which new variants have the recordings' own level and speed",
        auto=True,
        low=0.0,
        high=1.0,
    )
    replaced_share: float = setting(
        0.0,
        "share of the codes that the prior looks back on which are replaced by those of other moments; up to "
        "twice as many in a window",
        auto=True,
        low=0.0,
        high=0.5,
    )
    patience: int = setting(
        10, "epochs without a better held-out loss before stopping; 0: never", auto=True, low=0
    )
    min_epoch_steps: int = setting(10, "least steps between two validations", auto=True, low=1)
    checkpoint_seconds: float = setting(60.0, "least time between checkpoints in seconds", low=0.0)
    precision: str = setting(
        "auto", "arithmetic; auto: bf16 on GPUs, fp32 on CPUs", choices=("auto", "bf16", "fp32")
    )
    capture: str = setting("auto", "CUDA graphs; auto: a step is one graph on GPUs", choices=("auto", "off"))
    kernels: str = setting("auto", "Triton kernels; auto: on GPUs that run them", choices=("auto", "off"))
    seed: int = setting(
        0, "seed of all that is random", flag="--seed", run_flag="--seed", low=0, high=2**31 - 1
    )

    def cross_checks(self) -> Iterator[Problem]:
        if self.epochs is None and self.max_minutes is None:
            yield self.problem("epochs", "give a number of epochs or a time budget (--max-minutes)")


@dataclass(frozen=True, kw_only=True)
class PriorTrainConfig:
    """All that a prior run needs besides its codes."""

    model: PriorConfig
    training: PriorTrainingConfig

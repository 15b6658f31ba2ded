"""Settings of the codec and of its training; `config/resolve.py` chooses what the user left open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from distill_ray.config.adversarial import AdversarialConfig
from distill_ray.config.health import HealthConfig
from distill_ray.config.setting import Section, setting
from distill_ray.errors import Problem

SIZES = ("tiny", "small", "base")
PURPOSES = ("generation", "compression")
MAGNITUDE_HEADS = ("flow", "magnitudes")
"""Heads of decoders that give magnitudes, whose phases are found afterwards."""
VECTORS_PER_CODE = 50
"""Count at least this many vectors for each code of a codebook; fewer make live codes look dead."""

MODEL_BEFORE: dict[str, object] = {
    "purpose": "compression",
    "encoder_input": "complex",
    "codebook_lookup": "cosine",
    "decoder_norm": False,
    "decoder_head": "compressed",
    "decoder_spread": "bins",
}
"""What codecs of files, and of runs, without these settings do."""


@dataclass(frozen=True, kw_only=True)
class SizeConfig(Section):
    """The codec's size, which stands for several settings of its network and of its training."""

    table: ClassVar[str] = "model"

    size: str | None = setting(None, "size of the network", flag="--size", auto=True, choices=SIZES)


@dataclass(frozen=True, kw_only=True)
class VQVAEConfig(Section):
    """The codec: everything needed to rebuild the module that a set of weights belongs to."""

    table: ClassVar[str] = "model"

    purpose: str = setting(
        "compression",
        "what the codec is for: codes that a prior can learn (generation), or giving back the waveform",
        flag="--purpose",
        auto=True,
        choices=PURPOSES,
    )
    sample_rate: int = setting(44_100, "sample rate in Hz", auto=True, low=8_000, high=192_000)
    channels: int = setting(1, "audio channels", auto=True, low=1, high=2)
    codebook_size: int = setting(
        256, "codes in each codebook", flag="--codebook-size", auto=True, low=16, high=16_384
    )
    codebook_dim: int = setting(
        8, "dimension in which the nearest code is looked up", auto=True, low=2, high=256
    )
    num_quantizers: int = setting(
        8, "RVQ levels of the codec", flag="--rvq-levels", auto=True, low=2, high=16
    )
    commitment_weight: float = setting(
        2.0, "weight of the commitment loss", flag="--commitment-weight", low=0.0, high=100.0
    )
    codebook_learning: str = setting(
        "ema",
        "how codebooks are learned: by averages or gradients as training goes, or by k-means before it",
        auto=True,
        choices=("ema", "gradient", "kmeans"),
    )
    codebook_lookup: str = setting(
        "euclidean", "distance by which a vector's code is chosen", choices=("euclidean", "cosine")
    )
    codebook_decay: float = setting(0.95, "decay of EMA codebooks", above=0.0, high=0.99999)
    reseed_threshold: float = setting(
        0.1, "codes used less than this share of uniform use are re-seeded; 0 turns it off", low=0.0, high=1.0
    )
    quantizer_dropout: float = setting(
        0.5, "share of training windows that use a random number of levels", auto=True, low=0.0, high=1.0
    )
    encoder_input: str = setting(
        "complex",
        "what the encoder sees of spectra: complex numbers, or magnitudes only",
        auto=True,
        choices=("complex", "magnitudes"),
    )
    width: int = setting(256, "channels of the ConvNeXt blocks", auto=True, low=8, high=4096)
    encoder_blocks: int = setting(
        4, "ConvNeXt blocks before and again after the stride", auto=True, low=1, high=64
    )
    decoder_blocks: int = setting(
        5, "ConvNeXt blocks before and again after the upsampling", auto=True, low=1, high=64
    )
    mlp_ratio: int = setting(4, "hidden width of a block over its width", low=1, high=8)
    latent_dim: int = setting(128, "channels that enter the quantiser", auto=True, low=2, high=4096)
    decoder_norm: bool = setting(True, "normalise the decoder's input")
    decoder_head: str = setting(
        "directed",
        "what the decoder gives: gains and directions of spectra; components of magnitudes, drawn by a flow, "
        "or magnitudes, whose phases are found afterwards; or compressed parts as in old files",
        auto=True,
        choices=("directed", "flow", "magnitudes", "compressed"),
    )
    stereo: str = setting(
        "left-right",
        "what a codec of magnitudes has of two channels: each, or mid and side, which keep the image",
        auto=True,
        choices=("left-right", "mid-side"),
    )
    decoder_components: int = setting(
        256,
        "principal components of a code frame's spectrum that a flow draws, the quantised ones among them",
        low=2,
        high=4096,
    )
    conditioning_noise: float = setting(
        0.0,
        "deviation of the noise on the latents that a flow is told in training, in units of their own",
        auto=True,
        low=0.0,
        high=10.0,
    )
    decoder_spread: str = setting(
        "bins",
        "what a decoder of magnitudes starts its spreads from: one for each bin, or a linear function of the "
        "latents",
        auto=True,
        choices=("bins", "latents"),
    )
    dropout: float = setting(0.0, "dropout inside the blocks", low=0.0, high=0.9)
    n_fft: int = setting(1024, "STFT window in samples", auto=True, low=64, high=8192)
    hop: int = setting(256, "STFT hop in samples", auto=True, low=16, high=4096)
    stride: int = setting(2, "STFT frames for one code frame", auto=True, low=1, high=16)
    compression: float = setting(0.3, "exponent that compresses STFT magnitudes", above=0.0, high=1.0)

    def cross_checks(self) -> Iterator[Problem]:
        if self.n_fft % self.hop or self.n_fft < 2 * self.hop:
            yield self.problem("n_fft", f"{self.n_fft} is not a multiple of at least two hops ({self.hop})")
        if self.gives_magnitudes and self.encoder_input != "magnitudes":
            yield self.problem("encoder_input", 'a decoder of magnitudes needs "magnitudes"')
        if self.stereo == "mid-side" and not self.gives_magnitudes:
            yield self.problem("stereo", 'mid and side need a decoder of magnitudes; say "left-right"')
        if self.decoder_head == "flow" and self.decoder_components < self.latent_dim:
            message = f"{self.decoder_components} are fewer than the latent channels ({self.latent_dim})"
            yield self.problem("decoder_components", message)
        if (self.n_fft - self.hop) % 2:
            yield self.problem("hop", f"{self.n_fft} - {self.hop} must be even")

    @property
    def gives_magnitudes(self) -> bool:
        """Whether the decoder is of `MAGNITUDE_HEADS`."""
        return self.decoder_head in MAGNITUDE_HEADS

    @property
    def frame_hop(self) -> int:
        """Samples for one code frame."""
        return self.hop * self.stride

    @property
    def frame_rate(self) -> float:
        """Code frames per second."""
        return self.sample_rate / self.frame_hop


@dataclass(frozen=True, kw_only=True)
class LossConfig(Section):
    """Weights of the reconstruction losses (see `vqvae/losses.py`)."""

    table: ClassVar[str] = "loss"

    mel: float = setting(15.0, "weight of the multi-scale log-mel L1", low=0.0)
    bands: float = setting(10.0, "weight of the L1 of log levels in 40 bands of hearing over 93 ms", low=0.0)
    complex_stft: float = setting(60.0, "weight of the power-compressed complex STFT L1", low=0.0)
    phase_hz: float = setting(
        4_000.0,
        "frequency in Hz above which the complex STFT term compares magnitudes only",
        auto=True,
        low=0.0,
    )
    waveform: float = setting(120.0, "weight of the waveform L1", auto=True, low=0.0)
    magnitudes: float = setting(
        10.0, "weight of the cost of log magnitudes, of a decoder that gives magnitudes", low=0.0
    )
    flow: float = setting(1.0, "weight of the cost of a flow's velocities", low=0.0)
    codebook: float = setting(1.0, "weight of the codebook loss (gradient-learned codebooks)", low=0.0)
    consistency: float = setting(
        0.0,
        "weight of how far latents of a window and of the window a little later and louder are apart",
        auto=True,
        low=0.0,
    )


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Section):
    """Random changes of each training window; every one keeps it a plausible recording."""

    table: ClassVar[str] = "augment"

    gain_db: float = setting(6.0, "largest gain change in dB, up or down", low=0.0, high=40.0)
    polarity: float = setting(0.5, "chance of flipping the polarity", low=0.0, high=1.0)
    mix: float = setting(0.0, "chance of adding another window of the corpus", auto=True, low=0.0, high=1.0)
    silence: float = setting(
        0.05, "chance of silencing the beginning or the end of a window", low=0.0, high=1.0
    )
    speed: float = setting(
        0.0, "largest change of speed and pitch in semitones", auto=True, low=0.0, high=12.0
    )
    equaliser_db: float = setting(
        0.0, "largest gain of a random equaliser in dB", auto=True, low=0.0, high=24.0
    )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Section):
    """The codec's training loop: budget, batch, optimizer."""

    table: ClassVar[str] = "training"

    epochs: int | None = setting(
        None,
        "epochs of the codec, in a search of each trial; with a time budget, on a GPU at most as many as the "
        "corpus is worth",
        flag="--epochs",
        auto=True,
        low=1,
    )
    max_minutes: float | None = setting(None, "time budget in minutes", flag="--max-minutes", above=0.0)
    max_steps: int | None = setting(
        None,
        "most steps of the codec; 0, in a search: as many as it says, so that its trials make equally many",
        low=0,
    )
    batch_size: int = setting(
        96, "training windows in a step, over all workers", flag="--batch-size", auto=True, low=1
    )
    window_seconds: float = setting(
        0.75, "length of a training window in seconds", auto=True, low=0.05, high=30.0
    )
    lr: float = setting(1e-3, "peak learning rate", flag="--lr", auto=True, above=0.0, high=1.0)
    muon_rate: float = setting(
        2.0,
        "rate of Muon, for hidden matrices, over lr; it falls after 1,000 steps; 0: AdamW for all",
        auto=True,
        low=0.0,
        high=100.0,
    )
    head_rate: float = setting(
        1.0,
        "rate of the decoder's last matrix, from features to spectra, over lr",
        auto=True,
        above=0.0,
        high=100.0,
    )
    beta1: float = setting(0.9, "AdamW beta 1", low=0.0, high=0.9999)
    beta2: float = setting(0.95, "AdamW beta 2", low=0.0, high=0.99999)
    weight_decay: float = setting(0.1, "weight decay of matrices", low=0.0, high=1.0)
    warmup_steps: int = setting(300, "steps of linear warm-up", low=0)
    clip_norm: float = setting(1.0, "gradient norm limit, for what AdamW trains", above=0.0)
    ema_decay: float = setting(0.999, "decay of the weights used for evaluation", low=0.0, high=0.999999)
    reseed_every: int = setting(50, "steps between checks for dead codes", low=1)
    patience: int = setting(0, "epochs without a better held-out loss before stopping; 0: never", low=0)
    min_epoch_steps: int = setting(10, "least steps between two validations", auto=True, low=1)
    val_seconds: float = setting(120.0, "most held-out audio to score after an epoch, in seconds", above=0.0)
    checkpoint_seconds: float = setting(60.0, "least time between checkpoints in seconds", low=0.0)
    precision: str = setting(
        "auto", "arithmetic; auto: bf16 on GPUs, fp32 on CPUs", choices=("auto", "bf16", "fp32")
    )
    capture: str = setting(
        "auto", "CUDA graphs; auto: a step without dropout is one graph on GPUs", choices=("auto", "off")
    )
    kernels: str = setting("auto", "Triton kernels; auto: on GPUs that run them", choices=("auto", "off"))
    seed: int = setting(0, "seed of all that is random", flag="--seed", low=0, high=2**31 - 1)

    def cross_checks(self) -> Iterator[Problem]:
        if self.epochs is None and self.max_minutes is None and self.max_steps is None:
            yield self.problem("epochs", "give a number of epochs or a time budget (--max-minutes)")


@dataclass(frozen=True, kw_only=True)
class VQTrainConfig:
    """All that a codec run needs besides its corpus."""

    model: VQVAEConfig
    training: TrainingConfig
    loss: LossConfig
    augment: AugmentConfig
    health: HealthConfig = field(default_factory=HealthConfig)
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)

    def __post_init__(self) -> None:
        assert self.window_frames >= 1

    @property
    def window_frames(self) -> int:
        """Code frames in a training window."""
        return max(1, round(self.training.window_seconds * self.model.frame_rate))

    @property
    def window_samples(self) -> int:
        """Samples in a training window: a whole number of code frames."""
        return self.window_frames * self.model.frame_hop

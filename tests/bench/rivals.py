"""The codecs of the bake-off behind one small protocol: ours, EnCodec's layout and DAC's.

The rivals are `transformers`' `EncodecModel` and `DacModel`, built from configuration with random weights at
our sample rate, code rate (hop 512), levels and codebook size. Windows, augmentation, reconstruction
losses, schedule, precision (bf16 autocast on GPUs, quantisers in float32) and weight averaging are ours for
all of them; batches are of 48 windows and the optimizer is AdamW throughout, as ours were when the rivals'
rates were chosen. What a rival needs beyond that, and `transformers` does not have, is added here:

- **EnCodec** (Défossez et al. 2022): the library's quantiser can only look up. Added: k-means start, the
  straight-through estimator over the sum of all levels, EMA codebooks (decay 0.99, Laplace smoothing 1e-5),
  dead codes replaced by vectors of the batch, a commitment loss with weight 1, the mean over levels. As in
  audiocraft, and unlike the first release, residuals subtract detached codes, so that the commitment loss
  of every level reaches the encoder. Codes are replaced by our own rule (every 50 steps, and every 10
  during the warm-up, when its latents drift away from the codebooks faster than the EMA follows, those
  below 0.1 of uniform use, with their place in the EMA): EnCodec's absolute count of 2 would call most
  codes dead at our batch, and what it writes for them is overwritten by the EMA in the same step. Quantiser
  dropout is by window, where EnCodec draws one depth for the batch. The loss balancer is left out, and so are
  the adversaries unless `adversarial.enabled`: then they are ours, with our losses and balance. Where a frame
  has 1024 samples the last stride doubles twice, (8, 8, 4, 4): 43 frames a second, near MusicGen's 50.
- **DAC** (Kumar et al. 2023): the library's own quantiser losses with DAC's weights (codebook 1.0, commitment
  0.25) and its own quantiser dropout 0.5. Added: weight normalisation (the library has it as a method, DAC
  trains with it) and codebooks that start from N(0, 1) as DAC's do, not from N(0, 0.02) as in the library.

Shapes: B windows, C channels, T samples in audio and code frames in codes, Q RVQ levels, N = B · T vectors,
K codes, L latent channels.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from distill_ray.config.vqvae import VQTrainConfig, VQVAEConfig
from distill_ray.corpus import AudioStore, Corpus
from distill_ray.training.ema import WeightAverage
from distill_ray.training.optimizer import Optimizer, lr_scale, uses_bf16
from distill_ray.training.vq_batch import VQBatches
from distill_ray.training.vq_objective import AdversarialObjective
from distill_ray.training.vqvae import VQTask
from distill_ray.training.worker import Worker
from distill_ray.vqvae import VQVAE, ReconstructionLoss, kernels
from distill_ray.vqvae import model as codec_model
from distill_ray.vqvae.discriminator import Discriminators

RATIOS = {512: (8, 4, 4, 4), 1024: (8, 8, 4, 4)}
"""EnCodec's strides at 44.1 kHz, decoder's order, by their product, the samples of a code frame."""
DAC_RATIOS = (2, 4, 8, 8)
"""DAC's own at 44.1 kHz, encoder's order."""
DAC_WIDTHS = {"dac": (64, 1536), "dac-small": (32, 512)}
"""(encoder, decoder) widths: DAC's own 44.1 kHz codec, and the smaller one of DESIGN section 9."""
KMEANS_VECTORS = 8  # for each code, as our own start takes
KMEANS_ITERATIONS = 10


class Coder(Protocol):
    """A codec in use."""

    @property
    def module(self) -> nn.Module:
        """Holds the weights that `encode` and `decode` use."""

    def encode(self, audio_BCT: Tensor) -> Tensor:
        """Codes int64 [B, Q, T] of all levels."""

    def decode(self, codes_BQT: Tensor, length: int) -> Tensor:
        """Audio [B, C, length] of the first levels' codes."""


class Trainee(Protocol):
    """A codec in training; `coder` has the averaged weights, which are what is scored."""

    coder: Coder
    parameters: int

    def train_step(self, step: int, fraction: float) -> None:
        """One step; `fraction` is the part of the budget that is used."""

    def keeps_newest(self) -> bool:
        """Whether its newest weights are to be kept whatever the held-out loss."""

    def rewind(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from weights of `coder` of before, at half the learning rate."""


@dataclass(frozen=True, kw_only=True)
class Contest:
    """What all codecs of a bake-off share."""

    corpus: Corpus
    held_out: Corpus
    config: VQTrainConfig
    worker: Worker
    snake_front: bool = False
    """Whether ours begins with `SnakeEncoder`."""

    @property
    def device(self) -> torch.device:
        return self.worker.device


def build(name: str, contest: Contest) -> Trainee:
    """The codec called `name`: "encodec", "dac", "dac-small", or else ours (`contest.config`)."""
    if name == "encodec":
        return RivalTraining(EncodecLayout(contest.config), contest)
    if name in DAC_WIDTHS:
        return RivalTraining(DacLayout(contest.config, *DAC_WIDTHS[name]), contest)
    return Ours(contest)


class OursInUse:
    """Our codec as a `Coder`."""

    def __init__(self, model: VQVAE) -> None:
        self.module = model

    def encode(self, audio_BCT: Tensor) -> Tensor:
        return self.module.encode(audio_BCT)

    def decode(self, codes_BQT: Tensor, length: int) -> Tensor:
        return self.module.decode(codes_BQT, length)


class SnakeEncoder(nn.Module):
    """DAC's strided Snake convolutions at DAC's own width, in the place of our `Encoder`."""

    def __init__(self, config: VQVAEConfig) -> None:
        from transformers import DacConfig, DacModel

        super().__init__()
        settings = DacConfig(encoder_hidden_size=DAC_WIDTHS["dac"][0], downsampling_ratios=list(DAC_RATIOS))
        self.convolutions = DacModel(settings).encoder
        self.project = nn.Linear(settings.hidden_size, config.latent_dim)

    def forward(self, audio_BCT: Tensor) -> Tensor:
        latent_BFL: Tensor = self.project(self.convolutions(audio_BCT).transpose(1, 2))
        return latent_BFL


class Ours:
    """Our codec, trained by the product's own step."""

    def __init__(self, contest: Contest) -> None:
        front = SnakeEncoder if contest.snake_front else codec_model.Encoder
        with patch.object(codec_model, "Encoder", front):
            self._task = VQTask(contest.corpus, contest.config, contest.worker)
        self.coder: Coder = OursInUse(self._task.average.module)
        self.parameters = sum(parameter.numel() for parameter in self._task.model.parameters())

    def train_step(self, step: int, fraction: float) -> None:
        self._task.train_step(step, fraction)

    def keeps_newest(self) -> bool:
        return self._task.keeps_newest()

    def rewind(self, weights: Mapping[str, Tensor]) -> None:
        self._task.rewind(weights)


class Layout(nn.Module, ABC):
    """A rival's network with what it needs to be trained; also a `Coder` once in eval mode."""

    @property
    def module(self) -> nn.Module:
        return self

    def start(self, audio_BCT: Tensor) -> None:
        """Prepare the codebooks from recordings."""

    @abstractmethod
    def forward(self, audio_BCT: Tensor, depth_B: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Reconstruction, weighted quantiser loss, and what `follow` wants."""

    def follow(self, seen: Any) -> None:
        """Move what has no gradient, after the optimizer's step."""

    @abstractmethod
    def encode(self, audio_BCT: Tensor) -> Tensor: ...

    @abstractmethod
    def decode(self, codes_BQT: Tensor, length: int) -> Tensor: ...


class RivalTraining:
    """A rival under our windows, losses and schedule."""

    def __init__(self, layout: Layout, contest: Contest) -> None:
        config, device = contest.config, contest.device
        self._training = config.training
        store = AudioStore(contest.corpus, "train", device)
        self._batches = VQBatches(store, config, rank=0, world_size=1)
        self._loss = ReconstructionLoss(config.model, config.loss).to(device)
        self._bf16 = uses_bf16(config.training.precision, device)
        self._layout = layout.to(device)
        frames = config.training.batch_size * config.window_frames
        count = -(-KMEANS_VECTORS * config.model.codebook_size // frames)
        layout.eval().start(torch.cat([self._batches.unchanged(step) for step in range(count)]))
        layout.train()
        self._optimizer = Optimizer(
            layout,
            lr=self._training.lr,
            betas=(self._training.beta1, self._training.beta2),
            weight_decay=self._training.weight_decay,
            clip_norm=self._training.clip_norm,
        )
        self._lr_factor = 1.0
        self._average = WeightAverage(layout, decay=self._training.ema_decay)
        self._adversary = (
            _RivalAdversary(layout, self._loss, config, device) if config.adversarial.enabled else None
        )
        self.coder: Coder = self._average.module
        self.parameters = sum(parameter.numel() for parameter in layout.parameters())

    def train_step(self, step: int, fraction: float) -> None:
        batch = self._batches.batch(step)
        is_judged = self._adversary is not None and self._adversary.has_begun(fraction)
        with torch.autocast(batch.audio_BCT.device.type, torch.bfloat16, enabled=self._bf16):
            if is_judged:
                total, seen = self._adversary.loss(batch.audio_BCT, batch.depth_B)
            else:
                audio_BCT, quantiser_loss, seen = self._layout(batch.audio_BCT, batch.depth_B)
                with kernels.enabled():  # the losses are everyone's
                    terms = self._loss(audio_BCT, batch.audio_BCT)
                total = self._loss.total(terms) + quantiser_loss
        total.backward()
        if is_judged:
            self._adversary.step(fraction)
        scale = lr_scale(step, fraction, warmup_steps=self._training.warmup_steps)
        self._optimizer.step(self._lr_factor * scale)
        self._layout.follow(seen)
        self._average.update(step)

    def keeps_newest(self) -> bool:
        return self._adversary is not None and self._adversary.steps > 0

    def rewind(self, weights: Mapping[str, Tensor]) -> None:
        for module in (self._layout, self._average.module):
            module.load_state_dict(weights)
        self._optimizer.forget()
        self._lr_factor /= 2


class _AsOurs(nn.Module):
    """A rival's network behind what `AdversarialObjective` asks of ours."""

    def __init__(self, layout: Layout, config: VQVAEConfig) -> None:
        super().__init__()
        self.layout, self.config = layout, config

    def forward(self, audio_BCT: Tensor, depth_B: Tensor) -> Any:
        decoded_BCT, quantiser_loss, seen = self.layout(audio_BCT, depth_B)
        nothing = torch.zeros((), device=audio_BCT.device)
        return SimpleNamespace(
            audio_BCT=decoded_BCT, codebook_loss=quantiser_loss, commitment_loss=nothing, seen=seen
        )


class _RivalAdversary:
    """Our discriminators, their losses and their balance, against a rival."""

    def __init__(
        self, layout: Layout, loss: ReconstructionLoss, config: VQTrainConfig, device: torch.device
    ) -> None:
        self.steps = 0
        self._settings, self._warmup = config.adversarial, config.training.warmup_steps
        discriminators = Discriminators(config.model, self._settings.width, banded=self._settings.banded).to(
            device
        )
        self._objective = AdversarialObjective(
            _AsOurs(layout, config.model),  # type: ignore[arg-type]
            loss,
            dataclasses.replace(config.loss, codebook=1.0),
            discriminators,
            self._settings,
            learns=True,
        )
        self._optimizer = Optimizer(
            discriminators,
            lr=self._settings.lr,
            betas=(config.training.beta1, config.training.beta2),
            weight_decay=0.0,
            clip_norm=config.training.clip_norm,
        )

    def has_begun(self, fraction: float) -> bool:
        return self.steps > 0 or fraction >= self._settings.start

    def loss(self, audio_BCT: Tensor, depth_B: Tensor) -> tuple[Tensor, Any]:
        """What to call backward on, and what `follow` wants; leaves the discriminators' gradients."""
        with kernels.enabled():
            total, _, output = self._objective(audio_BCT, depth_B)
        return total, output.seen  # type: ignore[attr-defined]

    def step(self, fraction: float) -> None:
        within = max(0.0, (fraction - self._settings.start) / (1.0 - self._settings.start))
        self._optimizer.step(lr_scale(self.steps, within, warmup_steps=self._warmup))
        self.steps += 1


class EncodecLayout(Layout):
    """`EncodecModel` with the training of its quantiser (module docstring)."""

    recent_QK: Tensor
    """Use of each code since the last look for dead ones."""
    DECAY, SMOOTHING, EARLY = 0.99, 1e-5, 10

    def __init__(self, config: VQTrainConfig) -> None:
        from transformers import EncodecConfig, EncodecModel

        super().__init__()
        model = config.model
        assert model.channels == 1, "the bake-off is mono"
        assert model.frame_hop in RATIOS, "the rival's strides give 512 or 1024 samples a code frame"
        self.frame_hop = model.frame_hop
        bits = (model.codebook_size - 1).bit_length()
        frames = -(-model.sample_rate // model.frame_hop)  # the library rounds the code rate up
        settings = EncodecConfig(
            sampling_rate=model.sample_rate,
            audio_channels=1,
            upsampling_ratios=list(RATIOS[model.frame_hop]),
            codebook_size=model.codebook_size,
            # The library derives the number of levels from this.
            target_bandwidths=[(model.num_quantizers + 0.01) * bits * frames / 1000],
        )
        self.net = EncodecModel(settings)
        self.reseed_every, self.reseed_threshold = config.training.reseed_every, model.reseed_threshold
        self.warmup = config.training.warmup_steps
        self.steps = 0
        self.register_buffer("recent_QK", torch.zeros(model.num_quantizers, model.codebook_size))
        assert len(self.levels) == model.num_quantizers, "levels that the bandwidth did not give"

    @property
    def levels(self) -> list[Any]:
        return [layer.codebook for layer in self.net.quantizer.layers]

    @torch.no_grad()
    def start(self, audio_BCT: Tensor) -> None:
        latents = [self.net.encoder(part).transpose(1, 2).flatten(0, 1) for part in audio_BCT.split(16)]
        residual_NL = torch.cat(latents).float()
        for level in self.levels:
            centres_KL = euclidean_kmeans(residual_NL, level.codebook_size)
            level.embed.copy_(centres_KL)
            level.embed_avg.copy_(centres_KL)
            level.cluster_size.fill_(1.0)
            residual_NL = residual_NL - centres_KL[level.quantize(residual_NL)]

    def forward(self, audio_BCT: Tensor, depth_B: Tensor) -> tuple[Tensor, Tensor, Any]:
        latent_BTL = self.net.encoder(audio_BCT).transpose(1, 2)
        with torch.autocast(audio_BCT.device.type, enabled=False):
            flat_NL = latent_BTL.float().flatten(0, 1)
            residual_NL, total_NL = flat_NL, torch.zeros_like(flat_NL)
            commitment, seen = flat_NL.new_zeros(()), []
            for index, level in enumerate(self.levels):
                used_N1 = (depth_B > index).repeat_interleave(latent_BTL.shape[1])[:, None].float()
                codes_N = level.quantize(residual_NL.detach())
                code_NL = level.decode(codes_N)
                commitment = commitment + ((residual_NL - code_NL).square() * used_N1).mean()
                seen.append((codes_N, residual_NL.detach(), used_N1))
                total_NL = total_NL + code_NL * used_N1
                residual_NL = residual_NL - code_NL
            through_NL = total_NL + (flat_NL - flat_NL.detach())
        decoded = self.net.decoder(through_NL.view_as(latent_BTL).transpose(1, 2))
        return decoded[..., : audio_BCT.shape[2]], commitment / len(self.levels), seen

    @torch.no_grad()
    def follow(self, seen: Any) -> None:
        self.steps += 1
        for level, recent_K, (codes_N, vectors_NL, used_N1) in zip(
            self.levels, self.recent_QK, seen, strict=True
        ):
            hot_NK = functional.one_hot(codes_N, level.codebook_size).float() * used_N1
            recent_K += hot_NK.sum(0)
            level.cluster_size.lerp_(hot_NK.sum(0), 1 - self.DECAY)
            level.embed_avg.lerp_(hot_NK.T @ vectors_NL, 1 - self.DECAY)
            total = level.cluster_size.sum()
            share = (level.cluster_size + self.SMOOTHING) / (total + level.codebook_size * self.SMOOTHING)
            level.embed.copy_(level.embed_avg / (share * total)[:, None])
            if self.steps % (self.EARLY if self.steps <= self.warmup else self.reseed_every) == 0:
                dead_K1 = (recent_K < self.reseed_threshold * recent_K.mean())[:, None]
                new_KL = vectors_NL[torch.randint(len(vectors_NL), recent_K.shape, device=recent_K.device)]
                level.embed.copy_(torch.where(dead_K1, new_KL, level.embed))
                level.embed_avg.copy_(torch.where(dead_K1, new_KL, level.embed_avg))
                level.cluster_size.masked_fill_(dead_K1[:, 0], 1.0)
                recent_K.zero_()

    @torch.no_grad()
    def encode(self, audio_BCT: Tensor) -> Tensor:
        padded = functional.pad(audio_BCT, (0, -audio_BCT.shape[2] % self.frame_hop))
        codes_QBT: Tensor = self.net.quantizer.encode(self.net.encoder(padded))
        return codes_QBT.transpose(0, 1)

    @torch.no_grad()
    def decode(self, codes_BQT: Tensor, length: int) -> Tensor:
        audio: Tensor = self.net.decoder(self.net.quantizer.decode(codes_BQT.transpose(0, 1)))
        return audio[..., :length].clamp(-1.0, 1.0)


class DacLayout(Layout):
    """`DacModel` with its own quantiser losses (module docstring)."""

    def __init__(self, config: VQTrainConfig, encoder_width: int, decoder_width: int) -> None:
        from transformers import DacConfig, DacModel

        super().__init__()
        model = config.model
        assert model.channels == 1, "the bake-off is mono"
        assert model.frame_hop == 512, "the rivals' strides give 512 samples a code frame"
        settings = DacConfig(
            sampling_rate=model.sample_rate,
            encoder_hidden_size=encoder_width,
            decoder_hidden_size=decoder_width,
            downsampling_ratios=list(DAC_RATIOS),
            n_codebooks=model.num_quantizers,
            codebook_size=model.codebook_size,
            codebook_dim=model.codebook_dim,
            quantizer_dropout=model.quantizer_dropout,
        )
        self.commitment = settings.commitment_loss_weight
        self.codebook = settings.codebook_loss_weight
        self.net = DacModel(settings)
        for level in self.net.quantizer.quantizers:
            nn.init.normal_(level.codebook.weight)
        self.net.apply_weight_norm()

    def forward(self, audio_BCT: Tensor, depth_B: Tensor) -> tuple[Tensor, Tensor, Any]:
        latent_BLT = self.net.encoder(audio_BCT)
        with torch.autocast(audio_BCT.device.type, enabled=False):
            quantised_BLT, _, _, commitment_B, codebook_B = self.net.quantizer(latent_BLT.float())
        decoded = self.net.decoder(quantised_BLT)[..., : audio_BCT.shape[2]]
        return decoded, (self.commitment * commitment_B + self.codebook * codebook_B).mean(), None

    @torch.no_grad()
    def encode(self, audio_BCT: Tensor) -> Tensor:
        padded = functional.pad(audio_BCT, (0, -audio_BCT.shape[2] % 512))
        codes_BQT: Tensor = self.net.quantizer(self.net.encoder(padded))[1]
        return codes_BQT

    @torch.no_grad()
    def decode(self, codes_BQT: Tensor, length: int) -> Tensor:
        audio: Tensor = self.net.decoder(self.net.quantizer.from_codes(codes_BQT)[0])
        return audio[..., :length].clamp(-1.0, 1.0)


def euclidean_kmeans(vectors_NL: Tensor, size: int) -> Tensor:
    """`size` centres [K, L] by Lloyd's iterations from random vectors; empty centres are drawn anew."""
    generator = torch.Generator().manual_seed(0)
    count = len(vectors_NL)

    def draw(number: int) -> Tensor:
        return vectors_NL[torch.randint(count, (number,), generator=generator).to(vectors_NL.device)]

    centres_KL = draw(size)
    for _ in range(KMEANS_ITERATIONS):
        codes_N = torch.cdist(vectors_NL, centres_KL).argmin(1)
        hot_NK = functional.one_hot(codes_N, size).float()
        counts_K1 = hot_NK.sum(0)[:, None]
        centres_KL = torch.where(counts_K1 > 0, hot_NK.T @ vectors_NL / counts_K1.clamp(min=1), draw(size))
    return centres_KL


def without_parametrizations(module: nn.Module) -> nn.Module:
    """Fold weight normalisation into plain weights, as a codec is used once it is trained."""
    for part in module.modules():
        for name in list(getattr(part, "parametrizations", {})):
            folded = getattr(part, name).detach().clone()
            parametrize.remove_parametrizations(part, name)
            # torch leaves a plain tensor there, which `parameters` and `to` would not see.
            delattr(part, name)
            part.register_parameter(name, nn.Parameter(folded))
    return module

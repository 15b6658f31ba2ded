"""What a codec step lowers: model and losses as one module, without and with discriminators.

`capture.py` calls an objective and takes the gradients that it leaves; `vqvae.py` trains with them.

Shapes: B windows of this rank, C channels, T samples.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from distill_ray.config.adversarial import AdversarialConfig
from distill_ray.config.vqvae import LossConfig
from distill_ray.vqvae import VQVAE, CodecLoss, VQVAEOutput
from distill_ray.vqvae.adversarial import (
    adversarial_loss,
    balanced_gradient,
    discriminator_loss,
    feature_matching_loss,
)
from distill_ray.vqvae.discriminator import Discriminators

_UNSURE_FRAMES = 2
"""Code frames at the end of a view whose audio is not all of the window."""
_TINY = 1e-8

ADVERSARIAL_TERMS = ("adversarial", "feature_matching", "discriminator")

# what to call backward on, the objective's terms, and what the codebooks are followed by
Outcome = tuple[Tensor, Tensor, VQVAEOutput]


class Objective(nn.Module):
    """Reconstruction: model and losses as one module, so that DDP sees one forward.

    `consistency_scale`: a number on the model's device, by which the weight of consistency is multiplied.
    """

    def __init__(
        self,
        model: VQVAE,
        loss: CodecLoss,
        weights: LossConfig,
        consistency_scale: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.terms: tuple[str, ...] = ("total", *loss.terms, "codebook", "commitment", "consistency")
        self.model = model
        self.loss = loss
        self.codebook_weight = weights.codebook
        self.consistency_weight = weights.consistency
        # Changed in place from step to step, also where a graph reads it.
        self.consistency_scale = torch.ones(()) if consistency_scale is None else consistency_scale
        self.commitment_weight = model.config.commitment_weight

    def trained(self) -> list[nn.Parameter]:
        """The parameters that get a gradient."""
        return [value for value in self.model.parameters() if value.requires_grad]

    def forward(self, audio_BCT: Tensor, depth_B: Tensor) -> Outcome:
        """The total loss, each of `terms`, and the model's output.

        Where `audio_BCT` holds more windows than `depth_B`, the others are views of windows at equal
        distances, from the first one on (`VQBatches.batch`).
        """
        output, consistency = self.reconstructed(audio_BCT, depth_B)
        terms = self.loss(output.decoded, audio_BCT[: len(depth_B)])
        codes = self.of_codes(output, consistency)
        total = self.loss.total(terms) + codes
        return total, self.named(total, terms, output, consistency), output

    def reconstructed(self, audio_BCT: Tensor, depth_B: Tensor) -> tuple[VQVAEOutput, Tensor]:
        """The output for all windows, and how far the latents of their views are apart from theirs: the mean
        square over the variance of latents, without the frames at the end, into which silence was shifted.
        """
        latent_BFD = self.model.latents(audio_BCT)
        count = len(depth_B)
        output = self.model.reconstruct(latent_BFD[:count], depth_B)
        latent_BFL = latent_BFD[..., : self.model.config.latent_dim]
        views = len(latent_BFL) - count
        if not views:
            return output, latent_BFL.new_zeros(())
        sure = max(1, latent_BFL.shape[1] - _UNSURE_FRAMES)
        seen_VFL = latent_BFL[: count : count // views, :sure].float()
        apart = (latent_BFL[count:, :sure].float() - seen_VFL).square().mean()
        spread = seen_VFL.detach().var(dim=(0, 1), correction=0).mean()
        return output, apart / spread.clamp(min=_TINY)

    def of_codes(self, output: VQVAEOutput, consistency: Tensor) -> Tensor:
        """The weighted losses of latents and quantiser."""
        return (
            self.codebook_weight * output.codebook_loss
            + self.commitment_weight * output.commitment_loss
            + self.consistency_weight * self.consistency_scale * consistency
        )

    def named(
        self, total: Tensor, terms: Mapping[str, Tensor], output: VQVAEOutput, consistency: Tensor
    ) -> Tensor:
        """The first of `terms`, which all objectives have, as one tensor."""
        values = {
            **terms,
            "total": total,
            "codebook": output.codebook_loss,
            "commitment": output.commitment_loss,
            "consistency": consistency,
        }
        return torch.stack([values[term].detach().float() for term in self.terms if term in values])


class AdversarialObjective(Objective):
    """Reconstruction, and passing for a recording before discriminators that learn in the same step.

    The discriminators look at every `judged_every`-th window, which are random ones (a step of theirs costs
    more than the codec's), and at each recording and each reconstruction once: from one pass come the
    gradient of their own loss, which `forward` leaves in their parameters, and that of the codec's. The
    latter is balanced against the reconstruction loss at the audio (`balanced_gradient`) and goes through
    the codec by a product whose derivative it is. "total" stays the loss of `Objective`, so that both stages
    compare.

    Args:
        learns: whether the discriminators get a gradient.
    """

    def __init__(
        self,
        model: VQVAE,
        loss: CodecLoss,
        weights: LossConfig,
        discriminators: Discriminators,
        settings: AdversarialConfig,
        consistency_scale: Tensor | None = None,
        *,
        learns: bool,
    ) -> None:
        super().__init__(model, loss, weights, consistency_scale)
        self.terms = (*self.terms, *ADVERSARIAL_TERMS)
        self.discriminators = discriminators
        self.settings = settings
        self.learns = learns

    def trained(self) -> list[nn.Parameter]:
        return [*super().trained(), *(self.discriminators.parameters() if self.learns else ())]

    def forward(self, audio_BCT: Tensor, depth_B: Tensor) -> Outcome:
        settings = self.settings
        output, consistency = self.reconstructed(audio_BCT, depth_B)
        audio_BCT = audio_BCT[: len(depth_B)]
        audio_fake_BCT = output.audio_BCT.detach().requires_grad_()
        terms = self.loss(audio_fake_BCT, audio_BCT)
        reconstruction = self.loss.total(terms)
        (gradient_BCT,) = torch.autograd.grad(reconstruction, audio_fake_BCT)

        judged = slice(None, None, settings.judged_every)
        judged_fake_BCT = output.audio_BCT[judged].detach().requires_grad_()
        verdicts = self.discriminators(torch.cat([audio_BCT[judged], judged_fake_BCT]))
        count = len(judged_fake_BCT)
        real = [each.part(slice(None, count)) for each in verdicts]
        fake = [each.part(slice(count, None)) for each in verdicts]
        found = discriminator_loss(real, fake, kind=settings.loss)
        if self.learns:
            parameters = list(self.discriminators.parameters())
            gradients = torch.autograd.grad(found, parameters, retain_graph=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
        passing = adversarial_loss(fake, kind=settings.loss)
        matching = feature_matching_loss(real, fake)
        (other_BCT,) = torch.autograd.grad(passing + settings.feature_matching * matching, judged_fake_BCT)

        gradient_BCT[judged] = balanced_gradient(gradient_BCT[judged], other_BCT, settings.share)
        codes = self.of_codes(output, consistency)
        each = self.named(reconstruction + codes, terms, output, consistency)
        judged_terms = torch.stack([value.detach().float() for value in (passing, matching, found)])
        return (output.audio_BCT * gradient_BCT).sum() + codes, torch.cat([each, judged_terms]), output

"""The adversarial stage of a codec's training: when it begins, its gradients, the discriminators' optimizer.

`vqvae.py` asks it at each step; `vq_objective.py` has the step's maths.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.events.records import Notice
from distill_ray.training.capture import Gradients
from distill_ray.training.optimizer import Optimizer, lr_scale
from distill_ray.training.vq_objective import AdversarialObjective, Outcome
from distill_ray.training.worker import Worker
from distill_ray.vqvae import VQVAE, CodecLoss
from distill_ray.vqvae.discriminator import Discriminators


class Adversary:
    """Discriminators of a codec in training. `steps`: how many steps of the codec they have judged."""

    def __init__(
        self,
        model: VQVAE,
        loss: CodecLoss,
        config: VQTrainConfig,
        worker: Worker,
        consistency_scale: Tensor | None = None,
        *,
        bf16: bool,
        capture: bool,
    ) -> None:
        training = config.training
        self.steps = 0
        self._settings = config.adversarial
        self._warmup = training.warmup_steps
        self._worker = worker
        torch.manual_seed(training.seed)
        self._discriminators = Discriminators(
            config.model,
            self._settings.width,
            periods=self._settings.periods,
            banded=self._settings.banded,
        ).to(worker.device)
        self._optimizer = Optimizer(
            self._discriminators,
            lr=self._settings.lr,
            betas=(training.beta1, training.beta2),
            weight_decay=0.0,
            clip_norm=training.clip_norm,
        )

        def gradients(*, learns: bool) -> Gradients[Outcome]:
            objective = AdversarialObjective(
                model,
                loss,
                config.loss,
                self._discriminators,
                self._settings,
                consistency_scale,
                learns=learns,
            )
            return Gradients(objective, objective.trained(), worker, bf16=bf16, capture=capture, joined=True)

        self._learning = gradients(learns=True)
        self._judging = gradients(learns=False) if self._settings.every > 1 else self._learning

    def has_begun(self, fraction: float) -> bool:
        """Whether the discriminators take part in a step after `fraction` of the budget.

        Once they have, they do: a run that is resumed with a longer budget does not go back.
        """
        return self.steps > 0 or fraction >= self._settings.start

    def gradients(self) -> Gradients[Outcome]:
        """What leaves the gradients of this step, to be followed by `step`."""
        if self.steps == 0:
            count = sum(value.numel() for value in self._discriminators.parameters())
            message = f"Discriminators of {count / 1e6:.2f} M parameters take part from here on."
            self._worker.emit(Notice(level="info", message=message))
        return self._learning if self._learns() else self._judging

    def step(self, fraction: float) -> None:
        """Move the discriminators by the gradients that they have; `fraction` as for `has_begun`."""
        if self._learns():
            start = self._settings.start
            within = max(0.0, (fraction - start) / (1.0 - start))
            self._optimizer.step(lr_scale(self.steps, within, warmup_steps=self._warmup))
        self.steps += 1

    def _learns(self) -> bool:
        return self.steps % self._settings.every == 0

    def state_dict(self) -> dict[str, object]:
        return {
            "discriminators": self._discriminators.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._discriminators.load_state_dict(state["discriminators"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.steps = int(state["steps"])

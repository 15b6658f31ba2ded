"""MusicGen's recipe for codes (Copet et al. 2023), the prior of the generation bench's rival.

`transformers`' `MusicgenForCausalLM` with random weights, as wide and deep as our own prior of the same
codes: delay pattern, every window begins with the special token wherever it was cut, windows as long as what
is generated, AdamW (0.9, 0.95) with weight decay 0.1, warm-up and cosine, top-k 250. Recordings are not
changed. What MusicGen leaves to 20,000 hours of audio is given here: the weights of the best held-out loss.

Shapes: B windows, Q levels, T code frames, S = T + Q − 1 steps, K codes.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill_ray.config.prior import PriorTrainConfig
from distill_ray.prior.windows import CodeWindowSampler, validation_windows

TOP_K = 250
WARMUP_STEPS = 100
IGNORED = -100
LOOKS = 8


class MusicgenPrior(nn.Module):
    """The decoder with its delay pattern."""

    def __init__(self, config: PriorTrainConfig, most_frames: int) -> None:
        from transformers import MusicgenForCausalLM
        from transformers.models.musicgen.configuration_musicgen import MusicgenDecoderConfig

        super().__init__()
        shape = config.model
        self.levels, self.blank = shape.num_quantizers, shape.codebook_size
        settings = MusicgenDecoderConfig(
            vocab_size=shape.codebook_size,
            num_codebooks=shape.num_quantizers,
            hidden_size=shape.hidden_size,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            ffn_dim=4 * shape.hidden_size,
            max_position_embeddings=most_frames + shape.num_quantizers,
            pad_token_id=shape.codebook_size,
            bos_token_id=shape.codebook_size,
        )
        self.net = MusicgenForCausalLM(settings)
        for layer in self.net.model.decoder.layers:
            # There is no text to attend to; left in, they would be skipped and counted.
            layer.encoder_attn = layer.encoder_attn_layer_norm = None

    def delayed(self, codes_BQT: Tensor, blank: int) -> Tensor:
        """Level q moved q steps on [B, Q, S]."""
        batch, levels, frames = codes_BQT.shape
        out_BQS = codes_BQT.new_full((batch, levels, frames + levels - 1), blank)
        for level in range(levels):
            out_BQS[:, level, level : level + frames] = codes_BQT[:, level]
        return out_BQS

    def nats(self, codes_BQT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Summed nats and number of all real codes."""
        codes_BQT = codes_BQT.long()
        padding_B1T = torch.arange(codes_BQT.shape[2], device=codes_BQT.device) >= lengths_B[:, None, None]
        inputs_BQS = self.delayed(codes_BQT.masked_fill(padding_B1T, self.blank), self.blank)
        targets_BQS = self.delayed(codes_BQT.masked_fill(padding_B1T, IGNORED), IGNORED)
        inputs_BQS = functional.pad(inputs_BQS[:, :, :-1], (1, 0), value=self.blank)
        logits = self.net(input_ids=inputs_BQS.flatten(0, 1), use_cache=False).logits
        total = functional.cross_entropy(
            logits.flatten(0, 1).float(), targets_BQS.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        return total, (targets_BQS != IGNORED).sum()

    @torch.inference_mode()
    def sample(self, count: int, frames: int, seed: int) -> Tensor:
        """codes_BQT of `count` sounds."""
        from transformers import DynamicCache

        device = next(self.parameters()).device
        torch.manual_seed(seed)
        cache: Any = DynamicCache()
        steps = frames + self.levels - 1
        inputs_BQ = torch.full((count, self.levels), self.blank, device=device)
        drawn = []
        level_Q = torch.arange(self.levels, device=device)
        for step in range(steps):
            logits = self.net(
                input_ids=inputs_BQ.flatten()[:, None], past_key_values=cache, use_cache=True
            ).logits[:, -1]
            best, index = logits.float().topk(min(TOP_K, logits.shape[-1]))
            choice = torch.multinomial(best.softmax(-1), 1)
            codes_BQ = index.gather(1, choice).view(count, self.levels)
            drawn.append(codes_BQ)
            inputs_BQ = torch.where((level_Q <= step) & (step - level_Q < frames), codes_BQ, self.blank)
        steps_BSQ = torch.stack(drawn, dim=1)
        return torch.stack(
            [steps_BSQ[:, level : level + frames, level] for level in range(self.levels)], dim=1
        )


def train_musicgen(
    train: Sequence[Tensor],
    held_out: Sequence[Tensor],
    config: PriorTrainConfig,
    *,
    frames: int,
    seconds: float,
    device: torch.device,
) -> tuple[MusicgenPrior, dict[str, Any]]:
    """The prior after `seconds` of training, with the weights of its best held-out loss, and its figures."""
    torch.manual_seed(config.training.seed)
    prior = MusicgenPrior(config, frames).to(device)
    optimizer = torch.optim.AdamW(
        prior.parameters(), lr=config.training.lr, betas=(0.9, 0.95), weight_decay=0.1
    )
    sampler = CodeWindowSampler(train, frames, config.training.seed, device=device)
    bf16 = device.type == "cuda"
    curve: list[dict[str, float]] = []
    best, best_state = math.inf, None
    step, spent = 0, 0.0
    for look in range(1, LOOKS + 1):
        began = time.perf_counter() - spent
        prior.train()
        while spent < seconds * look / LOOKS:
            fraction = spent / seconds
            for group in optimizer.param_groups:
                cosine = 0.5 * (1 + math.cos(math.pi * fraction))
                group["lr"] = config.training.lr * min(1.0, (step + 1) / WARMUP_STEPS) * cosine
            windows = sampler.batch(step, config.training.batch_size)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                nats, codes = prior.nats(windows.codes_BQT, windows.lengths_B)
            optimizer.zero_grad()
            (nats / codes).backward()
            nn.utils.clip_grad_norm_(prior.parameters(), 1.0)
            optimizer.step()
            step += 1
            if device.type == "cuda":
                torch.cuda.synchronize()
            spent = time.perf_counter() - began
        loss = _held_out_loss(prior, held_out, frames, device, bf16=bf16)
        curve.append(
            {"seconds": spent, "steps": step, "val_loss": loss, "train_loss": float((nats / codes).detach())}
        )
        if loss < best:
            best, best_state = loss, copy.deepcopy(prior.state_dict())
    assert best_state is not None, "no held-out loss was finite"
    prior.load_state_dict(best_state)
    prior.eval()
    parameters = sum(parameter.numel() for parameter in prior.parameters())
    return prior, {"parameters": parameters, "steps": step, "val_loss": best, "curve": curve}


@torch.no_grad()
def _held_out_loss(
    prior: MusicgenPrior, held_out: Sequence[Tensor], frames: int, device: torch.device, *, bf16: bool
) -> float:
    prior.eval()
    total, count = 0.0, 0
    for windows in validation_windows(held_out, frames, 16, device=device):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            nats, codes = prior.nats(windows.codes_BQT, windows.lengths_B)
        total, count = total + float(nats), count + int(codes)
    return total / count

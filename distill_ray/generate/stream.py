"""Prior → codes → audio that can be played while the rest of it is still being drawn.

The codes are those of `generate_samples`, from the same sampling; the decoder follows it at a distance, the
frames that the sound of a block depends on (`vqvae/streaming.py`).

Legend: C channels, T samples, F code frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from distill_ray.bundle.read import LoadedVQModel
from distill_ray.config.generation import StreamSettings
from distill_ray.events.records import StageProgress
from distill_ray.generate.request import Request, make_request
from distill_ray.generate.wish import Wish
from distill_ray.prior import SamplingConfig
from distill_ray.storage.paths import AnyPath, as_path
from distill_ray.vqvae import decode_blocks

Progress = Callable[[StageProgress], None]


def generate_stream(
    loaded: LoadedVQModel,
    *,
    seconds: float = 10.0,
    sampling: SamplingConfig | None = None,
    seed: int = 0,
    prompt: AnyPath | None = None,
    wish: Wish | None = None,
    block_frames: int = 32,
    on_progress: Progress | None = None,
) -> Iterator[Tensor]:
    """Blocks of sound, float32 [C, T] in [-1, 1] on the CPU, each as soon as its codes allow.

    Joined they are sound 0 of `generate_samples` for the same settings, before it is rounded to 16 bits: of
    the same codes, and to within 1e-5 of the same values (a matrix product rounds by its size, and here the
    decoder sees fewer frames at once). A block stands for `block_frames` frames, the last one for what is
    left.

    Latency is bounded whatever the length: the first block comes once `block_frames` and the decoder's
    `context_frames` have been drawn, of a sound that begins in the middle of things after a second's frames
    that are not heard, and each later one after `block_frames` more. Of a prompt, which comes
    first, most is given out before anything is drawn. Each block decodes that context on both sides of it
    anew, so smaller blocks come sooner and cost more in all. Nothing is drawn before it is asked for, and
    closing the iterator ends the work.

    Raises, when called, ConfigError for settings out of range, BundleError where the model has no prior,
    UsageError for a wish that it cannot follow, and AudioError for a prompt that cannot be used, that is
    shorter than a code frame or that leaves nothing to generate.
    """
    settings = StreamSettings(seconds=seconds, seed=seed, block_frames=block_frames)
    request = make_request(loaded, settings, sampling, None if prompt is None else as_path(prompt), wish)
    codes_QF = _told(request, on_progress) if on_progress else request.first_codes()
    blocks_CT = decode_blocks(loaded.model, codes_QF, request.samples, chunk_frames=settings.block_frames)
    return (block_CT.cpu() for block_CT in blocks_CT)


def _told(request: Request, on_progress: Progress) -> Iterator[Tensor]:
    """The codes of the request; `on_progress` hears of every new frame."""
    done = -request.prompt_frames
    for codes_QF in request.first_codes():
        done += codes_QF.shape[1]
        if done > 0:
            on_progress(StageProgress(stage="generate", done=done, total=request.frames, note="frames"))
        yield codes_QF

"""Is what was just generated new? The nearest training moment of every second of a sound, by the judge's
search for copies (`copies.py`).

The training audio is needed for it: a model does not carry a fingerprint of its recordings, which would take
3.2 kB a second and give their spectra away with the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from distill_ray.bundle.read import LoadedVQModel
from distill_ray.corpus import PCM_SCALE, Corpus, load_audio
from distill_ray.evaluate.extraction import corpus_copy_detector
from distill_ray.evaluate.judgement import NearestMoment
from distill_ray.evaluate.sound import Sound
from distill_ray.events.records import StageProgress
from distill_ray.prior.memorization import COPIES


@dataclass(frozen=True, kw_only=True)
class CheckedSound:
    """One generated sound.

    verdict, share, longest_s: as in `Copies`, of what follows a prompt. nearest: of each audible second, in
    order; times are those of the file.
    """

    file: str
    verdict: str
    share: float
    longest_s: float
    nearest: tuple[NearestMoment, ...]

    @property
    def is_new(self) -> bool:
        """Whether the judge finds no copies in it."""
        return self.verdict != COPIES

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "nearest": [asdict(moment) for moment in self.nearest]}

    def lines(self) -> list[str]:
        """For people: the verdict, then the nearest moment of each second."""
        return [
            f"{self.file}: {self.verdict}, {self.share:.1%} of its seconds count as copies",
            *(
                f"  {each.time_s:6.1f} s  {each.source} at {each.source_time_s:.1f} s, distance "
                f"{each.distance:.2f}" + ("" if each.ratio is None else f", {each.ratio:.2f} × usual")
                for each in self.nearest
            ),
        ]


class NoveltyCheck:
    """Compares sounds with the training files of `corpus`; `checked` has the newest verdict on each file."""

    def __init__(
        self,
        loaded: LoadedVQModel,
        corpus: Corpus,
        *,
        on_progress: Callable[[StageProgress], None] | None = None,
    ) -> None:
        self._config = loaded.vqvae_config
        self._detector = corpus_copy_detector(corpus, device=loaded.device, on_progress=on_progress)
        self.corpus = corpus.uri
        self.checked: dict[Path, CheckedSound] = {}

    @property
    def can_judge(self) -> bool:
        """Whether there is audio that tells what is near for sound that copies nothing."""
        return self._detector.calibration is not None

    def __call__(self, path: Path, prompt_seconds: float) -> CheckedSound:
        """Look at the sound at `path` behind its prompt."""
        rate = self._config.sample_rate
        pcm_CT = load_audio(path, sample_rate=rate, channels=self._config.channels)
        begin = round(prompt_seconds * rate)
        sound = Sound(path.name, pcm_CT[:, begin:].float() / PCM_SCALE, rate)
        found = self._detector.find([sound])
        moments = sorted(found.nearest, key=lambda moment: moment.time_s)
        self.checked[path] = CheckedSound(
            file=str(path),
            verdict=found.verdict,
            share=found.share,
            longest_s=found.longest_s,
            nearest=tuple(replace(moment, time_s=moment.time_s + prompt_seconds) for moment in moments),
        )
        return self.checked[path]

    def to_json(self) -> dict[str, Any]:
        """The value of `check` in `distill-ray generate --json`."""
        return {"corpus": self.corpus, "sounds": [sound.to_json() for sound in self.checked.values()]}

"""The rows of conditions that stand below the codes a prior trains on: what each recording is called and how
each passage of it sounds.

Scales come from the training files as they are (`prior/controls.py`); altered copies of them are measured
anew, for a louder copy is louder. Nothing is kept: every rank, and a resumed run, measures the same.

Legend: B files, C channels, T samples, Q RVQ levels, A attributes (the label, then each control), F code
frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distill_ray.config.prior import PriorConfig
from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.corpus import PCM_SCALE, AudioStore, Corpus
from distill_ray.errors import TrainingError
from distill_ray.prior import CodeSequence, Controls, measure


class Conditions:
    """The labels of a corpus's training files and the scales of their controls.

    `groups` are numbers of training files that are measured together.
    """

    def __init__(
        self,
        corpus: Corpus,
        store: AudioStore,
        groups: Iterable[npt.NDArray[np.int64]],
        config: PriorConfig,
        codec: VQVAEConfig,
    ) -> None:
        names = corpus.labels if config.labels else ()
        if len(names) != config.labels:
            raise TrainingError(
                f"the prior began with {config.labels} labels and the corpus at {corpus.uri} has "
                f"{len(names)}: its folders were renamed; prepare it again from the folders as they were"
            )
        self._codec, self._count = codec, config.controls
        files = corpus.files("train")
        self._labels = [file.label for file in files]
        self._number = {file.sha256: number for number, file in enumerate(files)}
        self._measured: dict[int, npt.NDArray[np.float32]] = {}
        for group in groups:
            lengths_B = store.lengths_N[group]
            audio_BCT = store.gather(group, np.zeros_like(group), int(lengths_B.max()), lengths_B)
            values = self.measured(audio_BCT.float() / PCM_SCALE, lengths_B)
            self._measured |= dict(zip(group.tolist(), values, strict=True))
        whole_AF = np.concatenate([self._measured[number] for number in range(len(files))], axis=1)
        self.controls = Controls.fit(names, whole_AF)

    def measured(self, audio_BCT: Tensor, samples_B: npt.NDArray[np.int64]) -> list[npt.NDArray[np.float32]]:
        """values_AF of each sound, without what lies beyond its `samples_B` samples."""
        codec = self._codec
        values_BAF = measure(
            audio_BCT.mean(1),
            torch.from_numpy(samples_B).to(audio_BCT.device),
            sample_rate=codec.sample_rate,
            frame_hop=codec.frame_hop,
        )[:, : self._count]
        frames_B = -(-samples_B // codec.frame_hop)
        return [
            values_AF[:, :frames]
            for values_AF, frames in zip(values_BAF.cpu().numpy(), frames_B.tolist(), strict=True)
        ]

    def below(self, sequences: Sequence[CodeSequence]) -> list[Tensor]:
        """[Q + A, F] int16 of training files as they are."""
        return [
            self.rows_below(sequence.codes_QT, number, self._measured[number])
            for sequence in sequences
            for number in (self._number[sequence.sha256],)
        ]

    def rows_below(self, codes_QF: Tensor, number: int, values_AF: npt.NDArray[np.float32]) -> Tensor:
        """[Q + A, F] int16: codes of training file `number` with the rows for its measures below."""
        rows_AF = torch.from_numpy(self.controls.rows(self._labels[number], values_AF))
        return torch.cat((codes_QF, rows_AF))

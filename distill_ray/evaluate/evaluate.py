"""Score a codec on the files of a corpus: every truncated depth, codebook health, bit rates.

`measures.py` defines the distances, `report.py` the result. Memory stays bounded whatever the length of a
file: it is coded and scored in consecutive segments, and the file's spectral distances are the means over
them, weighted by length (SI-SDR is that of the whole file). The corpus's score is the plain mean over files,
as DAC averages, so a long file counts as much as a short one.

Legend: C channels, T samples, Q RVQ levels, K codebook size, F code frames.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from distill_ray.bundle.read import LoadedVQModel
from distill_ray.config.vqvae import VECTORS_PER_CODE
from distill_ray.corpus import PCM_SCALE, Corpus, CorpusFile, iter_windows
from distill_ray.errors import CorpusError, UsageError
from distill_ray.evaluate.judgement import CodeMeasures
from distill_ray.evaluate.measures import SiSdr, SpectralMeasure, mel_distance, stft_distance
from distill_ray.evaluate.report import DepthScores, EvaluationReport, FileScores, Scores
from distill_ray.events.records import StageProgress
from distill_ray.vqvae import code_agreement
from distill_ray.vqvae.agreement import AGREEMENT_SECONDS, AGREEMENT_WINDOWS
from distill_ray.vqvae.health import codebook_health, utilization_warnings

SPLITS = ("val", "train", "all")
SEGMENT_SECONDS = 30.0


def evaluate_model(
    loaded: LoadedVQModel,
    corpus: Corpus,
    *,
    split: str = "val",
    on_progress: Callable[[StageProgress], None] | None = None,
) -> EvaluationReport:
    """Reconstruct the files of a split with the first 1…Q levels and score each depth.

    Where the corpus holds nothing out, "val" scores the training files and the report warns of it, as it does
    where the model was trained on another corpus, which may have split the same files otherwise. Raises
    CorpusError where the corpus has another format than the model or no file in the split.
    """
    began = time.monotonic()
    _check_format(loaded, corpus)
    files, scored, warnings = _choose(corpus, split)
    if not loaded.is_trained_on(corpus.digest):
        warnings.append(
            "this is not the corpus that the model was trained on, so that some of these files may have been "
            "among its training files"
        )
    scorer = _Scorer(loaded)
    rows: list[tuple[Scores, ...]] = []
    for done, file in enumerate(files):
        if on_progress:
            on_progress(StageProgress(stage="evaluate", done=done, total=len(files), note=file.path))
        rows.append(scorer.file(corpus, file))
    if on_progress:
        on_progress(StageProgress(stage="evaluate", done=len(files), total=len(files), note="files"))
    health = codebook_health(scorer.counts_QK)
    vectors, enough = int(scorer.counts_QK[0].sum()), VECTORS_PER_CODE * loaded.vqvae_config.codebook_size
    if vectors < enough:
        warnings.append(
            f"only {vectors} code frames were counted; utilization and entropy need {enough} to be trusted"
        )
    else:
        warnings.extend(utilization_warnings(health))
    return EvaluationReport(
        model=str(loaded.path),
        corpus_digest=corpus.digest,
        split=scored,
        requested_split=split,
        seconds=sum(file.samples for file in files) / corpus.sample_rate,
        sample_rate=corpus.sample_rate,
        depths=tuple(_depths(loaded, rows, [item.entropy for item in health])),
        files=tuple(
            FileScores(path=file.path, seconds=file.samples / corpus.sample_rate, scores=row[-1])
            for file, row in zip(files, rows, strict=True)
        ),
        health=health,
        warnings=tuple(warnings),
        elapsed_s=time.monotonic() - began,
        codes=_code_measures(loaded, corpus, files),
    )


class _Scorer:
    """Scores files one after the other and counts the codes of all of them."""

    def __init__(self, loaded: LoadedVQModel) -> None:
        self._model, self._device = loaded.model, loaded.device
        config = loaded.vqvae_config
        self._levels = config.num_quantizers
        self._measure = SpectralMeasure(config.sample_rate, self._device)
        self._segment = math.ceil(SEGMENT_SECONDS * config.frame_rate) * config.frame_hop
        self.counts_QK = torch.zeros(self._levels, config.codebook_size, dtype=torch.int64)

    @torch.inference_mode()
    def file(self, corpus: Corpus, file: CorpusFile) -> tuple[Scores, ...]:
        """Scores with 1…Q levels."""
        mels, stfts = [0.0] * self._levels, [0.0] * self._levels
        ratios = [SiSdr() for _ in range(self._levels)]
        for audio_CT in self._segments(corpus, file):
            share = audio_CT.shape[1] / file.samples
            codes_1QF = self._model.encode(audio_CT[None])
            self._count(codes_1QF[0])
            original = self._measure.analyse(audio_CT)
            for depth in range(self._levels):
                estimate_CT = self._model.decode(codes_1QF[:, : depth + 1], audio_CT.shape[1])[0]
                estimate = self._measure.analyse(estimate_CT)
                mels[depth] += share * mel_distance(estimate, original)
                stfts[depth] += share * stft_distance(estimate, original)
                ratios[depth].add(estimate_CT, audio_CT)
        return tuple(
            Scores(mel_distance=mel, stft_distance=stft, si_sdr_db=ratio.decibels)
            for mel, stft, ratio in zip(mels, stfts, ratios, strict=True)
        )

    def _segments(self, corpus: Corpus, file: CorpusFile) -> Iterator[Tensor]:
        """Floats [C, T] in [-1, 1], each but the last a whole number of code frames."""
        for start in range(0, file.samples, self._segment):
            pcm_CT = np.empty((corpus.channels, min(self._segment, file.samples - start)), dtype=np.int16)
            corpus.read_into(pcm_CT, file, start)
            yield torch.from_numpy(pcm_CT).to(self._device).float() / PCM_SCALE

    def _count(self, codes_QF: Tensor) -> None:
        counts_QK = torch.zeros_like(self.counts_QK)
        self.counts_QK += counts_QK.scatter_add_(1, codes_QF.cpu(), torch.ones_like(codes_QF.cpu()))


def _code_measures(loaded: LoadedVQModel, corpus: Corpus, files: Sequence[CorpusFile]) -> CodeMeasures | None:
    agreement = code_agreement(loaded.model, _excerpts(loaded, corpus, files))
    if agreement is None:
        return None
    below = (loaded.prior_metadata or {}).get("below_histogram")
    return CodeMeasures(**dataclasses.asdict(agreement), below_histogram=below)


def _excerpts(loaded: LoadedVQModel, corpus: Corpus, files: Sequence[CorpusFile]) -> Iterator[Tensor]:
    """Windows [1, C, T] spread over all files, to see how far codes agree on; silent past a file's end."""
    config = loaded.vqvae_config
    samples = max(2, round(AGREEMENT_SECONDS * config.frame_rate)) * config.frame_hop + config.frame_hop // 2
    for window in iter_windows([file.samples for file in files], samples, AGREEMENT_WINDOWS):
        pcm_CT = np.zeros((corpus.channels, samples), dtype=np.int16)
        corpus.read_into(pcm_CT[:, : window.valid], files[window.file], window.start)
        yield torch.from_numpy(pcm_CT).to(loaded.device).float()[None] / PCM_SCALE


def _check_format(loaded: LoadedVQModel, corpus: Corpus) -> None:
    config = loaded.vqvae_config
    if (corpus.sample_rate, corpus.channels) != (config.sample_rate, config.channels):
        raise CorpusError(
            f"the corpus {corpus.uri} is {corpus.sample_rate} Hz with {corpus.channels} channel(s) and the "
            f"model {loaded.path} {config.sample_rate} Hz with {config.channels}; prepare the audio with "
            f"--sample-rate {config.sample_rate} --channels {config.channels}"
        )


def _choose(corpus: Corpus, split: str) -> tuple[list[CorpusFile], str, list[str]]:
    if split not in SPLITS:
        raise UsageError(f"there is no split {split!r}; choose one of {', '.join(SPLITS)}")
    scored = corpus.validation_split if split == "val" else split
    files = [file for name in ("train", "val") if scored in (name, "all") for file in corpus.files(name)]
    if not files:
        raise CorpusError(f"the corpus {corpus.uri} has no file in the split {split!r}; use --split all")
    warnings = []
    if scored != split:
        warnings.append(
            "the corpus holds no file out, so these are the scores of training files; "
            "they say nothing about new audio"
        )
    return files, scored, warnings


def _depths(
    loaded: LoadedVQModel, rows: Sequence[tuple[Scores, ...]], entropies: Sequence[float]
) -> Iterator[DepthScores]:
    config = loaded.vqvae_config
    bits = math.log2(config.codebook_size)
    for levels in range(1, config.num_quantizers + 1):
        column = [row[levels - 1] for row in rows]
        yield DepthScores(
            levels=levels,
            kbps_nominal=levels * bits * config.frame_rate / 1000,
            kbps_entropy=math.fsum(entropies[:levels]) * bits * config.frame_rate / 1000,
            scores=Scores(
                mel_distance=math.fsum(scores.mel_distance for scores in column) / len(column),
                stft_distance=math.fsum(scores.stft_distance for scores in column) / len(column),
                si_sdr_db=math.fsum(scores.si_sdr_db for scores in column) / len(column),
            ),
        )

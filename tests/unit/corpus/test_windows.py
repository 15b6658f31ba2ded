from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from distill_ray.config.corpus import CorpusConfig
from distill_ray.corpus import shards, windows
from distill_ray.corpus.corpus import Corpus, open_corpus
from distill_ray.corpus.prepare import prepare_corpus
from distill_ray.corpus.sampler import WindowSampler, iter_windows
from distill_ray.corpus.windows import AudioStore


@pytest.fixture(params=[1, 2])
def corpus(
    request: pytest.FixtureRequest, audio_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Corpus:
    monkeypatch.setattr(shards, "BATCH_ROWS", 500)
    monkeypatch.setattr(windows, "LOAD_SAMPLES", 1_000)
    prepare_corpus(
        [audio_folder], tmp_path / "out", config=CorpusConfig(sample_rate=8_000, channels=request.param)
    )
    return open_corpus(tmp_path / "out")


def test_resident_and_mapped_give_the_same_windows(corpus: Corpus) -> None:
    resident, mapped = AudioStore(corpus, "train", "cpu"), AudioStore(corpus, "train", "cpu", max_bytes=0)
    assert (resident.resident, mapped.resident) == (True, False)
    batch = WindowSampler(resident.lengths_N, 3_000, seed=0).batch(0, 40)
    got_BCT = resident.gather(batch.file_B, batch.start_B, 3_000)
    assert got_BCT.shape == (40, corpus.channels, 3_000)
    assert got_BCT.dtype == torch.int16
    assert got_BCT.is_contiguous()
    assert torch.equal(got_BCT, mapped.gather(batch.file_B, batch.start_B, 3_000))
    for window_CT, number, start in zip(got_BCT, batch.file_B, batch.start_B, strict=True):
        whole_CT = corpus.read(corpus.files("train")[number])
        repeats = 1 + 6_000 // whole_CT.shape[1]
        assert torch.equal(window_CT, whole_CT.tile(1, repeats + 1)[:, start : start + 3_000])


def test_the_limit_decides_what_is_resident(corpus: Corpus) -> None:
    size = sum(file.samples for file in corpus.files("train")) * corpus.channels * 2
    assert AudioStore(corpus, "train", "cpu").bytes == size
    assert AudioStore(corpus, "train", "cpu", max_bytes=size).resident
    assert not AudioStore(corpus, "train", "cpu", max_bytes=size - 1).resident


@pytest.mark.parametrize("max_bytes", [None, 0])
def test_validation_windows_rebuild_the_files_zero_padded(corpus: Corpus, max_bytes: int | None) -> None:
    store = AudioStore(corpus, "val", torch.device("cpu"), max_bytes)
    chosen = list(iter_windows(store.lengths_N, 1_024))
    windows_BCT = store.gather(
        np.array([window.file for window in chosen]),
        np.array([window.start for window in chosen]),
        1_024,
        np.array([window.valid for window in chosen]),
    )
    for number, file in enumerate(corpus.files("val")):
        mine = [windows_BCT[index] for index, window in enumerate(chosen) if window.file == number]
        joined_CT = torch.cat(mine, dim=1)
        assert torch.equal(joined_CT[:, : file.samples], corpus.read(file))
        assert not joined_CT[:, file.samples :].any()

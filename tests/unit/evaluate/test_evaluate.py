from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable

import pytest
import torch

from distill_ray.bundle import LoadedVQModel
from distill_ray.corpus import Corpus
from distill_ray.errors import CorpusError
from distill_ray.evaluate import SpectralMeasure, evaluate_model, mel_distance, si_sdr, stft_distance
from distill_ray.events.records import StageProgress
from distill_ray.vqvae import codebook_health

MakeCorpus = Callable[..., Corpus]
MakeLoaded = Callable[..., LoadedVQModel]


def test_every_depth_is_scored_as_by_hand(make_corpus: MakeCorpus, make_loaded: MakeLoaded) -> None:
    corpus, loaded = make_corpus((0.7, 1.3, 0.4), val_fraction=0.0), make_loaded()
    events: list[StageProgress] = []
    report = evaluate_model(loaded, corpus, split="train", on_progress=events.append)
    assert events[-1] == StageProgress(stage="evaluate", done=3, total=3, note="files")
    model, measure = loaded.model, SpectralMeasure(8_000)
    counts_QK = torch.zeros(3, 16)
    mels, stfts, ratios = torch.zeros(3), torch.zeros(3), torch.zeros(3)
    for file in corpus.files("train"):
        audio_BCT = corpus.read(file)[None].float() / 32_768
        codes_BQT = model.encode(audio_BCT)
        for level in range(3):
            counts_QK[level] += torch.bincount(codes_BQT[0, level], minlength=16)
            estimate = model.decode(codes_BQT[:, : level + 1], audio_BCT.shape[2])[0]
            analyses = measure.analyse(estimate), measure.analyse(audio_BCT[0])
            mels[level] += mel_distance(*analyses) / 3
            stfts[level] += stft_distance(*analyses) / 3
            ratios[level] += si_sdr(estimate, audio_BCT[0]) / 3
    health = codebook_health(counts_QK)
    assert report.health == health
    for level, row in enumerate(report.depths):
        assert row.levels == level + 1
        assert row.scores.mel_distance == pytest.approx(float(mels[level]), rel=1e-5)
        assert row.scores.stft_distance == pytest.approx(float(stfts[level]), rel=1e-5)
        assert row.scores.si_sdr_db == pytest.approx(float(ratios[level]), abs=1e-3)
        assert row.kbps_nominal == pytest.approx((level + 1) * 4 * 125 / 1000)
        entropy = sum(math.log2(item.perplexity) for item in health[: level + 1])
        assert row.kbps_entropy == pytest.approx(entropy * 125 / 1000)
        assert row.kbps_entropy < row.kbps_nominal
    assert [event.done for event in events] == [0, 1, 2, 3]
    assert {(event.stage, event.total) for event in events} == {("evaluate", 3)}
    assert report.seconds == pytest.approx(2.4, abs=0.001)
    assert len(report.files) == 3


def test_long_files_are_scored_in_segments_weighted_by_length(
    make_corpus: MakeCorpus, make_loaded: MakeLoaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, loaded = make_corpus((2.3,), channels=2, val_fraction=0.0), make_loaded(channels=2)
    monkeypatch.setattr("distill_ray.evaluate.evaluate.SEGMENT_SECONDS", 1.0)
    scores = evaluate_model(loaded, corpus, split="train").depths[-1].scores
    audio_CT = corpus.read(corpus.files("train")[0]).float() / 32_768
    measure = SpectralMeasure(8_000)
    mel, estimates = 0.0, []
    for part_CT in audio_CT.split(8_000, dim=1):
        estimates.append(loaded.model.decode(loaded.model.encode(part_CT[None]), part_CT.shape[1])[0])
        share = part_CT.shape[1] / 18_400
        mel += share * mel_distance(measure.analyse(estimates[-1]), measure.analyse(part_CT))
    assert len(estimates) == 3
    assert scores.mel_distance == pytest.approx(mel, rel=1e-5)
    assert scores.si_sdr_db == pytest.approx(si_sdr(torch.cat(estimates, dim=1), audio_CT), abs=1e-3)


def test_held_out_files_are_what_is_scored(make_corpus: MakeCorpus, make_loaded: MakeLoaded) -> None:
    corpus, loaded = make_corpus((0.3,) * 6), make_loaded()
    held_out = evaluate_model(loaded, corpus)
    assert (held_out.split, held_out.requested_split) == ("val", "val")
    assert {file.path for file in held_out.files} == {file.path for file in corpus.files("val")}
    everything = evaluate_model(loaded, corpus, split="all")
    assert len(everything.files) == 6


def test_a_corpus_that_holds_nothing_out_is_scored_with_a_warning(
    make_corpus: MakeCorpus, make_loaded: MakeLoaded
) -> None:
    corpus = make_corpus((0.5,), val_fraction=0.0)
    report = evaluate_model(make_loaded(corpus), corpus)
    assert (report.split, report.requested_split) == ("train", "val")
    assert "say nothing about new audio" in report.warnings[0]
    assert "63 code frames were counted" in report.warnings[1]


def test_another_corpus_than_that_of_the_training_is_scored_with_a_warning(
    make_corpus: MakeCorpus, make_loaded: MakeLoaded
) -> None:
    corpus = make_corpus((0.3,) * 4)
    other = (
        "this is not the corpus that the model was trained on, so that some of these files may have been "
        "among its training files"
    )
    same = evaluate_model(make_loaded(corpus), corpus)
    assert [text for text in same.warnings if "trained on" in text] == []
    unknown = make_loaded()
    strange = dataclasses.replace(unknown, metadata={"corpus": "birds"})
    elsewhere = dataclasses.replace(unknown, metadata={"corpus": {"digest": "0" * 64}})
    for loaded in (unknown, strange, elsewhere):
        report = evaluate_model(loaded, corpus)
        assert report.warnings.count(other) == 1
        assert report.to_json()["warnings"] == list(report.warnings)


def test_a_corpus_of_another_format_is_refused(make_corpus: MakeCorpus, make_loaded: MakeLoaded) -> None:
    corpus = make_corpus((0.5,), val_fraction=0.0)
    with pytest.raises(CorpusError, match=r"--sample-rate 16000 --channels 1"):
        evaluate_model(make_loaded(sample_rate=16_000), corpus)
    with pytest.raises(CorpusError, match=r"8000 Hz with 1 channel\(s\) and the model"):
        evaluate_model(make_loaded(channels=2), corpus)


def test_the_document_is_plain_json(make_corpus: MakeCorpus, make_loaded: MakeLoaded) -> None:
    report = evaluate_model(make_loaded(), make_corpus((0.5, 0.6), val_fraction=0.0), split="train")
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert document["files"] == 2
    assert [row["levels"] for row in document["depths"]] == [1, 2, 3]
    assert document["depths"][2]["mel_distance"] == report.depths[2].scores.mel_distance
    assert document["codebook_health"]["level_1"] == dataclasses.asdict(report.health[1])
    assert document["per_file"][0]["si_sdr_db"] == report.files[0].scores.si_sdr_db
    assert report.depth_rows()[0][:2] == (1, 0.5)

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from distill_ray.bundle import load_model_v2, read_manifest, save_model_v2, verify
from distill_ray.config.corpus import CorpusConfig
from distill_ray.config.prior import PriorConfig
from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.corpus import Corpus, open_corpus, prepare_corpus
from distill_ray.evaluate import extraction
from distill_ray.evaluate.copies import CopyDetector
from distill_ray.events.records import Event, Notice, PriorTrainingCompleteEvent
from distill_ray.prior import CodePrior
from distill_ray.runs import copies
from distill_ray.runs.copies import judged_copies
from distill_ray.vqvae import VQVAE

RATE = 8_000
DONE = PriorTrainingCompleteEvent(
    epochs_trained=1,
    steps=1,
    final_perplexity=2.0,
    best_perplexity=2.0,
    best_epoch=1,
    bits_per_second=1.0,
    memorization_warnings=(),
    codes_per_second=1.0,
    elapsed_s=1.0,
    exit_reason="completed",
    memorization={"verdict": "not memorised", "is_memorizing": False, "message": "So far.", "gap": 0.1},
)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    random = np.random.default_rng(0)
    (tmp_path / "audio").mkdir()
    for index in range(6):
        time = np.arange(12 * RATE) / RATE
        tones = sum(np.sin(2 * np.pi * random.uniform(80, 3000) * time) for _ in range(3))
        sound = 0.1 * tones * np.exp(-3 * (time % random.uniform(0.3, 0.9)))
        soundfile.write(tmp_path / "audio" / f"{index}.wav", sound, RATE)
    config = CorpusConfig(sample_rate=RATE, channels=1)
    prepare_corpus([tmp_path / "audio"], tmp_path / "corpus", config=config)
    return open_corpus(tmp_path / "corpus")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    shape = {"num_quantizers": 2, "codebook_size": 16}
    codec = VQVAE(
        VQVAEConfig(
            sample_rate=RATE,
            width=16,
            encoder_blocks=1,
            decoder_blocks=1,
            latent_dim=16,
            n_fft=128,
            hop=32,
            **shape,
        )
    )
    with torch.no_grad():
        codec.decoder.head.weight.mul_(30)
    prior = CodePrior(PriorConfig(hidden_size=16, num_layers=1, num_heads=2, context_frames=16, **shape))
    metadata = {"memorization": DONE.memorization, "temperatures": [{"temperature": 0.5}] * 2}
    return save_model_v2(
        tmp_path / "m.distill", codec, metadata={}, codebook_health=(), prior=prior, prior_metadata=metadata
    )


def test_the_judges_word_goes_into_event_and_file(corpus: Corpus, model: Path) -> None:
    heard: list[Event] = []
    before = load_model_v2(model)
    done = judged_copies(model, corpus, DONE, heard.append)
    assert done.memorization is not None
    assert done.memorization["copied_share"] == pytest.approx(0.0, abs=0.1)
    assert done.memorization["gap"] == 0.1
    assert "count as copies of the training audio" in done.memorization["message"]
    assert heard == []
    part = verify(model).prior
    assert part is not None
    assert part.metadata["memorization"] == done.memorization
    assert part.temperatures == (0.5, 0.5)
    assert before.prior is not None
    after = load_model_v2(model).prior
    assert after is not None
    assert all(torch.equal(a, b) for a, b in zip(before.prior.parameters(), after.parameters(), strict=True))


def test_a_prior_that_copies_is_said(corpus: Corpus, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = CopyDetector.find
    training = list(extraction._sounds(corpus, "train"))
    monkeypatch.setattr(CopyDetector, "find", lambda self, sounds: find(self, training[:2]))
    heard: list[Event] = []
    done = judged_copies(model, corpus, DONE, heard.append)
    assert done.memorization is not None
    assert (done.memorization["verdict"], done.memorization["is_memorizing"]) == ("memorised", True)
    (notice,) = heard
    assert isinstance(notice, Notice)
    assert notice.level == "warning"


def test_out_of_time_nothing_is_looked_for_and_that_is_said(corpus: Corpus, model: Path) -> None:
    heard: list[Event] = []
    assert judged_copies(model, corpus, DONE, heard.append, within_s=-1.0) is DONE
    (notice,) = heard
    assert isinstance(notice, Notice)
    assert notice.message.startswith("copies of training audio were not looked for, for lack of time")


def test_what_cannot_be_looked_at_stays_as_it_was(
    corpus: Corpus, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = dataclasses.replace(DONE, memorization=None)
    assert judged_copies(model, corpus, nothing, print) is nothing
    monkeypatch.setattr(copies, "_MOST_CORPUS_SECONDS", 1.0)
    assert judged_copies(model, corpus, DONE, print) is DONE
    manifest = read_manifest(model)
    assert manifest.prior is not None
    assert manifest.prior.metadata["memorization"] == DONE.memorization

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from distill_ray.config.prior import CONTROLS, PriorConfig, PriorTrainConfig, PriorTrainingConfig
from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.corpus import Corpus, open_corpus
from distill_ray.corpus.manifest import write_manifest
from distill_ray.errors import TrainingError
from distill_ray.events.records import Event, PriorEpochMetrics, PriorTrainingCompleteEvent
from distill_ray.prior import Controls, extract_code_sequences
from distill_ray.storage.storage import open_storage
from distill_ray.training import checkpoint
from distill_ray.training.prior import train_prior
from distill_ray.training.retokenise import Recordings, Retokeniser
from distill_ray.training.worker import LocalWorker, StopFlag
from distill_ray.vqvae import VQVAE, encode_long

CPU = torch.device("cpu")


@pytest.fixture
def labelled(corpus: Corpus) -> Corpus:
    """The corpus with every other training file in a folder "low"."""
    train = [file.sha256 for file in corpus.files("train")]
    files = tuple(
        dataclasses.replace(file, label="low" if file.sha256 in train[::2] else "high")
        for file in corpus.manifest.files
    )
    write_manifest(open_storage(corpus.uri), dataclasses.replace(corpus.manifest, files=files))
    return open_corpus(corpus.uri)


@pytest.fixture
def codec(small_config: Callable[..., VQTrainConfig]) -> VQVAE:
    torch.manual_seed(0)
    return VQVAE(small_config(model__purpose="generation").model).eval()


def config(codec: VQVAE, *, controls: int = 4, labels: int = 2, **training: object) -> PriorTrainConfig:
    shape = PriorConfig(
        codebook_size=codec.config.codebook_size,
        num_quantizers=codec.config.num_quantizers,
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        context_frames=16,
        controls=controls,
        labels=labels,
    )
    return PriorTrainConfig(
        model=shape,
        training=PriorTrainingConfig(**{"epochs": 2, "batch_size": 4, "variants": 2, **training}),  # type: ignore[arg-type]
    )


def test_variants_carry_their_own_measures(labelled: Corpus, codec: VQVAE) -> None:
    plain = Retokeniser(labelled.uri, codec, config(codec, controls=0, labels=0), device=CPU)
    made = Retokeniser(labelled.uri, codec, config(codec), device=CPU)
    levels = codec.config.num_quantizers
    assert made.conditions is not None
    assert made.conditions.controls.labels == ("high", "low")
    louder: list[float] = []
    for number in range(4):
        variant = made.variant(number)
        for codes, rows in zip(plain.variant(number), variant, strict=True):
            assert torch.equal(rows[:levels], codes)
            assert rows.shape[0] == levels + 1 + len(CONTROLS)
            assert set(rows[levels].tolist()) <= {1, 2}
        loud = torch.cat([rows[levels + 1] for rows in variant])
        louder.append(float(loud[loud > 0].float().mean()))
    assert np.ptp(louder) > 0.2  # a variant that is 4 dB louder says so


def test_files_keep_their_labels_and_half_of_all_is_above_the_middle(
    labelled: Corpus, codec: VQVAE, tmp_path: Path
) -> None:
    made = Retokeniser(labelled.uri, codec, config(codec), device=CPU)
    assert made.conditions is not None
    files = labelled.files("train")
    store = extract_code_sequences(
        lambda audio_CT: encode_long(codec, audio_CT, chunk_frames=256),
        labelled,
        files,
        cache=tmp_path,
        model_hash="0" * 64,
        codebook_size=codec.config.codebook_size,
        num_quantizers=codec.config.num_quantizers,
    )
    below = made.conditions.below(store.of("train"))
    levels = codec.config.num_quantizers
    for file, rows, codes in zip(files, below, store.codes("train"), strict=True):
        assert torch.equal(rows[:levels], codes)
        assert set(rows[levels].tolist()) == {1 + ("high", "low").index(file.label)}
    loud = torch.cat([rows[levels + 1] for rows in below])
    middle = 1 + 2 + 4  # the fifth of nine steps, behind the labels
    assert float((loud < middle).float().mean()) == pytest.approx(0.4, abs=0.15)
    assert float((loud > middle).float().mean()) == pytest.approx(0.4, abs=0.15)
    with pytest.raises(TrainingError, match=r"began with 2 labels .* has 0"):
        Retokeniser(_unlabelled(labelled), codec, config(codec), device=CPU)


def _unlabelled(corpus: Corpus) -> str:
    files = tuple(dataclasses.replace(file, label="") for file in corpus.manifest.files)
    write_manifest(open_storage(corpus.uri), dataclasses.replace(corpus.manifest, files=files))
    return corpus.uri


def test_a_resumed_run_with_conditions_ends_as_an_uncut_one(
    labelled: Corpus, codec: VQVAE, tmp_path: Path
) -> None:
    files = [*labelled.files("train"), *labelled.files("val")]
    store = extract_code_sequences(
        lambda audio_CT: encode_long(codec, audio_CT, chunk_frames=256),
        labelled,
        files,
        cache=tmp_path,
        model_hash="0" * 64,
        codebook_size=codec.config.codebook_size,
        num_quantizers=codec.config.num_quantizers,
    )

    unvaried = {"variant_steps": 2, "unvaried_share": 0.7, "replaced_share": 0.2}

    def trained(folder: str, stop: StopFlag | None = None) -> PriorTrainingCompleteEvent:
        def listen(event: Event) -> None:
            if stop is not None and isinstance(event, PriorEpochMetrics):
                stop.request()

        done = train_prior(
            str(store.folder),
            config(codec, **unvaried, min_epoch_steps=6, warmup_steps=1),
            LocalWorker(tmp_path / folder, device=CPU, listener=listen, stop=stop),
            frame_rate=codec.config.frame_rate,
            vectors_QKL=codec.quantizer.vectors(),
            recordings=Recordings(corpus=labelled.uri, codec=codec),
        )
        assert len(done.temperatures) == codec.config.num_quantizers
        return done

    uncut = trained("uncut")
    assert trained("cut", StopFlag()).exit_reason == "cancelled"
    assert trained("cut").final_perplexity == uncut.final_perplexity
    uncut_run, run = (
        checkpoint.read_json(tmp_path / name / "latest" / "run.json") for name in ("uncut", "cut")
    )
    assert run["unvaried_from"] == uncut_run["unvaried_from"] == 2
    controls = Controls.from_json(run["controls"])
    assert controls.labels == ("high", "low")
    assert "loudness" in controls.offered
    weights = checkpoint.read_weights(tmp_path / "cut" / "latest" / "best.safetensors")
    assert not weights["conditions.weight"][0].any()  # the row that says nothing
    assert weights["conditions.weight"][1:3].any()

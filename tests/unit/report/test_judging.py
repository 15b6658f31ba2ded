"""The judge's part of a report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch

from distill_ray.bundle import LoadedVQModel, load_model_v2, save_model_v2
from distill_ray.config.corpus import CorpusConfig
from distill_ray.config.prior import PriorConfig
from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.corpus import Corpus, open_corpus, prepare_corpus
from distill_ray.errors import AudioError, UsageError
from distill_ray.evaluate.judgement import NearestMoment
from distill_ray.events.records import StageProgress
from distill_ray.prior import CodePrior
from distill_ray.report import judging, sounds
from distill_ray.report.collect import collect
from distill_ray.report.facts import Judged
from distill_ray.report.judging import PAIRS, expected_seconds, judge, spread
from distill_ray.report.sounds import Wanted
from distill_ray.vqvae import VQVAE

RATE = 16_000
CODEC = VQVAEConfig(
    sample_rate=RATE,
    width=16,
    encoder_blocks=1,
    decoder_blocks=1,
    latent_dim=16,
    num_quantizers=2,
    codebook_size=16,
    n_fft=128,
    hop=32,
)
PRIOR = PriorConfig(
    codebook_size=16, num_quantizers=2, hidden_size=16, num_layers=1, num_heads=2, context_frames=16
)


def notes(seed: int, seconds: float) -> np.ndarray:
    """A note each half second, each of another pitch."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = random.uniform(150, 2000, round(2 * seconds))[(time * 2).astype(int)]
    noise = 0.01 * random.standard_normal(len(time))
    return 0.4 * np.sin(2 * np.pi * pitch * time) * np.exp(-6 * (time % 0.5)) + noise


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("judged")
    (folder / "in").mkdir()
    for number in range(8):
        soundfile.write(folder / "in" / f"{number}.wav", notes(number, 20.0), RATE)
    config = CorpusConfig(sample_rate=RATE, val_fraction=0.1)
    prepare_corpus([folder / "in"], folder / "corpus", config=config, workers=1)
    return open_corpus(folder / "corpus")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, corpus: Corpus) -> LoadedVQModel:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "m.distill"
    record = {"source": corpus.uri, "digest": corpus.digest}
    save_model_v2(
        path,
        VQVAE(CODEC),
        metadata={"corpus": record},
        codebook_health=(),
        prior=CodePrior(PRIOR),
        prior_metadata={},
    )
    return load_model_v2(path)


def moment(file: str, time_s: float, source: str, source_time_s: float, distance: float) -> NearestMoment:
    return NearestMoment(
        file=file,
        time_s=time_s,
        source=source,
        source_time_s=source_time_s,
        distance=distance,
        ratio=None,
    )


def test_a_copy_is_found_and_put_beside_what_it_was_copied_from(
    tmp_path: Path, corpus: Corpus, model: LoadedVQModel
) -> None:
    file = corpus.files("train")[0]
    pcm_T = corpus.read(file)[0].numpy()
    for number in range(4):
        audio = notes(100 + number, 8.0)
        if number == 2:
            audio[3 * RATE : 6 * RATE] = pcm_T[5 * RATE : 8 * RATE] / 32768
        soundfile.write(tmp_path / f"{number}.wav", audio, RATE)
    found = judge(model, corpus, tmp_path, seed=0)
    assert found.generated.copies is not None
    assert 1 <= len(found.nearest) <= PAIRS
    pair = found.nearest[0]
    assert Path(pair.moment.file).name == "2.wav"
    assert pair.moment.source == file.path
    assert pair.moment.source_time_s - pair.moment.time_s == pytest.approx(2.0, abs=0.05)
    assert pair.generated is not None
    assert pair.source is not None
    assert pair.generated.seconds == pair.source.seconds == 2.0
    inside = slice(0, round((5.9 - pair.moment.time_s) * RATE))
    made, known = (each.audio_TC[inside, 0] for each in (pair.generated, pair.source))
    shift = round((pair.moment.source_time_s - pair.moment.time_s - 2.0) * RATE)
    assert shift == 0 or abs(shift) < 0.05 * RATE
    spectra = [np.abs(np.fft.rfft(each)) for each in (made, known)]
    assert np.corrcoef(*spectra)[0, 1] > 0.9  # the same notes
    assert found.decoded.sounds >= 1


def test_pairs_are_of_different_places() -> None:
    chosen = spread(
        [
            moment("a", 0.0, "x", 10.0, 0.1),
            moment("a", 1.0, "y", 50.0, 0.2),  # the same generated place
            moment("b", 0.0, "x", 11.0, 0.3),  # the same training place
            moment("a", 5.0, "x", 30.0, 0.4),
            *(moment(str(number), 0.0, f"z{number}", 0.0, 1.0) for number in range(9)),
        ]
    )
    assert [each.distance for each in chosen[:2]] == [0.1, 0.4]
    assert len(chosen) == PAIRS


def test_a_model_is_judged_by_new_sounds_against_the_recordings_that_it_names(
    model: LoadedVQModel, corpus: Corpus, records: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, list[float]]] = []

    def measured(loaded: LoadedVQModel, against: Corpus, folder: Path, **_: object) -> Judged:
        lengths = [soundfile.info(path).duration for path in sorted(folder.iterdir())]
        seen.append((against.digest, lengths))
        return Judged(generated=records.judgement(), decoded=records.judgement())

    monkeypatch.setattr(judging, "judge", measured)
    monkeypatch.setattr(sounds, "_JUDGED_SOUNDS", 3)
    monkeypatch.setattr(sounds, "_JUDGED_SECONDS", 0.25)
    _, facts = collect(model.path, Wanted(judge=True, sounds=1))
    assert seen == [(corpus.digest, [0.25] * 3)]
    assert facts.judged is not None
    assert [len(group.sounds) for group in facts.generated] == [3]
    assert not any("--judge" in note for note in facts.notes)


def test_what_takes_too_long_is_left_out_and_said(corpus: Corpus, model: LoadedVQModel) -> None:
    takes = expected_seconds(corpus)
    assert 5 < takes < 15  # of 120 s of recordings
    _, facts = collect(model.path, Wanted(judge=True, judge_seconds=takes - 1, sounds=1))
    assert facts.judged is None
    (note,) = [note for note in facts.notes if "as it would take up to" in note]
    assert note.endswith(f"`distill-ray report {model.path} --judge` measures it.")


def test_a_judge_that_turns_out_too_slow_is_given_up_and_said(
    model: LoadedVQModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_: object, on_progress: Callable[[StageProgress], None], **named: object) -> Judged:
        on_progress(StageProgress(stage="judge", done=1, total=9))
        raise AssertionError("it went on")

    monkeypatch.setattr(judging, "judge", slow)
    monkeypatch.setattr(judging, "expected_seconds", lambda corpus: 0.0)
    monkeypatch.setattr(sounds.listen, "NEW_SECONDS", 0.5)
    _, facts = collect(model.path, Wanted(judge=True, judge_seconds=0.0, sounds=1))
    assert facts.judged is None
    assert [note for note in facts.notes if "given up after" in note]


def test_too_little_to_judge_is_an_error_where_it_was_asked_for_and_else_a_note(
    model: LoadedVQModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sounds, "_JUDGED_SOUNDS", 1)
    monkeypatch.setattr(sounds, "_JUDGED_SECONDS", 0.5)
    with pytest.raises(AudioError, match="too little sound"):
        collect(model.path, Wanted(judge=True))
    monkeypatch.setattr(sounds.listen, "NEW_SECONDS", 0.5)
    _, facts = collect(model.path, Wanted(judge=True, judge_seconds=1e6, sounds=1))
    assert facts.judged is None
    assert any("too little sound to judge" in note for note in facts.notes)


def test_without_a_prior_there_is_nothing_to_judge(tmp_path: Path) -> None:
    save_model_v2(tmp_path / "m.distill", VQVAE(CODEC), metadata={}, codebook_health=())
    with pytest.raises(UsageError, match="no prior"):
        collect(tmp_path / "m.distill", Wanted(judge=True))
    _, facts = collect(tmp_path / "m.distill", Wanted(judge=True, judge_seconds=1.0))
    assert facts.judged is None

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from distill_ray.config.corpus import CorpusConfig
from distill_ray.corpus import PrepareReport, open_corpus, prepare_corpus

CONFIG = CorpusConfig(sample_rate=8_000)


def prepared(folder: Path, out: Path, config: CorpusConfig = CONFIG) -> PrepareReport:
    return prepare_corpus([folder], out, config=config, workers=1)


def recordings(folder: Path, count: int, *suffixes: str, rate: int = 8_000) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        noise_T = np.random.default_rng(number).integers(-9_000, 9_000, rate, dtype=np.int16)
        for suffix in suffixes:
            soundfile.write(folder / f"{number:02}{suffix}", noise_T, rate, subtype="PCM_16")


def test_a_flac_made_of_a_wav_is_taken_once_and_named(tmp_path: Path) -> None:
    recordings(tmp_path / "in", 40, ".wav", ".flac")
    report = prepared(tmp_path / "in", tmp_path / "out")
    assert (report.files, report.decoded, len(report.duplicates)) == (40, 40, 40)
    rows = report.findings()
    assert rows[0] == ("copy", "00.flac", "the samples of 00.wav")
    assert rows[4] == ("copy", "36 more", "taken once each")
    corpus = open_corpus(tmp_path / "out")
    held_out = {corpus.read(file).numpy().tobytes() for file in corpus.files("val")}
    trained = {corpus.read(file).numpy().tobytes() for file in corpus.files("train")}
    assert held_out
    assert not held_out & trained


def test_twins_are_resampled_alike(tmp_path: Path) -> None:
    recordings(tmp_path / "in", 3, ".wav", ".aiff", rate=11_025)
    assert prepared(tmp_path / "in", tmp_path / "out").files == 3


def test_a_twin_is_not_decoded_again_and_takes_the_place_of_one_that_goes(tmp_path: Path) -> None:
    recordings(tmp_path / "in", 4, ".wav", ".flac")
    first = prepared(tmp_path / "in", tmp_path / "out")
    again = prepared(tmp_path / "in", tmp_path / "out")
    assert (again.decoded, again.reused, again.digest) == (0, 4, first.digest)
    assert again.duplicates == first.duplicates
    (tmp_path / "in" / "00.wav").unlink()
    after = prepared(tmp_path / "in", tmp_path / "out")
    assert (after.decoded, after.files, len(after.duplicates)) == (1, 4, 3)


def test_what_the_corpus_held_stays_before_a_new_twin(tmp_path: Path) -> None:
    recordings(tmp_path / "in", 4, ".wav")
    first = prepared(tmp_path / "in", tmp_path / "out")
    recordings(tmp_path / "in", 4, ".flac")
    after = prepared(tmp_path / "in", tmp_path / "out")
    assert (after.digest, after.files, after.decoded) == (first.digest, 4, 0)
    assert [each.path for each in after.duplicates] == [f"{tmp_path}/in/{n:02}.flac" for n in range(4)]


def test_equal_lengths_alone_make_no_twins(tmp_path: Path) -> None:
    recordings(tmp_path / "in", 12, ".wav")
    assert prepared(tmp_path / "in", tmp_path / "out").duplicates == ()

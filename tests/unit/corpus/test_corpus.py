from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill_ray import corpus as package
from distill_ray.config.corpus import CorpusConfig
from distill_ray.corpus.corpus import ensure_corpus, open_corpus
from distill_ray.corpus.prepare import prepare_corpus
from distill_ray.errors import CorpusError


def test_the_digest_ignores_paths_and_order(audio_folder: Path, tmp_path: Path, config: CorpusConfig) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for index, path in enumerate(sorted(audio_folder.iterdir(), reverse=True)):
        (other / f"{index}.wav").write_bytes(path.read_bytes())
    prepare_corpus([audio_folder], tmp_path / "a", config=config)
    prepare_corpus([other], f"file://{tmp_path}/b", config=config)
    assert open_corpus(tmp_path / "a").digest == open_corpus(f"file://{tmp_path}/b").digest


def test_splits_and_parts_of_files(audio_folder: Path, tmp_path: Path, config: CorpusConfig) -> None:
    prepare_corpus([audio_folder], tmp_path / "out", config=config)
    corpus = open_corpus(tmp_path / "out")
    assert (corpus.sample_rate, corpus.channels, corpus.validation_split) == (8_000, 1, "val")
    assert {*corpus.files("train"), *corpus.files("val")} == set(corpus.manifest.files)
    file = max(corpus.manifest.files, key=lambda file: file.samples)
    part_CT = np.zeros((1, 100), np.int16)
    corpus.read_into(part_CT, file, file.samples - 100)
    np.testing.assert_array_equal(part_CT, corpus.read(file)[:, -100:].numpy())


def test_a_single_file_validates_on_train(
    tmp_path: Path, config: CorpusConfig, write_tone: Callable[..., Path]
) -> None:
    prepare_corpus([write_tone("a.wav")], tmp_path / "out", config=config)
    corpus = open_corpus(tmp_path / "out")
    assert corpus.validation_split == "train"
    assert corpus.seconds("val") == 0


def test_no_corpus_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"there is no corpus at .*; make one with `distill-ray prepare`"):
        open_corpus(tmp_path)
    with pytest.raises(CorpusError, match="does not exist; give a folder"):
        ensure_corpus(tmp_path / "nothing")
    with pytest.raises(CorpusError, match="no usable audio"):
        ensure_corpus(tmp_path, cache_dir=tmp_path / "cache")


def test_a_folder_is_prepared_into_the_cache_and_reused(
    audio_folder: Path, tmp_path: Path, config: CorpusConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = tmp_path / "cache" / "distill-ray" / "corpora"
    phases: list[str] = []
    first = ensure_corpus(audio_folder, config, on_progress=lambda *step: phases.append(step[2]))
    assert set(phases) == {"reading", "decoding"}
    assert Path(first.uri).parent == place
    phases.clear()
    again = ensure_corpus(audio_folder, config, on_progress=lambda *step: phases.append(step[2]))
    assert (again.uri, again.digest, set(phases)) == (first.uri, first.digest, {"reading"})

    stereo = ensure_corpus(audio_folder, CorpusConfig(sample_rate=8_000, channels=2))
    soundfile.write(audio_folder / "more.wav", np.full(800, 0.5), 8_000)
    more = ensure_corpus(audio_folder, config)
    assert len({first.uri, stereo.uri, more.uri}) == 3
    assert len(more.manifest.files) == 13


def test_one_audio_file_is_data_too(
    tmp_path: Path, config: CorpusConfig, write_tone: Callable[..., Path]
) -> None:
    corpus = ensure_corpus(write_tone("a.wav"), config, tmp_path / "cache")
    assert len(corpus.manifest.files) == 1


def test_a_prepared_corpus_is_used_in_its_own_format(
    audio_folder: Path, tmp_path: Path, config: CorpusConfig
) -> None:
    prepare_corpus([audio_folder], tmp_path / "out", config=config)
    assert ensure_corpus(tmp_path / "out").uri == str(tmp_path / "out")
    assert ensure_corpus(tmp_path / "out", config).sample_rate == 8_000
    with pytest.raises(CorpusError) as caught:
        ensure_corpus(tmp_path / "out", CorpusConfig(channels=2), asked_by="the model is")
    assert str(caught.value) == (
        f"the corpus at {tmp_path}/out is 8000 Hz mono, but the model is for 44100 Hz stereo; "
        "prepare it again with --sample-rate 44100 --channels 2"
    )
    ensure_corpus(tmp_path / "out", CorpusConfig(sample_rate=8_000, channels=2), required=["sample_rate"])
    with pytest.raises(CorpusError, match=r"8000 Hz, but the settings are for 44100 Hz; .* 44100$"):
        ensure_corpus(tmp_path / "out", CorpusConfig(), required=["sample_rate"])


def test_the_package_exports_its_names_without_torch() -> None:
    assert package.PCM_SCALE == 32_768
    for name in set(package.__all__) - {"PCM_SCALE"}:
        assert getattr(package, name).__name__ == name
    code = "import sys; from distill_ray.corpus import prepare_corpus, Corpus; print('torch' in sys.modules)"
    root = Path(package.__file__).parents[2]
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert ran.stdout == "False\n"

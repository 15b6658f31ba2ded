from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from distill_ray.bundle import LoadedVQModel
from distill_ray.corpus.decode import AudioDecoder
from distill_ray.errors import AudioError, BundleError, CancelledError, ConfigError, UsageError
from distill_ray.events.records import StageProgress
from distill_ray.generate import GenerationSettings, generate_samples
from distill_ray.generate.request import make_request
from distill_ray.prior import SamplingConfig

MakeLoaded = Callable[..., LoadedVQModel]
MakeAudio = Callable[..., Path]
HOP, RATE = 64, 8_000


def contents(paths: tuple[str, ...]) -> list[bytes]:
    return [Path(path).read_bytes() for path in paths]


@pytest.mark.parametrize("samples", [1, HOP - 1, HOP, HOP + 1, 4_567])
def test_the_length_is_exact_to_the_sample(tmp_path: Path, make_loaded: MakeLoaded, samples: int) -> None:
    report = generate_samples(make_loaded(), seconds=samples / RATE, out_dir=tmp_path / "out")
    assert report.samples == samples
    assert report.files == (str(tmp_path / "out" / "sample_s0_000.wav"),)
    assert soundfile.info(report.files[0]).frames == samples


def test_less_than_a_sample_is_one_sample(tmp_path: Path, make_loaded: MakeLoaded) -> None:
    assert generate_samples(make_loaded(), seconds=1e-9, out_dir=tmp_path).samples == 1


@pytest.mark.parametrize("batch", [1, 3])
def test_seeds_repeat_and_the_count_changes_nothing(
    tmp_path: Path, make_loaded: MakeLoaded, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr("distill_ray.generate.request._BATCH", {"cpu": batch})
    loaded = make_loaded()

    def files(name: str, count: int, seed: int) -> list[bytes]:
        report = generate_samples(loaded, count=count, seconds=0.15, seed=seed, out_dir=tmp_path / name)
        return contents(report.files)

    five = files("five", 5, 5)
    assert files("two", 2, 5) == five[:2]
    assert files("again", 5, 5) == five
    assert len(set(five)) == 5
    assert not set(files("other", 5, 6)) & set(five)


def test_only_as_many_are_made_as_there_is_time_for(tmp_path: Path, make_loaded: MakeLoaded) -> None:
    taken: list[float] = []

    def has_time(seconds: float) -> bool:
        taken.append(seconds)
        return len(taken) < 3

    whole = generate_samples(make_loaded(), count=5, seconds=0.15, out_dir=tmp_path / "whole")
    report = generate_samples(
        make_loaded(), count=5, seconds=0.15, out_dir=tmp_path / "late", has_time=has_time
    )
    assert contents(report.files) == contents(whole.files[:3])
    assert len(list((tmp_path / "late").glob("*.wav"))) == 3
    assert report.draws == (1, 1, 1)
    assert all(0.0 < seconds < report.elapsed_s for seconds in taken)


def test_ctrl_c_keeps_what_was_made_and_says_so(tmp_path: Path, make_loaded: MakeLoaded) -> None:
    def stop(progress: StageProgress) -> None:
        if progress.done > 2 * progress.total / 3:
            raise KeyboardInterrupt

    begin = functools.partial(
        generate_samples, make_loaded(), count=3, seconds=0.3, out_dir=tmp_path / "out", on_progress=stop
    )
    with pytest.raises(CancelledError, match=r"with 2 of 3 sounds made in .*; with --overwrite the same"):
        begin()
    with pytest.raises(CancelledError, match=r"with 2 of 3 sounds made in .*/out; the same command makes"):
        begin(overwrite=True)  # as `run` does, which has no such option
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".distill-ray",
        "sample_s0_000.wav",
        "sample_s0_001.wav",
    ]


def test_long_output_has_no_seams(tmp_path: Path, make_loaded: MakeLoaded) -> None:
    """Beyond the prior's context of 16 frames and the decoder's chunk of 1024: one pass gives the same."""
    loaded = make_loaded()
    report = generate_samples(loaded, seconds=1_100 * HOP / RATE, out_dir=tmp_path)
    request = make_request(loaded, GenerationSettings(seconds=report.seconds), None, None)
    (codes_QF,) = request.codes(0, lambda frame: None)
    assert codes_QF.shape == (3, 1_100)
    whole_CT = loaded.model.decode(codes_QF[None])[0]
    audio, _ = soundfile.read(report.files[0])
    assert np.abs(audio - whole_CT[0].numpy()).max() < 1.5 / 32_768
    assert len(torch.unique(codes_QF[:, 1_000:], dim=1).T) > 20


def test_temperature_zero_is_greedy(tmp_path: Path, make_loaded: MakeLoaded) -> None:
    loaded, greedy = make_loaded(), SamplingConfig(temperature=0.0)
    one = generate_samples(loaded, seconds=0.3, sampling=greedy, seed=1, out_dir=tmp_path / "one")
    other = generate_samples(loaded, seconds=0.3, sampling=greedy, seed=2, out_dir=tmp_path / "other")
    likeliest = SamplingConfig(temperature=1.0, top_k=1)
    third = generate_samples(loaded, seconds=0.3, sampling=likeliest, seed=3, out_dir=tmp_path / "third")
    assert contents(one.files) == contents(other.files) == contents(third.files)
    free = generate_samples(loaded, seconds=0.3, seed=1, out_dir=tmp_path / "free")
    assert contents(free.files) != contents(one.files)


@pytest.mark.parametrize("audio_format", ["wav", "flac", "ogg", "mp3"])
def test_stereo_models_give_stereo_in_every_format(
    tmp_path: Path, make_loaded: MakeLoaded, audio_format: str
) -> None:
    loaded = make_loaded(channels=2)
    reports = [
        generate_samples(loaded, seconds=0.4, audio_format=audio_format, out_dir=tmp_path / name)
        for name in ("one", "other")
    ]
    assert contents(reports[0].files) == contents(reports[1].files)
    audio, rate = soundfile.read(reports[0].files[0])
    assert audio.shape == (3_200, 2)
    assert rate == RATE
    assert np.abs(audio[:, 0] - audio[:, 1]).max() > 1e-3


def test_a_continuation_begins_with_the_prompt_and_counts_it(
    tmp_path: Path, make_loaded: MakeLoaded, make_audio: MakeAudio
) -> None:
    loaded, prompt = make_loaded(), make_audio(0.5, channels=2, rate=16_000)
    report = generate_samples(loaded, count=2, seconds=1.0, prompt=prompt, out_dir=tmp_path / "out", seed=3)
    assert report.samples == 8_000
    assert report.prompt_seconds == 62 * HOP / RATE
    first, second = (soundfile.read(path)[0] for path in report.files)
    source, _ = soundfile.read(make_audio(0.5, channels=2, rate=16_000), always_2d=True)
    from distill_ray.corpus import load_audio

    pcm_CT = load_audio(prompt, sample_rate=RATE, channels=1)
    codes_BQF = loaded.model.encode(pcm_CT[None].float() / 32_768)[:, :, :62]
    kept = (62 - loaded.model.decoder.context_frames) * HOP
    expected = loaded.model.decode(codes_BQF)[0, 0].numpy()
    assert len(source) == 8_000
    assert kept > 1_000
    np.testing.assert_allclose(first[:kept], expected[:kept], atol=1.5 / 32_768)
    np.testing.assert_array_equal(first[:kept], second[:kept])
    assert np.abs(first[62 * HOP :] - second[62 * HOP :]).max() > 1e-3
    other = make_audio(0.5, seed=1)
    different = generate_samples(loaded, seconds=1.0, prompt=other, out_dir=tmp_path / "b", seed=3)
    assert contents(different.files) != contents(report.files[:1])


def test_a_prompt_must_fit_the_output(tmp_path: Path, make_loaded: MakeLoaded, make_audio: MakeAudio) -> None:
    loaded = make_loaded()
    with pytest.raises(AudioError, match=r"takes 0\.500 s and the output is to last 0\.496 s"):
        generate_samples(loaded, seconds=62 * HOP / RATE, prompt=make_audio(0.5), out_dir=tmp_path / "out")
    with pytest.raises(AudioError, match=r"shorter than one code frame \(64 samples"):
        generate_samples(loaded, prompt=make_audio(63 / RATE), out_dir=tmp_path / "out")
    with pytest.raises(AudioError, match=r"the prompt .*missing\.wav cannot be used: it does not exist"):
        generate_samples(loaded, prompt=tmp_path / "missing.wav", out_dir=tmp_path / "out")
    tone_T = np.sin(np.arange(RATE))
    soundfile.write(tmp_path / "cancel.wav", np.stack([tone_T, -tone_T], axis=1), RATE)
    with pytest.raises(AudioError, match=r"cancel\.wav cannot be used: its channels cancel"):
        generate_samples(loaded, prompt=tmp_path / "cancel.wav", out_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    report = generate_samples(
        loaded, seconds=(62 * HOP + 1) / RATE, prompt=make_audio(0.5), out_dir=tmp_path / "out"
    )
    assert report.samples == 62 * HOP + 1


def test_a_model_without_a_prior_says_what_to_do(tmp_path: Path, make_loaded: MakeLoaded) -> None:
    with pytest.raises(BundleError, match="has no prior yet; train one with `distill-ray train-prior"):
        generate_samples(make_loaded(prior=False), out_dir=tmp_path / "out")


def test_all_wrong_settings_are_named_at_once(tmp_path: Path, make_loaded: MakeLoaded) -> None:
    with pytest.raises(ConfigError) as caught:
        generate_samples(
            make_loaded(), count=0, seconds=0.0, seed=-1, audio_format="aac", out_dir=tmp_path / "out"
        )
    assert [problem.flag for problem in caught.value.problems] == ["-n", "-d", "--seed", "--format"]


def test_progress_and_report(tmp_path: Path, make_loaded: MakeLoaded) -> None:
    events: list[StageProgress] = []
    report = generate_samples(
        make_loaded(), count=2, seconds=0.1, out_dir=tmp_path, on_progress=events.append
    )
    assert [event.done for event in events] == list(range(1, 27))
    assert {(event.stage, event.total) for event in events} == {("generate", 26)}
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert document["files"] == [str(tmp_path / f"sample_s0_00{index}.wav") for index in range(2)]
    assert document["audio_seconds_per_second"] == pytest.approx(0.2 / document["elapsed_s"])
    assert (document["temperature"], document["top_k"], document["top_p"]) == (1.0, 0, 1.0)


def test_an_output_folder_that_cannot_be_made_is_said_before_sampling(
    tmp_path: Path, make_loaded: MakeLoaded
) -> None:
    (tmp_path / "out").write_text("a file")
    steps: list[StageProgress] = []
    with pytest.raises(UsageError, match=r"cannot be written: .*out is not a folder"):
        generate_samples(make_loaded(), seconds=1, out_dir=tmp_path / "out", on_progress=steps.append)
    assert steps == []


@pytest.mark.parametrize("kind", ["itself", "symbolic", "hard"])
@pytest.mark.parametrize("read", ["prompt", "model"])
def test_what_is_read_is_not_replaced_even_where_that_is_asked_for(
    tmp_path: Path, make_loaded: MakeLoaded, make_audio: MakeAudio, kind: str, read: str
) -> None:
    loaded, prompt, out = make_loaded(), make_audio(0.2), tmp_path / "out"
    out.mkdir()
    source, second = prompt if read == "prompt" else loaded.path, out / "sample_s0_001.wav"
    if kind == "symbolic":
        second.symlink_to(source)
    elif kind == "hard":
        second.hardlink_to(source)
    elif read == "prompt":
        prompt = source = source.rename(second)
    else:
        return  # a model is no .wav
    before = source.read_bytes()
    with pytest.raises(
        UsageError, match=r"sample_s0_001\.wav is read by this command and cannot be its output"
    ):
        generate_samples(loaded, count=2, seconds=0.5, prompt=prompt, out_dir=out, overwrite=True)
    assert source.read_bytes() == before
    assert not (out / "sample_s0_000.wav").exists()


def test_a_prompt_of_days_is_refused_before_it_is_decoded(
    tmp_path: Path, make_loaded: MakeLoaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []

    def blocks(decoder: AudioDecoder) -> Iterator[np.ndarray[Any, Any]]:
        while True:
            decoded.append(RATE)
            yield np.zeros((1, RATE), np.int16)

    monkeypatch.setattr(AudioDecoder, "blocks", blocks)
    with pytest.raises(AudioError, match=r"it takes over 61 s and the output is to last 1\.000 s with it"):
        generate_samples(make_loaded(), seconds=1.0, prompt=tmp_path / "x.wav", out_dir=tmp_path / "out")
    assert len(decoded) == 62


def test_a_folder_made_for_sounds_is_marked_and_one_of_the_users_is_not(
    tmp_path: Path, make_loaded: MakeLoaded
) -> None:
    loaded, mine = make_loaded(), tmp_path / "mine"
    mine.mkdir()
    for folder in (tmp_path / "made", mine):
        generate_samples(loaded, seconds=0.1, out_dir=folder)
    assert (tmp_path / "made" / ".distill-ray").is_file()
    assert [path.name for path in mine.iterdir()] == ["sample_s0_000.wav"]


def test_an_audio_file_is_the_one_sound_s_own(tmp_path: Path, make_loaded: MakeLoaded) -> None:
    loaded = make_loaded()
    report = generate_samples(loaded, seconds=0.1, out_dir=tmp_path / "new" / "bird.flac")
    assert report.files == (str(tmp_path / "new" / "bird.flac"),)
    assert soundfile.info(report.files[0]).format == "FLAC"
    with pytest.raises(UsageError, match=r"bird\.flac exists; .*, or choose another --out$"):
        generate_samples(loaded, seconds=0.1, out_dir=tmp_path / "new" / "bird.flac")
    with pytest.raises(UsageError, match=r"x\.wav is one file and 2 sounds are asked for; name a folder"):
        generate_samples(loaded, count=2, seconds=0.1, out_dir=tmp_path / "x.wav")
    with pytest.raises(
        UsageError, match=r"x\.m4a ends in no format that is written; end it with \.wav, \.flac"
    ):
        generate_samples(loaded, seconds=0.1, out_dir=tmp_path / "x.m4a")
    (tmp_path / "album.wav").mkdir()
    report = generate_samples(loaded, seconds=0.1, out_dir=tmp_path / "album.wav")
    assert report.files == (str(tmp_path / "album.wav" / "sample_s0_000.wav"),)


def test_sounds_too_long_to_be_decoded_together_are_the_same(
    tmp_path: Path, make_loaded: MakeLoaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill_ray.generate.request._BATCH", {"cpu": 3})
    loaded = make_loaded()
    together = generate_samples(loaded, count=4, seconds=0.3, out_dir=tmp_path / "together").files
    monkeypatch.setattr("distill_ray.generate.generate._MOST_TOGETHER", 0)
    alone = generate_samples(loaded, count=4, seconds=0.3, out_dir=tmp_path / "alone").files
    for one, other in zip(together, alone, strict=True):
        (pcm, _), (same, _) = soundfile.read(one, dtype="int16"), soundfile.read(other, dtype="int16")
        assert np.abs(pcm).max() > 100
        assert np.abs(pcm.astype(int) - same).max() <= 1

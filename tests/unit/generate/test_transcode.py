from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from distill_ray.bundle import LoadedVQModel
from distill_ray.errors import AudioError, BundleError, ConfigError, UsageError
from distill_ray.events.records import StageProgress
from distill_ray.generate import decode_file, encode_file, generate_samples, load_codes

MakeLoaded = Callable[..., LoadedVQModel]
MakeAudio = Callable[..., Path]


@pytest.mark.parametrize(("channels", "seconds"), [(1, 1.2345), (2, 20.0)])
def test_the_round_trip_is_the_model_s_reconstruction(
    tmp_path: Path, make_loaded: MakeLoaded, make_audio: MakeAudio, channels: int, seconds: float
) -> None:
    loaded, audio = make_loaded(prior=False, channels=channels), make_audio(seconds, channels=channels)
    events: list[StageProgress] = []
    encoded = encode_file(loaded, audio, tmp_path / "a.codes", on_progress=events.append)
    decoded = decode_file(loaded, tmp_path / "a.codes", tmp_path / "b.wav", on_progress=events.append)
    pcm_TC, _ = soundfile.read(audio, dtype="int16", always_2d=True)
    source_BCT = torch.from_numpy(pcm_TC).T[None].float() / 32_768
    expected_CT = loaded.model.decode(loaded.model.encode(source_BCT), len(pcm_TC))[0]
    result_TC, rate = soundfile.read(tmp_path / "b.wav", always_2d=True)
    assert rate == 8_000
    assert result_TC.shape == (round(seconds * 8_000), channels)
    assert np.abs(result_TC.T - expected_CT.numpy()).max() < 1 / 32_768
    assert (encoded.levels, encoded.samples, encoded.frames) == (3, len(pcm_TC), -(-len(pcm_TC) // 64))
    assert encoded.kbps == pytest.approx(3 * 4 * 125 / 1000)
    assert (decoded.samples, decoded.channels) == (len(pcm_TC), channels)
    assert [(event.stage, event.done == event.total) for event in events][-1] == ("decode", True)
    assert any(event.stage == "encode" and event.done == encoded.frames for event in events)
    document = json.loads(json.dumps(encoded.to_json()))
    assert document["model_path"] == str(loaded.path)
    assert document["codes"] == str(tmp_path / "a.codes")


def test_other_rates_and_channel_counts_are_converted(
    tmp_path: Path, make_loaded: MakeLoaded, make_audio: MakeAudio
) -> None:
    audio = make_audio(0.5, channels=2, rate=16_000)
    report = encode_file(make_loaded(prior=False), audio, tmp_path / "a.codes")
    assert (report.samples, report.channels, report.sample_rate) == (4_000, 1, 8_000)


def test_silence_has_codes_too(tmp_path: Path, make_loaded: MakeLoaded) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(4_000), 8_000)
    report = encode_file(make_loaded(prior=False), tmp_path / "silent.wav", tmp_path / "a.codes")
    assert (report.samples, report.frames, report.warnings) == (4_000, 63, ())


def test_what_is_encoded_otherwise_than_the_file_has_it_is_said(
    tmp_path: Path, make_loaded: MakeLoaded
) -> None:
    loaded = make_loaded(prior=False)
    path = tmp_path / "a.wav"
    tone_T = np.sin(np.arange(4_000))
    soundfile.write(path, np.stack([tone_T, -tone_T], axis=1), 8_000)
    report = encode_file(loaded, path, tmp_path / "a.codes")
    cancelled = f"{path}: its channels cancel when mixed to one: silence is left"
    assert report.to_json()["warnings"] == (cancelled,)
    soundfile.write(path, np.full(4_000, 2.0), 8_000, subtype="FLOAT")
    report = encode_file(loaded, path, tmp_path / "b.codes")
    assert report.warnings == (f"{path}: 4,000 samples beyond full scale are clipped",)


def pipe_mp3(path: Path, tone_T: np.ndarray) -> None:
    soundfile.write(path, tone_T, 8_000, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode="VARIABLE")
    content = path.read_bytes()
    frame = content.index(content[:2], 100)  # the first one counts the others
    path.write_bytes(content[frame:])


def chained_ogg(path: Path, tone_T: np.ndarray) -> None:
    parts = []
    for part_T in np.split(tone_T, 2):
        soundfile.write(path, part_T, 8_000, format="OGG", subtype="VORBIS")
        parts.append(path.read_bytes())
    path.write_bytes(b"".join(parts))


def pipe_flac(path: Path, tone_T: np.ndarray) -> None:
    soundfile.write(path, tone_T, 8_000, format="FLAC", subtype="PCM_16")
    content = bytearray(path.read_bytes())
    content[21:26] = bytes((content[21] & 0xF0, 0, 0, 0, 0))
    path.write_bytes(content)


def wav_of_length(length: int) -> Callable[[Path, np.ndarray], None]:
    def write(path: Path, tone_T: np.ndarray) -> None:
        soundfile.write(path, tone_T, 8_000, format="WAV")
        content = bytearray(path.read_bytes())
        content[40:44] = length.to_bytes(4, "little")
        path.write_bytes(content)

    return write


@pytest.mark.parametrize(
    "write",
    [pipe_mp3, chained_ogg, pipe_flac, *map(wav_of_length, (0, 0x7FFF_FFFF, 0xFFFF_FFFF))],
)
def test_files_as_other_programs_write_them_are_whole_for_encode_and_as_prompts(
    tmp_path: Path, make_loaded: MakeLoaded, write: Callable[[Path, np.ndarray], None]
) -> None:
    loaded = make_loaded()
    write(tmp_path / "a", 0.3 * np.sin(np.arange(16_000) / 9))
    report = encode_file(loaded, tmp_path / "a", tmp_path / "a.codes")
    assert report.seconds == pytest.approx(2.0, abs=0.2)  # without its first frame an MP3 has its padding
    made = generate_samples(loaded, seconds=2.5, prompt=tmp_path / "a", out_dir=tmp_path / "out")
    assert made.prompt_seconds == pytest.approx(report.seconds, abs=0.01)


def test_fewer_levels_make_a_coarser_file(
    tmp_path: Path, make_loaded: MakeLoaded, make_audio: MakeAudio
) -> None:
    loaded, audio = make_loaded(prior=False), make_audio(0.5)
    encode_file(loaded, audio, tmp_path / "all.codes")
    assert encode_file(loaded, audio, tmp_path / "one.codes", levels=1).kbps == pytest.approx(0.5)
    codes = load_codes(tmp_path / "one.codes").codes_QF
    assert torch.equal(codes, load_codes(tmp_path / "all.codes").codes_QF[:1])
    assert decode_file(loaded, tmp_path / "one.codes", tmp_path / "one.flac").levels == 1
    for levels in (0, 4):
        with pytest.raises(ConfigError, match=r"--levels: . is not from 1 to the model's 3"):
            encode_file(loaded, audio, tmp_path / "no.codes", levels=levels)


def test_codes_of_another_model_are_refused_unless_forced(
    tmp_path: Path, make_loaded: MakeLoaded, make_audio: MakeAudio
) -> None:
    own, other = make_loaded(prior=False), make_loaded(prior=False, seed=1)
    encode_file(own, make_audio(0.3), tmp_path / "a.codes")
    with pytest.raises(BundleError, match="made by another model"):
        decode_file(other, tmp_path / "a.codes", tmp_path / "b.wav")
    assert not (tmp_path / "b.wav").exists()
    assert decode_file(other, tmp_path / "a.codes", tmp_path / "b.wav", force=True).samples == 2_400


def test_what_cannot_be_encoded_or_named_is_said(
    tmp_path: Path, make_loaded: MakeLoaded, make_audio: MakeAudio
) -> None:
    loaded = make_loaded(prior=False)
    (tmp_path / "text.wav").write_text("no audio")
    reasons = {"text.wav": "it cannot be decoded", "missing.wav": "it does not exist", ".": "it is a folder"}
    for name, reason in reasons.items():
        path = tmp_path / name
        with pytest.raises(AudioError, match=f"cannot be used: {reason}") as caught:
            encode_file(loaded, path, tmp_path / "a.codes")
        assert str(path) in str(caught.value)
    encode_file(loaded, make_audio(0.3), tmp_path / "a.codes")
    with pytest.raises(AudioError, match="names no audio format"):
        decode_file(loaded, tmp_path / "a.codes", tmp_path / "b.txt")


def test_an_input_is_never_overwritten(
    tmp_path: Path, make_loaded: MakeLoaded, make_audio: MakeAudio
) -> None:
    loaded, audio = make_loaded(prior=False), make_audio(0.3)
    for path in (audio, loaded.path):
        before = path.read_bytes()
        with pytest.raises(UsageError, match="is read by this command"):
            encode_file(loaded, audio, path)
        assert path.read_bytes() == before
    codes = tmp_path / "codes.wav"
    encode_file(loaded, audio, codes)
    with pytest.raises(UsageError, match="is read by this command"):
        decode_file(loaded, codes, codes)


def test_an_output_that_cannot_be_written_is_said_before_the_work(
    tmp_path: Path, make_loaded: MakeLoaded, make_audio: MakeAudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, audio = make_loaded(prior=False), make_audio(0.3)
    codes = tmp_path / "made" / "here" / "a.codes"
    encode_file(loaded, audio, codes)
    (tmp_path / "folder.wav").mkdir()
    events: list[StageProgress] = []

    def refused(out: Path) -> set[str]:
        said = set()
        for work in (
            lambda: encode_file(loaded, audio, out, overwrite=True, on_progress=events.append),
            lambda: decode_file(loaded, codes, out, overwrite=True, on_progress=events.append),
        ):
            with pytest.raises(UsageError) as caught:
                work()
            said.add(str(caught.value).replace(str(tmp_path), "T"))
        return said

    assert refused(tmp_path / "folder.wav") == {
        "T/folder.wav is a folder and cannot be replaced; give the path of a file"
    }
    assert refused(audio / "no" / "b.wav") == {
        f"T/{audio.name}/no/b.wav cannot be written: T/{audio.name} is not a folder; choose another path"
    }
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    assert refused(tmp_path / "new" / "b.wav") == {
        "T/new/b.wav cannot be written: nothing can be put into T; choose another path"
    }
    assert events == []
    assert not (tmp_path / "new").exists()

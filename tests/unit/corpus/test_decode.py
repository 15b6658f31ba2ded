from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill_ray.corpus import decode
from distill_ray.corpus.decode import AudioDecoder, load_audio, probe
from distill_ray.errors import AudioError

RATE = 8_000


def decoded(path: Path, rate: int = RATE, channels: int = 1) -> tuple[np.ndarray, AudioDecoder]:
    decoder = AudioDecoder(path, sample_rate=rate, channels=channels)
    return np.concatenate(list(decoder.blocks()), axis=1), decoder


def reason(path: Path) -> str:
    with pytest.raises(AudioError) as caught:
        decoded(path)
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff"])
def test_int16_sources_are_kept_bit_for_bit(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pcm_T = np.random.default_rng(0).integers(-32_768, 32_768, 5_000).astype(np.int16)
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, pcm_T, RATE, subtype="PCM_16")
    monkeypatch.setattr(decode, "BLOCK_VALUES", 999)
    out_CT, decoder = decoded(path)
    np.testing.assert_array_equal(out_CT[0], pcm_T)
    assert (decoder.samples, decoder.clipped, decoder.source_rate) == (5_000, 0, RATE)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.ogg", {"format": "OGG", "subtype": "VORBIS"}),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
        ("a.mp3", {"format": "MP3", "subtype": "MPEG_LAYER_III"}),
    ],
)
def test_lossy_formats_decode_in_blocks_as_they_do_whole(
    write_tone: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, str]
) -> None:
    path = write_tone(name, 1.0, channels=2, **options)
    whole_TC, rate = soundfile.read(path, dtype="float32")
    monkeypatch.setattr(decode, "BLOCK_VALUES", 3_001)
    out_CT, _ = decoded(path, rate, 2)
    np.testing.assert_allclose(out_CT.T, np.rint(whole_TC * 32_768), atol=1)  # mpg123 differs by an ulp


def test_channels_are_mixed_or_doubled(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.tile([[0.5, 0.25, -0.75]], (100, 1)), RATE, subtype="FLOAT")
    assert load_audio(path, sample_rate=RATE, channels=2)[:, 0].tolist() == [16_384, 8_192]
    assert not decoded(path)[0].any()
    soundfile.write(path, np.tile([[0.5, 0.25]], (100, 1)), RATE, subtype="FLOAT")
    assert decoded(path)[0][0, 0] == 12_288
    soundfile.write(path, np.full(100, -0.5), RATE)
    assert decoded(path, channels=2)[0][:, 0].tolist() == [-16_384, -16_384]


def unheard(path: Path, frame: list[float], channels: int) -> str:
    soundfile.write(path, np.tile([frame], (70_000, 1)), RATE, subtype="FLOAT")
    _, decoder = decoded(path, channels=channels)
    with pytest.raises(AudioError) as caught:
        decoder.check_loud()
    return str(caught.value)


def test_silence_of_the_mixing_is_told_from_silence(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    assert unheard(path, [0.5, -0.5], 1) == ("its channels cancel when mixed to one; --channels 2 keeps two")
    assert unheard(path, [0.0, 0.0, 0.5, -0.5], 1) == (
        "its channels cancel when mixed to one; convert it to the channels to be used"
    )
    assert unheard(path, [0.0, 0.0, 0.5], 2) == (
        "its first two channels are silent, and others are not used; --channels 1 mixes all"
    )
    for channels in (1, 2):
        assert unheard(path, [0.0, 0.0, 0.0], channels) == "it is silent: no sample reaches -80 dBFS"
    for frame, channels in (([0.5, -0.5], 2), ([0.0, 0.0, 0.5], 1), ([0.0, 0.5], 2)):
        soundfile.write(path, np.tile([frame], (100, 1)), RATE, subtype="FLOAT")
        decoded(path, channels=channels)[1].check_loud()


def test_a_peak_of_a_channel_counts_wherever_it_is(tmp_path: Path) -> None:
    signal_TC = np.zeros((200_000, 2))
    signal_TC[10] = [0.5, -0.5]
    soundfile.write(tmp_path / "a.wav", signal_TC, RATE, subtype="FLOAT")
    _, decoder = decoded(tmp_path / "a.wav")
    with pytest.raises(AudioError, match="its channels cancel"):
        decoder.check_loud()


def test_resampled_length_and_clipping(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.concatenate([np.full(10, 1.5), np.full(90, 0.1)]), RATE, subtype="FLOAT")
    out_CT, decoder = decoded(path)
    assert decoder.clipped == 10
    assert out_CT.max() == 32_767
    assert decoded(path, 11_025)[0].shape == (1, 138)  # ceil(100 * 11025 / 8000)


def test_full_scale_is_not_counted_as_clipped(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.tile([1.0, -1.0], 50), RATE, subtype="FLOAT")
    out_CT, decoder = decoded(path)
    assert (out_CT.max(), out_CT.min(), decoder.clipped) == (32_767, -32_768, 0)


def test_text_named_wav_is_undecodable(tmp_path: Path) -> None:
    path = tmp_path / "pointer.wav"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "cannot be decoded: it is no audio file, or a damaged one" in reason(path)
    assert probe(path).rate == 0


def test_empty_and_silent_files(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"")
    assert "it is empty: it holds no bytes" in reason(path)
    soundfile.write(path, np.zeros(0), RATE)
    assert "it is empty" in reason(path)
    soundfile.write(path, np.full(1_000, 0.9e-4), RATE, subtype="FLOAT")
    quiet_CT, decoder = decoded(path)
    assert quiet_CT.max() == 3
    with pytest.raises(AudioError, match="it is silent: no sample reaches -80 dBFS"):
        decoder.check_loud()
    soundfile.write(path, np.full(1_000, 1.1e-4), RATE, subtype="FLOAT")
    loud_CT, decoder = decoded(path)
    assert loud_CT.max() == 4
    decoder.check_loud()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(tmp_path: Path, bad: float) -> None:
    signal_T = np.full(RATE, 0.1)
    signal_T[-1] = bad
    soundfile.write(tmp_path / "a.wav", signal_T, RATE, subtype="FLOAT")
    assert "NaN or infinite" in reason(tmp_path / "a.wav")


@pytest.mark.parametrize("name", ["a.wav", "a.aiff"])
def test_a_file_cut_off_is_found_by_its_header(write_tone: Callable[..., Path], name: str) -> None:
    path = write_tone(name)
    path.write_bytes(path.read_bytes()[:4_000])
    assert "cut off: its header declares" in reason(path)


def test_a_cut_off_mp3_and_flac(write_tone: Callable[..., Path]) -> None:
    path = write_tone("a.mp3", 3.0, format="MP3", subtype="MPEG_LAYER_III")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    # Padding of the first and last frame counts: 44 frames of 576.
    assert "its header declares 25344 samples and only" in reason(path)
    path = write_tone("a.flac", 3.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "cannot be decoded" in reason(path)


def patched_wav(path: Path, offset: int, value: int) -> Path:
    content = bytearray(path.read_bytes())
    content[offset : offset + 4] = struct.pack("<I", value)
    path.write_bytes(content)
    return path


def test_lying_wav_headers(write_tone: Callable[..., Path]) -> None:
    # In a canonical WAV the sample rate is at byte 24 and the length of the data at 40.
    assert "its header declares 99999 bytes" in reason(patched_wav(write_tone("a.wav"), 40, 99_999))
    # A recorder that crashed leaves no length; the sound behind it is there.
    assert decoded(patched_wav(write_tone("a.wav"), 40, 0))[1].samples == 4_000
    assert "absurd sample rate of 2000000000 Hz" in reason(
        patched_wav(write_tone("a.wav"), 24, 2_000_000_000)
    )
    # ffmpeg writes this length into a pipe: it says "unknown" and is no lie.
    assert decoded(patched_wav(write_tone("a.wav"), 40, 0xFFFF_FFFF))[1].samples == 4_000


def test_load_audio_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"gone\.wav cannot be used: it does not exist"):
        load_audio(tmp_path / "gone.wav", sample_rate=RATE, channels=1)


def test_a_missing_file_and_a_folder_are_called_so(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "no.wav", "it does not exist"), (tmp_path, "it is a folder")):
        with pytest.raises(AudioError, match=f"^{reason}"):
            list(AudioDecoder(path, sample_rate=8_000, channels=1).blocks())

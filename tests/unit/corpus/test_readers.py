"""Files as other programs write them: they are read whole, or refused with a reason."""

from __future__ import annotations

import contextlib
import io
import math
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from distill_ray.corpus.decode import AudioDecoder, probe
from distill_ray.errors import AudioError

RATE = 44_100
WriteTone = Callable[..., Path]


def decoded(path: Path, channels: int = 1) -> tuple[np.ndarray, AudioDecoder]:
    decoder = AudioDecoder(path, sample_rate=RATE, channels=channels)
    return np.concatenate(list(decoder.blocks()), axis=1), decoder


def seconds(path: Path) -> float:
    return decoded(path)[0].shape[1] / RATE


def reason(path: Path) -> str:
    with pytest.raises(AudioError) as caught:
        decoded(path)
    return str(caught.value)


def sound(length: float, quiet: float = 0.0) -> np.ndarray:
    """`quiet` seconds of silence, then a falling tone in noise."""
    random = np.random.default_rng(0)
    time = np.arange(int(length * RATE)) / RATE
    loud = 0.3 * np.sin(2 * np.pi * (900 - 30 * time) * time) + 0.05 * random.standard_normal(len(time))
    return np.concatenate((np.zeros(int(quiet * RATE)), loud)).astype(np.float32)


def mp3(path: Path, signal_T: np.ndarray, *, tag: bool) -> Path:
    """A variable-rate MP3; without `tag` it lacks the frame that counts the others, as from a pipe."""
    soundfile.write(
        path,
        signal_T,
        RATE,
        format="MP3",
        subtype="MPEG_LAYER_III",
        bitrate_mode="VARIABLE",
        compression_level=0.5,
    )
    content = path.read_bytes()
    if not tag:
        second = next(
            at
            for at in range(100, len(content))
            if content[at] == 0xFF
            and content[at + 1] == content[1]
            and content[at + 3] >> 6 == content[3] >> 6
        )
        assert b"Xing" in content[:second] or b"Info" in content[:second]
        path.write_bytes(content[second:])
    return path


@pytest.mark.parametrize(("length", "quiet"), [(20.0, 0.0), (20.0, 2.0)])
def test_mp3_written_to_a_pipe_is_read_whole(tmp_path: Path, length: float, quiet: float) -> None:
    path = mp3(tmp_path / "a.mp3", sound(length, quiet), tag=False)
    assert soundfile.info(path).duration != pytest.approx(length + quiet, abs=0.1)  # what there was to mend
    assert seconds(path) == pytest.approx(length + quiet, abs=0.06)


def test_mp3_with_a_tag_is_exact_and_after_an_id3_tag_too(tmp_path: Path) -> None:
    signal_T = sound(3.0)
    path = mp3(tmp_path / "a.mp3", signal_T, tag=True)
    out_CT, _ = decoded(path)
    assert out_CT.shape == (1, len(signal_T))
    assert np.corrcoef(out_CT[0], signal_T)[0, 1] > 0.95
    picture = b"ID3\x04\0\0" + bytes([0, 0, 8, 0]) + bytes(1024)
    (tmp_path / "b.mp3").write_bytes(picture + path.read_bytes())
    np.testing.assert_array_equal(decoded(tmp_path / "b.mp3")[0], out_CT)


def damaged_mp3() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound(1.0), RATE, format="MP3", subtype="MPEG_LAYER_III")
    return file.getvalue()[:3_000] + bytes(range(256)) * 4 + file.getvalue()[4_024:]


def in_wav(stream: bytes) -> bytes:
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE, 8_000, 1, 0, 12, 1, 2, 208, 1, 0)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(stream)) + stream
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WAVE" + chunks


@pytest.mark.parametrize("kind", ["begins inside a frame", "has a bad tag", "is in a WAV", "is text"])
def test_no_library_complains_on_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    """libmpg123 writes what it finds damaged into the progress bar."""
    path = tmp_path / ("a.wav" if kind == "is in a WAV" else "a.mp3")
    path.write_bytes(
        {
            "begins inside a frame": damaged_mp3()[300:],
            "has a bad tag": b"ID3\x04\0\0" + bytes([0, 0, 0, 0xE0]) + damaged_mp3(),
            "is in a WAV": in_wav(damaged_mp3()),
            "is text": b"These are notes, and no sound.\n" * 100,
        }[kind]
    )
    probe(path)
    with contextlib.suppress(AudioError):
        assert decoded(path)[0].shape[1] > 0.8 * RATE
    assert capfd.readouterr() == ("", "")


def test_joined_mp3_and_chained_ogg_are_read_to_the_end(tmp_path: Path) -> None:
    for name, options in (
        ("a.ogg", {"format": "OGG", "subtype": "VORBIS"}),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
        ("a.mp3", {"format": "MP3", "subtype": "MPEG_LAYER_III"}),
    ):
        parts = []
        for length in (3.0, 5.0):
            rate = 48_000 if name.endswith("opus") else RATE
            soundfile.write(tmp_path / name, sound(length)[: int(length * rate)], rate, **options)
            parts.append((tmp_path / name).read_bytes())
        single = seconds(tmp_path / name)
        (tmp_path / name).write_bytes(b"".join(parts))
        assert seconds(tmp_path / name) == pytest.approx(single + 3.0 * (single / 5.0), abs=0.15)


def test_a_chain_of_two_rates_is_refused_by_name(tmp_path: Path) -> None:
    content = b""
    for rate in (RATE, 22_050):
        soundfile.write(tmp_path / "a.ogg", sound(1.0), rate, format="OGG", subtype="VORBIS")
        content += (tmp_path / "a.ogg").read_bytes()
    (tmp_path / "a.ogg").write_bytes(content)
    assert "its rate or channels change after 1." in reason(tmp_path / "a.ogg")


def test_flac_of_unknown_length(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    signal_T = sound(2.0)
    soundfile.write(path, signal_T, RATE, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # STREAMINFO: 36 bits of total samples
    content[22:26] = bytes(4)
    path.write_bytes(content)
    np.testing.assert_array_equal(decoded(path)[0][0], np.rint(signal_T * 32_768).clip(-32_768, 32_767))


@pytest.mark.parametrize("length", [0x7FFF_F000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0x7FFF_FFDB])
def test_lengths_that_mean_unknown(tmp_path: Path, length: int) -> None:
    soundfile.write(tmp_path / "a.wav", sound(1.0), RATE)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", length)
    (tmp_path / "a.wav").write_bytes(content)
    assert seconds(tmp_path / "a.wav") == 1.0
    soundfile.write(tmp_path / "a.aiff", sound(1.0), RATE)
    content = bytearray((tmp_path / "a.aiff").read_bytes())
    at = content.index(b"SSND") + 4
    content[at : at + 4] = struct.pack(">I", length)
    (tmp_path / "a.aiff").write_bytes(content)
    assert seconds(tmp_path / "a.aiff") == 1.0


@pytest.mark.parametrize(("channels", "bits"), [(1, 16), (2, 24)])
def test_an_aiff_that_sox_wrote_to_a_pipe(tmp_path: Path, channels: int, bits: int) -> None:
    """As sox 14.4 writes it: 0x7F000000 bytes of audio, rounded down to whole frames."""
    width = channels * bits // 8
    frames = 0x7F00_0000 // width
    pcm_TC = np.rint(sound(1.0) * (1 << bits - 1)).astype(">i4")[:, None].repeat(channels, 1)
    audio = pcm_TC.view(np.uint8).reshape(RATE, channels, 4)[:, :, 4 - bits // 8 :].tobytes()
    comment = b"COMT" + struct.pack(">IHIHH", 26, 1, 0xE733_0201, 0, 16) + b"Processed by SoX"
    common = (
        b"COMM" + struct.pack(">IhIh", 18, channels, frames, bits) + bytes.fromhex("400eac44000000000000")
    )
    body = b"AIFF" + comment + common + b"SSND" + struct.pack(">III", frames * width + 8, 0, 0)
    path = tmp_path / "a.aiff"
    path.write_bytes(b"FORM" + struct.pack(">I", 0x7F00_0050) + body + audio)
    out_CT, _ = decoded(path, channels)
    np.testing.assert_allclose(out_CT[0], np.rint(sound(1.0) * 32_768), atol=1)


def test_a_recorder_that_crashed_leaves_its_sound(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sound(5.0), RATE)
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = bytes(4)
    path.write_bytes(content)
    out_CT, decoder = decoded(path)
    assert out_CT.shape == (1, 5 * RATE)
    assert decoder.altered() == ("its header says that it is empty; it was decoded to its end",)


def test_floats_at_the_scale_of_int16_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    for scale in (32_768.0, 1e34, 1e300):
        soundfile.write(path, sound(1.0).astype(np.float64) * scale, RATE, subtype="DOUBLE")
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of numpy
            assert ("divide them by 32768" if scale < 1e39 else "infinite") in reason(path)
    soundfile.write(path, sound(1.0) * 4, RATE, subtype="FLOAT")
    assert decoded(path)[1].clipped > 0


def encoded(path: Path, codec: str, *, picture: bool = False) -> Path:
    with av.open(str(path), "w") as container:
        if picture:
            video = container.add_stream("mpeg4", rate=10)
            video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        stream = container.add_stream(codec, rate=48_000 if codec == "libopus" else RATE)
        stream.layout, stream.bit_rate = "mono", 64_000
        if picture:
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            container.mux(video.encode(frame))
        audio = av.AudioFrame.from_ndarray(sound(2.0)[None], format="fltp", layout="mono")
        audio.rate = RATE
        for part in av.AudioResampler(format=stream.format, layout="mono", rate=stream.rate).resample(audio):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
        if picture:
            container.mux(video.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec"), [("a.m4a", "aac"), ("a.aac", "aac"), ("a.wma", "wmav2"), ("a.webm", "libopus")]
)
def test_formats_that_only_ffmpeg_reads(tmp_path: Path, name: str, codec: str) -> None:
    path = encoded(tmp_path / name, codec)
    out_CT, _ = decoded(path)
    assert out_CT.shape[1] / RATE == pytest.approx(2.0, abs=0.12)
    level = math.sqrt(float(np.mean((out_CT[0, 4_000:80_000] / 32_768) ** 2)))
    assert level == pytest.approx(math.sqrt(float(np.mean(sound(2.0) ** 2))), rel=0.1)
    assert probe(path).seconds == pytest.approx(2.0, abs=0.2)


def test_the_sound_of_a_video(tmp_path: Path) -> None:
    assert seconds(encoded(tmp_path / "a.mp4", "aac", picture=True)) == pytest.approx(2.0, abs=0.12)


def test_an_m4a_that_is_cut_off(tmp_path: Path) -> None:
    path = encoded(tmp_path / "a.m4a", "aac")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "it cannot be decoded" in reason(path)


def test_an_m4a_of_an_unknown_codec(tmp_path: Path) -> None:
    path = encoded(tmp_path / "a.m4a", "aac")
    path.write_bytes(path.read_bytes().replace(b"mp4a", b"zzzz").replace(b"esds", b"free"))
    assert "it cannot be decoded" in reason(path)
    assert probe(path).seconds == 0


def test_playlists_open_nothing(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "secret.wav", sound(1.0), RATE)
    for content in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile {tmp_path}/secret.wav\n",
    ):
        (tmp_path / "a.wav").write_text(content)
        assert "it cannot be decoded" in reason(tmp_path / "a.wav")


def test_no_bytes_are_called_empty(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    assert reason(tmp_path / "a.wav") == "it is empty: it holds no bytes"

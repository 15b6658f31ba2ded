from __future__ import annotations

import hashlib
import os
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from distill_ray.corpus.decode import load_audio
from distill_ray.corpus.scan import AUDIO_SUFFIXES, UNREADABLE_SUFFIXES, find_audio, hash_file
from distill_ray.errors import AudioError, CorpusError

WRITTEN_AS = {
    **dict.fromkeys([".wav", ".wave", ".bwf"], ("WAV", "PCM_16")),
    **dict.fromkeys([".aif", ".aiff", ".aifc"], ("AIFF", "PCM_16")),
    **dict.fromkeys([".ogg", ".oga"], ("OGG", "VORBIS")),
    **dict.fromkeys([".nist", ".sph"], ("NIST", "PCM_16")),
    **dict.fromkeys([".svx", ".8svx"], ("SVX", "PCM_16")),
    ".opus": ("OGG", "OPUS"),
    ".flac": ("FLAC", "PCM_16"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".rf64": ("RF64", "PCM_16"),
    ".w64": ("W64", "PCM_24"),
    ".caf": ("CAF", "ALAC_16"),
    ".au": ("AU", "PCM_16"),
    ".snd": ("MPC2K", "PCM_16"),
    ".voc": ("VOC", "PCM_16"),
    ".avr": ("AVR", "PCM_16"),
    ".wve": ("WVE", "ALAW"),
    ".ircam": ("IRCAM", "PCM_16"),
    ".pvf": ("PVF", "PCM_16"),
}
ENCODED_AS = {
    **dict.fromkeys([".m4a", ".m4b", ".aac", ".mp4", ".m4v", ".mov"], "aac"),
    **dict.fromkeys([".weba", ".webm"], "libopus"),
    **dict.fromkeys([".mka", ".mkv"], "ac3"),
    ".wma": "wmav2",
    ".wv": "wavpack",
    ".tta": "tta",
    ".ac3": "ac3",
    ".eac3": "eac3",
}
MUXED_AS = {".m4b": "mp4", ".m4v": "mp4", ".aac": "adts", ".weba": "webm"}
LOSSY = {"VORBIS": 0.2, "OPUS": 0.2, "MPEG_LAYER_III": 0.2, "ALAW": 0.02}


@pytest.mark.parametrize("suffix", sorted(AUDIO_SUFFIXES - {".mp2"} - set(ENCODED_AS)))
def test_what_has_an_accepted_suffix_decodes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix.upper()}"
    kind, subtype = WRITTEN_AS[suffix]
    tone_T = 0.3 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 8_000)
    soundfile.write(path, tone_T, 8_000, format=kind, subtype=subtype)
    (file,) = find_audio([tmp_path]).files
    out_T = load_audio(file.path, sample_rate=8_000, channels=1)[0].numpy() / 32_768
    assert len(out_T) == 16_000
    assert np.abs(out_T - tone_T)[1_000:15_000].max() < LOSSY.get(subtype, 1e-4)


@pytest.mark.parametrize("suffix", sorted(ENCODED_AS))
def test_what_ffmpeg_reads_by_its_suffix_decodes(tmp_path: Path, suffix: str) -> None:
    rate = 48_000
    tone_T = (0.3 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate)).astype(np.float32)
    with av.open(str(tmp_path / f"a{suffix.upper()}"), "w", format=MUXED_AS.get(suffix)) as container:
        stream = container.add_stream(ENCODED_AS[suffix], rate=rate)
        stream.layout, stream.bit_rate = "mono", 96_000
        frame = av.AudioFrame.from_ndarray(tone_T[None], format="fltp", layout="mono")
        frame.rate = rate
        for part in av.AudioResampler(format=stream.format, layout="mono", rate=rate).resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    (file,) = find_audio([tmp_path]).files
    out_T = load_audio(file.path, sample_rate=rate, channels=1)[0].numpy() / 32_768
    assert len(out_T) == pytest.approx(2 * rate, abs=0.1 * rate)
    spectrum_F = np.abs(np.fft.rfft(out_T[rate // 2 : rate // 2 + rate]))
    assert spectrum_F.argmax() == 440
    assert np.abs(out_T[rate // 2 : -rate // 2]).max() == pytest.approx(0.3, rel=0.15)


def test_mpeg_layer_2_decodes(tmp_path: Path) -> None:
    # libsndfile cannot write it. No bits are allocated in these frames of 24 ms, which so are silence.
    header = bytes([0xFF, 0xFD, 0x44, 0xC0])
    (tmp_path / "a.mp2").write_bytes((header + bytes(188)) * 40)
    (file,) = find_audio([tmp_path]).files
    assert load_audio(file.path, sample_rate=48_000, channels=1).shape == (1, 40 * 1_152)


def test_recordings_that_cannot_be_read_are_said_and_other_files_are_not(tmp_path: Path) -> None:
    for name in ["a.wav", "b.M4P", "c/d.sd2", "e.txt", "f.jpg", "g.pdf", "h", ".i.m4p", "j.midi"]:
        touch(tmp_path / name)
    (tmp_path / "again.m4p").symlink_to(tmp_path / "b.M4P")
    scan = find_audio([tmp_path, tmp_path / "c"])
    assert [file.path.name for file in scan.files] == ["a.wav"]
    assert {bad.path: bad.reason for bad in scan.unreadable} == {
        str(tmp_path / "again.m4p"): "its format (.m4p) cannot be read; convert it to flac or wav",
        str(tmp_path / "c/d.sd2"): "its format (.sd2) cannot be read; convert it to flac or wav",
    }
    assert len(scan.unreadable) == 2
    assert not AUDIO_SUFFIXES & UNREADABLE_SUFFIXES


def test_a_recording_that_is_named_itself_is_tried(tmp_path: Path) -> None:
    path = touch(tmp_path / "a.m4p")
    scan = find_audio([tmp_path, path])
    assert [file.path for file in scan.files] == [path]
    assert scan.unreadable == ()


def test_a_source_that_gives_nothing_is_said_beside_others(tmp_path: Path) -> None:
    touch(tmp_path / "full" / "a.wav")
    touch(tmp_path / "empty" / "notes.txt")
    touch(tmp_path / "corpus" / "distill-corpus.json")
    scan = find_audio([tmp_path / name for name in ("full", "empty", "corpus")])
    assert {Path(bad.path).name: bad.reason for bad in scan.unreadable} == {
        "empty": "no recording is in it",
        "corpus": "it is a prepared corpus; name the recordings that it was made of",
    }
    assert find_audio([tmp_path / "empty"]).unreadable == ()


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def test_finds_every_format_recursively_and_sorted(tmp_path: Path) -> None:
    names = ["b/z.FLAC", "a.wav", "b/c/d.aif", "b/e.aiff", "f.ogg", "g.oga", "h.opus", "i.mp3", "j.WAVE"]
    for name in [*names, "notes.txt", ".hidden.wav", ".cache/k.wav", "b/.git/l.wav"]:
        touch(tmp_path / name)
    found = [str(file.path.relative_to(tmp_path)) for file in find_audio([tmp_path]).files]
    assert found == sorted(names)


def test_links_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "a.wav")
    touch(tmp_path / "elsewhere" / "b.wav")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "same.wav").symlink_to(tmp_path / "in" / "a.wav")
    scan = find_audio([tmp_path / "in", tmp_path / "in" / "a.wav"])
    assert [file.path.name for file in scan.files] == ["a.wav", "b.wav"]


def test_a_named_file_is_taken_whatever_its_suffix(tmp_path: Path) -> None:
    path = touch(tmp_path / "recording.bin")
    assert [file.path for file in find_audio([path]).files] == [path]


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"nowhere does not exist"):
        find_audio([tmp_path / "nowhere"])
    with pytest.raises(CorpusError, match="no source"):
        find_audio([])


def test_a_source_may_be_a_uri_of_this_machine(tmp_path: Path) -> None:
    path = touch(tmp_path / "in here" / "a.wav")
    (file,) = find_audio([f"file://{tmp_path}/in%20here"]).files
    assert file.path == path
    with pytest.raises(
        CorpusError, match=r"s3://bucket/in is not on this machine, .*; copy them to a folder"
    ):
        find_audio(["s3://bucket/in"])
    with pytest.raises(CorpusError, match=r"^s3://\*\*\*@bucket/in is not"):
        find_audio(["s3://key:secret@bucket/in"])


def test_undecodable_names_become_printable(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    path.write_bytes(b"x")
    (file,) = find_audio([tmp_path]).files
    assert file.path == path
    assert file.shown == f"{tmp_path}/caf\\xe9.wav"


def test_hash_is_of_the_bytes_and_pipes_do_not_block(tmp_path: Path) -> None:
    path = touch(tmp_path / "a.wav")
    assert hash_file(path) == hashlib.sha256(b"x").hexdigest()
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(AudioError, match="not a regular file"):
        hash_file(tmp_path / "pipe.wav")
    with pytest.raises(AudioError, match="No such file"):
        hash_file(tmp_path / "gone.wav")


@pytest.mark.parametrize(
    "known_by", [".distill-ray", "distill-corpus.json", "run.toml", "sweep.toml", "pipeline.json"]
)
def test_what_we_wrote_is_no_recording_unless_it_is_named(tmp_path: Path, known_by: str) -> None:
    touch(tmp_path / "bird.wav")
    touch(tmp_path / "out" / known_by)
    touch(tmp_path / "out" / "samples" / "sample_s0_000.wav")
    scan = find_audio([tmp_path])
    assert [file.path.name for file in scan.files] == ["bird.wav"]
    (ours,) = scan.unreadable
    assert ours.path == str(tmp_path / "out")
    assert ours.reason.startswith("distill-ray wrote what is in it")
    assert len(find_audio([tmp_path / "out" / "samples"]).files) == 1


def test_files_are_labelled_by_their_folders(tmp_path: Path) -> None:
    for name in ("kit/kicks/a.wav", "kit/kicks/soft/b.wav", "kit/c.wav", "field/d.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def labels(*sources: str) -> dict[str, str]:
        found = find_audio([tmp_path / source for source in sources]).files
        return {file.path.name: file.label for file in found}

    assert labels("kit") == {"a.wav": "kicks", "b.wav": "kicks", "c.wav": ""}
    assert labels("kit", "field") == {"a.wav": "kicks", "b.wav": "kicks", "c.wav": "kit", "d.wav": "field"}
    assert labels("kit/c.wav", "field") == {"c.wav": "", "d.wav": "field"}

"""What becomes of the sounds that a training sends."""

from __future__ import annotations

import importlib.util
import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from distill_ray.bundle import LoadedVQModel, load_model_v2, save_model_v2
from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.events.records import AudioSample, Event, Notice, RunStarted
from distill_ray.runs import samples
from distill_ray.runs.samples import SampleKeeper
from distill_ray.training.samples import flac
from distill_ray.vqvae import VQVAE

RATE = 8_000
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


@pytest.fixture
def codec(tmp_path: Path) -> LoadedVQModel:
    torch.manual_seed(0)
    path = save_model_v2(tmp_path / "codec.distill", VQVAE(CODEC), metadata={}, codebook_health=())
    return load_model_v2(path)


def sample(**changes: object) -> AudioSample:
    time_T = torch.arange(RATE) / RATE
    values: dict[str, object] = {
        "kind": "decoded",
        "file": "decoded-e00001-0.flac",
        "index": 0,
        "epoch": 1,
        "step": 10,
        "content": flac(0.5 * torch.sin(2 * torch.pi * 440 * time_T)[None], RATE),
    }
    return AudioSample(**{**values, **changes})  # type: ignore[arg-type]


def started(first_epoch: int) -> RunStarted:
    return RunStarted(
        kind="vqvae",
        name="run",
        output_dir="",
        device="cpu",
        world_size=1,
        parameters=1,
        epochs=1,
        max_minutes=None,
        steps_per_epoch=1,
        train_files=1,
        train_seconds=1.0,
        val_files=1,
        val_seconds=1.0,
        first_epoch=first_epoch,
    )


def test_a_sound_becomes_a_file_and_the_listener_hears_of_it(tmp_path: Path) -> None:
    heard: list[Event] = []
    notice = Notice(level="info", message="something else")
    with SampleKeeper(heard.append, tmp_path) as keeper:
        keeper(notice)
        keeper(sample())
    assert heard == [notice, sample(content="")]
    audio_TC, rate = soundfile.read(tmp_path / "samples" / "decoded-e00001-0.flac")
    assert (rate, len(audio_TC)) == (RATE, RATE)
    assert np.abs(audio_TC).max() == pytest.approx(0.5, abs=1e-3)


def test_codes_are_decoded_by_the_codec(tmp_path: Path, codec: LoadedVQModel) -> None:
    heard: list[Event] = []
    codes = ((1, 2, 3, 4), (5, 6, 7, 8))
    with SampleKeeper(heard.append, tmp_path, codec=codec) as keeper:
        keeper(sample(kind="generated", file="generated-e00001-0.flac", content="", codes=codes))
    assert [event.codes for event in heard if isinstance(event, AudioSample)] == [()]
    expected_CT = codec.model.decode(torch.tensor(codes)[None])[0]
    audio_TC, _ = soundfile.read(tmp_path / "samples" / "generated-e00001-0.flac", always_2d=True)
    np.testing.assert_allclose(audio_TC.T, expected_CT.numpy(), atol=1 / 32768)


@pytest.mark.parametrize("name", ["../escape.flac", "/tmp/x.flac", "a.wav", ".flac", "A.flac", "a/b.flac"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    heard: list[Event] = []
    with SampleKeeper(heard.append, tmp_path / "run") as keeper:
        keeper(sample(file=name))
    assert [type(event) for event in heard] == [Notice]
    assert list(tmp_path.rglob("*.flac")) == []


def test_a_folder_that_cannot_be_written_ends_the_keeping_and_nothing_else(tmp_path: Path) -> None:
    heard: list[Event] = []
    (tmp_path / "samples").write_text("in the way")
    with SampleKeeper(heard.append, tmp_path) as keeper:
        keeper(sample())
        keeper(sample(file="decoded-e00002-0.flac"))
        keeper(started(1))
    assert [type(event) for event in heard] == [Notice, RunStarted]
    assert isinstance(heard[0], Notice)
    assert heard[0].level == "warning"
    assert heard[0].message.startswith("the sounds of this run are no longer kept:")


def test_a_new_run_removes_the_sounds_of_the_one_whose_place_it_takes(tmp_path: Path) -> None:
    with SampleKeeper(lambda event: None, tmp_path) as keeper:
        keeper(sample())
        foreign = tmp_path / "samples" / "My Song.flac"
        foreign.write_bytes(b"of the user")
        keeper(started(3))
        assert (tmp_path / "samples" / "decoded-e00001-0.flac").exists()  # a resumed one keeps them
        keeper(started(1))
    assert [path.name for path in (tmp_path / "samples").iterdir()] == [foreign.name]


@pytest.mark.skipif(importlib.util.find_spec("tensorboardX") is None, reason="tensorboardX is not installed")
def test_tensorboard_takes_next_to_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(samples.time, "monotonic", lambda: now[0])
    written: list[str] = []

    def write(media: object, sample: AudioSample, content: bytes) -> None:
        written.append(sample.file)
        now[0] += 1.0  # it takes a second

    monkeypatch.setattr(samples._Media, "_write", write)
    with SampleKeeper(lambda event: None, tmp_path) as keeper:
        for number in range(990):
            keeper(sample(file=f"decoded-e00001-{number}.flac"))
            now[0] += 1.0
    assert len(written) == 5  # half a percent of a thousand seconds


@pytest.mark.skipif(importlib.util.find_spec("tensorboardX") is None, reason="tensorboardX is not installed")
def test_tensorboard_gets_the_sound_and_its_spectrogram(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event as Written

    with SampleKeeper(lambda event: None, tmp_path) as keeper:
        keeper(sample())
    (path,) = (tmp_path / "tensorboard" / "samples").iterdir()
    values = {}
    for record in _records(path.read_bytes()):
        written = Written()
        written.ParseFromString(record)
        for value in written.summary.value:
            values[value.tag] = (written.step, value)
    assert set(values) == {"decoded/0", "decoded/0/spectrogram"}
    step, sound = values["decoded/0"]
    assert step == 10
    assert (sound.audio.sample_rate, sound.audio.length_frames) == (RATE, RATE)
    audio_T, _ = soundfile.read(io.BytesIO(sound.audio.encoded_audio_string))
    assert np.abs(audio_T).max() == pytest.approx(0.5, abs=1e-3)
    picture = values["decoded/0/spectrogram"][1].image
    assert picture.encoded_image_string.startswith(b"\x89PNG")
    assert picture.height == 224


def _records(content: bytes) -> list[bytes]:
    """Of a TFRecord file: length, its checksum, data, its checksum."""
    found, place = [], 0
    while place < len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        found.append(content[place + 12 : place + 12 + length])
        place += length + 16
    return found


def test_events_of_samples_survive_their_way_through_json() -> None:
    from distill_ray.events.records import from_record, to_record

    event = sample(codes=((1, 2), (3, 4)))
    assert from_record(to_record(event)) == event

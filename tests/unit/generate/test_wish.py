from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import distill_ray
from distill_ray.bundle import LoadedVQModel
from distill_ray.errors import BundleError, UsageError
from distill_ray.generate import generate_samples, generate_stream
from distill_ray.generate.wish import Wish, followed, parse_like
from distill_ray.prior import Controls

MakeLoaded = Callable[..., LoadedVQModel]
RATE = 8_000
CONTROLS = Controls(
    labels=("kicks", "snares"),
    scales={
        "loudness": tuple(-50.0 + 2 * number for number in range(21)),
        "brightness": tuple(8.0 + number / 10 for number in range(21)),
        "density": None,
    },
)


def test_wishes_are_parsed() -> None:
    assert parse_like(["brightness=+1", "loudness=-0.5"]) == {"brightness": 1.0, "loudness": -0.5}
    for text in ("brightness", "brightness=", "=1", "brightness=high", "Brightness=1", "brightness=1e3"):
        with pytest.raises(UsageError, match="is not a control and standard deviations"):
            parse_like([text])
    with pytest.raises(UsageError, match="asks for loudness twice"):
        parse_like(["loudness=1", "loudness=2"])


def test_what_is_asked_for_changes_the_sound_and_what_became_of_it_is_told(
    tmp_path: Path, make_loaded: MakeLoaded
) -> None:
    loaded = make_loaded(controls=CONTROLS)

    def made(name: str, wish: Wish | None) -> bytes:
        report = generate_samples(loaded, seconds=1.5, wish=wish, out_dir=tmp_path / name)
        return Path(report.files[0]).read_bytes()

    free = made("free", None)
    assert made("nothing", Wish()) == free
    assert made("unfollowed", Wish(label="kicks", guidance=0.0)) == free
    kicks = made("kicks", Wish(label="kicks"))
    assert kicks not in (free, made("snares", Wish(label="snares")))
    assert made("firmly", Wish(label="kicks", guidance=8.0)) != kicks
    report = generate_samples(
        loaded, count=2, seconds=1.5, wish=Wish(like={"loudness": 1.0}), out_dir=tmp_path / "loud"
    )
    assert (report.label, report.guidance, report.draws) == (None, 3.0, (1, 1))
    (first, second) = report.to_json()["controls"]
    assert set(first) == {"loudness", "brightness"}  # density is not offered
    assert first["loudness"]["asked"] == 1.0
    assert first["loudness"]["asked_value"] == pytest.approx(-22.0)
    assert first["brightness"]["asked"] is None
    assert first["loudness"]["measured"] != second["loudness"]["measured"]


def test_a_control_is_measured_behind_the_prompt_in_its_unit(tmp_path: Path, make_loaded: MakeLoaded) -> None:
    loaded = make_loaded(controls=CONTROLS)
    time_T = np.arange(4 * RATE) / RATE
    sine = 0.1 * math.sqrt(2) * np.sin(2 * np.pi * 500 * time_T)  # -20 dB
    sine[: 2 * RATE] = 0.9
    soundfile.write(tmp_path / "a.wav", sine, RATE)
    found = followed(loaded, Wish(like={"loudness": 1.0}), tmp_path / "a.wav", 2.0)
    assert found["loudness"].measured_value == pytest.approx(-20.0, abs=0.1)
    assert found["loudness"].measured == pytest.approx(1.25, abs=0.02)
    assert found["brightness"].measured_value == pytest.approx(500.0, rel=0.1)
    assert str(found["loudness"]).startswith("asked +1.0, measured +1.2 (-20")
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    silent = followed(loaded, Wish(like={"brightness": 1.0}), tmp_path / "silent.wav", 0.0)
    assert silent["brightness"].measured is None
    assert str(silent["brightness"]) == "asked +1.0, none measured"


def test_a_stream_follows_the_same_wish(tmp_path: Path, make_loaded: MakeLoaded) -> None:
    loaded = make_loaded(controls=CONTROLS)
    wish = Wish(label="snares", like={"brightness": -2.0}, guidance=3.0)
    report = generate_samples(loaded, seconds=0.5, wish=wish, out_dir=tmp_path)
    whole_TC, _ = soundfile.read(report.files[0], always_2d=True)
    streamed_CT = torch.cat(list(generate_stream(loaded, seconds=0.5, wish=wish)), dim=1)
    assert torch.allclose(streamed_CT[0], torch.from_numpy(whole_TC[:, 0]).float(), atol=1e-4)


def test_what_cannot_be_followed_is_said(make_loaded: MakeLoaded) -> None:
    loaded = make_loaded(controls=CONTROLS)
    for wish, message in (
        (Wish(label="hats"), "no label 'hats'; its labels are kicks, snares"),
        (Wish(like={"density": 1.0}), "no control 'density'; its controls are loudness, brightness"),
        (Wish(label="kicks", guidance=-1.0), "guidance must be from 0 to 20"),
        (Wish(label="kicks", guidance=math.nan), "guidance must be from 0 to 20"),
    ):
        with pytest.raises(UsageError, match=message):
            generate_stream(loaded, wish=wish)
    with pytest.raises(UsageError, match=r"has learnt no .* DATA --controls 4 --overwrite`"):
        generate_stream(make_loaded(seed=1), wish=Wish(label="kicks"))
    with pytest.raises(BundleError, match="has no prior yet"):
        generate_stream(make_loaded(seed=2, prior=False), wish=Wish(label="kicks"))


def test_a_model_in_python_takes_the_same(make_loaded: MakeLoaded, tmp_path: Path) -> None:
    loaded = make_loaded(controls=CONTROLS)
    model = distill_ray.load(loaded.path, device="cpu")
    assert model.controls == CONTROLS
    sound = model.generate(0.5, like={"loudness": 1.0}, label="kicks")
    report = generate_samples(
        loaded, seconds=0.5, wish=Wish(like={"loudness": 1.0}, label="kicks"), out_dir=tmp_path
    )
    whole_TC, _ = soundfile.read(report.files[0], always_2d=True)
    assert torch.allclose(sound.audio_CT[0], torch.from_numpy(whole_TC[:, 0]).float(), atol=1e-4)


def test_what_is_not_accepted_is_drawn_again(tmp_path: Path, make_loaded: MakeLoaded) -> None:
    loaded, seen = make_loaded(), []

    def second(path: Path, prompt_seconds: float) -> bool:
        seen.append(path.read_bytes())
        return len(seen) % 2 == 0

    report = generate_samples(loaded, count=2, seconds=0.3, accepts=second, out_dir=tmp_path / "a")
    assert report.draws == (2, 2)
    assert [Path(file).read_bytes() for file in report.files] == seen[1::2]
    assert len(set(seen)) == 4
    plain = generate_samples(loaded, count=2, seconds=0.3, out_dir=tmp_path / "b")
    assert [Path(file).read_bytes() for file in plain.files] == seen[::2]
    with pytest.raises(UsageError, match="was drawn 8 times and copied a training recording each time"):
        generate_samples(loaded, seconds=0.3, accepts=lambda path, prompt: False, out_dir=tmp_path / "c")
    assert not list((tmp_path / "c").glob("*.wav"))

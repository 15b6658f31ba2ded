"""`vary`, `fill`, `loop` and `morph`, through the Python model and through their files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from distill_ray.bundle import LoadedVQModel
from distill_ray.config.generation import (
    FillSettings,
    GenerationSettings,
    MorphSettings,
    SamplingConfig,
    VarySettings,
)
from distill_ray.errors import AudioError, BundleError, ConfigError, DistillError, UsageError
from distill_ray.events.records import StageProgress
from distill_ray.generate.edit import EditedSound, read_recording, write_edits
from distill_ray.generate.fill import fill, put_in
from distill_ray.generate.loop import loop
from distill_ray.generate.model import Model
from distill_ray.generate.morph import between, level_vectors, level_weights, morph
from distill_ray.generate.vary import vary

MakeLoaded = Callable[..., LoadedVQModel]
MakeAudio = Callable[..., Path]
RATE, HOP = 8_000, 64
SAMPLING = SamplingConfig()


@pytest.fixture
def model(make_loaded: MakeLoaded) -> Model:
    return Model(make_loaded(masked_share=0.25))


def decoded(model: Model, path: Path) -> torch.Tensor:
    recording = read_recording(model.loaded, path)
    return model.decode(recording.codes_QF, samples=recording.samples).audio_CT


def test_strength_0_is_what_the_codec_makes_of_it(model: Model, make_audio: MakeAudio) -> None:
    path = make_audio(1.01)
    assert torch.equal(model.vary(path, 0.0, seed=3).audio_CT, decoded(model, path))


@pytest.mark.parametrize("masked_share", [0.0, 0.25])
def test_a_stronger_variation_is_further_away_and_as_long(
    make_loaded: MakeLoaded, make_audio: MakeAudio, masked_share: float
) -> None:
    model, path = Model(make_loaded(masked_share=masked_share)), make_audio(0.51)
    codec_CT = decoded(model, path)
    sounds = [model.vary(path, strength, seed=1).audio_CT for strength in (0.1, 0.5, 1.0)]
    assert {sound_CT.shape for sound_CT in sounds} == {(1, 4_080)}
    apart = [float((sound_CT - codec_CT).square().mean()) for sound_CT in sounds]
    assert 0 < apart[0] < apart[1]
    assert apart[0] < apart[2]
    assert torch.equal(model.vary(path, 0.5, seed=1).audio_CT, sounds[1])
    assert not torch.equal(model.vary(path, 0.5, seed=2).audio_CT, sounds[1])


def test_outside_a_gap_the_recording_stays_as_it_is(model: Model, make_audio: MakeAudio) -> None:
    path = make_audio(0.8)
    original_CT = read_recording(model.loaded, path).audio_CT
    audio_CT = model.fill(path, 0.3, 0.5, seed=1).audio_CT
    changed_T = (audio_CT != original_CT)[0].nonzero()[:, 0]
    # Whole frames around the gap, and a crossfade of a frame.
    first, last = int(0.3 * RATE / HOP) * HOP, -int(-0.5 * RATE // HOP) * HOP
    assert first - HOP <= int(changed_T.min()) < first + HOP
    assert last - HOP <= int(changed_T.max()) < last + HOP
    assert not torch.equal(audio_CT, model.fill(path, 0.3, 0.5, seed=2).audio_CT)
    assert torch.equal(audio_CT, model.fill(path, 0.3, 0.5, seed=1).audio_CT)


def test_codes_outside_a_gap_are_kept(
    model: Model, make_audio: MakeAudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = make_audio(2.0), []
    import distill_ray.generate.fill as module

    def watched(loaded: LoadedVQModel, codes_QF: torch.Tensor, samples: int) -> torch.Tensor:
        seen.append(codes_QF)
        return torch.zeros(1, samples)

    monkeypatch.setattr(module, "decoded", watched)
    model.fill(path, 0.7, 1.1, decoded=True, seed=1)
    original_QF = read_recording(model.loaded, path).codes_QF
    changed_F = (seen[0] != original_QF).any(dim=0).nonzero()[:, 0]
    assert int(changed_F.min()) >= int(0.7 * RATE / HOP)
    assert int(changed_F.max()) < -int(-1.1 * RATE // HOP)
    assert len(changed_F) > 40


def test_a_crossfade_goes_from_one_to_the_other() -> None:
    original_CT, made_CT = torch.full((1, 40), 0.5), torch.zeros(1, 40)
    mixed_T = put_in(original_CT, made_CT, 10, 30, fade=5)[0]
    assert not mixed_T[10:30].any()
    assert torch.equal(mixed_T[:5], original_CT[0, :5])
    assert torch.equal(mixed_T[35:], original_CT[0, 35:])
    assert (mixed_T[4:10].diff() < 0).all()
    assert (mixed_T[30:36].diff() > 0).all()


@pytest.mark.parametrize(("seconds", "masked_share"), [(0.256, 0.0), (0.377, 0.25)])
def test_a_loop_has_no_first_sample(make_loaded: MakeLoaded, masked_share: float, seconds: float) -> None:
    loaded = make_loaded(masked_share=masked_share)
    settings = GenerationSettings(seconds=seconds, seed=1)
    audio_CT = Model(loaded).loop(seconds, seed=1).audio_CT
    assert audio_CT.shape == (1, round(seconds * RATE))
    assert torch.equal(audio_CT, loop(loaded, None, settings, SAMPLING).sound(0, print).audio_CT)
    # Over the joint it moves no more than it does elsewhere.
    steps_T = torch.cat((audio_CT, audio_CT[:, :1]), dim=1).diff()[0].abs()
    assert float(steps_T[-1]) <= float(steps_T[:-1].max())


MAGNITUDES = {
    "encoder_input": "magnitudes",
    "decoder_head": "magnitudes",
    "stride": 2,
    "latent_dim": 16,
}


def test_a_loop_whose_phases_do_not_come_round_is_joined_all_the_same(make_loaded: MakeLoaded) -> None:
    audio_CT = Model(make_loaded(masked_share=0.25, **MAGNITUDES)).loop(0.512, seed=1).audio_CT
    steps_T = torch.cat((audio_CT, audio_CT[:, :1]), dim=1).diff()[0].abs()
    assert float(audio_CT.abs().max()) > 0.01
    assert float(steps_T[-1]) <= float(steps_T[:-1].max())


def test_a_morph_of_magnitudes_is_at_0_what_the_codec_makes_of_the_first(
    make_loaded: MakeLoaded, make_audio: MakeAudio
) -> None:
    model = Model(make_loaded(prior=False, **MAGNITUDES))
    one, other = make_audio(1.0, seed=1), make_audio(1.0, seed=2)
    # Rounding changes the phases that are found, more the longer the sound goes on.
    at_one_CT = model.morph(one, other, at=0.0).audio_CT[:, :400]
    codec_CT = decoded(model, one)[:, :400]
    assert float((at_one_CT - codec_CT).square().mean()) < 1e-3 * float(codec_CT.square().mean())


def test_a_loop_of_codes_is_decoded_as_the_middle_of_their_repetition(model: Model) -> None:
    from distill_ray.generate.loop import _round_sound

    codes_QF = torch.randint(16, (3, 20), generator=torch.Generator().manual_seed(0))
    thrice_CT = model.decode(codes_QF.repeat(1, 3)).audio_CT
    loop_CT = _round_sound(model.loaded, codes_QF, 20 * HOP)
    torch.testing.assert_close(loop_CT, thrice_CT[:, 20 * HOP : 40 * HOP], atol=1e-5, rtol=0)


def test_a_recording_becomes_a_loop(model: Model, make_audio: MakeAudio) -> None:
    path = make_audio(1.5)
    audio_CT = model.loop(1.024, path, seed=1).audio_CT
    kept = 64 * HOP  # of 128 frames a third is filled in; the decoder looks over the edge of what is kept
    codec_CT = decoded(model, path)
    assert torch.equal(audio_CT[:, 20 * HOP : kept], codec_CT[:, 20 * HOP : kept])


def test_a_morph_goes_from_one_to_the_other(model: Model, make_audio: MakeAudio) -> None:
    one, other = make_audio(1.2, seed=1), make_audio(0.9, seed=2)
    audio_CT = model.morph(one, other, seed=4).audio_CT
    one_CT, other_CT = decoded(model, one)[:, : audio_CT.shape[1]], decoded(model, other)
    assert audio_CT.shape == other_CT.shape

    def apart(real_CT: torch.Tensor, part: slice) -> float:
        return float((audio_CT - real_CT)[:, part].square().mean())

    first, last = slice(0, 800), slice(-800, None)
    assert apart(one_CT, first) < 0.1 * apart(other_CT, first)
    assert apart(other_CT, last) < 0.1 * apart(one_CT, last)
    # The end of the longer one is cut off: the decoder would have looked at it.
    ended = slice(0, -12 * HOP)
    at_one_CT = model.morph(one, other, at=0.0).audio_CT
    torch.testing.assert_close(at_one_CT[:, ended], one_CT[:, ended], atol=1e-4, rtol=0)
    torch.testing.assert_close(model.morph(one, other, at=1.0).audio_CT, other_CT, atol=1e-4, rtol=0)


def test_vectors_of_levels_add_up_and_arcs_keep_their_length(model: Model) -> None:
    codes_QF = torch.randint(16, (3, 9), generator=torch.Generator().manual_seed(0))
    latent_FL = model.loaded.model.quantizer.decode(codes_QF[None])[0]
    torch.testing.assert_close(level_vectors(model.loaded.model, codes_QF).sum(0), latent_FL)
    one, other = torch.tensor([[2.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 2.0], [-1.0, 0.0]])
    half = between(one, other, torch.tensor([0.5, 0.25]))
    torch.testing.assert_close(half, torch.tensor([[2**0.5, 2**0.5], [0.5, 0.0]]), atol=1e-5, rtol=0)
    weights_QF = level_weights(3, 50, None, seed=1)
    assert (weights_QF[:, 0] == 0).all()
    assert (weights_QF[:, -1] == 1).all()
    assert (weights_QF.diff(dim=1) >= 0).all()
    assert weights_QF[:, 25].std() > 0.01


def test_files_are_named_after_seed_and_number(tmp_path: Path, model: Model, make_audio: MakeAudio) -> None:
    path, out = make_audio(1.0, channels=2, rate=11_025), tmp_path / "out"
    settings = GenerationSettings(count=2, seed=7, audio_format="flac")
    edit = vary(model.loaded, path, VarySettings(strength=0.4), SAMPLING, seed=7)
    told: list[StageProgress] = []
    report = write_edits(model.loaded, edit, settings, out, overwrite=False, on_progress=told.append)
    assert [event.done for event in told] == sorted(event.done for event in told)
    assert [event.done for event in told].count(100) == 1, "the end is said once"
    assert report.files == (str(out / "vary_s7_000.flac"), str(out / "vary_s7_001.flac"))
    document = report.to_json()
    assert document["asked"] == {"strength": 0.4}
    assert document["redrawn"] == pytest.approx(0.4, abs=0.01)
    assert document["method"] == "filled"
    assert all(ratio > 0 for ratio in document["seam_ratios"])
    assert "times the change at random moments of the recording" in report.seam_line
    written_T, rate = soundfile.read(report.files[0], dtype="float32")
    assert rate == RATE
    expected_T = model.vary(path, 0.4, seed=7).audio_CT[0].numpy()
    assert np.abs(written_T - expected_T).max() < 1e-4
    with pytest.raises(UsageError, match="exists"):
        write_edits(model.loaded, edit, settings, out, overwrite=False, on_progress=None)
    one = GenerationSettings(seed=7)
    with pytest.raises(UsageError, match="is read by this command"):
        write_edits(model.loaded, edit, one, path, overwrite=True, on_progress=None)


def refused(kind: type[DistillError], text: str, work: Callable[[], object]) -> None:
    with pytest.raises(kind, match=re.escape(text)) as caught:
        work()
    assert "\n" not in str(caught.value)


def test_what_cannot_be_done_is_refused_in_a_sentence(
    tmp_path: Path, model: Model, make_loaded: MakeLoaded, make_audio: MakeAudio
) -> None:
    path = make_audio(1.0)
    refused(ConfigError, "strength: 1.5 is above", lambda: model.vary(path, 1.5))
    refused(ConfigError, "0.5 s is not before the end, 0.5 s", lambda: model.fill(path, 0.5, 0.5))
    refused(ConfigError, "start: -1.0 is below", lambda: model.fill(path, -1.0, 0.5))
    refused(UsageError, "which lasts 1.000 s", lambda: model.fill(path, 0.5, 1.2))
    refused(UsageError, "leaves nothing of", lambda: model.fill(path, 0.0, 1.0))
    refused(UsageError, "a loop needs 4 code frames, 0.032 s", lambda: model.loop(0.02))
    refused(AudioError, "lasts 1.000 s and a loop of 3 s needs", lambda: model.loop(3.0, path))
    refused(ConfigError, "at: 2.0 is above", lambda: model.morph(path, path, at=2.0))
    refused(AudioError, "first must be a path", lambda: model.morph(3, path))  # type: ignore[arg-type]
    refused(AudioError, "is shorter than one code frame", lambda: model.vary((np.ones(20), RATE)))
    refused(AudioError, "it is silent", lambda: model.vary((np.zeros(4_000), RATE)))
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(4_000), RATE)
    refused(AudioError, "it is silent", lambda: model.vary(silent))
    refused(AudioError, "cannot be used", lambda: model.vary(tmp_path / "none.wav"))
    without = Model(make_loaded(seed=1, prior=False))
    refused(BundleError, "has no prior yet", lambda: without.vary(path))
    refused(BundleError, "has no prior yet", lambda: without.loop(1.0))
    unmasked = Model(make_loaded(seed=2))
    refused(BundleError, "has not learnt to fill gaps; train it again", lambda: unmasked.fill(path, 0.2, 0.4))


def test_only_drawing_codes_needs_a_prior(make_loaded: MakeLoaded, make_audio: MakeAudio) -> None:
    without, path = Model(make_loaded(prior=False)), make_audio(1.0)
    assert without.vary(path, 0.0).audio_CT.shape == (1, RATE)
    assert without.morph(path, path, at=0.5).audio_CT.shape == (1, RATE)


def test_too_long_a_recording_is_refused(
    model: Model, make_audio: MakeAudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill_ray.generate.edit.LONGEST_S", 1)
    refused(AudioError, "it lasts over", lambda: model.vary(make_audio(1.5)))


def test_edits_say_how_they_were_made(model: Model, make_loaded: MakeLoaded, make_audio: MakeAudio) -> None:
    path, loaded = make_audio(1.5), model.loaded  # random moments to compare with need some room
    gap = FillSettings(start=0.4, stop=0.6)
    sounds: dict[str, EditedSound] = {
        "fill": fill(loaded, path, gap, SAMPLING, seed=0).sound(0, print),
        "free": vary(loaded, path, VarySettings(strength=1.0), SAMPLING, seed=0).sound(0, print),
        "morph": morph(loaded, path, path, MorphSettings(), seed=0).sound(0, print),
        "cut": loop(make_loaded(seed=1), None, GenerationSettings(seconds=0.5), SAMPLING).sound(0, print),
    }
    assert [sound.method for sound in sounds.values()] == ["filled", "continued", "latents", "cut"]
    assert sounds["fill"].seams is not None
    assert sounds["fill"].seams.count == 2
    assert sounds["free"].seams is None
    assert sounds["free"].redrawn == 1.0
    assert sounds["cut"].seams is not None
    assert sounds["cut"].seams.compared_with == "the loop itself"

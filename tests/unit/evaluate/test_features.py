"""The groups of features: shapes, what each one knows, what changes none."""

from __future__ import annotations

import math

import pytest
import torch

from distill_ray.evaluate.features import long_features, short_features
from distill_ray.evaluate.judgement import GROUPS
from distill_ray.evaluate.spectra import FINE_FRAME, HOP, RATE, octave_powers, spectra
from distill_ray.evaluate.texture import envelopes
from distill_ray.evaluate.tonality import chroma

SECONDS = 1.5


def time(seconds: float = SECONDS) -> torch.Tensor:
    return torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE


def tone(hertz: float, seconds: float = SECONDS) -> torch.Tensor:
    return (0.3 * torch.sin(2 * math.pi * hertz * time(seconds))).float()


def noise(seed: int = 0, seconds: float = SECONDS) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(round(seconds * RATE), generator=generator)


def test_every_group_is_there_finite_and_of_one_length() -> None:
    audio_BT = torch.stack((tone(440), noise(), torch.zeros(round(SECONDS * RATE))))
    found = short_features(audio_BT) | long_features(noise(seconds=8.0).expand(3, -1))
    assert tuple(found) == GROUPS
    for values_BD in found.values():
        assert values_BD.shape[0] == 3
        assert values_BD.dtype == torch.float32
        assert torch.isfinite(values_BD).all()


def test_a_window_s_features_do_not_depend_on_its_batch() -> None:
    one, other = noise(0), tone(330)
    together = short_features(torch.stack((one, other)))
    alone = short_features(other[None])
    for name, values_BD in together.items():
        torch.testing.assert_close(values_BD[1], alone[name][0], rtol=1e-3, atol=1e-4, msg=name)


def test_the_mel_spectrogram_has_the_levels_of_full_scale() -> None:
    """A sine of 0.3 is −10.5 dB; a band's level is that of its mean bin, so white noise is level."""
    seen = spectra(torch.stack((tone(1000), noise())))
    loudest = 10 * torch.log10(seen.fine_BFS[0].amax(0))
    assert loudest.mean() == pytest.approx(20 * math.log10(0.3), abs=0.2)
    bands_M = seen.log_mel_BMS[1].mean(1)
    assert bands_M.std() < 1.5
    assert spectra(torch.zeros(1, RATE)).log_mel_BMS.max() == pytest.approx(-90)


@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_a_gain_changes_the_spectrum_s_mean_and_little_else(gain: float) -> None:
    sound = noise() * (1 + 0.8 * torch.sin(2 * math.pi * 5 * time()).float())
    one, other = short_features(sound[None]), short_features(gain * sound[None])
    change_D = other["spectrum"] - one["spectrum"]
    torch.testing.assert_close(change_D[:, :64], torch.full((1, 64), 20 * math.log10(gain)), atol=0.1, rtol=0)
    for name in ("modulation", "tonality", "texture"):
        torch.testing.assert_close(one[name], other[name], atol=0.05, rtol=0.02, msg=name)


def test_octave_powers_find_the_frequency_and_the_power_of_a_modulation() -> None:
    edges = (0.5, 2.0, 8.0, 32.0)
    seconds = torch.arange(600) / 100
    envelope_BMS = (3 + 2 * torch.sin(2 * math.pi * 5 * seconds))[None, None]
    power_O = octave_powers(envelope_BMS, 100.0, edges)[0, 0]
    assert power_O[1] == pytest.approx(2**2 / 2, rel=0.02)
    assert power_O[[0, 2]].max() < 0.01


def test_tonality_tells_a_chord_from_noise_and_one_key_from_another() -> None:
    chord = tone(440) + tone(554.37) + tone(659.26)
    groups = short_features(torch.stack((chord, noise(), noise(1))))["tonality"]
    far = (groups[0] - groups[1]).norm()
    assert far > 5 * (groups[1] - groups[2]).norm()
    shares_C = chroma(spectra(tone(440)[None]).fine_BFS)[0].mean(1)
    assert shares_C.argmax() == 0
    assert shares_C[0] > 0.5
    higher_C = chroma(spectra(tone(440 * 2 ** (7 / 12))[None]).fine_BFS)[0].mean(1)
    assert higher_C.argmax() == 7
    assert FINE_FRAME > HOP


def test_envelopes_follow_the_amplitude_of_their_band() -> None:
    swelling = tone(1000) * (1 + 0.8 * torch.sin(2 * math.pi * 4 * time()).float())
    envelope_NE = envelopes(swelling[None])[0]
    band_E = envelope_NE[envelope_NE.mean(1).argmax()] ** (1 / 0.3)
    seconds = (torch.arange(len(band_E)) + 0.5) / 400
    expected_E = 0.3 * (1 + 0.8 * torch.sin(2 * math.pi * 4 * seconds))
    inner = slice(40, -40)
    assert torch.corrcoef(torch.stack((band_E[inner], expected_E[inner])))[0, 1] > 0.999
    assert band_E[inner].mean() == pytest.approx(float(expected_E[inner].mean()), rel=0.3)


def test_texture_tells_noises_of_one_spectrum_apart() -> None:
    """Rain against wind: the same bands and moments of noise, together or apart in time."""
    steady = torch.stack([noise(seed) for seed in range(4)])
    gate = (torch.sin(2 * math.pi * 12 * time()) > 0.5).float() * 2
    found = short_features(torch.cat((steady, steady * gate)))["texture"]
    within = (found[0] - found[1]).norm()
    assert (found[0] - found[4]).norm() > 3 * within


def test_structure_tells_repetition_and_pulse() -> None:
    random = torch.Generator().manual_seed(1)
    click = torch.exp(-torch.arange(RATE // 8) / 600) * torch.randn(RATE // 8, generator=random)
    regular, irregular = torch.zeros(2, 8 * RATE)
    for beat in range(16):
        regular[beat * RATE // 2 :][: len(click)] += click
    for place in torch.randint(0, 8 * RATE - len(click), (16,), generator=random).tolist():
        irregular[place:][: len(click)] += click
    again, other = long_features(torch.stack((regular, irregular)))["structure"]
    assert (again - other).norm() > 1
    shifted = long_features(torch.roll(regular, RATE // 4)[None])["structure"][0]
    assert (again - shifted).norm() < (again - other).norm() / 3


def test_the_random_network_is_the_same_for_ever() -> None:
    from distill_ray.evaluate.embedding import _weights

    first = _weights("cpu")[0]
    assert first[0, 0, 0, 0].item() == pytest.approx(FIRST_WEIGHT, abs=1e-6)
    assert first.mean((2, 3)).abs().max() < 1e-6


FIRST_WEIGHT = 0.11545602977275848

"""Copies of the training audio are found, with file and time; other sound is not called a copy."""

from __future__ import annotations

import pytest
import torch

from distill_ray.errors import AudioError
from distill_ray.evaluate.copies import COPIES, NO_COPIES, UNJUDGED, CopyDetector, find_copies
from distill_ray.evaluate.sound import Sound

RATE = 22_050


def melody(seed: int, seconds: float) -> torch.Tensor:
    """Decaying tones of three partials at random times and pitches [1, T]."""
    generator = torch.Generator().manual_seed(seed)
    length = round(seconds * RATE)
    audio_T = 1e-4 * torch.randn(length, generator=generator)
    time_T = torch.arange(length) / RATE
    for start in torch.rand(round(5 * seconds), generator=generator) * seconds:
        pitch, level, decay = torch.rand(3, generator=generator).tolist()
        first = int(torch.searchsorted(time_T, start))
        note_T = audio_T[first : first + 3 * RATE]  # a view; the slowest is at -52 dB then
        after_T = time_T[first : first + len(note_T)] - start
        envelope_T = torch.exp(-after_T * (2 + 12 * decay))
        for partial in (1, 2, 3):
            hertz = 110 * 2 ** (4 * pitch) * partial
            note_T += (0.05 + 0.1 * level) / partial * envelope_T * torch.sin(6.2832 * hertz * after_T)
    return audio_T[None]


def sounds(seeds: range, seconds: float) -> list[Sound]:
    return [Sound(f"{seed}.wav", melody(seed, seconds), RATE) for seed in seeds]


@pytest.fixture(scope="module")
def detector() -> CopyDetector:
    return CopyDetector.fit(sounds(range(6), 20.0), sounds(range(100, 103), 20.0))


def test_a_planted_copy_is_found_shifted_quieter_and_inverted(detector: CopyDetector) -> None:
    host_CT = melody(200, 10.0)
    copied_CT = melody(3, 20.0)[:, 100_003 : 100_003 + 2 * RATE]
    host_CT[:, 71_111 : 71_111 + 2 * RATE] = -0.5 * copied_CT
    found = detector.find([Sound("made.wav", host_CT, RATE)])
    assert found.verdict == COPIES
    assert 0.1 < found.share < 0.35
    assert found.longest_s >= 1.5
    best = found.nearest[0]
    assert (best.file, best.source) == ("made.wav", "3.wav")
    assert best.source_time_s - best.time_s == pytest.approx((100_003 - 71_111) / RATE, abs=0.02)
    assert best.ratio is not None
    assert best.ratio < 0.4


def through_a_codec(audio_CT: torch.Tensor) -> torch.Tensor:
    """Magnitudes that are wrong by 9 dB on average in each bin and moment, and phases at random."""
    generator, window = torch.Generator().manual_seed(1), torch.hann_window(1024)
    spectra = torch.stft(audio_CT, 1024, 256, window=window, return_complex=True)
    noise, turn = torch.randn(2, *spectra.shape, generator=generator)
    made = torch.polar(spectra.abs() * torch.exp(1.3 * noise), 6.2832 * turn)
    return torch.istft(made, 1024, 256, window=window, length=audio_CT.shape[1])


def test_a_copy_that_a_codec_has_altered_is_found_by_how_it_goes_on(detector: CopyDetector) -> None:
    """Single windows of it are too far from the recording: 15 % count by their distance."""
    copy_CT = through_a_codec(melody(3, 20.0)[:, 5 * RATE : 12 * RATE])
    found = detector.find([Sound("made.wav", copy_CT, RATE)])
    assert (found.verdict, found.nearest[0].source) == (COPIES, "3.wav")
    assert found.share > 0.6
    assert found.longest_s > 3.5


def test_other_sound_of_the_same_kind_is_no_copy(detector: CopyDetector) -> None:
    found = detector.find(sounds(range(300, 304), 10.0))
    assert found.verdict == NO_COPIES
    assert found.share <= 0.02
    assert found.false_positive_rate is not None
    assert found.false_positive_rate <= 0.02
    assert found.calibration_windows > 100
    assert 0.7 < sorted(moment.ratio or 0 for moment in found.nearest)[len(found.nearest) // 2] < 1.3


def test_every_audible_second_has_its_nearest_moment(detector: CopyDetector) -> None:
    audio_CT = melody(400, 5.0)
    audio_CT[:, 2 * RATE : 4 * RATE] = 0.0
    found = detector.find([Sound("half.wav", audio_CT, RATE)])
    assert sorted({int(moment.time_s) for moment in found.nearest}) in ([0, 1, 3, 4], [0, 1, 4], [0, 1, 3])
    assert list(found.nearest) == sorted(found.nearest, key=lambda moment: moment.distance)


def test_sounds_shorter_than_a_window_are_recognised() -> None:
    hits = [Sound(f"{seed}.wav", melody(seed, 0.4), RATE) for seed in range(40)]
    found = find_copies([hits[7]._replace(name="new.wav")], hits)
    assert (found.nearest[0].source, found.nearest[0].source_time_s) == ("7.wav", 0.0)
    assert found.nearest[0].distance < 0.01


def test_training_files_shorter_than_a_window_are_calibrated_by_one_another() -> None:
    """However few they are, none is compared with itself."""
    hits = [Sound(f"{seed}.wav", melody(seed, 0.4), RATE) for seed in range(2)]
    calibration = CopyDetector.fit(hits).calibration
    assert calibration is not None
    assert 0.1 < calibration.threshold < calibration.median < 2.0


def test_the_training_audio_itself_is_all_copies(detector: CopyDetector) -> None:
    found = detector.find([Sound("again.wav", melody(2, 20.0), RATE)])
    assert (found.verdict, found.share) == (COPIES, 1.0)
    assert {moment.source for moment in found.nearest} == {"2.wav"}


def test_one_file_and_nothing_held_out_cannot_be_judged() -> None:
    found = find_copies(sounds(range(1), 3.0), sounds(range(9, 10), 6.0))
    assert (found.verdict, found.false_positive_rate) == (UNJUDGED, None)
    assert found.nearest[0].ratio is None


def test_what_cannot_be_compared_is_said(detector: CopyDetector) -> None:
    with pytest.raises(AudioError, match="no sound to look for copies"):
        detector.find([])
    with pytest.raises(AudioError, match="empty or silent"):
        CopyDetector.fit([Sound("silence.wav", torch.zeros(1, RATE), RATE)])

"""Render a small corpus of synthetic instruments: something to train on where there are no recordings.

    python examples/synthesise.py OUT [--files 24] [--seconds 120] [--channels 1] [--seed 0]

Six instruments take turns, each file with its own key, tempo and phrase: plucked strings (Karplus–Strong),
electric piano and bells (FM), synthesised bass (swept resonant low-pass), drum kit (shaped noise and falling
sines), pad (detuned saws through a chorus), bowed string (additive, vibrato). All get a room. The same seed
and options give the same samples. Needs numpy and soundfile only.

Shape suffixes: T samples, C channels, P partials.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

Signal = npt.NDArray[np.floating[Any]]
Rng = np.random.Generator

SCALES = ((0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 9, 10), (0, 3, 5, 7, 10))
PROGRESSIONS = ((0, 5, 3, 4), (0, 3, 4, 3), (0, 2, 5, 4), (0, 4, 5, 3))
PEAK = 0.8


def hertz(midi: float) -> float:
    """Frequency of a MIDI note."""
    return float(440.0 * 2.0 ** ((midi - 69.0) / 12.0))


def filtered(signal_T: Signal, response: Callable[[Signal], Signal], rate: int) -> Signal:
    """`signal_T` through the zero-phase magnitude `response(frequencies in Hz)`."""
    padded = len(signal_T) + rate // 10
    spectrum = np.fft.rfft(signal_T, padded)
    shaped_T: Signal = np.fft.irfft(spectrum * response(np.fft.rfftfreq(padded, 1 / rate)), padded)
    return shaped_T[: len(signal_T)]


def decay(length: int, seconds: float, rate: int) -> Signal:
    """Exponential envelope that falls by 60 dB in `seconds`, with a 2 ms attack."""
    time_T = np.arange(length) / rate
    return np.asarray(np.exp(-6.9 * time_T / seconds) * np.minimum(1.0, time_T / 0.002))


def swell(length: int, attack: float, release: float, rate: int) -> Signal:
    """Raised-cosine envelope: `attack` and `release` in seconds, 1 between."""
    time_T = np.arange(length) / rate
    rise_T = np.clip(time_T / attack, 0, 1)
    fall_T = np.clip((length / rate - time_T) / release, 0, 1)
    return (0.5 - 0.5 * np.cos(np.pi * rise_T)) * (0.5 - 0.5 * np.cos(np.pi * fall_T))


def pluck(midi: float, seconds: float, rng: Rng, rate: int) -> Signal:
    """A plucked string: Karplus–Strong [Karplus & Strong 1983], one period of noise a vectorised step."""
    length, period = int(seconds * rate), max(8, round(rate / hertz(midi)))
    bright = rng.uniform(0.55, 0.95)
    string = filtered(rng.uniform(-1, 1, period), lambda hz: 1 / (1 + (hz / (9000 * bright)) ** 2), rate)
    string -= string.mean()
    rounds = -(-length // period)
    out = np.empty((rounds, period))
    for index in range(rounds):
        out[index] = string
        string = 0.998 * (bright * string + (1 - bright) * np.roll(string, 1))
    return out.reshape(-1)[:length] * decay(length, 3.0, rate)


def frequency_modulated(midi: float, seconds: float, rng: Rng, rate: int) -> Signal:
    """An electric piano or, with an inharmonic ratio, a bell: FM [Chowning 1973]."""
    length = int(seconds * rate)
    time_T = np.arange(length) / rate
    ratio, index, ring = ((1.0, 1.6, 1.6), (14.0, 0.5, 1.2), (3.5, 2.6, 3.2))[int(rng.integers(3))]
    modulator_T = index * decay(length, ring * 0.6, rate) * np.sin(2 * np.pi * hertz(midi) * ratio * time_T)
    tone_T = np.sin(2 * np.pi * hertz(midi) * time_T + modulator_T)
    return tone_T * decay(length, ring, rate) * (1 + 0.15 * np.sin(2 * np.pi * 5.0 * time_T))


def additive(
    frequency_T: Signal, amplitude: Callable[[int, Signal], Signal], partials: int, rate: int
) -> Signal:
    """Harmonics of a gliding fundamental; `amplitude(number, frequency of that partial)` may move too."""
    phase_T = 2 * np.pi * np.cumsum(frequency_T) / rate
    tone_T = np.zeros(len(frequency_T))
    for number in range(1, partials + 1):
        partial_T = number * frequency_T
        if partial_T[0] > 0.45 * rate:
            break
        tone_T += amplitude(number, partial_T) * np.sin(number * phase_T)
    return tone_T


def bass(midi: float, seconds: float, rng: Rng, rate: int) -> Signal:
    """A saw through a resonant low-pass whose cut-off falls: the filter is the partials' amplitude."""
    length = int(seconds * rate)
    peak, floor = rng.uniform(900, 3500), rng.uniform(120, 300)
    cutoff_T = floor + peak * decay(length, rng.uniform(0.3, 0.9), rate)

    def resonant(number: int, partial_T: Signal) -> Signal:
        ratio_T = partial_T / cutoff_T
        return np.asarray(1 / number / np.sqrt((1 - ratio_T**2) ** 2 + (0.3 * ratio_T) ** 2))

    tone_T = additive(np.full(length, hertz(midi - 24)), resonant, 40, rate)
    return np.asarray(np.tanh(0.8 * tone_T) * swell(length, 0.004, 0.06, rate))


def pad(midi: float, seconds: float, rng: Rng, rate: int) -> Signal:
    """Five detuned saws and a slow chorus: a copy read at a swinging delay."""
    length = int(seconds * rate)
    time_T = np.arange(length) / rate
    numbers_P1 = np.arange(1, 25)[:, None]
    levels_P1 = 1 / numbers_P1 / (1 + (numbers_P1 * hertz(midi) / 2200) ** 2)
    cycle = np.linspace(0, 1, 2049)
    saw = np.sum(levels_P1 * np.sin(2 * np.pi * numbers_P1 * cycle), axis=0)
    tone_T = np.zeros(length)
    for cents in rng.uniform(-14, 14, 5):
        tone_T += np.interp(hertz(midi + cents / 100) * time_T % 1.0, cycle, saw)
    delayed_T = np.arange(length) - rate * (0.012 + 0.004 * np.sin(2 * np.pi * 0.6 * time_T))
    chorus_T = np.interp(delayed_T, np.arange(length), tone_T)
    return (tone_T + chorus_T) * swell(length, min(0.5, seconds / 3), min(0.7, seconds / 3), rate)


def bowed(midi: float, seconds: float, rng: Rng, rate: int) -> Signal:
    """A bowed string: body resonances over harmonics, delayed vibrato, bow noise."""
    length = int(seconds * rate)
    time_T = np.arange(length) / rate
    depth_T = 0.006 * np.clip((time_T - 0.2) / 0.4, 0, 1)
    frequency_T = hertz(midi) * (1 + depth_T * np.sin(2 * np.pi * rng.uniform(5.0, 6.2) * time_T))
    bodies = rng.uniform((260, 700, 2200), (320, 1100, 3200))

    def body(number: int, partial_T: Signal) -> Signal:
        resonances = sum(np.exp(-(((partial_T - centre) / (0.35 * centre)) ** 2)) for centre in bodies)
        return np.asarray((0.15 + resonances) / number**0.8)

    noise_T = filtered(rng.normal(size=length), lambda hz: np.exp(-(((hz - 3000) / 2000) ** 2)), rate)
    tone_T = additive(frequency_T, body, 30, rate) + 0.05 * noise_T
    return tone_T * swell(length, 0.12, 0.15, rate)


def kick(rng: Rng, rate: int) -> Signal:
    """A sine that falls in pitch, with a click."""
    length = int(0.45 * rate)
    time_T = np.arange(length) / rate
    frequency_T = rng.uniform(44, 56) + 170 * np.exp(-time_T * 32)
    click_T = rng.normal(size=length) * np.exp(-time_T * 900)
    return np.sin(2 * np.pi * np.cumsum(frequency_T) / rate) * decay(length, 0.4, rate) + 0.2 * click_T


def snare(rng: Rng, rate: int) -> Signal:
    """Two drum-head modes under band-passed noise."""
    length = int(0.3 * rate)
    time_T = np.arange(length) / rate
    noise_T = filtered(rng.normal(size=length), lambda hz: (hz / 1500) ** 2 / (1 + (hz / 1500) ** 2), rate)
    head_T = np.sin(2 * np.pi * 186 * time_T) + 0.6 * np.sin(2 * np.pi * 331 * time_T)
    return 0.5 * noise_T * decay(length, 0.22, rate) + 0.5 * head_T * decay(length, 0.12, rate)


def hat(rng: Rng, rate: int, *, is_open: bool) -> Signal:
    """High-passed noise, short or long."""
    length = int((0.5 if is_open else 0.09) * rate)
    noise_T = filtered(rng.normal(size=length), lambda hz: (hz / 7000) ** 4 / (1 + (hz / 7000) ** 4), rate)
    return 0.5 * noise_T * decay(length, 0.45 if is_open else 0.06, rate)


def add(mix_T: Signal, note_T: Signal, start: int) -> None:
    """Add a note to the mix from sample `start`; what hangs over the end is lost."""
    part = max(0, min(len(note_T), len(mix_T) - start))
    mix_T[start : start + part] += note_T[:part]


Voice = Callable[[float, float, Rng, int], Signal]


def melody(voice: Voice, low: int, notes_per_beat: Sequence[int], hold: float) -> Callable[..., Signal]:
    """A phrase walked over a scale: `hold` is a note's length in steps, `low` the MIDI note of its range."""

    def render(seconds: float, rng: Rng, rate: int) -> Signal:
        mix_T = np.zeros(int(seconds * rate))
        scale, root = SCALES[int(rng.integers(len(SCALES)))], low + int(rng.integers(12))
        step = 60 / rng.uniform(76, 132) / int(rng.choice(notes_per_beat))
        degree = int(rng.integers(len(scale)))
        for index in range(int(np.ceil(seconds / step))):
            degree = int(np.clip(degree + rng.integers(-2, 3), 0, 2 * len(scale) - 1))
            if index and rng.random() < 0.15:
                continue
            midi = root + 12 * (degree // len(scale)) + scale[degree % len(scale)]
            loud = rng.uniform(0.5, 1.0)
            add(mix_T, loud * voice(midi, step * hold, rng, rate), int(index * step * rate))
        return mix_T

    return render


def chords(voice: Voice, low: int, beats: float) -> Callable[..., Signal]:
    """A progression of triads, `beats` to a chord, slightly strummed."""

    def render(seconds: float, rng: Rng, rate: int) -> Signal:
        mix_T = np.zeros(int(seconds * rate))
        scale = SCALES[int(rng.integers(3))]
        progression = PROGRESSIONS[int(rng.integers(len(PROGRESSIONS)))]
        root, step = low + int(rng.integers(12)), beats * 60 / rng.uniform(80, 126)
        for index in range(int(np.ceil(seconds / step))):
            for third in range(3):
                degree = progression[index % 4] + 2 * third
                midi = root + 12 * (degree // 7) + scale[degree % 7]
                start = index * step + third * rng.uniform(0.005, 0.03)
                add(mix_T, voice(midi, step * 1.15, rng, rate), int(start * rate))
        return mix_T

    return render


def drums(seconds: float, rng: Rng, rate: int) -> Signal:
    """A 16-step pattern with swing, ghost notes and a varied kick."""
    mix_T = np.zeros(int(seconds * rate))
    step, swing = 60 / rng.uniform(84, 140) / 4, rng.uniform(0, 0.25)
    kicks = rng.random(16) < 0.2
    kicks[0] = True
    for index in range(int(np.ceil(seconds / step))):
        place = index % 16
        start = int((index + (swing if index % 2 else 0)) * step * rate)
        if kicks[place]:
            add(mix_T, rng.uniform(0.8, 1.0) * kick(rng, rate), start)
        if place in (4, 12) or rng.random() < 0.06:
            add(mix_T, (0.9 if place in (4, 12) else 0.25) * snare(rng, rate), start)
        if place % 2 == 0 or rng.random() < 0.4:
            add(mix_T, rng.uniform(0.3, 0.7) * hat(rng, rate, is_open=place == 14), start)
    return mix_T


INSTRUMENTS: dict[str, Callable[..., Signal]] = {
    "pluck": melody(pluck, 48, (2, 4), 3.0),
    "keys": chords(frequency_modulated, 60, 2.0),
    "bass": melody(bass, 52, (2,), 0.9),
    "drums": drums,
    "pad": chords(pad, 48, 4.0),
    "bowed": melody(bowed, 55, (1,), 1.1),
}


def room(dry_T: Signal, channels: int, rng: Rng, rate: int) -> Signal:
    """The sound in a room [C, T]: decaying noise as impulse response, another one for each channel."""
    length = int(rng.uniform(0.4, 1.4) * rate)
    padded = len(dry_T) + length
    spectrum = np.fft.rfft(dry_T, padded)
    share = rng.uniform(0.08, 0.3)
    wet = []
    for _ in range(channels):
        noise_T = rng.normal(size=length) * decay(length, length / rate, rate)
        impulse_T = filtered(noise_T, lambda hz: 1 / (1 + (hz / 4500) ** 2), rate)
        impulse_T /= np.sqrt(np.sum(impulse_T**2))
        wet.append(np.fft.irfft(spectrum * np.fft.rfft(impulse_T, padded), padded)[: len(dry_T)])
    return (1 - share) * dry_T + share * np.stack(wet)


def render_file(index: int, seconds: float, *, seed: int, channels: int, rate: int) -> tuple[str, Signal]:
    """Name and samples [C, T] of file `index`, peak 0.8; depends on nothing but the arguments."""
    rng = np.random.default_rng([seed, index])
    name = list(INSTRUMENTS)[index % len(INSTRUMENTS)]
    mix_CT = room(INSTRUMENTS[name](seconds, rng, rate), channels, rng, rate)
    fade_T = np.minimum(1.0, np.arange(mix_CT.shape[1])[::-1] / (0.05 * rate))
    mix_CT *= fade_T * PEAK / np.abs(mix_CT * fade_T).max()
    return f"{index:03d}-{name}.wav", mix_CT


def durations(files: int, total: float, seed: int) -> Signal:
    """Lengths in seconds that add up to `total`, the longest at most 8/3 of the shortest."""
    weights = np.random.default_rng(seed).uniform(3.0, 8.0, files)
    lengths: Signal = weights * total / weights.sum()
    return lengths


def main(arguments: Sequence[str] | None = None) -> None:
    """Render the corpus that the command line asks for."""
    parser = argparse.ArgumentParser(description="Render a small corpus of synthetic instruments.")
    parser.add_argument("out", type=Path, help="folder for the wav files")
    parser.add_argument("--files", type=int, default=24, help="number of files (default 24)")
    parser.add_argument("--seconds", type=float, default=120.0, help="seconds in all (default 120)")
    parser.add_argument("--channels", type=int, choices=(1, 2), default=1)
    parser.add_argument("--sample-rate", type=int, default=44_100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.files < 1 or options.seconds / options.files < 0.5:
        parser.error("give at least half a second for each file")
    options.out.mkdir(parents=True, exist_ok=True)
    for index, seconds in enumerate(durations(options.files, options.seconds, options.seed)):
        name, mix_CT = render_file(
            index, float(seconds), seed=options.seed, channels=options.channels, rate=options.sample_rate
        )
        soundfile.write(options.out / name, mix_CT.T, options.sample_rate, subtype="PCM_16")
    print(options.out)


if __name__ == "__main__":
    main()

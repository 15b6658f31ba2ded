"""Players: a sound as MP3 in a data URI, with its spectrogram and its words."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from distill_ray.evaluate.spectrogram import spectrogram
from distill_ray.report.facts import Sound
from distill_ray.report.numbers import duration
from distill_ray.report.plots import Plots
from distill_ray.report.sound import MEDIA_TYPE, Encoded, encode_all

Picture = npt.NDArray[np.float32]

_FLOOR_DB = -70.0  # the top of the scale of sounds that are next to silent


@dataclass(frozen=True, kw_only=True)
class Player:
    """What the page needs of one sound. `spoken` is its name for a screen reader."""

    label: str
    detail: str
    spoken: str
    svg: Markup
    source: str
    seconds: float


class Players:
    """The players of a page: all its sounds, encoded into at most `most_bytes` of base64."""

    def __init__(self, sounds: Sequence[Sound], plots: Plots, *, most_bytes: int) -> None:
        encoded = encode_all(sounds, most_bytes * 3 // 4)
        self._encoded = {id(sound): each for sound, each in zip(sounds, encoded, strict=True)}
        self._sounds = sounds  # which keeps the ids
        self._plots = plots

    @property
    def cut(self) -> int:
        """How many are shorter than the sounds they are made of."""
        return sum(each.cut for each in self._encoded.values())

    @property
    def bytes(self) -> int:
        """All of them as the page holds them."""
        return sum(-(-len(each.content) // 3) * 4 for each in self._encoded.values())

    def group(self, sounds: Sequence[Sound], context: str) -> tuple[Player, ...]:
        """Players whose pictures have one scale of levels; `context` is what they are of."""
        levels = [self._levels(sound) for sound in sounds]
        top = max([float(each.max()) for each in levels] + [_FLOOR_DB])
        return tuple(
            self._player(sound, self._encoded[id(sound)], each, top, context)
            for sound, each in zip(sounds, levels, strict=True)
        )

    def _levels(self, sound: Sound) -> Picture:
        length = round(self._encoded[id(sound)].seconds * sound.sample_rate)
        return spectrogram(sound.audio_TC[: max(1, length)], sound.sample_rate)

    def _player(self, sound: Sound, encoded: Encoded, levels: Picture, top: float, context: str) -> Player:
        seconds = duration(encoded.seconds)
        spoken = f"{context}, {sound.label}, {seconds}"
        svg = self._plots.spectrogram(
            levels,
            seconds=encoded.seconds,
            sample_rate=sound.sample_rate,
            top_db=top,
            alternative=f"Spectrogram: {spoken}",
        )
        content = base64.b64encode(encoded.content).decode()
        return Player(
            label=sound.label,
            detail=f"first {seconds}" if encoded.cut else seconds,
            spoken=spoken,
            svg=svg,
            source=f"data:{MEDIA_TYPE};base64,{content}",
            seconds=encoded.seconds,
        )

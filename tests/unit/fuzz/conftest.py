"""Hostile files from a fixed seed, and the one thing that may come of them: what they hold, or one sentence.

Mutations of valid files and documents of every wrong type; a limit on the memory that reading may ask for and
on the time of each case.
"""

from __future__ import annotations

import copy
import random
import resource
import signal
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from distill_ray.errors import DistillError
from distill_ray.foreign import printable

CASES = 500
SEED = 20261130
_EXTRA_BYTES = 1 << 30
_CASE_S = 5

Read = Callable[[], Any]

# What a reader may find in the place of any value.
VALUES: list[Any] = [
    *(None, True, False, "", "x", "../x", "/etc/passwd", "a\nerror: b", "\x1b]0;x\x07", "\udcff", [], {}),
    *(0, -1, 1 << 31, 1 << 63, -(1 << 63), 10**400, 0.5, -0.0, 1e308, float("inf"), float("nan")),
    *([[[]]], {"a": {"b": []}}, [None] * 50, "9" * 5_000, {"x": 1}, [1, "a", None]),
]


@pytest.fixture
def chance() -> random.Random:
    return random.Random(SEED)


@pytest.fixture
def outcome() -> Iterator[Callable[[Read], Any]]:
    """Runs a reader: its value, or the DistillError that it raised; anything else fails the test."""

    def end(*_: object) -> None:
        raise AssertionError(f"no end within {_CASE_S} s")

    def run(read: Read) -> Any:
        signal.alarm(_CASE_S)
        try:
            found = read()
        except DistillError as error:
            found = error
        finally:
            signal.alarm(0)
        if isinstance(found, DistillError):
            sentence = printable(str(found))
            assert 0 < len(sentence) < 8_000, sentence[:200]
            assert "Traceback" not in sentence
        return found

    before = signal.signal(signal.SIGALRM, end)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + _EXTRA_BYTES, limits[1]))
    yield run
    resource.setrlimit(resource.RLIMIT_AS, limits)
    signal.signal(signal.SIGALRM, before)


def _address_space() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[0]) * resource.getpagesize()


@pytest.fixture
def mutated() -> Callable[[bytes, random.Random], bytes]:
    """A copy of a file with a few bytes, numbers or spans of it changed."""

    def mutate(content: bytes, chance: random.Random) -> bytes:
        data = bytearray(content)
        for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
            if data:
                _mutate(data, chance)
        return bytes(data)

    return mutate


def _mutate(data: bytearray, chance: random.Random) -> None:
    # Footers and headers hold what is believed, so that half of the changes are there.
    place = chance.randrange(len(data))
    if chance.random() < 0.5:
        place = min(len(data) - 1, chance.choice((place % 512, max(0, len(data) - 1 - place % 512))))
    span = chance.choice((1, 2, 8, 64))
    number = chance.choice((0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF, chance.getrandbits(32), len(data)))
    kind = chance.randrange(7)
    if kind == 0:
        data[place] ^= 1 << chance.randrange(8)
    elif kind == 1:
        data[place] = chance.randrange(256)
    elif kind == 2:
        data[place : place + 4] = struct.pack("<I", number & 0xFFFFFFFF)
    elif kind == 3:
        data[place : place + 8] = struct.pack("<Q", number)
    elif kind == 4:
        del data[place : place + span]
    elif kind == 5:
        data[place:place] = chance.randbytes(span)
    else:
        del data[chance.randrange(len(data)) :]


@pytest.fixture
def altered() -> Callable[[Any, random.Random], Any]:
    """A copy of a document with values of wrong types, keys missing or renamed, and lists grown."""

    def alter(document: Any, chance: random.Random) -> Any:
        made = copy.deepcopy(document)
        for _ in range(chance.choice((1, 1, 2, 5))):
            made = _alter(made, chance)
        return made

    return alter


def _alter(document: Any, chance: random.Random) -> Any:
    places = [*_places(document)]
    if not places or chance.random() < 0.02:
        return chance.choice(VALUES)
    holder, key = chance.choice(places)
    kind = chance.randrange(4)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[chance.choice(("", "x", "../x", "__class__", "event", key))] = holder.pop(key)
    elif kind == 2 and isinstance(holder, list):
        holder.insert(0, copy.deepcopy(chance.choice(VALUES)))
    else:
        holder[key] = copy.deepcopy(chance.choice(VALUES))
    return document


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])

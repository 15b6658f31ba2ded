"""What may be given as the place of a corpus or of results: 500 texts and URIs. Each is a storage or one
sentence; nothing is made or asked for on the way.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distill_ray.errors import DistillError
from distill_ray.foreign import printable
from distill_ray.storage.filesystem import absolute, folder_of, joined, name_of
from distill_ray.storage.storage import Storage, open_storage
from distill_ray.uri import is_uri, parse_uri, shown_uri
from tests.unit.fuzz.conftest import CASES

SCHEMES = ["s3", "gs", "gcs", "file", "s4", "S3", "http", "ftp", "a", "s3+x", "", "mock", "1s", "\x1b"]
PIECES = [
    *("bucket", "a", "b c", "..", ".", "", "?", "#", "%", "%2e%2e", "%00", "%zz", "@", ":", ":80", "[::1]"),
    *("//", "user:pw@", "x" * 300, "ä", "音", "\0", "\n", "\x1b[2J", "\udcff", "&", "=", "region=eu", "~"),
    *("endpoint_override=http://127.0.0.1:1", "scheme=ftp", "\\", "*", "'", '"', "$HOME", "`id`", "{", "}"),
]


def places(chance: random.Random) -> Iterator[str]:
    for _ in range(CASES):
        text = chance.choice(("/", "")).join(chance.choices(PIECES, k=chance.randint(0, 6)))
        mark = chance.choice(("://", "://", "://", ":", ":/", ":///", ""))
        yield chance.choice(SCHEMES) + mark + text


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No bucket is asked where it is, and nothing appears in the working folder."""
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    yield
    assert list(work.iterdir()) == []


def test_a_place_is_a_storage_or_one_sentence(
    chance: random.Random, outcome: Callable[[Callable[[], Any]], Any]
) -> None:
    opened = refused = 0
    for place in places(chance):
        found = outcome(lambda: open_storage(place, attempts=1))  # noqa: B023
        opened += isinstance(found, Storage)
        refused += isinstance(found, DistillError)
        assert isinstance(found, Storage | DistillError)
        if isinstance(found, Storage) and found.local is not None:
            assert found.local.is_absolute()
        if is_uri(place) and "://user:pw@" in place and not place.startswith("file"):
            assert "user:pw@" not in str(found)
    assert opened > CASES // 10
    assert refused > CASES // 10


def test_parts_of_a_place_are_found_or_refused(chance: random.Random) -> None:
    """ValueError is what the callers of these turn into their own error."""
    for place in places(chance):
        for part in (absolute, folder_of, name_of, lambda text: joined(text, "a b", "c")):
            with contextlib.suppress(ValueError):
                assert isinstance(part(place), str)


def test_what_is_shown_of_a_place_is_shown_of_it_again(chance: random.Random) -> None:
    for place in places(chance):
        shown = shown_uri(place)
        assert shown_uri(shown) == shown
        assert printable(f"cannot read {place}: gone").isprintable()
        if is_uri(place) and shown == place:
            try:
                parsed = parse_uri(place)
            except ValueError:
                continue
            assert str(parsed) == place

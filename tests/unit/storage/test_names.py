from __future__ import annotations

from pathlib import Path

import pytest

from distill_ray.errors import CorpusError, UsageError
from distill_ray.storage.names import checked_name, fault_of, path_below

OUTSIDE = ["..", "../x", "a/..", "a/../b", "a/../../b", "/x", "/", "//x", "C:/x", "c:x"]
NOT_A_PATH = [
    "",
    ".",
    "./x",
    "a//b",
    "a/",
    "a/./b",
    "a\\b",
    "..\\x",
    "a\0b",
    "a\nb",
    "\x1b[2J",
    "a\x7f",
    "a\x9b",
]
UNENCODABLE = ["a\udcff", "a\u2028b", "a\u2029b"]
FINE = ["a", "a/b", ".hidden", "a/.b", "..a", "a..", "...", "a b", "ä/ß.wav", "音.flac", "x'\"$;|"]


@pytest.mark.parametrize("name", [*OUTSIDE, *NOT_A_PATH, *UNENCODABLE])
def test_a_name_that_leads_elsewhere_is_refused_with_what_is_wrong(name: str) -> None:
    with pytest.raises(CorpusError, match=r"^the store holds the name .*, which cannot be used: ") as caught:
        checked_name(name, origin="the store", error=CorpusError)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", FINE)
def test_other_names_are_left_as_they_are(name: str, tmp_path: Path) -> None:
    assert checked_name(name, origin="the store") == name
    assert path_below(tmp_path, name, origin="the store") == tmp_path / name


def test_one_file_has_no_folders() -> None:
    assert fault_of("a/b", folders=False) == "it is a path"
    assert fault_of("ab", folders=False) is None
    assert fault_of(7) == "it is no text"


def test_a_link_on_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "a").symlink_to(tmp_path / "mine")
    with pytest.raises(UsageError, match="a is a link and would be followed to reach a/b"):
        path_below(tmp_path / "target", "a/b", origin="the store")

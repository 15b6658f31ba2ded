from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from distill_ray.corpus.scan import find_audio, hash_file
from distill_ray.errors import AudioError, CorpusError


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def test_finds_every_format_recursively_and_sorted(tmp_path: Path) -> None:
    names = ["b/z.FLAC", "a.wav", "b/c/d.aif", "b/e.aiff", "f.ogg", "g.oga", "h.opus", "i.mp3", "j.WAVE"]
    for name in [*names, "notes.txt", ".hidden.wav", ".cache/k.wav", "b/.git/l.wav"]:
        touch(tmp_path / name)
    found = [str(file.path.relative_to(tmp_path)) for file in find_audio([tmp_path]).files]
    assert found == sorted(names)


def test_links_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "a.wav")
    touch(tmp_path / "elsewhere" / "b.wav")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "same.wav").symlink_to(tmp_path / "in" / "a.wav")
    scan = find_audio([tmp_path / "in", tmp_path / "in" / "a.wav"])
    assert [file.path.name for file in scan.files] == ["a.wav", "b.wav"]


def test_a_named_file_is_taken_whatever_its_suffix(tmp_path: Path) -> None:
    path = touch(tmp_path / "recording.bin")
    assert [file.path for file in find_audio([path]).files] == [path]


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"nowhere does not exist"):
        find_audio([tmp_path / "nowhere"])
    with pytest.raises(CorpusError, match="no source"):
        find_audio([])


def test_undecodable_names_become_printable(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    path.write_bytes(b"x")
    (file,) = find_audio([tmp_path]).files
    assert file.path == path
    assert file.shown == f"{tmp_path}/caf\\xe9.wav"


def test_hash_is_of_the_bytes_and_pipes_do_not_block(tmp_path: Path) -> None:
    path = touch(tmp_path / "a.wav")
    assert hash_file(path) == hashlib.sha256(b"x").hexdigest()
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(AudioError, match="not a regular file"):
        hash_file(tmp_path / "pipe.wav")
    with pytest.raises(AudioError, match="No such file"):
        hash_file(tmp_path / "gone.wav")

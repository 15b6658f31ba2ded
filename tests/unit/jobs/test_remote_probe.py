from __future__ import annotations

import json
import sys

import pytest

from distill_ray.errors import InstallationError, UsageError
from distill_ray.events.lines import parse_line
from distill_ray.jobs import remote_probe as probe
from distill_ray.jobs.remote_probe import check_installed, check_reads, check_writes, main


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "my corpus"
    folder.mkdir()
    (folder / "a.wav").touch()
    return folder


def test_what_is_there_is_read(corpus):
    for place in (str(corpus), str(corpus / "a.wav"), corpus.as_uri(), (corpus / "a.wav").as_uri()):
        check_reads(place)


@pytest.mark.parametrize("place", ["/nowhere/at all", "file:///nowhere/at/all"])
def test_what_is_not_there_is_named(place):
    with pytest.raises(UsageError, match="/nowhere/at"):
        check_reads(place)


def test_writing_leaves_nothing_but_the_folder(tmp_path):
    check_writes(str(tmp_path / "new" / "store"))
    assert list((tmp_path / "new" / "store").iterdir()) == []


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=f"cannot write the results at {tmp_path}/file/below"):
        check_writes(str(tmp_path / "file" / "below"))


def test_the_program_says_the_first_wrong_place_to_the_client(corpus, tmp_path, capsys):
    missing = tmp_path / "nowhere"
    assert main(json.dumps({"reads": [str(corpus)], "writes": []})) == 0
    assert main(json.dumps({"reads": [str(corpus), str(missing), "/else"], "writes": []})) == 2
    kind, facts = parse_line(capsys.readouterr().err)
    assert (kind, facts["type"], facts["exit_code"]) == ("error", "UsageError", 2)
    assert f"sees no {missing}: " in facts["message"]


def test_a_python_without_the_packages_is_named(monkeypatch, capsys):
    check_installed()
    with pytest.raises(InstallationError, match=f"{sys.executable} .* has no nowhere, elsewhere: start Ray"):
        check_installed(("ray", "nowhere", "elsewhere"))
    monkeypatch.setattr(probe.importlib.util, "find_spec", lambda name: None if name == "pyarrow" else name)
    assert main(json.dumps({"reads": ["/nowhere"], "writes": []})) == InstallationError.exit_code
    kind, facts = parse_line(capsys.readouterr().err)
    assert (kind, facts["type"]) == ("error", "InstallationError")
    assert "has no pyarrow: " in facts["message"]

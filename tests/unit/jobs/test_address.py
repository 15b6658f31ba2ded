from __future__ import annotations

from pathlib import Path

import pytest

from distill_ray.errors import UsageError
from distill_ray.jobs.address import dashboard_address, find_token


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("http://head:8265", "http://head:8265"),
        ("http://head:8265/", "http://head:8265"),
        ("https://ray.example.org/team/", "https://ray.example.org:443/team"),
        ("http://[::1]:8265", "http://[::1]:8265"),
        ("HTTP://head:8265", "http://head:8265"),
    ],
)
def test_urls_of_dashboards(given, shown):
    assert str(dashboard_address(given, {})) == shown


def test_the_environment_names_the_cluster_where_no_option_does():
    environ = {"RAY_API_SERVER_ADDRESS": "http://a:1"}
    assert str(dashboard_address(None, environ)) == "http://a:1"
    assert str(dashboard_address("http://b:2", environ)) == "http://b:2"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            None,
            "no cluster is named; give the address of the cluster's dashboard: --address http://HOST:8265",
        ),
        ("head:8265", "has no scheme; did you mean --address http://head:8265?"),
        ("head", "did you mean --address http://head:8265?"),
        ("head:6379", "the port of Ray's head itself; jobs go to the dashboard: --address http://head:8265"),
        ("http://head:6379", "jobs go to the dashboard: --address http://head:8265"),
        ("ray://head:10001", "Ray Client's address, which takes no jobs; give the address"),
        ("ftp://head", "not an http address"),
        ("http://head:port", "names no host"),
        ("http://", "names no host"),
        ("http://head:0", "names no port"),
        ("http://head:8265/ü", "must be percent-encoded"),
        ("what is this", "is not an address"),
    ],
)
def test_what_is_no_dashboard_is_answered_with_what_would_be(given, said):
    with pytest.raises(UsageError) as caught:
        dashboard_address(given, {})
    assert said in str(caught.value)


def test_a_password_in_an_address_is_not_shown():
    with pytest.raises(UsageError) as caught:
        dashboard_address("http://me:secret@head:8265", {})
    assert "secret" not in str(caught.value)


def private(path: Path, text: str = "abc\n", mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_token_of_the_first_source_that_there_is(tmp_path):
    file = private(tmp_path / "file", "of-file\n")
    other = private(tmp_path / "other", "of-path\n")
    environ = {"RAY_AUTH_TOKEN": "of-variable", "RAY_AUTH_TOKEN_PATH": str(other)}
    assert find_token(file, environ).value == "of-file"
    assert find_token(None, environ).value == "of-variable"
    assert find_token(None, {"RAY_AUTH_TOKEN_PATH": str(other)}).value == "of-path"


def test_rays_own_file_is_the_last_source(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_token(None, {}) is None
    (tmp_path / ".ray").mkdir()
    private(tmp_path / ".ray" / "auth_token", "of-ray")
    assert find_token(None, {}).value == "of-ray"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_file_that_others_can_read_is_refused_with_the_remedy(tmp_path, mode):
    file = private(tmp_path / "token", mode=mode)
    with pytest.raises(UsageError, match=rf"chmod 600 {file}"):
        find_token(file, {})


@pytest.mark.parametrize("text", ["", "\n", "two words", "line\nline", "é"])
def test_what_is_no_token_is_refused_and_not_shown(tmp_path, text):
    with pytest.raises(UsageError) as caught:
        find_token(private(tmp_path / "t", text), {})
    assert "words" not in str(caught.value)


def test_a_missing_token_file(tmp_path):
    with pytest.raises(UsageError, match=r"cannot be read: No such file"):
        find_token(tmp_path / "none", {})


def test_a_token_is_not_in_what_is_printed_of_it(tmp_path):
    assert "abc" not in repr(find_token(private(tmp_path / "t"), {}))

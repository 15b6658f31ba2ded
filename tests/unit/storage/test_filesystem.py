from __future__ import annotations

import pytest

from distill_ray.storage.filesystem import is_transient, joined, locate, patiently, reason
from distill_ray.uri import is_uri

_NO_BUCKET = (
    "When initiating multiple part upload for key 'a/b' in bucket 'nob': AWS Error NO_SUCH_BUCKET during "
    "CreateMultipartUpload operation: The specified bucket does not exist (Request ID: xgn58643)"
)
_REFUSED = (
    "When getting information for key 'a' in bucket 'b': AWS Error ACCESS_DENIED during HeadObject operation"
    ": No response body."
)
_DOWN = (
    "When getting information for key 'a' in bucket 'b': AWS Error NETWORK_CONNECTION during HeadObject "
    "operation: curlCode: 7, Could not connect to server; Details: Failed to connect to 127.0.0.1:1 after 0"
    " ms"
)
_GCS = "google::cloud::Status(UNAVAILABLE: Retry policy exhausted, with CURL error [7] error_info={reason=})"


@pytest.mark.parametrize(
    ("said", "meant", "passes"),
    [
        (_NO_BUCKET, "there is no bucket nob", False),
        (_REFUSED, "the server refuses the credentials", False),
        (_DOWN, "the server does not answer (Failed to connect to 127.0.0.1:1 after 0 ms)", True),
        (_GCS, "UNAVAILABLE: Retry policy exhausted, with CURL error [7]", True),
    ],
)
def test_what_errors_mean(said: str, meant: str, passes: bool) -> None:
    assert reason(OSError(said)).startswith(meant)
    assert is_transient(OSError(said)) == passes


def test_only_what_may_pass_is_tried_again() -> None:
    tried: list[str] = []

    def fail(said: str) -> None:
        tried.append(said)
        if len(tried) < 3:
            raise OSError(said)

    patiently(lambda: fail(_DOWN), patience_s=10.0, pause_s=0.01)
    assert len(tried) == 3
    tried.clear()
    with pytest.raises(OSError, match="NO_SUCH_BUCKET"):
        patiently(lambda: fail(_NO_BUCKET), patience_s=10.0, pause_s=0.01)
    assert len(tried) == 1


def test_uris_and_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert [is_uri(text) for text in ("s3://b/x", "file:///x", "/x", "x/y", "~/x")] == [True, True] + [
        False
    ] * 3
    assert joined("s3://b/x/?region=eu-west-1", "a", "b") == "s3://b/x/a/b?region=eu-west-1"
    assert joined("/x/", "a?b") == "/x/a?b"
    found = locate("s3://bucket/some%20folder/?region=eu-west-1")
    assert (found.root, found.filesystem.region, found.local) == ("bucket/some folder", "eu-west-1", None)
    assert locate("s3://bucket/x").filesystem.region == "us-east-1"
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    assert locate("s3://bucket/x").filesystem.region == "eu-north-1"
    for wrong, why in (
        ("s3:///x", "names no bucket"),
        ("s3://b/x?acl=public", "unknown option acl"),
        ("s3://key:secret@b/x", "has credentials in it"),
    ):
        with pytest.raises(ValueError, match=why):
            locate(wrong)

"""URIs with secrets of real shape: none of them passes, and none of them is shown."""

from __future__ import annotations

import random
import string
from urllib.parse import quote

import pytest

from distill_ray.foreign import printable
from distill_ray.uri import is_uri, parse_uri, redacted, shown_uri

KEY_ID = "AKIAIOSFODNN7EXAMPLE"
AWS = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"  # 40 characters, as in Amazon's documentation
AZURE = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
SAS = "sv=2022-11-02&ss=b&srt=sco&se=2026-12-01T00:00:00Z&sig=aZ3k%2Fq9%2B1mVx0ZbQ4r%2FDsw8pXk%2BYh7%3D"
GOOGLE = "ya29.a0AfH6SMBx-kR2_v/Zq+W=="


@pytest.mark.parametrize(
    ("uri", "secrets", "shown"),
    [
        (f"s3://{KEY_ID}:{AWS}@b/runs", [KEY_ID, AWS], "s3://***@b/runs"),
        (f"s3://{KEY_ID}:{quote(AWS, safe='')}@b/runs", [KEY_ID, quote(AWS, safe="")], "s3://***@b/runs"),
        (f"s3://{KEY_ID}:{AWS}@b/a@c", [KEY_ID, AWS], "s3://***@c"),
        (f"s3://{KEY_ID}:{AWS}%40b/runs", [KEY_ID, AWS], "s3://***"),
        (f"s3://{KEY_ID}:{AWS}", [KEY_ID, AWS], "s3://***"),
        (f"s3://{KEY_ID}:a?b/c@b/runs", [KEY_ID, "b/c"], "s3://***?***"),
        (f"S3://{KEY_ID}:{AWS}@b", [KEY_ID, AWS], "S3://***@b"),
        (f"s3:/{KEY_ID}:{AWS}@b", [KEY_ID, AWS], "s3:/***@b"),
        (f"s3://b/x?secret_key={AWS}&region=eu", [AWS], "s3://b/x?secret_key=***&region=eu"),
        (f"s3://b/x?{AWS}", [AWS], "s3://b/x?***"),
        (f"s3://b/x?X-Amz-Signature={'ab' * 32}", ["abab"], "s3://b/x?X-Amz-Signature=***"),
        ("s3://b/x?endpoint_override=http://me:pw@h", ["pw"], "s3://b/x?endpoint_override=***"),
        (f"gs://b/x?access_token={GOOGLE}", [GOOGLE, "ya29"], "gs://b/x?access_token=***"),
        (f"gs://user:{GOOGLE}@b/x", [GOOGLE], "gs://***@b/x"),
        (f"abfs://c@a.dfs.core.windows.net/p?{SAS}", ["aZ3k", "2022"], None),
        (f"abfss://account:{AZURE}@c/p", [AZURE], "abfss://***@c/p"),
        (f"abfs://:{AZURE}@account/c", [AZURE], "abfs://***@account/c"),
        (f"https://a.blob.core.windows.net/c?{SAS}", ["aZ3k"], None),
        (f"https://b.s3.amazonaws.com/x?X-Amz-Credential={KEY_ID}", [KEY_ID], None),
        ("hdfs://me:hunter2@nn:8020/x", ["hunter2"], "hdfs://***@nn:8020/x"),
        ("git+https://ghp_0123456789@github.com/x", ["ghp_"], "git+https://***@github.com/x"),
    ],
)
def test_secrets_are_refused_and_hidden(uri, secrets, shown):
    with pytest.raises(ValueError, match=r"credentials|unknown option|without a value") as refused:
        parse_uri(uri)
    assert shown is None or shown_uri(uri) == shown
    texts = [str(refused.value), shown_uri(uri), redacted(f"cannot read {uri}: gone"), printable(f"({uri})")]
    for text in texts:
        for secret in secrets:
            assert secret not in text
        assert redacted(text) == text
    assert texts[2].startswith("cannot read ")
    assert texts[2].endswith(": gone")


@pytest.mark.parametrize(
    ("uri", "scheme", "container", "account", "key", "query"),
    [
        ("s3://b/x", "s3", "b", "", "x", {}),
        (
            "s3://b/some%20folder/?region=eu-west-1&endpoint_override=h%3A9000",
            "s3",
            "b",
            "",
            "some folder",
            {"region": "eu-west-1", "endpoint_override": "h:9000"},
        ),
        ("s3://b/user@example.com/x", "s3", "b", "", "user@example.com/x", {}),
        ("gs://b", "gs", "b", "", "", {}),
        (
            "abfs://container@account.dfs.core.windows.net/p/a@b",
            "abfs",
            "container",
            "account.dfs.core.windows.net",
            "p/a@b",
            {},
        ),
        (
            "abfss://account.blob.core.windows.net/c/p",
            "abfss",
            "",
            "account.blob.core.windows.net",
            "c/p",
            {},
        ),
        ("hdfs://me@nn:8020/x", "hdfs", "", "me@nn:8020", "x", {}),
        ("file:///home/me@work/x", "file", "", "", "home/me@work/x", {}),
        ("file:/x", "file", "", "", "x", {}),
        ("sim://b/run", "sim", "", "b", "run", {}),
    ],
)
def test_what_holds_no_secret_is_read_and_shown_whole(uri, scheme, container, account, key, query):
    found = parse_uri(uri)
    assert (found.scheme, found.container, found.account, found.key) == (scheme, container, account, key)
    assert dict(found.query) == query
    assert str(found) == uri == shown_uri(uri) == redacted(uri)


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("s3:///x", "names no bucket"),
        ("s3:b/x", "write s3://BUCKET/FOLDER"),
        ("s3://b/x#y", "write %23"),
        ("s3://b/x?acl=public", "unknown option acl; there are region"),
        ("gs://b/x?region=x", "unknown option region; there are none"),
        ("s3://b c/x", "names a bucket with other characters"),
    ],
)
def test_what_is_no_place_is_explained(uri, why):
    with pytest.raises(ValueError, match=why):
        parse_uri(uri)


def test_parts_of_uris():
    found = parse_uri("s3://b/x/m.distill?region=eu")
    assert (found.name, found.parent) == ("m.distill", "s3://b/x?region=eu")
    assert found.below("a b", "100%?") == "s3://b/x/m.distill/a%20b/100%25%3F?region=eu"
    assert parse_uri(found.below("a b", "100%?")).key == "x/m.distill/a b/100%?"
    assert parse_uri("s3://b").name == "b"
    paths = ("/x", "x/y", "~/x", "music: 2024/x", "C:/x", "a:b")
    assert not any(map(is_uri, paths))
    assert [redacted(path) for path in paths] == list(paths)


@pytest.mark.parametrize(
    "sentence",
    [
        "give --storage URI (s3://BUCKET/FOLDER, gs://…, or a folder)",
        "jobs go to the dashboard: --address http://HOST:8265",
        "ssh -L 8265:localhost:8265 me@head, then --address http://localhost:8265",
        "see https://github.com/owner/name/blob/v1@2/x.py#L3 and http://[::1]:8265/",
        "3:05 left, train: 7 of 12",
    ],
)
def test_sentences_without_secrets_stay_as_they_are(sentence):
    assert redacted(sentence) == sentence


def _secret(rng: random.Random) -> str:
    alphabet = string.ascii_letters + string.digits + "/+"
    secret = "".join(rng.choices(alphabet, k=rng.choice((40, 64, 88)))) + rng.choice(["", "=="])
    return "Zq" + rng.choice([secret, quote(secret, safe=""), quote(secret, safe="/")])


def _with_secret(rng: random.Random, secret: str) -> str:
    """A URI of any scheme with the secret somewhere in it."""
    bucket = "".join(rng.choices(string.ascii_lowercase + string.digits, k=rng.randint(3, 12)))
    parts = ["runs", "a b", "x%20y", "me@work", "ü", "2024.1"]
    place = "/".join([bucket, *rng.choices(parts, k=rng.randint(0, 3))])
    scheme = rng.choice(["s3", "gs", "gcs", "abfs", "abfss", "hdfs", "https", "ftp", "S3"])
    option = rng.choice(
        ["secret_key", "access_token", "sig", "X-Amz-Signature", "password", "token", "client_secret"]
    )
    known = rng.choice(["", "region=eu-west-1&", "sv=2022-11-02&"])
    user = rng.choice(["", "AKIA0123456789ABCDEF", "me"])
    return rng.choice(
        [
            f"{scheme}://{user}:{secret}@{place}",
            f"{scheme}://{place}?{known}{option}={secret}",
            f"{scheme}://{place}?{known}{option}={secret}&region=eu",
            f"s3://{place}?endpoint_override=https://me:{secret}@{bucket}",
        ]
    )


def test_no_secret_of_five_hundred_is_shown():
    rng = random.Random(20261130)
    for _ in range(500):
        secret = _secret(rng)
        uri = _with_secret(rng, secret)
        with pytest.raises(ValueError, match=r"\w") as refused:
            parse_uri(uri)
        sentence = f"the run at {uri.replace(' ', '%20')} is gone, see {uri.replace(' ', '%20')}; try again"
        for text in (str(refused.value), shown_uri(uri), redacted(sentence), printable(sentence)):
            assert secret[:12] not in text, uri
            assert secret[-12:] not in text, uri

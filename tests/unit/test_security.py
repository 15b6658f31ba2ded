"""docs/security.md: every promise names a test, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", PAGE)))


@pytest.mark.parametrize(("path", "test"), NAMED, ids=lambda value: str(value).rpartition("/")[2])
def test_the_named_test_exists(path: str, test: str) -> None:
    module = ast.parse((ROOT / path).read_text("utf-8"))
    assert test in {node.name for node in module.body if isinstance(node, ast.FunctionDef)}


def test_every_promise_names_its_test() -> None:
    promises = 0
    for section in re.split(r"^## ", PAGE, flags=re.M):
        rows = [line for line in section.splitlines() if line.startswith("| ")]
        if not rows or "held by" not in rows[0]:
            continue
        columns = rows[0].count("|")
        for row in rows[1:]:
            assert row.count("|") == columns, row
            assert re.search(r"`tests/[\w/]+\.py::test_\w+` \|$|`, `tests/", row), row
            promises += 1
    assert promises >= 30


def test_how_to_report_is_at_the_root() -> None:
    text = (ROOT / "SECURITY.md").read_text("utf-8")
    assert "Report a vulnerability" in text
    assert "docs/security.md" in text
    assert "@" not in text  # no address that nobody reads

"""The documents: generated pages are fresh, the two long ones stay short, words that age are not used."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import distill_ray

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
AGEING = re.compile(r"\b(today|yesterday|nowadays)\b", re.IGNORECASE)
PAGES = [
    path
    for path in [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "cluster").rglob("*.md")]
    if path.parent.name != "measurements" and path.name != "CHANGELOG.md"
]


def test_generated_pages_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, str(DOCS / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("name", "kibibytes"), [("README.md", 8), ("ARCHITECTURE.md", 12)])
def test_long_documents_stay_short(name: str, kibibytes: int) -> None:
    assert (ROOT / name).stat().st_size <= kibibytes * 1024


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_words_that_age(path: Path) -> None:
    found = AGEING.findall(path.read_text("utf-8"))
    assert not found, f"{path}: a date or a version instead of {', '.join(found)}"


def test_decisions_are_numbered_once() -> None:
    numbers = [path.name[:4] for path in (DOCS / "decisions").glob("[0-9]*.md")]
    assert len(numbers) == len(set(numbers))
    assert len(numbers) >= 19


def test_the_page_on_python_has_every_public_name() -> None:
    page = (DOCS / "python.md").read_text("utf-8")
    assert [name for name in distill_ray.__all__ if f"`{name}`" not in page] == []

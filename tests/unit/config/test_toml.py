from __future__ import annotations

from pathlib import Path

import pytest

from distill_ray.config.toml import read_toml, write_toml
from distill_ray.errors import UsageError


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    values = {
        "run.name": 'a "b" \\ ü',
        "run.overrides": ("x.y", "z"),
        "training.lr": 1e-3,
        "training.epochs": 3,
        "training.flag": True,
    }
    path = tmp_path / "run.toml"
    path.write_text(write_toml({**values, "training.max_minutes": None}, {"training.lr": "auto"}), "utf-8")
    assert read_toml(path) == values
    assert "lr = 0.001  # auto" in path.read_text("utf-8")


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--config .*none.toml cannot be read"):
        read_toml(tmp_path / "none.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("[model\nwidth = 3")
    with pytest.raises(UsageError, match="is not valid TOML"):
        read_toml(bad)

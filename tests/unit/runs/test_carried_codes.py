from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from distill_ray.runs.carried_codes import CarriedCodes


def read(folder: str, *, worker: Any) -> tuple[str, dict[str, bytes]]:
    return folder, {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_codes_are_read_where_they_lie_and_written_where_they_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "run" / "codes" / "a-b"
    folder.mkdir(parents=True)
    (folder / "codes-1.parquet").write_bytes(b"1")
    (folder / "codes-2.parquet").write_bytes(b"22")
    loop = pickle.loads(pickle.dumps(CarriedCodes.of(read, folder, travels=True)))
    here, files = loop(None)
    assert CarriedCodes.of(read, folder, travels=False).files == {}
    shutil.rmtree(tmp_path / "run")
    there, again = loop(None)
    assert (here, files) == (str(folder), {"codes-1.parquet": b"1", "codes-2.parquet": b"22"})
    assert (Path(there).name, again) == ("a-b", files)
    assert Path(there).is_relative_to(tmp_path / "cache")

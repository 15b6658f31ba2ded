from __future__ import annotations

from pathlib import Path


def test_a_folder_with_other_files_at_the_same_path_is_not_the_same(tmp_path: Path) -> None:
    from distill_ray.runtime.shared_nodes import _look

    folder, probe = tmp_path / "in", tmp_path / "probe"
    probe.touch()
    assert _look(folder, probe) == ("", True)  # not there
    folder.mkdir()
    (folder / "a.wav").write_bytes(b"12")
    here, _ = _look(folder, probe)
    assert here == _look(folder, None)[0] != ""
    (folder / "a.wav").write_bytes(b"123")
    assert _look(folder, probe)[0] != here
    assert _look(folder, tmp_path / "elsewhere")[1] is False

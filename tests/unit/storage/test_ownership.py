from __future__ import annotations

import grp
import pwd
from pathlib import Path

import pytest

from distill_ray.errors import UsageError
from distill_ray.storage import ownership
from distill_ray.storage.ownership import TRUST_VARIABLE, refuse_writable_by_others


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    (run / "checkpoints" / "latest").mkdir(parents=True)
    for folder in (run, run / "checkpoints", run / "checkpoints" / "latest"):
        folder.chmod(0o755)
    return run


def test_what_only_the_user_writes_is_gone_on_with(run: Path) -> None:
    refuse_writable_by_others(run, run)
    refuse_writable_by_others(run / "missing", run)


@pytest.mark.parametrize("name", [".", "checkpoints", "checkpoints/latest", "ray", "trials"])
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o757, 0o703])
def test_a_folder_that_everybody_can_write_to_is_refused(run: Path, name: str, mode: int) -> None:
    (run / name).mkdir(exist_ok=True)
    (run / name).chmod(mode)
    said = rf"s3://b/run is not resumed: everybody can write to .*; take that away \(chmod -R go-w {run}\)"
    with pytest.raises(UsageError, match=said):
        refuse_writable_by_others(run, "s3://b/run")


def test_the_group_may_write_only_where_it_is_the_user_s_own(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.chmod(0o775)
    gid = run.stat().st_gid
    user = pwd.getpwuid(run.stat().st_uid)
    own = pwd.struct_passwd((user.pw_name, "x", user.pw_uid, gid, "", "/", "/bin/sh"))
    monkeypatch.setattr(ownership.pwd, "getpwuid", lambda uid: own)

    def group(name: str, *members: str) -> None:
        entry = grp.struct_group((name, "x", gid, list(members)))
        monkeypatch.setattr(ownership.grp, "getgrgid", lambda number: entry)

    group(user.pw_name)
    refuse_writable_by_others(run, run)
    group(user.pw_name, user.pw_name)
    refuse_writable_by_others(run, run)
    for name, members in (("lab", ()), (user.pw_name, ("mallory",))):
        group(name, *members)
        with pytest.raises(UsageError, match=f"the group {name} can write to "):
            refuse_writable_by_others(run, run)

    def unknown(number: int) -> grp.struct_group:
        raise KeyError(number)

    monkeypatch.setattr(ownership.grp, "getgrgid", unknown)
    with pytest.raises(UsageError, match=f"the group {gid} can write to "):
        refuse_writable_by_others(run, run)


def test_who_trusts_all_of_them_can_say_so(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run.chmod(0o777)
    monkeypatch.setenv(TRUST_VARIABLE, "1")
    refuse_writable_by_others(run, run)

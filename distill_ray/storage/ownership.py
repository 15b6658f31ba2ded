"""Who can write to a folder whose content this process is about to go on with.

What a run or search has left is read as settings, JSON and tensors, never as code; Ray keeps pickled state in
the same folder while it works. So nobody but the user may be able to put files there. Standard library only.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

from distill_ray.errors import UsageError

TRUST_VARIABLE = "DISTILL_RAY_TRUST_FOLDERS"
_LOOKED_AT = (".", "ray", "trials", "checkpoints", "checkpoints/ray", "checkpoints/latest")


def refuse_writable_by_others(folder: Path, shown: Path | str) -> None:
    """Raise UsageError where others than this user can write to the run or search in `folder`.

    The group may where it is the user's own (of the same name and without members). `shown` is what the
    message calls the folder; `TRUST_VARIABLE`=1 says that everybody who can write there is trusted.
    """
    if os.environ.get(TRUST_VARIABLE) == "1":
        return
    for name in _LOOKED_AT:
        try:
            status = (folder / name).stat()
        except OSError:
            continue  # whoever reads it says why
        who = others_who_write(status)
        if who is not None:
            raise UsageError(
                f"{shown} is not resumed: {who} can write to {folder / name}, and so decide what this "
                f"process does; take that away (chmod -R go-w {folder}), or set {TRUST_VARIABLE}=1 where all "
                "of them are trusted"
            )


def others_who_write(status: os.stat_result) -> str | None:
    """Who but its owner can write to a file or folder, as words of a sentence; None for nobody."""
    if status.st_mode & stat.S_IWOTH:
        return "everybody"
    if status.st_mode & stat.S_IWGRP and not _is_own_group(status.st_gid, status.st_uid):
        return f"the group {_group_name(status.st_gid)}"
    return None


def _is_own_group(gid: int, uid: int) -> bool:
    """Whether only the user `uid` is in the group, as most of Linux sets users up."""
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(uid)
    except KeyError:
        return False
    return group.gr_name == user.pw_name and user.pw_gid == gid and set(group.gr_mem) <= {user.pw_name}


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)

"""Which files are held out: decided by content, so that adding files moves no other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

HASH_DIGITS = 16


def assign_splits(
    hashes: Iterable[str], *, val_fraction: float, recorded: Mapping[str, str]
) -> dict[str, str]:
    """Split ("train" or "val") of each hex sha256.

    A recorded split stays. Another file is held out when its hash, read as a fraction of the greatest hash,
    is below `val_fraction`. Where that holds out nothing (and `val_fraction` is not 0), the file of the
    lowest hash is held out; where it leaves nothing to train on, the file of the highest hash is trained
    on; files without a recorded split are preferred for either. One single file is always trained on.
    """
    ordered = sorted(hashes)
    splits = {digest: recorded.get(digest) or _by_hash(digest, val_fraction) for digest in ordered}
    if not ordered:
        return splits
    movable = [digest for digest in ordered if digest not in recorded] or ordered
    if "train" not in splits.values():
        splits[movable[-1]] = "train"
    elif "val" not in splits.values() and len(ordered) > 1 and val_fraction > 0:
        splits[movable[0]] = "val"
    return splits


def keeps_off_share(splits: Mapping[str, str], *, val_fraction: float) -> bool:
    """Whether `splits` hold out another share than `val_fraction` asks for because of recorded splits.

    Without any, the share would be nearer; what whole files and the chance of hashes cost is not counted.
    """
    asked = val_fraction * len(splits)
    off = abs(_held_out(splits) - asked)
    fresh = assign_splits(splits, val_fraction=val_fraction, recorded={})
    return off >= 1 and off > abs(_held_out(fresh) - asked)


def _held_out(splits: Mapping[str, str]) -> int:
    return sum(split == "val" for split in splits.values())


def _by_hash(digest: str, val_fraction: float) -> str:
    fraction: float = int(digest[:HASH_DIGITS], 16) / 16**HASH_DIGITS
    return "val" if fraction < val_fraction else "train"

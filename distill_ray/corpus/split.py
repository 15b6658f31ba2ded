"""Which files are held out: decided by content, so that adding files moves as few others as it can."""

from __future__ import annotations

from collections.abc import Mapping

HASH_DIGITS = 16

LEAST_HELD_OUT_SECONDS = 10.0
"""On less, the best epoch and the ranking of a search are chance."""
_GREATEST_TOP_UP = 0.25
"""No more of the corpus than this is held out to reach the least."""
_TOO_MUCH = 3.0
"""More than this many times the share asked for goes back to training."""


def assign_splits(
    seconds: Mapping[str, float], *, val_fraction: float, recorded: Mapping[str, str]
) -> dict[str, str]:
    """Split ("train" or "val") of each file, given by its hex sha256 and its length in seconds.

    A recorded split stays. Another file is held out when its hash, read as a fraction of the greatest hash,
    is below `val_fraction`. Where that holds out less than half of `val_fraction` of the audio, or less than
    LEAST_HELD_OUT_SECONDS, files follow in the order of their hashes until it is the share asked for and the
    least (a quarter of the corpus at most); where it holds out over three times the share, those of the
    highest hashes go back. Something is held out (unless `val_fraction` is 0) and something is trained on;
    one single file is always trained on.
    """
    splits = {digest: recorded.get(digest) or _by_hash(digest, val_fraction) for digest in sorted(seconds)}
    if not splits:
        return splits
    fresh = [digest for digest in splits if digest not in recorded]
    movable = fresh or list(splits)
    if "train" not in splits.values():
        splits[movable[-1]] = "train"
    if val_fraction > 0 and len(splits) > 1:
        _balance(splits, seconds, fresh, val_fraction * sum(seconds.values()))
        if "val" not in splits.values():
            splits[movable[0]] = "val"
    return splits


def _balance(splits: dict[str, str], seconds: Mapping[str, float], fresh: list[str], target: float) -> None:
    """Move files of `fresh` in `splits` towards `target` seconds held out."""
    most = _GREATEST_TOP_UP * sum(seconds.values())
    least = min(max(target, LEAST_HELD_OUT_SECONDS), most)
    held_out = sum(seconds[digest] for digest, split in splits.items() if split == "val")
    if held_out < min(max(target / 2, LEAST_HELD_OUT_SECONDS), most):
        for digest in fresh:
            if splits[digest] == "train" and held_out < least and held_out + seconds[digest] <= most:
                splits[digest] = "val"
                held_out += seconds[digest]
    for digest in reversed(fresh):
        if held_out <= _TOO_MUCH * target:
            break
        if splits[digest] == "val" and held_out - seconds[digest] >= least:
            splits[digest] = "train"
            held_out -= seconds[digest]


def keeps_off_share(seconds: Mapping[str, float], splits: Mapping[str, str], *, val_fraction: float) -> bool:
    """Whether `splits` hold out another share than `val_fraction` asks for because of recorded splits.

    Without any, the share would be nearer; what whole files and the chance of hashes cost is not counted.
    """
    if not seconds:
        return False
    asked = val_fraction * sum(seconds.values())
    off = abs(_held_out(seconds, splits) - asked)
    fresh = assign_splits(seconds, val_fraction=val_fraction, recorded={})
    usual = sum(seconds.values()) / len(seconds)
    return off >= usual and off > abs(_held_out(seconds, fresh) - asked)


def _held_out(seconds: Mapping[str, float], splits: Mapping[str, str]) -> float:
    return sum(seconds[digest] for digest, split in splits.items() if split == "val")


def _by_hash(digest: str, val_fraction: float) -> str:
    fraction: float = int(digest[:HASH_DIGITS], 16) / 16**HASH_DIGITS
    return "val" if fraction < val_fraction else "train"

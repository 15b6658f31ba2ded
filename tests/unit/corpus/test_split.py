from __future__ import annotations

import hashlib

import numpy as np
import pytest

from distill_ray.corpus.split import assign_splits, keeps_off_share

HASHES = [hashlib.sha256(str(index).encode()).hexdigest() for index in range(2_000)]


def split(hashes: list[str], fraction: float = 0.1, **recorded: str) -> dict[str, str]:
    return assign_splits(dict.fromkeys(hashes, 1.0), val_fraction=fraction, recorded=recorded)


def off_share(splits: dict[str, str], val_fraction: float) -> bool:
    return keeps_off_share(dict.fromkeys(splits, 1.0), splits, val_fraction=val_fraction)


def test_the_fraction_is_met_and_adding_moves_nothing() -> None:
    few, all_ = split(HASHES[:1_000]), split(HASHES)
    assert 0.08 < sum(kind == "val" for kind in all_.values()) / 2_000 < 0.12
    assert all(all_[digest] == few[digest] for digest in HASHES[:1_000])


def test_the_threshold_is_the_hash_as_a_fraction() -> None:
    low, high = "19" + "9" * 62, "1a" + "0" * 62  # 0.1 is 0.1999… in hex
    assert split([low, high, "ff" * 32]) == {low: "val", high: "train", "ff" * 32: "train"}


def test_something_is_always_held_out_and_something_trained_on() -> None:
    a, b, c = "a0" * 32, "b0" * 32, "c0" * 32
    assert split([c, a, b]) == {a: "val", b: "train", c: "train"}
    assert split([a, b], 0.9) == {a: "val", b: "train"}
    assert split(["00" * 32, "01" * 32]) == {"00" * 32: "val", "01" * 32: "train"}


def test_one_file_is_trained_on_and_zero_holds_out_none() -> None:
    assert split(["00" * 32]) == {"00" * 32: "train"}
    assert split(["00" * 32, "01" * 32], 0.0) == {"00" * 32: "train", "01" * 32: "train"}
    assert split([]) == {}


def test_recorded_splits_stay() -> None:
    a, b = "a0" * 32, "b0" * 32
    assert split([a, b, "00" * 32], **{a: "val", b: "train"})["a0" * 32] == "val"
    assert split([a, b], **{a: "train"}) == {a: "train", b: "val"}
    assert split([a, b], **{a: "train", b: "train"}) == {a: "val", b: "train"}


def test_a_share_is_off_where_recorded_splits_keep_it_there() -> None:
    tenth = split(HASHES[:100])
    held_out = sum(kind == "val" for kind in tenth.values())
    assert 5 < held_out < 15
    assert not off_share(tenth, 0.1)
    assert off_share(tenth, 0.5)
    assert off_share(tenth, 0.0)
    # The chance of the hashes is not what other files keep.
    assert not off_share({"00" * 32: "val", "01" * 32: "train"}, 0.01)


def test_a_share_is_not_off_by_less_than_a_file() -> None:
    a, b, c = "a0" * 32, "b0" * 32, "c0" * 32
    assert split([a, b, c], 0.7) == {a: "val", b: "val", c: "train"}
    assert off_share({a: "val", b: "train", c: "train"}, 0.7)
    assert not off_share({a: "train", b: "val", c: "val"}, 0.7)
    assert not off_share({a: "val", b: "train", c: "train"}, 0.5)


def seconds_held_out(seconds: dict[str, float], fraction: float = 0.1, **recorded: str) -> float:
    splits = assign_splits(seconds, val_fraction=fraction, recorded=recorded)
    return sum(seconds[digest] for digest, split in splits.items() if split == "val")


@pytest.mark.parametrize("start", range(0, 1_000, 50))
def test_about_a_tenth_of_the_seconds_is_held_out_whatever_the_files(start: int) -> None:
    # 78 one-shots of very different lengths, as in a folder of samples.
    random = np.random.default_rng(start)
    digests = HASHES[start : start + 78]
    seconds = dict(zip(digests, random.lognormal(0.3, 1.2, 78).tolist(), strict=True))
    total = sum(seconds.values())
    assert 0.05 * total <= seconds_held_out(seconds) <= 0.3 * total
    assert seconds_held_out(seconds) >= 10.0


def test_ten_seconds_are_held_out_where_there_is_enough() -> None:
    assert 10.0 <= seconds_held_out(dict.fromkeys(HASHES[:20], 3.0)) <= 15.0
    assert 0.0 < seconds_held_out(dict.fromkeys(HASHES[:15], 1.0)) <= 4.0  # a quarter of 15 s at most


def test_one_long_file_is_not_held_out_to_reach_the_share() -> None:
    long, *rest = sorted(HASHES[:40])
    assert seconds_held_out({long: 600.0, **dict.fromkeys(rest, 1.0)}, 0.01) < 40.0


def test_topping_up_moves_no_recorded_split() -> None:
    seconds = dict.fromkeys(HASHES[:40], 1.0)
    recorded = dict.fromkeys(HASHES[:39], "train")
    splits = assign_splits(seconds, val_fraction=0.1, recorded=recorded)
    assert all(splits[digest] == "train" for digest in recorded)

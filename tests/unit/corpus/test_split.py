from __future__ import annotations

import hashlib

from distill_ray.corpus.split import assign_splits, keeps_off_share

HASHES = [hashlib.sha256(str(index).encode()).hexdigest() for index in range(2_000)]


def split(hashes: list[str], fraction: float = 0.1, **recorded: str) -> dict[str, str]:
    return assign_splits(hashes, val_fraction=fraction, recorded=recorded)


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
    assert not keeps_off_share(tenth, val_fraction=0.1)
    assert keeps_off_share(tenth, val_fraction=0.5)
    assert keeps_off_share(tenth, val_fraction=0.0)
    # The chance of the hashes is not what other files keep.
    assert not keeps_off_share({"00" * 32: "val", "01" * 32: "train"}, val_fraction=0.01)


def test_a_share_is_not_off_by_less_than_a_file() -> None:
    a, b, c = "a0" * 32, "b0" * 32, "c0" * 32
    assert split([a, b, c], 0.7) == {a: "val", b: "val", c: "train"}
    assert keeps_off_share({a: "val", b: "train", c: "train"}, val_fraction=0.7)
    assert not keeps_off_share({a: "train", b: "val", c: "val"}, val_fraction=0.7)
    assert not keeps_off_share({a: "val", b: "train", c: "train"}, val_fraction=0.5)

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from distill_ray.errors import CheckpointError
from distill_ray.events.records import DepthScore
from distill_ray.tune.trial import TrialSpec, from_json, kbps, to_json


def test_a_record_survives_json(record: Any) -> None:
    plain = record(
        256, {2: 9.0, 8: 5.5}, state="collapsed", collapsed_level=3, reason="why", val_loss=5.5, epochs=7
    )
    spec = dataclasses.replace(
        plain.spec, overrides={"training.lr": 1e-5, "model.size": "tiny", "a.b": (1, 2)}
    )
    whole = dataclasses.replace(plain, spec=spec, prior_bits_per_second=812.25, gpu_seconds=3.5)
    assert from_json(to_json(whole), source="trial.json") == whole


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_figures_that_json_has_no_word_for_survive_it(record: Any, value: float) -> None:
    scores = (DepthScore(levels=2, val_loss=value, mel=value),)
    text = to_json(dataclasses.replace(record(64, {2: 1.0}), depth_scores=scores, val_loss=value))

    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is not JSON")

    json.loads(text, parse_constant=refuse)
    back = from_json(text, source="trial.json")
    assert repr((back.val_loss, back.depth_scores)) == repr((value, scores))


def damaged(text: str) -> dict[str, str]:
    """Broken documents by what is wrong with them."""
    whole = json.loads(text)

    def changed(**keys: object) -> str:
        return json.dumps({**whole, **keys})

    def spec(**keys: object) -> str:
        return changed(spec={**whole["spec"], **keys})

    return {
        "no JSON": "{",
        "empty": "",
        "a list": "[]",
        "cut": text[: len(text) // 2],
        "deep": "[" * 100_000,
        "no state": json.dumps({key: value for key, value in whole.items() if key != "state"}),
        "state": changed(state="asleep"),
        "state's type": changed(state=3),
        "epochs": changed(epochs="7"),
        "epochs true": changed(epochs=True),
        "gpu_seconds": changed(gpu_seconds="many"),
        "too large": changed(gpu_seconds=10**400),
        "scores": changed(depth_scores=[{"levels": 2}]),
        "scores' type": changed(depth_scores={"levels": 2}),
        "health": changed(codebook_health=[0.5]),
        "no spec": changed(spec=None),
        "round": spec(round="last"),
        "depths": spec(depths=[8, 2]),
        "no depths": spec(depths=[]),
        "other depth": spec(rvq_levels=4),
        "id": spec(id="../../etc"),
        "empty id": spec(id=""),
        "overrides": spec(overrides=[1]),
    }


NAMES = tuple(damaged('{"spec": {}, "state": ""}'))


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_record_is_refused_in_one_sentence(record: Any, name: str) -> None:
    text = damaged(to_json(record(64, {2: 9.0, 8: 5.0})))[name]
    with pytest.raises(CheckpointError, match=r"^trials/k64-q8/trial\.json is not a usable trial record"):
        from_json(text, source="trials/k64-q8/trial.json")


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"^trial\.json is not"):
        from_json(b"\xff\xfe\x00\x80", source="trial.json")


def test_keys_of_newer_writers_are_ignored_and_missing_ones_have_their_defaults(record: Any) -> None:
    whole = record(64, {2: 9.0})
    values = json.loads(to_json(whole))
    del values["attempts"]
    assert from_json(json.dumps({**values, "mood": "good"}), source="trial.json") == whole


@pytest.mark.parametrize("name", ["", "..", "a/b", "K64", "-k64", ".k64", "k64\n"])
def test_an_id_can_only_be_a_plain_folder_name(name: str) -> None:
    with pytest.raises(ValueError, match="folder"):
        TrialSpec(id=name, round="search", codebook_size=64, rvq_levels=2, depths=(2,))


def test_kbps_is_levels_times_bits_times_frame_rate() -> None:
    assert kbps(256, 8, 86.1328125) == pytest.approx(5.5125)
    assert kbps(1024, 9, 86.1328125) == pytest.approx(7.752, abs=1e-3)

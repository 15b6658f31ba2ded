from __future__ import annotations

import json
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from distill_ray.config.prior import CONTROL_STEPS, CONTROLS
from distill_ray.errors import UsageError
from distill_ray.prior import Controls

LABELS = ("kicks", "snares")
FRAMES = 20_000


@pytest.fixture(scope="module")
def controls() -> Controls:
    random = np.random.default_rng(0)
    values_AF = np.stack(
        (
            random.normal(-20.0, 5.0, FRAMES),
            random.normal(10.0, 1.0, FRAMES),
            np.maximum(0.0, random.normal(0.0, 2.0, FRAMES)),  # half of it has no onset
            np.where(random.random(FRAMES) < 0.1, 8.0, np.nan),  # hardly any of it has a pitch
        )
    )
    return Controls.fit(LABELS, values_AF.astype(np.float32))


def test_one_is_a_standard_deviation_of_the_corpus(controls: Controls) -> None:
    assert controls.value("loudness", 0.0) == pytest.approx(-20.0, abs=0.2)
    assert controls.value("loudness", 1.0) == pytest.approx(-15.0, abs=0.2)
    assert controls.deviation("loudness", [-25.0, -10.0, -200.0, 200.0]) == pytest.approx(
        [-1.0, 2.0, -2.5, 2.5], abs=0.1
    )
    assert np.isnan(controls.deviation("loudness", np.nan))
    assert controls.offered == ("loudness", "brightness", "density")


def test_of_values_that_are_alike_the_middle_is_meant(controls: Controls) -> None:
    none = NormalDist().inv_cdf(0.5)  # half the corpus: from -2.5 up to the middle
    assert controls.deviation("density", 0.0) == pytest.approx((none - 2.5) / 2, abs=0.13)
    assert controls.deviation("density", 2.0) == pytest.approx(1.0, abs=0.1)


def test_rows_are_the_label_and_nine_steps_of_each_control(controls: Controls) -> None:
    values_AF = np.array([[-20.0, -30.0, 0.0], [np.nan, 11.0, 10.0], [2.0, 2.0, 2.0], [8.0, 8.0, 8.0]])
    rows_AF = controls.rows("snares", values_AF.astype(np.float32))
    assert rows_AF.dtype == np.int16
    assert rows_AF[0].tolist() == [2, 2, 2]
    first = 3  # behind the row that says nothing and the labels
    assert (rows_AF[1] - first).tolist() == [4, 0, 8]
    assert (rows_AF[2] - first).tolist() == [-first, CONTROL_STEPS + 6, CONTROL_STEPS + 4]
    assert (rows_AF[3] - first).tolist() == [2 * CONTROL_STEPS + 6] * 3
    assert not rows_AF[4].any()
    assert not controls.rows("", values_AF.astype(np.float32))[0].any()


def test_what_is_asked_for_has_the_rows_of_what_sounds_so(controls: Controls) -> None:
    asked_A = controls.asked("kicks", {"loudness": 1.0, "density": 0.9})
    values_AF = np.array([[-15.0], [np.nan], [2.0], [np.nan]], dtype=np.float32)
    assert asked_A.tolist() == controls.rows("kicks", values_AF)[:, 0].tolist()
    assert not controls.asked(None, {}).any()


@pytest.mark.parametrize(
    ("label", "like", "message"),
    [
        ("hats", {}, "no label 'hats'; its labels are kicks, snares"),
        (None, {"warmth": 1.0}, "no control 'warmth'; its controls are loudness, brightness, density"),
        (None, {"pitch": 1.0}, "no control 'pitch'"),
        (None, {"loudness": 2.5}, "loudness=.2.5 is out of range: 2 standard deviations"),
        (None, {"loudness": float("nan")}, "out of range"),
    ],
)
def test_what_there_is_not_is_said(
    controls: Controls, label: str | None, like: dict[str, float], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        controls.asked(label, like)


def test_a_prior_without_labels_says_why() -> None:
    none = Controls.fit((), np.random.default_rng(0).normal(size=(1, 100)).astype(np.float32))
    with pytest.raises(UsageError, match="its labels are none: its recordings lay in no sub-folders"):
        none.asked("kicks", {})


def test_json_and_back(controls: Controls) -> None:
    assert Controls.from_json(json.loads(json.dumps(controls.to_json(), sort_keys=True))) == controls


@pytest.mark.parametrize(
    "change",
    [
        {"labels": "kicks"},
        {"labels": [1]},
        {"scales": []},
        {"scales": {"warmth": None}},
        {"scales": {"loudness": [1.0]}},
        {"scales": {"loudness": [float("nan")] * 21}},
        {"scales": {"loudness": [float(-number) for number in range(21)]}},
        {"scales": {"loudness": [True] * 21}},
    ],
)
def test_damaged_documents_are_refused(controls: Controls, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"label|scale"):
        Controls.from_json({**controls.to_json(), **change})
    with pytest.raises(ValueError, match="not an object"):
        Controls.from_json([*CONTROLS])

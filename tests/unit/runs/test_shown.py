from __future__ import annotations

from distill_ray.runs.shown import shown_settings


def rows(values: dict[str, object]) -> list[tuple[str, str, str]]:
    shown = shown_settings(values, lambda key: "override" if key == "training.lr" else "auto")
    return [(row.name, row.value, row.source) for row in shown]


def test_a_setting_goes_by_its_name_and_what_has_no_value_is_left_out() -> None:
    values = {"model.size": "tiny", "training.lr": 0.002, "training.max_minutes": None, "sweep.lrs": ()}
    assert rows(values) == [("size", "tiny", "auto"), ("lr", "0.002", "override")]


def test_two_of_one_name_go_by_their_keys() -> None:
    values: dict[str, object] = {"sweep.max_minutes": 2.0, "training.max_minutes": 0.5, "training.epochs": 3}
    assert [name for name, _, _ in rows(values)] == ["sweep.max_minutes", "training.max_minutes", "epochs"]
    alone = {"sweep.max_minutes": 2.0, "training.max_minutes": None}
    assert [name for name, _, _ in rows(alone)] == ["max_minutes"]


def test_values_in_words() -> None:
    values = {"health.stop": True, "sweep.lr_range": (0.1 + 0.2, 1), "training.max_minutes": 2.8 / 7}
    assert rows(values) == [
        ("health.stop", "on", "auto"),
        ("lr_range", "0.3, 1", "auto"),
        ("max_minutes", "0.4", "auto"),
    ]

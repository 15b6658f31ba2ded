from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest

from distill_ray.jsonable import jsonable


@dataclass(frozen=True)
class Record:
    loss: float
    levels: tuple[float, ...]


VALUE = {
    "path": Path("a/b"),
    "record": Record(math.nan, (1.5, -math.inf)),
    3: MappingProxyType({"x": math.inf}),
    "plain": [None, True, 7, "nan"],
}


@pytest.mark.parametrize(
    ("as_text", "nan", "infinity", "below"), [(False, None, None, None), (True, "nan", "inf", "-inf")]
)
def test_numbers_that_json_lacks_become_null_or_text(
    as_text: bool, nan: object, infinity: object, below: object
) -> None:
    made = jsonable(VALUE, as_text=as_text)
    assert made == {
        "path": "a/b",
        "record": {"loss": nan, "levels": [1.5, below]},
        "3": {"x": infinity},
        "plain": [None, True, 7, "nan"],
    }
    assert json.loads(json.dumps(made, allow_nan=False)) == made


@pytest.mark.parametrize("value", [{1, 2}, object(), Record])
def test_what_json_has_no_form_for_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="has no place in a JSON document"):
        jsonable({"key": [value]})


def test_credentials_of_uris_are_not_kept():
    made = jsonable({"s3://k:a/b@c": ("see s3://k:a/b@c/x", Path("runs"), {"x": "gs://b?token=t"})})
    assert made == {"s3://***@c": ["see s3://***@c/x", "runs", {"x": "gs://b?token=***"}]}

from __future__ import annotations

import pytest

from distill_ray.argument_names import in_arguments, names_arguments
from distill_ray.errors import ConfigError, Problem, UsageError


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("x exists; give --overwrite to replace it", "x exists; give overwrite=True to replace it"),
        ("use --sample-rate 8000 --channels 2", "use sample_rate=8000 channels=2"),
        ("it was begun with --no-tune", "it was begun with tune=False"),
        ("choose another --out", "choose another out"),
        ("run `distill-ray prepare FOLDER --out X`", "run `distill-ray prepare FOLDER --out X`"),
        ("a -- dash, k64-q8, half--way", "a -- dash, k64-q8, half--way"),
    ],
)
def test_flags_become_arguments(message: str, said: str) -> None:
    assert in_arguments(message) == said


def test_an_error_keeps_its_kind_and_names_the_function_s_own_arguments() -> None:
    @names_arguments
    def write(*, out_dir: str, count: int) -> None:
        if count < 0:
            raise ConfigError([Problem("generate.count", "is negative; or give another --out", "-n")])
        raise UsageError("choose another --out")

    with pytest.raises(UsageError, match=r"^choose another out_dir$"):
        write(out_dir="", count=0)
    with pytest.raises(ConfigError, match=r"^count: is negative; or give another out_dir$") as refused:
        write(out_dir="", count=-1)
    assert [each.flag for each in refused.value.problems] == [None]
    assert write.__name__ == "write"

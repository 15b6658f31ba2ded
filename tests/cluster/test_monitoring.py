"""cluster/monitoring against the metrics that the program exports, without a running Ray.

`tests/bench/monitoring_live.py` does the same with a real Prometheus that scrapes a training.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distill_ray.runtime.metrics import DECLARED

MONITORING = Path(__file__).parents[2] / "cluster" / "monitoring"
PREFIX = "ray_distill_ray_"
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "grafana.json").read_text("utf-8"))


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def query_problems(expression: str) -> Iterator[str]:
    """Metrics and tags that the program does not export."""
    for metric, selected in re.findall(r"([a-z_]+)\{(.*?)\}", expression):
        declared = DECLARED.get(metric.removeprefix(PREFIX))
        if not metric.startswith(PREFIX) or declared is None:
            yield f"no metric {metric}"
            continue
        tags = set(re.findall(r'(\w+)\s*(?:=~|!=|=)\s*"', selected))
        if not {"run", "kind"} <= tags <= {"run", "kind", *declared.tags}:
            yield f"{metric} has no such tags: {tags}"


def test_the_dashboard_draws_every_metric_and_no_other() -> None:
    drawn = set()
    for expression in expressions():
        assert list(query_problems(expression)) == []
        drawn |= {name.removeprefix(PREFIX) for name in re.findall(rf"{PREFIX}\w+", expression)}
    # A step count is no curve; what it is good for, the used part of the budget, is drawn.
    assert drawn == set(DECLARED) - {"step"}


@pytest.mark.parametrize(
    "broken",
    [
        'ray_distill_ray_losses{run=~"$run", kind=~"$kind"}',
        'distill_ray_loss{run=~"$run", kind=~"$kind"}',
        'ray_distill_ray_loss{run=~"$run"}',
        'ray_distill_ray_loss{run=~"$run", kind=~"$kind", level="0"}',
    ],
)
def test_a_query_for_what_is_not_exported_is_found(broken: str) -> None:
    assert list(query_problems(broken))


def test_legends_name_tags_that_the_metric_has() -> None:
    for panel in panels():
        for target in panel["targets"]:
            metric = re.findall(rf"{PREFIX}(\w+)", target["expr"])[0]
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert named <= {"run", "kind", *DECLARED[metric].tags}, target


def test_panels_do_not_overlap_and_have_their_own_numbers() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_variables_are_used_and_filled_from_a_metric_that_every_run_has() -> None:
    named = {item["name"] for item in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"])))
    assert named == used == {"datasource", "run", "kind"}
    queries = [item["definition"] for item in DASHBOARD["templating"]["list"] if item["type"] == "query"]
    assert queries == [f"label_values({PREFIX}running, run)", f"label_values({PREFIX}running, kind)"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not installed")
def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    text = (MONITORING / "prometheus.yml").read_text("utf-8")

    def check(content: str) -> subprocess.CompletedProcess[str]:
        config = tmp_path / "prometheus.yml"
        config.write_text(content)
        return subprocess.run(
            ["promtool", "check", "config", config], capture_output=True, text=True, check=False
        )

    assert check(text).returncode == 0
    assert check(text.replace("file_sd_configs", "file_sd_config")).returncode != 0


def test_the_readme_lists_every_metric() -> None:
    table = (MONITORING.parent / "README.md").read_text("utf-8").split("| metric |")[1]
    listed = set(re.findall(r"`([a-z_]+)`", table.split("\n\n")[0])) & set(DECLARED)
    assert listed == set(DECLARED)

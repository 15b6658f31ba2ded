"""The files for `ray up`: Ray's own schema, what they expose, what they offer."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = ("aws", "gcp", "onprem")
TOKEN = "/home/ray/.ray/auth_token"


def load(name: str) -> dict[str, Any]:
    config = yaml.safe_load((ROOT / "cluster" / f"{name}.yaml").read_text("utf-8"))
    assert isinstance(config, dict)
    return config


def prepared(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """As `ray up` reads it, from the repository's root."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    monkeypatch.chdir(ROOT)
    ready = prepare_config(copy.deepcopy(config))
    validate_config(ready)
    assert isinstance(ready, dict)
    return ready


def asked_gpus(name: str) -> int:
    """The GPUs of the training that the file's first lines show; 0 for auto."""
    text = (ROOT / "cluster" / f"{name}.yaml").read_text("utf-8")
    (said,) = re.findall(r"--num-workers (\d+|auto)", text.split("cluster_name")[0])
    return 0 if said == "auto" else int(said)


def offered_gpus(config: dict[str, Any]) -> float:
    return sum(
        kind["max_workers"] * kind["resources"].get("GPU", 0)
        for name, kind in config["available_node_types"].items()
        if name != config["head_node_type"]
    )


@pytest.mark.parametrize("name", FILES)
def test_ray_accepts_the_file_and_no_broken_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(name)
    prepared(config, monkeypatch)
    for broken in (
        {**config, "max_worker": 3},
        {**config, "docker": {**config["docker"], "image": 7}},
        {**config, "provider": {**config["provider"], "type": "aws", "region": 5}},
    ):
        with pytest.raises(Exception, match=r"Additional properties|is not of type"):
            prepared(broken, monkeypatch)


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_gpu_machines_come_on_demand_and_are_enough_for_what_is_asked(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = prepared(load(name), monkeypatch)
    kinds = config["available_node_types"]
    assert kinds[config["head_node_type"]]["resources"] == {"CPU": 0}
    workers = {key: kind for key, kind in kinds.items() if key != config["head_node_type"]}
    assert all(kind["min_workers"] == 0 < kind["max_workers"] for kind in workers.values())
    assert sum(kind["max_workers"] for kind in workers.values()) <= config["max_workers"]
    # A worker takes a CPU beside its GPU.
    assert all(kind["resources"]["CPU"] >= kind["resources"]["GPU"] for kind in workers.values())
    assert 0 < asked_gpus(name) <= offered_gpus(config)
    smaller = copy.deepcopy(config)
    smaller["available_node_types"]["gpu"]["max_workers"] -= 1
    assert asked_gpus(name) > offered_gpus(smaller)


def test_machines_of_ones_own_are_all_in_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray learns their GPUs only from the machines themselves, so none could come on demand."""
    config = load("onprem")
    (kind,) = prepared(config, monkeypatch)["available_node_types"].values()
    assert kind["min_workers"] == kind["max_workers"] == len(config["provider"]["worker_ips"])
    assert asked_gpus("onprem") == 0


def exposure_problems(config: dict[str, Any]) -> Iterator[str]:
    """What would let others in, or leave a node without the token."""
    if config["file_mounts"].get(TOKEN) != "~/.ray/auth_token":
        yield "the token is not sent"
    if not any("chmod 600 ~/.ray/auth_token" in command for command in config["setup_commands"]):
        yield "the token's mode is left open"
    if "--env RAY_AUTH_MODE=token" not in config["docker"]["run_options"]:
        yield "the token is not asked for"
    options = start_options(config["head_start_ray_commands"])
    if options["dashboard_host"] != "127.0.0.1":
        yield "the dashboard is not on loopback"
    if not options["head"] or not options["autoscaling_config"]:
        yield "the head is no head"
    if start_options(config["worker_start_ray_commands"])["address"] != "HEAD:6379":
        yield "workers look for another head"


def start_options(commands: list[str]) -> dict[str, Any]:
    """What `ray start` makes of the last command."""
    from ray.scripts.scripts import start

    line = (
        commands[-1]
        .replace("$RAY_HEAD_IP", "HEAD")
        .replace("--autoscaling-config=~", "--autoscaling-config=/root")
    )
    words = shlex.split(line.split("ray start", 1)[1])
    return dict(start.make_context("ray start", words).params)


@pytest.mark.parametrize("name", FILES)
def test_only_holders_of_the_token_get_in_and_the_dashboard_is_on_loopback(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = prepared(load(name), monkeypatch)
    assert list(exposure_problems(config)) == []
    left_out = {key: value for key, value in load(name).items() if not key.endswith("start_ray_commands")}
    defaults = prepared(left_out, monkeypatch)
    if name != "onprem":  # whose defaults are on loopback
        assert "the dashboard is not on loopback" in list(exposure_problems(defaults))
    for key, without in (("file_mounts", {}), ("docker", {"run_options": []}), ("setup_commands", [])):
        assert len(list(exposure_problems({**config, key: without}))) == 1


@pytest.mark.parametrize("name", FILES)
def test_what_is_sent_exists_and_is_what_the_package_is_built_from(name: str) -> None:
    config = load(name)
    sent = {local for remote, local in config["file_mounts"].items() if remote != TOKEN}
    assert sent == {"distill_ray", "pyproject.toml", "README.md", "LICENSE"}
    assert all((ROOT / local).exists() for local in sent)
    (installs,) = (command for command in config["setup_commands"] if "pip install" in command)
    folders = {remote.rsplit("/", 1)[0] for remote in config["file_mounts"] if remote != TOKEN}
    assert folders == {"/home/ray/distill-ray"}
    assert "cp -r ~/distill-ray /tmp/distill-ray && pip install --no-cache-dir /tmp/distill-ray" in installs

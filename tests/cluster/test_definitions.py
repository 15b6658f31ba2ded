"""What all files of cluster/ must keep to: versions, commands, paths, scripts, the image.

Every check is a function that finds problems in a text; it is run on the real files, where it must find none,
and on a broken copy, where it must find the break.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from email.parser import Parser
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from distill_ray import __version__
from distill_ray.cli.main import COMMANDS, parser_of
from distill_ray.cli.options import worker_plan

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
TEXTS = sorted(
    path
    for path in CLUSTER.rglob("*")
    if path.suffix in {".yaml", ".yml", ".md", ".sbatch", ".sh", ".json"} or "Dockerfile" in path.name
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
BUILT_ON = "rayproject/ray"
RAY = version("ray")


def text_of(name: str) -> str:
    return (CLUSTER / name).read_text("utf-8")


class StrictLoader(yaml.SafeLoader):
    """YAML of which the standard also holds: a key once."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.YAMLError(f"{sorted(twice)} twice, line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


def parse_problems(text: str) -> list[str]:
    try:
        documents = list(yaml.load_all(text, StrictLoader))
    except yaml.YAMLError as error:
        return [str(error)]
    return [] if documents and all(isinstance(item, dict) for item in documents) else ["not a mapping"]


def version_problems(text: str) -> Iterator[str]:
    """Ray and Python of every image, and every rayVersion, against what is installed and pinned."""
    for repository, tag in re.findall(r"([\w.-]+/[\w.-]+):([\w.-]*\d[\w.-]*)", text):
        if repository == BUILT_ON:
            wanted = f"{RAY}-py312-gpu"
        elif repository.endswith("/distill-ray"):
            wanted = f"{__version__}-ray{RAY}-py312-gpu"
        else:
            continue
        if tag != wanted:
            yield f"{repository}:{tag} is not {wanted}"
    yield from (f"rayVersion {said}" for said in re.findall(r'rayVersion: "?([\d.]+)', text) if said != RAY)
    yield from (
        f"the image checks for Ray {said}"
        for said in re.findall(r"ray\.__version__ == '([\d.]+)'", text)
        if said != RAY
    )


COMMAND = re.compile(
    r"(?:^\s*(?:#\s*)?(?:\$ |entrypoint: )?|--\s+|&& )distill-ray ((?:[a-z]|--version).*?)\s*(?:`|\||#|&&|$)"
)
NAMED = re.compile(r"(?<![\w./-])((?:cluster|tests|examples|kuberay|slurm|docker|monitoring)/[\w./-]+)")


def commands_in(text: str) -> list[list[str]]:
    """The distill-ray commands that a file runs or shows; shell variables become "1", arrays nothing."""
    found = []
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        for match in COMMAND.finditer(line):
            plain = re.sub(r'"?\$\{\w+\[@\]\}"?', "", match[1])
            found.append(shlex.split(re.sub(r"\$\{?\w+\}?", "1", plain)))
    return found


def command_problems(text: str) -> Iterator[str]:
    for words in commands_in(text):
        if words == ["--version"]:
            continue
        outer, inner = words, []
        if words[0] == "submit" and "--" in words:
            inner = words[words.index("--") + 1 :]
        for name, *rest in filter(None, (outer, inner)):
            if name not in COMMANDS:
                yield f"no command {name!r}"
                continue
            try:
                parser = parser_of(name)
                given = parser.make_context(name, rest).params
                if "num_workers" in given:
                    worker_plan(given["num_workers"], given["gpus_per_worker"], None)
            except Exception as error:
                yield f"{shlex.join([name, *rest])}: {getattr(error, 'message', error)}"


def path_problems(text: str) -> Iterator[str]:
    """Files that a text names in the folders of this repository, from its root or from cluster/."""
    for named in NAMED.findall(text):
        path = named.rstrip(".")
        if not any((base / path).exists() for base in (ROOT, CLUSTER)):
            yield f"{path} does not exist"


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(CLUSTER)))
def test_versions_commands_and_paths(path: Path) -> None:
    text = path.read_text("utf-8")
    assert list(version_problems(text)) == []
    assert list(command_problems(text)) == []
    assert list(path_problems(text)) == []
    if path.suffix in {".yaml", ".yml"}:
        assert parse_problems(text) == []


def test_the_checks_had_something_to_check() -> None:
    everything = "\n".join(path.read_text("utf-8") for path in TEXTS)
    assert everything.count(f"{BUILT_ON}:") >= 4
    names = {words[0] for words in commands_in(everything)}
    assert {"submit", "train"} <= names
    assert len(commands_in(everything)) >= 6
    assert len(commands_in(text_of("slurm/train.sbatch"))) == 1


@pytest.mark.parametrize(
    ("name", "old", "new", "check"),
    [
        ("aws.yaml", "2.60.0-py312", "2.59.0-py312", version_problems),
        ("kuberay/rayjob.yaml", "0.1.0-ray2.60.0", "0.1.0-ray2.61.0", version_problems),
        ("kuberay/raycluster.yaml", 'rayVersion: "2.60.0"', 'rayVersion: "2.52.0"', version_problems),
        ("docker/Dockerfile", "== '2.60.0'", "== '2.60.1'", version_problems),
        ("kuberay/rayjob.yaml", "--max-minutes", "--max-minuets", command_problems),
        ("kuberay/rayjob.yaml", "--num-workers 4", "--num-workers four", command_problems),
        ("slurm/train.sbatch", 'distill-ray train "', 'distill-ray trian "', command_problems),
        ("aws.yaml", "-- train s3", "-- trian s3", command_problems),
        ("aws.yaml", "--storage s3", "--storrage s3", command_problems),
        ("gcp.yaml", "cluster/docker/Dockerfile", "cluster/docker/Dockerfiles", path_problems),
        ("aws.yaml", "max_workers: 2\n", "max_workers: 2\nmax_workers: 3\n", parse_problems),
        ("aws.yaml", "provider:\n", "provider:\n type: [\n", parse_problems),
    ],
)
def test_each_check_finds_what_is_broken(
    name: str, old: str, new: str, check: Callable[[str], Iterator[str] | list[str]]
) -> None:
    whole = text_of(name)
    assert old in whole
    assert list(check(whole)) == []
    assert list(check(whole.replace(old, new, 1)))


def shell_problems(script: Path, shellcheck: str | None) -> str:
    checks = [["bash", "-n", str(script)]]
    if shellcheck:
        checks.append([shellcheck, "--severity=style", str(script)])
    return "".join(
        done.stdout + done.stderr
        for done in (subprocess.run(check, capture_output=True, text=True, check=False) for check in checks)
        if done.returncode
    )


SHELLCHECK = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))


@pytest.mark.parametrize(
    "script", sorted([*CLUSTER.rglob("*.sbatch"), *CLUSTER.rglob("*.sh")]), ids=lambda path: path.name
)
def test_scripts_are_sound(script: Path, tmp_path: Path) -> None:
    assert shell_problems(script, SHELLCHECK) == ""
    whole = script.read_text("utf-8")
    assert "set -euo pipefail" in whole
    broken = tmp_path / script.name
    broken.write_text(whole + "\nif true; then\n")
    assert shell_problems(broken, None)
    if SHELLCHECK:
        broken.write_text(whole + "\nrm -r $undefined/x\n")
        assert "SC2154" in shell_problems(broken, SHELLCHECK)


def test_ray_symmetric_run_gets_whole_nodes_and_takes_its_options() -> None:
    """It ends with an unscoped `ray stop`, and refuses some options of `ray start`."""
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

    script = text_of("slurm/train.sbatch")
    assert "\n#SBATCH --exclusive\n" in script
    line = re.search(r"ray symmetric-run (.*?) -- ", re.sub(r"\\\n\s*", " ", script))
    assert line
    words = shlex.split(re.sub(r"\$\{?\w+\}?", "2", line[1]))
    cleaned = curate_and_validate_ray_start_args(words)
    # Options that only a head takes would end every other node.
    assert cleaned == ["--num-cpus=2", "--num-gpus=2"]
    with pytest.raises(click.ClickException):
        curate_and_validate_ray_start_args([*words, "--head"])


def copied(dockerfile: str) -> list[tuple[list[str], str]]:
    """(sources, target) of each COPY."""
    lines = re.findall(r"^COPY (?:--\S+ )*(.+)$", dockerfile, re.MULTILINE)
    return [(words[:-1], words[-1]) for words in map(str.split, lines)]


def test_the_image_has_what_the_package_is_built_from_and_installs_what_it_needs(tmp_path: Path) -> None:
    """Builds a wheel from just the files that the Dockerfile copies, as its pip line does."""
    dockerfile = text_of("docker/Dockerfile")
    image = tmp_path / "image"
    for sources, target in copied(dockerfile):
        for source in sources:
            place = image / target.strip("/")
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, place)
    (installed,) = re.findall(r"pip install --no-cache-dir (\S+)", dockerfile)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w"]
    subprocess.run([*build, tmp_path, image / installed.strip("/")], check=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        names = set(files.namelist())
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        required = Parser().parsestr(files.read(metadata).decode()).get_all("Requires-Dist", [])
    ours = {str(path.relative_to(ROOT)) for path in (ROOT / "distill_ray").rglob("*.py")}
    assert ours <= names
    plain = {re.sub(r"\s", "", item) for item in required if "extra ==" not in item}
    assert {re.split(r"[\[<>=]", item)[0] for item in plain} == {
        re.split(r"[\[<>=]", item)[0] for item in PROJECT["dependencies"]
    }


def test_the_build_context_is_what_is_copied_and_no_more() -> None:
    rules = [line for line in text_of("docker/Dockerfile.dockerignore").splitlines() if line[:1] != "#"]
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    assert let_in == {source for sources, _ in copied(text_of("docker/Dockerfile")) for source in sources}


def test_ray_is_pinned_to_the_version_of_the_files() -> None:
    (pin,) = (item for item in PROJECT["dependencies"] if item.startswith("ray["))
    major, minor, _ = RAY.split(".")
    assert pin.endswith(f">={RAY},<{major}.{int(minor) + 1}")

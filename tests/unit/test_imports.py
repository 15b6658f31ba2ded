"""Who may import whom (ARCHITECTURE.md), read from the source; and what stays unloaded."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "distill_ray"

# What each package may import of the others: each only rows above its own.
MAY_IMPORT = {
    "config": set(),
    "vqvae": {"config"},
    "events": {"vqvae"},
    "display": {"events", "vqvae"},
    "storage": {"config", "events"},
    "prior": {"config", "storage"},
    "corpus": {"config", "storage"},
    "bundle": {"config", "prior", "storage", "vqvae"},
    "training": {"config", "corpus", "events", "prior", "storage", "vqvae"},
    "generate": {"bundle", "config", "corpus", "events", "prior", "storage", "vqvae"},
    "evaluate": {"bundle", "config", "corpus", "events", "generate", "prior", "storage", "vqvae"},
    "runtime": {"corpus", "events", "prior", "storage", "training", "vqvae"},
    "runs": {
        "bundle",
        "config",
        "corpus",
        "evaluate",
        "events",
        "prior",
        "runtime",
        "storage",
        "training",
        "vqvae",
    },
    "report": {
        "bundle",
        "config",
        "corpus",
        "evaluate",
        "events",
        "generate",
        "runs",
        "storage",
        "training",
        "vqvae",
    },
    "jobs": {"bundle", "events", "runtime", "storage"},
    "tune": {
        "bundle",
        "config",
        "corpus",
        "evaluate",
        "events",
        "generate",
        "prior",
        "report",
        "runs",
        "runtime",
        "storage",
        "training",
        "vqvae",
    },
    "pipeline": {
        "bundle",
        "config",
        "corpus",
        "events",
        "generate",
        "report",
        "prior",
        "runs",
        "runtime",
        "storage",
        "training",
        "tune",
    },
    "cli": {
        "bundle",
        "config",
        "corpus",
        "display",
        "evaluate",
        "events",
        "generate",
        "jobs",
        "pipeline",
        "prior",
        "report",
        "runs",
        "runtime",
        "storage",
        "tune",
    },
    "python": {"bundle", "cli", "config", "corpus", "display", "evaluate", "generate", "pipeline", "runtime"}
    | {"runs", "storage"},
}
OF_THE_ROOT = {
    "argument_names",
    "argument_types",
    "errors",
    "foreign",
    "jsonable",
    "lazy",
    "regular_file",
    "threads",
    "uri",
    "version",
}
ONLY_IN = {"ray": {"runtime", "jobs", "tune"}, "rich": {"display"}, "typer": {"cli"}}
FILES = sorted(ROOT.rglob("*.py"))


@functools.cache
def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} imports relatively"
            names |= {_imported(node.module, alias.name) for alias in node.names}
    return names


def _imported(package: str, name: str) -> str:
    """`package.name` where that is a file of ours, else `package`."""
    inner = ROOT.parent.joinpath(*package.split("."), name)
    ours = inner.with_suffix(".py").exists() or (inner / "__init__.py").exists()
    return f"{package}.{name}" if ours else package


def module(path: Path) -> str:
    parts = ("distill_ray", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def test_every_package_has_its_rule() -> None:
    packages = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert packages == set(MAY_IMPORT)
    above: set[str] = set()
    for name, allowed in MAY_IMPORT.items():
        assert allowed <= above, name
        above.add(name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_downward(path: Path) -> None:
    home = package(path)
    if home not in MAY_IMPORT:
        return  # the modules of the root import nothing of ours but each other
    allowed = MAY_IMPORT[home] | OF_THE_ROOT | {home}
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "distill_ray" and len(parts) > 1:
            assert parts[1] in allowed, f"{path} imports {name}"


def test_no_file_imports_one_that_imports_it() -> None:
    """Directly or through others, be it within a function or for types only."""
    imports = {module(path): imported(path) & {module(each) for each in FILES} for path in FILES}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " → ".join((*way[way.index(name) :], name))
        if name not in done:
            for other in imports[name] - {name}:
                visit(other, (*way, name))
            done.add(name)

    for name in imports:
        visit(name, ())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_libraries_stay_where_they_belong(path: Path) -> None:
    for name in imported(path):
        homes = ONLY_IN.get(name.split(".")[0])
        assert homes is None or package(path) in homes, f"{path} imports {name}"


def test_files_are_not_drawers() -> None:
    for path in FILES:
        assert path.stem not in {"utils", "util", "common", "helpers", "helper", "misc"}, path
        assert len(path.read_text("utf-8").splitlines()) <= 500, path


def test_help_loads_neither_torch_nor_ray() -> None:
    script = (
        "import sys\n"
        "from distill_ray.cli.main import main\n"
        "sys.argv = ['distill-ray', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "loaded = {'torch', 'ray', 'rich', 'numpy', 'pyarrow'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "train-prior" in done.stdout

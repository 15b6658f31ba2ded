"""The names that users rely on, and that they cost nothing until used."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import distill_ray
from distill_ray.errors import DistillError

# DESIGN section 4: these stay.
PROMISED = {
    "distill_ray.vqvae": ["VQVAEConfig", "get_adaptive_vqvae_config"],
    "distill_ray.prior": [
        "PriorConfig",
        "CodePrior",
        "get_adaptive_prior_config",
        "check_memorization",
        "flatten_codes",
        "unflatten_codes",
        "extract_code_sequences",
    ],
    "distill_ray.training": [
        "train_vqvae",
        "train_prior",
        "VQStepMetrics",
        "VQEpochMetrics",
        "TrainingCompleteEvent",
        "PriorStepMetrics",
        "PriorEpochMetrics",
        "PriorTrainingCompleteEvent",
    ],
    "distill_ray.bundle": ["save_model_v2", "load_model_v2", "LoadedVQModel", "save_prior_to_model"],
}
UNEXPORTED = [
    f"distill_ray.{name}"
    for name in ("display", "events", "jobs", "pipeline", "python", "runs", "runtime", "storage", "tune")
]
PACKAGES = ["distill_ray", *PROMISED, "distill_ray.corpus", "distill_ray.generate", "distill_ray.evaluate"]


@pytest.mark.parametrize(("package", "name"), [(p, n) for p, names in PROMISED.items() for n in names])
def test_promised_names_come_from_their_package_and_from_the_root(package: str, name: str) -> None:
    assert name in importlib.import_module(package).__all__
    assert getattr(importlib.import_module(package), name) is getattr(distill_ray, name)


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_sorted_complete_and_resolves(package: str) -> None:
    module = importlib.import_module(package)
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = module.nonsense


def test_importing_a_package_loads_neither_torch_nor_ray() -> None:
    script = (
        "import importlib, sys\n"
        "for package in sys.argv[1:]:\n"
        "    importlib.import_module(package)\n"
        "    loaded = {'torch', 'ray', 'rich'} & set(sys.modules)\n"
        "    assert not loaded, (package, loaded)\n"
    )
    line = [sys.executable, "-c", script, *PACKAGES, *UNEXPORTED]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_error_is_in_the_tree_and_has_its_exit_code() -> None:
    errors = importlib.import_module("distill_ray.errors")
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert all(issubclass(kind, DistillError) for kind in kinds)
    codes = {kind.__name__: kind.exit_code for kind in kinds}
    assert codes == {
        "DistillError": 1,
        "UsageError": 2,
        "ConfigError": 2,
        "CorpusError": 2,
        "AudioError": 2,
        "BundleError": 2,
        "CodeShapeError": 2,
        "TrainingError": 1,
        "CheckpointError": 1,
        "StorageError": 1,
        "ClusterError": 1,
        "JobError": 1,
        "InstallationError": 1,
        "CancelledError": 3,
    }
    tree = errors.__doc__
    assert all(name in tree for name in codes)

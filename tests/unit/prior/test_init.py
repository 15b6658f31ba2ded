from __future__ import annotations

import subprocess
import sys

import distill_ray.prior


def test_every_export_exists() -> None:
    for name in distill_ray.prior.__all__:
        assert getattr(distill_ray.prior, name).__name__ == name


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, distill_ray.prior; sys.exit('torch' in sys.modules or 'pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_memorization_needs_no_torch() -> None:
    code = (
        "import sys; from distill_ray.prior import check_memorization; "
        "check_memorization(train_loss=1.0, val_loss=2.0); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

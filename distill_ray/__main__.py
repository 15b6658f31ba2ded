"""`python -m distill_ray` is `distill-ray`."""

from __future__ import annotations

from distill_ray.cli.main import main

if __name__ == "__main__":
    main()

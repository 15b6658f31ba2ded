"""distill-ray: train an RVQ codec and a prior over its codes on a folder of recordings, with Ray.

The names of DESIGN's public interface load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations


__version__ = "0.1.0"

"""Prostate segmentation of T2-weighted MRI with the DDSP ConNet (Liu et al. 2018).

For scripts: ``segment(scan)``. Importing this package loads nothing; the first call loads PyTorch and the network.
"""

from typing import TYPE_CHECKING

__all__ = ["segment"]
__version__ = "0.1.0"

if TYPE_CHECKING:
    from .service.scripting import segment
else:

    def __getattr__(name):
        if name == "segment":
            from .service.scripting import segment

            return segment
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

"""How callers reach the engine: in this process. A worker process may stand behind the same ``segment``."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import SimpleITK as sitk

from ..engine.errors import TorchMissingError
from ..engine.run_settings import DEFAULTS, RunSettings
from ..engine.segmentation import Segmentation

if TYPE_CHECKING:
    from ..engine.segmenter import Segmenter

OLDEST_TORCH = (2, 4)
INSTALL_TORCH = (
    "In Slicer, install the extension 'PyTorch', restart, and press Install PyTorch in its module PyTorch Utils; "
    "elsewhere, run 'pip install torch' in the same environment."
)


def require_torch() -> str:
    """Version of the installed torch, found without loading it.

    Raises:
        TorchMissingError: none is installed, or one that is too old.
    """
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        raise TorchMissingError("PyTorch is not installed.", INSTALL_TORCH) from None
    numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())
    if numbers < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise TorchMissingError(f"PyTorch {version} is too old; {oldest} or newer is needed.", INSTALL_TORCH)
    return version


def load_torch() -> str:
    """Load torch, and let it use the cores there are; its version.

    Raises:
        TorchMissingError: it is missing, too old, or does not load.
    """
    version = require_torch()
    try:
        from ..engine.devices import set_threads
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise TorchMissingError(f"PyTorch {version} cannot be loaded: {reason}.", INSTALL_TORCH) from error
    set_threads()
    return version


class InProcessRunner:
    """Runs the engine in this process and keeps the last model loaded."""

    def __init__(self) -> None:
        self._segmenter: Segmenter | None = None
        self._loaded: tuple | None = None

    def segment(
        self,
        image: sitk.Image,
        settings: RunSettings = DEFAULTS,
        *,
        name: str = "volume",
        members: Sequence[int] | None = None,
        progress: Callable[[str, float], None] | None = None,
    ) -> Segmentation:
        """See ``Segmenter.segment``."""
        require_torch()
        if progress is not None and self._segmenter is None:
            progress("Loading model", 0.0)
        segmenter = self._segmenter_for(settings.model, settings.device)
        return segmenter.segment(image, settings, name=name, members=members, progress=progress)

    def load(self, model: Path | str | None = None, device: str = "auto") -> None:
        """Load a model now, so that the first scan need not wait for it. Raises what ``segment`` would."""
        require_torch()
        self._segmenter_for(model, device)

    def _segmenter_for(self, model: Path | str | None, device: str) -> Segmenter:
        from ..engine.model import builtin_model_folder, describe_model
        from ..engine.segmenter import Segmenter

        model = model or builtin_model_folder()
        wanted = (str(model), describe_model(model), device)
        if self._segmenter is None or self._loaded != wanted:
            self._segmenter = None  # free the old one before the new one is loaded
            self._segmenter = Segmenter(model, device)
            self._loaded = wanted
        return self._segmenter

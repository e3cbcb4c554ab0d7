"""What the panel asks when PyTorch is not there, and what a yes does; it shows nothing itself.

PyTorch comes through Slicer's extension 'PyTorch', which picks the build that fits the computer. What Slicer brings
along, SimpleITK and numpy above all, must come out of it unchanged.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import slicer
from slicer.i18n import tr as _

from ..engine.errors import TorchMissingError
from ..service.runner import OLDEST_TORCH, require_torch

EXTENSION = "PyTorch"
INSTALLER_MODULE = "PyTorchUtils"
BUNDLED_PACKAGES = ("SimpleITK", "numpy")
OLDEST_VERSION = ".".join(map(str, OLDEST_TORCH))
NEEDED_GB = 1
NEEDED_GB_WITH_CUDA = 6
# qSlicerExtensionsManagerModel::MetadataServer, an enum that PythonQt does not hand out in every version
METADATA_OF_SERVER = 2


@dataclass(frozen=True)
class Missing:
    """One question for the panel.

    Attributes:
        question: what would be installed; ``details``: why, its size, the minutes, and what is sent.
        accept: text of the button that says yes.
        install: does it and returns the sentence to show then, which names the next step. It blocks for minutes,
            though Slicer still handles events between pip's lines: disable the panel, and end the worker first, whose
            open files Windows does not replace. Raises TorchMissingError when it failed.
    """

    question: str
    details: str
    accept: str
    install: Callable[[], str]

    @property
    def refused(self) -> str:
        """What to say after a no."""
        return _("Without PyTorch nothing can be segmented. Press Segment Prostate to be asked again.")


def find_missing() -> Missing | None:
    """The question to ask before anything can be segmented, ``None`` when PyTorch is there; never loads it.

    Raises:
        TorchMissingError: PyTorch is missing and nothing can be installed from here; says what to do instead.
    """
    try:
        require_torch()
        return None
    except TorchMissingError as error:
        missing = error
    if getattr(slicer, "app", None) is None:
        raise missing
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        raise TorchMissingError(
            missing.cause,
            _(
                "There is no PyTorch {oldest} for Intel Macs, nor for a Slicer built for them: use a Slicer built for "
                "Apple silicon, or another computer."
            ).format(oldest=OLDEST_VERSION),
        )
    if INSTALLER_MODULE in sys.modules or importlib.util.find_spec(INSTALLER_MODULE) is not None:
        return _ask_for_torch(missing.cause)
    manager = _extensions_manager()
    if manager is None:
        raise TorchMissingError(missing.cause, _by_hand())
    if manager.isExtensionInstalled(EXTENSION):
        raise TorchMissingError(
            _("{cause} The extension 'PyTorch', which installs it, is not loaded.").format(cause=missing.cause),
            _("Restart Slicer; if that does not help, enable the extension in the Extensions Manager."),
        )
    return _ask_for_extension(missing.cause)


def _ask_for_torch(cause: str) -> Missing:
    return Missing(
        question=_("Install PyTorch now?"),
        details=_(
            "{cause} About {size} are downloaded, which takes 1 to 15 minutes; Slicer's window does not answer "
            "meanwhile. Nothing is sent but the request for the download."
        ).format(cause=cause, size=_download_size()),
        accept=_("Install PyTorch"),
        install=_install_torch,
    )


def _ask_for_extension(cause: str) -> Missing:
    return Missing(
        question=_("Install Slicer's extension 'PyTorch' now?"),
        details=_(
            "{cause} This extension installs it. It is smaller than 1 MB and takes less than a minute, in which "
            "Slicer's window does not answer; then Slicer must be restarted. You are asked again before PyTorch itself "
            "is downloaded, about {size} in 1 to 15 minutes. Nothing is sent but the request for the download."
        ).format(cause=cause, size=_download_size()),
        accept=_("Install the PyTorch extension"),
        install=_install_extension,
    )


def _install_torch() -> str:
    _check_folder()
    before = _bundled_versions()
    loaded = "torch" in sys.modules
    failure = None
    try:
        installer = importlib.import_module(INSTALLER_MODULE).PyTorchUtilsLogic()
        installer.installTorch(askConfirmation=False, torchVersionRequirement=f">={OLDEST_VERSION}")
    except Exception as error:  # whatever another extension or pip raises ends in a message
        logging.exception("PyTorch could not be installed.")
        failure = error
    importlib.invalidate_caches()
    _check_bundled(before)
    try:
        version = require_torch()
    except TorchMissingError as missing:
        raise _not_installed(failure, missing, loaded) from failure
    if loaded:
        return _(
            "PyTorch {version} is installed. Slicer still uses the old one: restart it, then press Segment Prostate."
        ).format(version=version)
    if failure is not None:
        raise TorchMissingError(
            _("PyTorch {version} is installed but cannot be loaded: {reason}.").format(
                version=version, reason=_first_line(failure)
            ),
            _("Restart Slicer and press Segment Prostate again."),
        ) from failure
    return _("PyTorch {version} is installed. Press Segment Prostate again.").format(version=version)


def _install_extension() -> str:
    manager = _extensions_manager()
    # The installation says yes even where the download fails, so the server is asked first and the outcome last.
    if not manager.updateExtensionsMetadataFromServer(True, True):
        raise TorchMissingError(_("The server of Slicer's extensions could not be reached."), _check_network())
    if not manager.extensionMetadata(EXTENSION, METADATA_OF_SERVER):
        raise TorchMissingError(_("There is no extension 'PyTorch' for this version of Slicer."), _by_hand())
    interactive = manager.interactive
    manager.interactive = False  # no message boxes
    try:
        manager.installExtensionFromServer(EXTENSION, False, False)
    finally:
        manager.interactive = interactive
    if not manager.isExtensionInstalled(EXTENSION):
        raise TorchMissingError(_("The extension 'PyTorch' could not be downloaded."), _check_network())
    return _("The extension 'PyTorch' is installed. Restart Slicer, then press Segment Prostate to install PyTorch.")


def _extensions_manager() -> Any | None:
    """``None`` in a Slicer that was built or started without one."""
    ask = getattr(slicer.app, "extensionsManagerModel", None)
    return ask() if ask is not None else None


def _has_nvidia_gpu() -> bool:
    """As the extension finds out which build fits: by the tool that comes with the driver."""
    return shutil.which("nvidia-smi") is not None


def _download_size() -> str:
    return _("2 to 3 GB, for this computer's NVIDIA GPU,") if _has_nvidia_gpu() else _("200 MB")


def _check_folder() -> None:
    """Before anything is downloaded: room, and the right to write."""
    folder = sysconfig.get_path("purelib")
    if not os.access(folder, os.W_OK):
        raise TorchMissingError(
            _("Slicer's folder of Python packages cannot be written to: {folder}.").format(folder=folder),
            _("Ask an administrator to install PyTorch, or install Slicer in a folder of your own."),
        )
    needed = NEEDED_GB_WITH_CUDA if _has_nvidia_gpu() else NEEDED_GB
    free = shutil.disk_usage(folder).free / 1e9
    if free < needed:
        raise TorchMissingError(
            _("PyTorch needs about {needed} GB, and {free:.1f} GB are free where Slicer is installed.").format(
                needed=needed, free=free
            ),
            _("Free disk space there ({folder}), then press Segment Prostate again.").format(folder=folder),
        )


def _bundled_versions() -> dict[str, str]:
    """Installed version of each package that must stay as it is; empty where there is no record of one."""
    found = {package: importlib.metadata.distributions(name=package) for package in BUNDLED_PACKAGES}
    return {package: next((one.version for one in records), "") for package, records in found.items()}


def _check_bundled(before: dict[str, str]) -> None:
    after = _bundled_versions()
    changed = [f"{name} {before[name] or '-'} > {after[name] or '-'}" for name in before if before[name] != after[name]]
    if changed:
        raise TorchMissingError(
            _("Installing PyTorch replaced packages that belong to Slicer: {packages}.").format(
                packages=", ".join(changed)
            ),
            _("Save your work and reinstall Slicer; other modules may not work until then."),
        )


def _not_installed(failure: Exception | None, missing: TorchMissingError, loaded: bool) -> TorchMissingError:
    if loaded:
        return TorchMissingError(
            _("{cause} It could not be replaced while Slicer uses it.").format(cause=missing.cause),
            _("Restart Slicer and press Segment Prostate before any other module uses PyTorch."),
        )
    if isinstance(failure, subprocess.CalledProcessError):
        return TorchMissingError(_("PyTorch could not be downloaded."), _check_network())
    if failure is not None:
        return TorchMissingError(
            _("PyTorch could not be installed: {reason}.").format(reason=_first_line(failure)), _by_hand()
        )
    return TorchMissingError(missing.cause, _by_hand())


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _check_network() -> str:
    return _(
        "Check the connection to the internet and try again. Behind a proxy, set the environment variable HTTPS_PROXY "
        "and start Slicer from there. The details are in View > Error Log."
    )


def _by_hand() -> str:
    return _(
        "In the Python console (View > Python Console), run slicer.util.pip_install('torch>={oldest}'), then press "
        "Segment Prostate again."
    ).format(oldest=OLDEST_VERSION)

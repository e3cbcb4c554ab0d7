"""One scan for a script: from a file or an image to a segmentation, in this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import SimpleITK as sitk

from ..engine.errors import InputError
from ..engine.run_settings import DEFAULTS, RunSettings
from ..engine.segmentation import Segmentation
from ..library.model_registry import resolve_model
from .case_work import read_case
from .inputs import collect_inputs
from .runner import InProcessRunner

SHOWN_NAMES = 3


def segment(
    scan: str | os.PathLike[str] | sitk.Image,
    *,
    mode: str = DEFAULTS.mode,
    threshold: float = DEFAULTS.threshold,
    bias_field: str | None = DEFAULTS.bias_field,
    device: str = DEFAULTS.device,
    model: str | os.PathLike[str] | None = None,
    location: tuple[float, float, float] | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Segmentation:
    """Outline the prostate on one axial T2-weighted scan; the network stays loaded for the next.

    Args:
        scan: a file (NRRD, NIfTI, MHA, MHD, one of a DICOM series), a folder that holds one scan, or a 3D image,
            LPS mm.
        mode: ``standard``, ``fast`` or ``paper``.
        threshold: probability from which a voxel counts as prostate.
        bias_field: ``full``, ``fast`` or ``off``; ``None``: the version's own choice.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        model: name or folder of a model version; ``None``: the active one.
        location: (x, y, z) LPS mm, a point in the gland; ``None``: it is searched for.
        progress: called with phase and fraction; raising ``Canceled`` in it ends the work.

    Returns:
        The mask on the scan's own grid, what was measured, and what to be wary of.

    Raises:
        DDSPSegmentationError: with cause and next step; InputError, ModelError, DeviceError, TorchMissingError.
    """
    folder = resolve_model(None if model is None else os.fspath(model))
    settings = RunSettings(mode, threshold, bias_field, device, folder, location)
    if isinstance(scan, sitk.Image):
        return _runner().segment(scan, settings, name="scan", progress=progress)
    cases, _skipped = collect_inputs([scan])
    if len(cases) > 1:
        names = ", ".join(case.name for case in cases[:SHOWN_NAMES]) + (", ..." if len(cases) > SHOWN_NAMES else "")
        cause = f"'{Path(scan).name}' holds {len(cases)} scans ({names})."
        raise InputError(cause, "Name one of them; 'ddsp-segmentation segment' does them all.")
    image, doubts = read_case(cases[0])
    answer = _runner().segment(image, settings, name=cases[0].name, progress=progress)
    answer.warnings += doubts
    return answer


@cache
def _runner() -> InProcessRunner:
    return InProcessRunner()

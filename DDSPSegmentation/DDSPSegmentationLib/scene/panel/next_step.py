"""What the status line advises while nothing runs."""

from __future__ import annotations

from slicer.i18n import tr as _

from ..result_nodes import facts_of
from .result_section import ResultSection


def next_step(volumeNode, resultNode, shown: ResultSection) -> str:
    """One or two sentences for whoever looks at a volume and its result, or at neither."""
    facts = None if resultNode is None else facts_of(resultNode)
    if volumeNode is None:
        return _("Load an axial T2-weighted scan: drag it into Slicer, or open Sample Data.")
    if resultNode is None:
        return _("Press Segment Prostate.")
    if shown.apart:
        return _("Scan and contour were moved apart: press Move Contour Along under Result, or undo the move.")
    if shown.isImported:
        return _("Imported. Check every slice, then press Accept, export the contour, or save the scene.")
    if shown.edited:
        return _("Corrected. Check every slice, then press Accept, export the contour, or save the scene.")
    if not shown.isFound:
        return _("No prostate was found. Choose another volume, or a point in it under Prostate location.")
    if facts is not None and facts.warnings:
        return _("Read the warnings under Result, then check every slice and fix the contour under Correct.")
    return _("Check the contour: Next shows the least certain slices. Fix it under Correct, then press Accept.")

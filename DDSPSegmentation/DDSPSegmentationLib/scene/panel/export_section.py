"""The panel's section Export: one button a format."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import slicer
from slicer.i18n import tr as _

from .. import export
from ..result_nodes import own_segment_id
from .guard import WENT_WRONG


class ExportSection:
    """Writes the contour as it is now to where the user says.

    Args:
        guard: runs a function and shows its error, if any, in the status line.
        say: puts a sentence into the panel's status line.
    """

    def __init__(self, ui, guard: Callable, say: Callable[[str], None]):
        self.ui, self._guard, self._say = ui, guard, say
        self._node = self._volumeNode = None
        self._formats = [
            (ui.segNrrdButton, ".seg.nrrd", _("Segmentation (*.seg.nrrd)"), self._writeSegNrrd),
            (ui.niftiButton, ".nii.gz", _("NIfTI (*.nii.gz)"), self._writeNifti),
            (ui.stlButton, ".stl", _("STL surface (*.stl)"), self._writeStl),
            (ui.screenshotButton, ".png", _("Picture (*.png)"), self._writeScreenshot),
        ]
        self._tips = [button.toolTip for button, *_rest in self._formats]
        for number, (button, *_rest) in enumerate(self._formats):
            button.connect("clicked(bool)", partial(self._onFile, number))
        ui.dicomSegButton.connect("clicked(bool)", self._onDicomSeg)
        self.show(None, None)

    def show(self, node, volumeNode) -> None:
        """Export the result of a volume, or nothing."""
        self._node, self._volumeNode = node, volumeNode
        self.refresh()

    def refresh(self) -> None:
        """Enable what can be written now; the DICOM database may have changed since."""
        node, volumeNode = self._node, self._volumeNode
        missing = "" if node is not None else _("Segment the prostate first.")
        for (button, *_rest), tip in zip(self._formats, self._tips, strict=True):
            button.enabled = not missing
            button.toolTip = missing or tip
        obstacle = missing or export.dicom_seg_obstacle(node, volumeNode)
        self.ui.dicomSegButton.enabled = not obstacle
        self.ui.dicomSegButton.toolTip = obstacle or _("DICOM segmentation object in the study of the scan.")

    def askForFile(self, suffix: str, kind: str) -> str:
        """Where to write; empty when the user thinks better of it."""
        import qt

        suggestion = os.path.join(qt.QDir.homePath(), export.NEUTRAL_NAME + suffix)
        path = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), _("Export"), suggestion, kind)
        if not path or path.lower().endswith(suffix):
            return path
        # Some systems add the last part of the suffix by themselves.
        path = path.removesuffix("." + suffix.rpartition(".")[2]) + suffix
        if os.path.exists(path):  # the dialog asked about another name
            self._say(_("{path} exists already; choose it in the list of files to replace it.").format(path=path))
            return ""
        return path

    def askForFolder(self) -> str:
        import qt

        return qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("Folder for the DICOM file"))

    def _onFile(self, number: int, checked: bool = False) -> None:
        _button, suffix, kind, write = self._formats[number]
        path = self.askForFile(suffix, kind)
        if path and self._guard(lambda: write(path)) is not WENT_WRONG:
            self._say(_("Written: {path}").format(path=path))

    def _onDicomSeg(self, checked: bool = False) -> None:
        folder = self.askForFolder()
        if not folder:
            return
        written = self._guard(lambda: export.export_dicom_seg(self._node, self._volumeNode, folder))
        if written is not WENT_WRONG:
            self._say(_("DICOM segmentation written into {folder}").format(folder=folder))

    def _writeSegNrrd(self, path: str) -> None:
        export.export_seg_nrrd(self._node, path)

    def _writeNifti(self, path: str) -> None:
        export.export_nifti(self._node, own_segment_id(self._node), self._volumeNode, path)

    def _writeStl(self, path: str) -> None:
        export.export_stl(self._node, own_segment_id(self._node), path)

    def _writeScreenshot(self, path: str) -> None:
        export.export_screenshot(path)

"""The panel's section Export: one button a format."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from slicer.i18n import tr as _

from .. import export
from ..result_nodes import own_segment_id
from ..together import check_together
from .enabling import enable
from .guard import WENT_WRONG, Guard
from .paths import ask_for_folder, ask_for_new_file


class ExportSection:
    """Writes the contour as it is now to where the user says.

    Args:
        uncertainty: called for where the network was unsure of the contour shown, ``None`` where that is not known.
    """

    def __init__(self, ui, guard: Guard, uncertainty: Callable):
        self.ui, self._guard, self._say, self._uncertainty = ui, guard, guard.say, uncertainty
        self._node = self._volumeNode = None
        self._tips = {}
        for button, suffix, kind, write in (
            (ui.segNrrdButton, ".seg.nrrd", _("Segmentation (*.seg.nrrd)"), self._writeSegNrrd),
            (ui.niftiButton, ".nii.gz", _("NIfTI (*.nii.gz)"), self._writeNifti),
            (ui.stlButton, ".stl", _("STL surface (*.stl)"), self._writeStl),
            (ui.pictureButton, ".png", _("Picture (*.png)"), self._writePicture),
        ):
            self._tips[button] = button.toolTip
            button.connect("clicked(bool)", partial(self._onFile, suffix, kind, write))
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
        for button, tip in self._tips.items():
            enable(button, missing, tip)
        obstacle = missing or export.dicom_seg_obstacle(node, volumeNode)
        enable(self.ui.dicomSegButton, obstacle, _("DICOM segmentation object in the study of the scan."))

    def _onFile(self, suffix: str, kind: str, write: Callable[[str], None], checked: bool = False) -> None:
        if not self._isTogether():
            return
        path = ask_for_new_file(_("Export"), export.NEUTRAL_NAME, suffix, kind, self._say)
        if path and self._guard(lambda: write(path)) is not WENT_WRONG:
            self._say(_("Written: {path}").format(path=path))

    def _isTogether(self) -> bool:
        """A contour beside its scan leaves this program as nothing of that scan."""
        return self._guard(lambda: check_together(self._node, self._volumeNode)) is not WENT_WRONG

    def _onDicomSeg(self, checked: bool = False) -> None:
        if not self._isTogether():
            return
        folder = ask_for_folder(_("Folder for the DICOM file"))
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

    def _writePicture(self, path: str) -> None:
        export.export_picture(self._node, own_segment_id(self._node), self._volumeNode, path, self._uncertainty())

"""The self test's DICOM part: a segmentation goes out through Slicer's own plugin and comes back."""

from __future__ import annotations

import pathlib
import tempfile

import SimpleITK as sitk
import slicer

PLUGINS = ("DICOMScalarVolumePlugin", "DICOMSegmentationPlugin")


class DicomChecks:
    """Mixed into the module's test."""

    @staticmethod
    def whyNoDicomSeg() -> str:
        """What this Slicer lacks, or an empty text."""
        there = getattr(slicer.modules, "dicomPlugins", {})
        missing = [name for name in PLUGINS if name not in there]
        if missing:
            return f"needs {' and '.join(missing)}; Slicer 5.12 or the extension QuantitativeReporting has the latter"
        return "" if getattr(slicer, "dicomDatabase", None) is not None else "needs a DICOM database"

    def checkDicomSeg(self):
        """The voxels are those that were drawn, and the file says that a program drew them."""
        from DICOMLib import DICOMUtils

        from ..learning.made_up import VERSION, made_up_scan
        from .conversion import add_volume_node, read_segment
        from .export import export_dicom_seg
        from .results import place_contour

        slicer.mrmlScene.Clear()
        image, drawn = made_up_scan(0)
        mask = sitk.GetArrayFromImage(drawn)
        with tempfile.TemporaryDirectory() as folder, DICOMUtils.TemporaryDICOMDatabase() as database:
            volumeNode = add_volume_node(sitk.Cast(image, sitk.sitkInt16), "made up")
            series, written = pathlib.Path(folder, "series"), pathlib.Path(folder, "written")
            for made in (series, written):
                made.mkdir()
            _write_series(volumeNode, series)
            slicer.mrmlScene.RemoveNode(volumeNode)
            DICOMUtils.importDicom(str(series), database)
            (nodeId,) = DICOMUtils.loadPatientByUID(database.patients()[0])
            volumeNode = slicer.mrmlScene.GetNodeByID(nodeId)
            node = place_contour(mask, mask, volumeNode, VERSION, "")
            path = export_dicom_seg(node, volumeNode, written)
            self.assertIn(b"AUTOMATIC", path.read_bytes())
            self.assertIn(b"DDSPSegmentation", path.read_bytes())
            slicer.mrmlScene.RemoveNode(node)  # the plugin has put its file into the database
            plugin = slicer.modules.dicomPlugins["DICOMSegmentationPlugin"]()
            (loadable,) = plugin.examineFiles([str(path)])
            self.assertTrue(plugin.load(loadable), "Slicer's plugin does not read what it wrote")
            (loaded,) = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
            read = read_segment(loaded, loaded.GetSegmentation().GetNthSegmentID(0), volumeNode)
            self.assertTrue((read == mask).all(), f"{int((read != mask).sum())} voxels differ")
        slicer.mrmlScene.Clear()


def _write_series(volumeNode: slicer.vtkMRMLScalarVolumeNode, folder: pathlib.Path) -> None:
    """A volume as a DICOM series, by Slicer's own exporter."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "made up")
    item = hierarchy.GetItemByDataNode(volumeNode)
    hierarchy.SetItemParent(item, hierarchy.CreateStudyItem(patient, "made up"))
    exporter = slicer.modules.dicomPlugins["DICOMScalarVolumePlugin"]()
    exportables = exporter.examineForExport(item)
    for exportable in exportables:
        exportable.directory = str(folder)
        exportable.setTag("PatientID", "made up")
        exportable.setTag("Modality", "MR")
    refused = exporter.export(exportables)
    if refused:
        raise RuntimeError(f"Slicer did not write the series: {refused}")

"""Result files for other programs: each is written aside, then renamed, so that none is ever half there.

No file name holds a patient's: the names of volumes that came from DICOM may.
"""

from __future__ import annotations

import gzip
import os
import tempfile
import zlib
from pathlib import Path

import SimpleITK as sitk
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from ..engine.errors import InputError, StorageError
from ..engine.files import write_aside
from ..engine.images import write_image
from ..engine.pictures import PROSTATE_COLOR, contour_picture
from .conversion import image_from_volume_node, labelmap_of, mask_image, read_segment
from .result_nodes import is_edited, own_segment_id, say_who_drew, volume_of

NEUTRAL_NAME = "prostate"  # volumes and segmentations may be named like the patient
STL_HEADER = "3D Slicer output. SPACE=LPS"
STL_HEADER_BYTES = 84
STL_TRIANGLE_BYTES = 50


def export_seg_nrrd(segmentation_node: slicer.vtkMRMLSegmentationNode, path: str | os.PathLike) -> None:
    """Write all segments as Slicer saves them, in local coordinates; where the node itself is stored stays as it was.

    Raises:
        InputError: every segment is empty.
        StorageError: the file cannot be written.
    """
    _check_any_voxels(segmentation_node)
    _mark(segmentation_node)
    write_seg_nrrd(segmentation_node, Path(path))


def write_seg_nrrd(segmentation_node: slicer.vtkMRMLSegmentationNode, path: Path) -> None:
    """Write all segments through a storage node of its own, whole or not at all. Raises StorageError."""

    def write(aside: Path) -> None:
        storage = slicer.vtkMRMLSegmentationStorageNode()
        storage.SetFileName(str(aside.absolute()))
        storage.SetUseCompression(True)
        if not storage.WriteData(segmentation_node):
            raise RuntimeError("Slicer's writer failed.")
        _check_whole_nrrd(aside)

    write_aside(path, ".seg.nrrd", write)


def export_nifti(
    segmentation_node: slicer.vtkMRMLSegmentationNode,
    segment_id: str,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
    path: str | os.PathLike,
) -> None:
    """Write one segment as a label image of 0 and 1 on the volume's voxel grid, placed in the world.

    Raises:
        InputError: the segment is empty, or the volume's axes are not orthogonal in the world.
        StorageError: the file cannot be written.
    """
    mask = read_segment(segmentation_node, segment_id, volume_node)
    if not mask.any():
        raise _empty(_segment_name(segmentation_node, segment_id))
    write_image(mask_image(mask, volume_node), path)


def export_stl(segmentation_node: slicer.vtkMRMLSegmentationNode, segment_id: str, path: str | os.PathLike) -> None:
    """Write one segment's surface in world coordinates (LPS, mm) as Slicer's own export does, smoothed as it is shown.

    A node without a surface stays without one.

    Raises:
        InputError: the segment is empty.
        StorageError: the file cannot be written.
    """
    surface = vtk.vtkPolyData()
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    if not _has_voxels(segmentation_node, segment_id) or not logic.GetSegmentClosedSurfaceRepresentation(
        segmentation_node, segment_id, surface
    ):
        raise _empty(_segment_name(segmentation_node, segment_id))
    ras_to_lps = vtk.vtkTransform()
    ras_to_lps.Scale(-1, -1, 1)
    to_lps = vtk.vtkTransformPolyDataFilter()
    to_lps.SetTransform(ras_to_lps)
    to_lps.SetInputData(surface)
    triangles = vtk.vtkTriangleFilter()
    triangles.SetInputConnection(to_lps.GetOutputPort())
    triangles.Update()
    count = triangles.GetOutput().GetNumberOfPolys()
    if count == 0:
        raise _empty(_segment_name(segmentation_node, segment_id))

    def write(aside: Path) -> None:
        writer = vtk.vtkSTLWriter()
        writer.SetFileTypeToBinary()
        writer.SetHeader(STL_HEADER)
        writer.SetInputData(triangles.GetOutput())
        writer.SetFileName(str(aside))
        writer.Write()
        # On a full disk the writer removes what it wrote.
        if not aside.exists() or aside.stat().st_size != STL_HEADER_BYTES + STL_TRIANGLE_BYTES * count:
            raise RuntimeError("The surface is not all there.")

    write_aside(Path(path), ".stl", write)


def export_picture(
    segmentation_node: slicer.vtkMRMLSegmentationNode,
    segment_id: str,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
    path: str | os.PathLike,
    uncertainty: sitk.Image | None = None,
) -> None:
    """Write a picture (.png) of the contour on slices over the gland and beyond it, with their numbers, sides and size.

    Args:
        uncertainty: in [0, 1], on the volume's voxel grid; colors the contour, see ``pictures.contour_mosaic``.

    Raises:
        InputError: the segment is empty, or the volume's axes are not orthogonal in the world.
        StorageError: the file cannot be written.
    """
    mask = read_segment(segmentation_node, segment_id, volume_node)
    if not mask.any():
        raise _empty(_segment_name(segmentation_node, segment_id))
    scan = image_from_volume_node(volume_node)
    if uncertainty is not None:
        uncertainty = sitk.Image(uncertainty)
        uncertainty.CopyInformation(scan)  # the volume may have been moved since
    contour_picture(scan, [(mask_image(mask, volume_node), PROSTATE_COLOR)], path, uncertainty=uncertainty)


def dicom_seg_obstacle(
    segmentation_node: slicer.vtkMRMLSegmentationNode, volume_node: slicer.vtkMRMLScalarVolumeNode
) -> str:
    """Why a DICOM SEG cannot be written now, in a sentence or two; empty when it can."""
    database = getattr(slicer, "dicomDatabase", None)
    if database is None or not database.isOpen:
        return _("There is no DICOM database. Open the DICOM module once.")
    uids = (volume_node.GetAttribute("DICOM.instanceUIDs") or "").split()
    if not uids:
        return _("The volume was not loaded from DICOM. Import its series in the DICOM module and load it from there.")
    missing = sum(not os.path.isfile(database.fileForInstance(uid) or "") for uid in uids)
    if missing:
        text = _("{missing} of {total} slices of the series are missing in the DICOM database. Import it again.")
        return text.format(missing=missing, total=len(uids))
    role = segmentation_node.GetReferenceImageGeometryReferenceRole()
    if segmentation_node.GetNodeReference(role) is not volume_node:
        return _("The source geometry of the segmentation is another volume. Set it in the Segment Editor.")
    if _dicom_seg_plugin() is None:
        text = _("This Slicer cannot write DICOM SEG. Use Slicer 5.12 or newer, or install the extension {name}.")
        return text.format(name="QuantitativeReporting")
    return ""


def export_dicom_seg(
    segmentation_node: slicer.vtkMRMLSegmentationNode,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
    folder: str | os.PathLike,
) -> Path:
    """Write all segments as one DICOM SEG that refers to the source series; Slicer adds it to its database too.

    A segment that the network drew says so in the file: AUTOMATIC, or SEMIAUTOMATIC once it was edited.

    Returns:
        The new file; one that is there already is never replaced.

    Raises:
        InputError: every segment is empty, or an obstacle that ``dicom_seg_obstacle`` names.
        StorageError: the plugin refuses, or the file cannot be written.
    """
    obstacle = dicom_seg_obstacle(segmentation_node, volume_node)
    if obstacle:
        raise InputError(obstacle)
    _check_any_voxels(segmentation_node)
    _mark(segmentation_node)
    path = _free_name(Path(folder))

    def write(aside: Path) -> None:
        with tempfile.TemporaryDirectory(prefix=".ddsp-", dir=folder) as temporary:
            os.replace(_written_by_plugin(segmentation_node, Path(temporary)), aside)

    write_aside(path, ".dcm", write)
    return path


def _written_by_plugin(segmentation_node: slicer.vtkMRMLSegmentationNode, folder: Path) -> Path:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    plugin = _dicom_seg_plugin()()
    exportables = plugin.examineForExport(hierarchy.GetItemByDataNode(segmentation_node))
    if not exportables:
        raise _refused(_("it does not offer to export this segmentation"))
    for exportable in exportables:
        exportable.directory = str(folder.absolute())
    reason = plugin.export(exportables)
    if reason:
        raise _refused(reason)
    written = sorted(folder.glob("*.dcm"))
    if not written:
        raise _refused(_("it wrote no file"))
    return written[0]


def _dicom_seg_plugin() -> type | None:
    return getattr(slicer.modules, "dicomPlugins", {}).get("DICOMSegmentationPlugin")


def _mark(segmentation_node: slicer.vtkMRMLSegmentationNode) -> None:
    """Say who drew our segment; those of somebody else keep what they say."""
    if own_segment_id(segmentation_node) and volume_of(segmentation_node) is not None:
        say_who_drew(segmentation_node, is_edited(segmentation_node, volume_of(segmentation_node)))


def _free_name(folder: Path) -> Path:
    path, number = folder / f"{NEUTRAL_NAME}.dcm", 2
    while path.exists():
        path, number = folder / f"{NEUTRAL_NAME}-{number}.dcm", number + 1
    return path


def _check_whole_nrrd(path: Path) -> None:
    """Slicer's writer does not notice a disk that fills up under the last few hundred bytes."""
    try:
        gzip.decompress(path.read_bytes().partition(b"\n\n")[2])
    except (EOFError, zlib.error) as error:
        raise RuntimeError("The voxels are not all there.") from error


def _check_any_voxels(segmentation_node: slicer.vtkMRMLSegmentationNode) -> None:
    ids = segmentation_node.GetSegmentation().GetSegmentIDs()
    if not any(_has_voxels(segmentation_node, segment_id) for segment_id in ids):
        raise _empty(segmentation_node.GetName())


def _has_voxels(segmentation_node: slicer.vtkMRMLSegmentationNode, segment_id: str) -> bool:
    labelmap = labelmap_of(segmentation_node, segment_id)
    return labelmap is not None and bool(vtk_to_numpy(labelmap.GetPointData().GetScalars()).any())


def _segment_name(segmentation_node: slicer.vtkMRMLSegmentationNode, segment_id: str) -> str:
    segment = segmentation_node.GetSegmentation().GetSegment(segment_id)
    return segment.GetName() if segment is not None else segment_id


def _empty(name: str) -> InputError:
    return InputError(
        _("'{name}' is empty.").format(name=name), _("Segment the prostate or draw it before exporting it.")
    )


def _refused(reason: str) -> StorageError:
    return StorageError(
        _("The DICOM SEG was not written: {reason}").format(reason=reason.rstrip(".") + "."),
        _("Check the series in the DICOM module, or export another format."),
    )

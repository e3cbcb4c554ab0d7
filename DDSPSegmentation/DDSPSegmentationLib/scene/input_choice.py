"""Which volume the panel preselects, and what speaks against a volume being the axial T2 that the network needs.

All of it is advice: a radiologist's own choice is never refused here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from slicer.i18n import tr as _

from ..engine.preprocessing import Grid, PreprocessingSettings
from .conversion import RAS_TO_LPS
from .dicom_tags import first_image_tag
from .result_nodes import VOLUME_ROLE

SERIES_DESCRIPTION = "0008,103e"
IMAGE_TYPE = "0008,0008"
MODALITY = "0008,0060"
SCANNING_SEQUENCE = "0018,0020"
DIFFUSION_B_VALUE = "0018,9087"

_AXIAL = re.compile(r"(?<![a-z])(?:ax|axial|tra|trans|transverse|transversal)(?:t2w?)?(?![a-z])")
_NOT_AXIAL = re.compile(r"(?<![a-z])(?:sag|sagittal|cor|coronal)(?:t2w?)?(?![a-z])")
# T2* and maps of T2 are other kinds of image.
_T2 = re.compile(r"(?<![a-z0-9])(?:ax|axial|tra|obl|wip)?t2(?!\d|\*|[_ -]?star|[_ -]?maps?)")
_OTHER_KINDS = (
    ("ADC", re.compile(r"(?<![a-z])[ed]?adc(?:maps?)?(?![a-z])")),
    (
        "diffusion",
        re.compile(
            r"(?<![a-z])(?:[ec]?dwi|diff|diffusion|dti|tracew?|ep2d|bval)(?![a-z])"
            r"|(?<![a-z0-9])b=?(?:0|[1-9]\d{0,2}0)(?![a-z0-9])"
        ),
    ),
    ("contrast", re.compile(r"(?<![a-z])(?:dce|perf|perfusion)(?![a-z])")),
    ("localizer", re.compile(r"(?<![a-z])(?:loc|locali[sz]ers?|scout|survey)(?![a-z])")),
    ("FLAIR", re.compile(r"(?<![a-z])flair(?![a-z])")),
)
# A name that says T2 too is about a T2: registered to a T1, or the second of two echoes.
_KINDS_WITHOUT_T2 = (
    ("T1", re.compile(r"(?<![a-z0-9])(?:ax|axial|tra|sag|cor)?t1(?!\d)|(?<![a-z])vibe(?![a-z])")),
    ("PD", re.compile(r"(?<![a-z])pdw?(?![a-z])")),
)


def preferred_volume() -> tuple[slicer.vtkMRMLScalarVolumeNode | None, str]:
    """The volume to preselect: the one in the slice views, unless the scene has a likelier axial T2.

    Returns:
        The node, ``None`` when the scene has no volume to segment, and a sentence or two that say why to look twice,
        empty when there is no reason to.
    """
    latest_first = _candidates()[::-1]
    shown = _shown_among(latest_first)
    if shown is not None:
        doubt = doubt_about(shown)
        if not doubt:
            return shown, ""
        better = _first_without_doubt(node for node in latest_first if node is not shown and _says_t2(node))
        if better is not None:
            advice = _("'{name}' is chosen instead; choose another volume if that is wrong.")
            return better, f"{doubt} {advice.format(name=better.GetName())}"
        return shown, f"{doubt} {_look_twice()}"
    t2_first = sorted(latest_first, key=lambda node: not _says_t2(node))
    if not t2_first:
        return None, ""
    chosen = _first_without_doubt(t2_first)
    if chosen is not None:
        return chosen, ""
    return t2_first[0], f"{doubt_about(t2_first[0])} {_look_twice()}"


def doubt_about(volume_node: slicer.vtkMRMLScalarVolumeNode) -> str:
    """One sentence when the volume looks like something else than an axial T2, else empty.

    Its name is asked first, then its voxels' place in the world, then the DICOM tags of its first image.
    """
    kind = _kind_named(volume_node.GetName() or "") or _kind_of_geometry(volume_node) or _kind_of_tags(volume_node)
    sentences = {
        "": "",
        "ADC": _("'{name}' looks like an ADC map; a T2-weighted scan is needed."),
        "diffusion": _("'{name}' looks like a diffusion image; a T2-weighted scan is needed."),
        "contrast": _("'{name}' looks like a contrast-enhanced series; a T2-weighted scan is needed."),
        "localizer": _("'{name}' looks like a localizer; a T2-weighted scan is needed."),
        "FLAIR": _("'{name}' looks like a FLAIR scan; a T2-weighted scan of the prostate is needed."),
        "T1": _("'{name}' looks T1-weighted; a T2-weighted scan is needed."),
        "PD": _("'{name}' looks proton-density-weighted; a T2-weighted scan is needed."),
        "not axial": _("'{name}' looks like a sagittal or coronal series; an axial T2-weighted scan is needed."),
        "not MR": _("'{name}' is not an MR scan; a T2-weighted MR scan is needed."),
    }
    return sentences[kind].format(name=volume_node.GetName())


def _look_twice() -> str:
    return _("Choose another volume, or check this one before you segment it.")


def _candidates() -> list[slicer.vtkMRMLScalarVolumeNode]:
    """Volumes a scan may be in; labelmaps, color and tensor volumes are of classes derived from this one."""
    return [
        node
        for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        if node.GetClassName() == "vtkMRMLScalarVolumeNode"
        and not node.GetHideFromEditors()
        and node.GetImageData() is not None
        and not node.GetNodeReferenceID(VOLUME_ROLE)
    ]


def _shown_among(candidates: list[slicer.vtkMRMLScalarVolumeNode]) -> slicer.vtkMRMLScalarVolumeNode | None:
    """The candidate in the background of a slice view, the red one before the others, else in a foreground."""
    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    views.sort(key=lambda view: view.GetLayoutName() != "Red")
    by_id = {node.GetID(): node for node in candidates}
    shown = [view.GetBackgroundVolumeID() for view in views] + [view.GetForegroundVolumeID() for view in views]
    return next((by_id[node_id] for node_id in shown if node_id in by_id), None)


def _first_without_doubt(
    nodes: Iterable[slicer.vtkMRMLScalarVolumeNode],
) -> slicer.vtkMRMLScalarVolumeNode | None:
    return next((node for node in nodes if not doubt_about(node)), None)


def _says_t2(volume_node: slicer.vtkMRMLScalarVolumeNode) -> bool:
    names = (volume_node.GetName() or "", first_image_tag(volume_node, SERIES_DESCRIPTION))
    return any(_T2.search(_in_words(name)) for name in names)


def _in_words(name: str) -> str:
    """SagT2 and AxialADC are two words each."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _kind_named(name: str) -> str:
    """What a name says the image is, where that is no axial T2, else empty."""
    words = _in_words(name)
    for kind, pattern in _OTHER_KINDS:
        if pattern.search(words):
            return kind
    if not _T2.search(words):
        for kind, pattern in _KINDS_WITHOUT_T2:
            if pattern.search(words):
                return kind
    return "not axial" if _NOT_AXIAL.search(words) and not _AXIAL.search(words) else ""


def _kind_of_geometry(volume_node: slicer.vtkMRMLScalarVolumeNode) -> str:
    """The engine's own measure, asked about a grid without voxels; an odd grid is the conversion's to refuse."""
    ijk_to_ras = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(ijk_to_ras)
    to_world = vtk.vtkMatrix4x4()
    parent = volume_node.GetParentTransformNode()
    if not slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(parent, None, to_world):
        return ""
    axes = (RAS_TO_LPS @ slicer.util.arrayFromVTKMatrix(to_world) @ slicer.util.arrayFromVTKMatrix(ijk_to_ras))[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    if not np.isfinite(axes).all() or (spacing <= 0).any():
        return ""
    grid = sitk.Image(1, 1, 1, sitk.sitkUInt8)
    try:
        grid.SetSpacing(spacing.tolist())
        grid.SetDirection((axes / spacing).ravel().tolist())
    except RuntimeError:  # two axes in one line
        return ""
    return "" if Grid.of(grid, PreprocessingSettings()).is_axial else "not axial"


def _kind_of_tags(volume_node: slicer.vtkMRMLScalarVolumeNode) -> str:
    modality = first_image_tag(volume_node, MODALITY).upper()
    if modality and modality != "MR":
        return "not MR"
    told = (first_image_tag(volume_node, tag) for tag in (SERIES_DESCRIPTION, IMAGE_TYPE))
    kind = next(filter(None, map(_kind_named, told)), "")
    if kind:
        return kind
    echo_planar = "EP" in first_image_tag(volume_node, SCANNING_SEQUENCE).upper()
    return "diffusion" if echo_planar or _number(first_image_tag(volume_node, DIFFUSION_B_VALUE)) > 0 else ""


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0

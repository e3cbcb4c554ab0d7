"""Which volume the panel preselects, and what speaks against a volume being the axial T2 that the network needs.

All of it is advice: a radiologist's own choice is never refused here.
"""

from __future__ import annotations

import numpy as np
import slicer
from slicer.i18n import tr as _

from ..engine.errors import InputError
from ..engine.preprocessing import Grid, PreprocessingSettings
from ..engine.t2_recognition import (
    AXIAL_T2,
    NOT_AXIAL,
    NOT_MR,
    SHORT_ECHO,
    SHORTEST_T2_ECHO_MS,
    UNNAMED,
    Recognition,
    ScanFacts,
    recognize,
)
from .conversion import mask_image
from .dicom_tags import first_image_tag
from .result_nodes import VOLUME_ROLE

SERIES_DESCRIPTION = "0008,103e"
IMAGE_TYPE = "0008,0008"
MODALITY = "0008,0060"
SCANNING_SEQUENCE = "0018,0020"
ECHO_TIME = "0018,0081"
DIFFUSION_B_VALUE = "0018,9087"


def preferred_volume() -> tuple[slicer.vtkMRMLScalarVolumeNode | None, str]:
    """The volume to preselect: the one in the slice views, unless the scene has a likelier axial T2.

    Returns:
        The node, ``None`` when the scene has no volume to segment, and a sentence or two that say why to look twice,
        empty when there is no reason to.
    """
    found = {node: recognition_of(node) for node in candidates()[::-1]}

    def likelihood(node: slicer.vtkMRMLScalarVolumeNode) -> tuple[bool, bool, bool]:
        return found[node].kind == AXIAL_T2, found[node].kind == UNNAMED, found[node].says_t2

    likeliest = max(found, key=likelihood, default=None)
    shown = _shown_among(list(found))
    chosen = likeliest if shown is None else shown
    if chosen is None:
        return None, ""
    doubt = _doubt(chosen, found[chosen])
    if not doubt:
        return chosen, ""
    if found[likeliest].kind == AXIAL_T2:
        advice = _("'{name}' is chosen instead; choose another volume if that is wrong.")
        return likeliest, f"{doubt} {advice.format(name=likeliest.GetName())}"
    return chosen, f"{doubt} {_('Choose another volume, or check this one before you segment it.')}"


def doubt_about(volume_node: slicer.vtkMRMLScalarVolumeNode) -> str:
    """One sentence when the volume looks like something else than an axial T2, else empty."""
    return _doubt(volume_node, recognition_of(volume_node))


def can_be_segmented(volume_node: slicer.vtkMRMLVolumeNode) -> bool:
    """Whether a volume is of a kind that the panel offers as input."""
    return volume_node in candidates()


def candidates() -> list[slicer.vtkMRMLScalarVolumeNode]:
    """Volumes a scan may be in; labelmaps, color and tensor volumes are of classes derived from this one."""
    return [
        node
        for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        if node.GetClassName() == "vtkMRMLScalarVolumeNode"
        and not node.GetHideFromEditors()
        and node.GetImageData() is not None
        and not node.GetNodeReferenceID(VOLUME_ROLE)
    ]


def recognition_of(volume_node: slicer.vtkMRMLScalarVolumeNode) -> Recognition:
    """What the volume is by its names, its voxels' place in the world and the DICOM tags of its first image."""
    return recognize(
        ScanFacts(
            names=(volume_node.GetName() or "", first_image_tag(volume_node, SERIES_DESCRIPTION)),
            image_type=first_image_tag(volume_node, IMAGE_TYPE),
            modality=first_image_tag(volume_node, MODALITY),
            scanning_sequence=first_image_tag(volume_node, SCANNING_SEQUENCE),
            b_value=_number(first_image_tag(volume_node, DIFFUSION_B_VALUE)),
            echo_time=_number(first_image_tag(volume_node, ECHO_TIME)),
            axial=_is_axial(volume_node),
        )
    )


def _doubt(volume_node: slicer.vtkMRMLScalarVolumeNode, recognition: Recognition) -> str:
    sentences = {
        AXIAL_T2: "",
        UNNAMED: "",  # a person chose it
        "ADC map": _("'{name}' looks like an ADC map; a T2-weighted scan is needed."),
        "diffusion": _("'{name}' looks like a diffusion image; a T2-weighted scan is needed."),
        "dynamic contrast": _("'{name}' looks like a contrast-enhanced series; a T2-weighted scan is needed."),
        "subtraction": _("'{name}' looks like a subtraction; a T2-weighted scan is needed."),
        "localizer": _("'{name}' looks like a localizer; a T2-weighted scan is needed."),
        "FLAIR": _("'{name}' looks like a FLAIR scan; a T2-weighted scan of the prostate is needed."),
        "projection": _("'{name}' looks like a projection (MIP); a T2-weighted scan is needed."),
        "map": _("'{name}' looks like a map or T2*; a T2-weighted scan is needed."),
        "T1": _("'{name}' looks T1-weighted; a T2-weighted scan is needed."),
        "PD": _("'{name}' looks proton-density-weighted; a T2-weighted scan is needed."),
        NOT_AXIAL: _("'{name}' looks like a sagittal or coronal series; an axial T2-weighted scan is needed."),
        NOT_MR: _("'{name}' is not an MR scan; a T2-weighted MR scan is needed."),
        SHORT_ECHO: _("'{name}' has an echo time below {limit} ms; a T2-weighted scan is needed."),
    }
    return sentences[recognition.kind].format(name=volume_node.GetName(), limit=f"{SHORTEST_T2_ECHO_MS:.0f}")


def _shown_among(candidates: list[slicer.vtkMRMLScalarVolumeNode]) -> slicer.vtkMRMLScalarVolumeNode | None:
    """The candidate in the background of a slice view, the red one before the others, else in a foreground."""
    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    views.sort(key=lambda view: view.GetLayoutName() != "Red")
    by_id = {node.GetID(): node for node in candidates}
    shown = [view.GetBackgroundVolumeID() for view in views] + [view.GetForegroundVolumeID() for view in views]
    return next((by_id[node_id] for node_id in shown if node_id in by_id), None)


def _is_axial(volume_node: slicer.vtkMRMLScalarVolumeNode) -> bool | None:
    """The engine's own measure, asked about a grid without voxels; an odd grid is the conversion's to refuse."""
    try:
        return Grid.of(mask_image(np.zeros((1, 1, 1)), volume_node), PreprocessingSettings()).is_axial
    except InputError:
        return None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None

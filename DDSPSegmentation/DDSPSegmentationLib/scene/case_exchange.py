"""From results in the scene to cases of the library, and back."""

from __future__ import annotations

import SimpleITK as sitk
import slicer
from slicer.i18n import tr as _

from ..engine.errors import ModelError
from ..engine.images import read_image, read_mask
from ..engine.model import describe_model
from ..learning.finetuning_settings import LEAST_CASES
from ..library.case_library import CaseLibrary, Stored, StoredCase
from ..library.model_registry import ModelRegistry
from .conversion import add_volume_node, image_from_volume_node, mask_image, read_segment
from .dicom_tags import patient_key_of, scanner_of
from .result_nodes import (
    NetworkFacts,
    case_note_of,
    case_of,
    facts_of,
    forget_case,
    is_edited,
    model_of,
    network_mask,
    note_case,
    own_segment_id,
    results_of,
    set_case_note,
)
from .results import place_contour, remove_with_display
from .together import check_together


def store_result(
    library: CaseLibrary,
    node: slicer.vtkMRMLSegmentationNode,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
    same_patient_as: str = "",
) -> Stored:
    """Store a result as it is now: scan, contour, the network's own contour, its version and the user's note.

    Neither the name of the volume nor anything that names the patient is stored.

    Args:
        same_patient_as: id of a case whose patient this is; "" where nobody says so.

    Raises:
        DDSPSegmentationError: scan and contour were moved apart, or the library refuses the case, cannot be written,
            or is in use.
    """
    check_together(node, volume_node)
    mask = read_segment(node, own_segment_id(node), volume_node)
    drawn = network_mask(node, volume_node)
    version, sha256 = model_of(node)
    stored = library.add(
        image_from_volume_node(volume_node),
        mask_image(mask, volume_node),
        prediction=None if drawn is None else mask_image(drawn, volume_node),
        model_version=version,
        model_sha256=sha256,
        edited=is_edited(node, volume_node),
        note=case_note_of(node),
        patient_key=patient_key_of(volume_node),
        scanner=scanner_of(volume_node),
        same_patient_as=same_patient_as,
    )
    note_case(node, stored.case.id, mask)
    return stored


def take_back(library: CaseLibrary, node: slicer.vtkMRMLSegmentationNode, stored: Stored) -> None:
    """Undo what ``store_result`` did; an earlier revision of the case is the current one again."""
    library.undo(stored)
    if stored.is_new:
        note = case_note_of(node)
        forget_case(node)
        set_case_note(node, note)
    else:
        note_case(node, stored.case.id, sitk.GetArrayViewFromImage(read_mask(library.case(stored.case.id).mask_path)))


def reopen(
    case: StoredCase,
) -> tuple[slicer.vtkMRMLScalarVolumeNode, slicer.vtkMRMLSegmentationNode]:
    """Load a case into the scene: its scan, and the contour of its last revision as a result of it.

    Raises:
        DDSPSegmentationError: a file of the case cannot be read; the scene stays as it was.
    """
    revision = case.current
    image, mask = read_image(case.image_path), sitk.GetArrayFromImage(read_mask(case.mask_path))
    drawn = None if case.prediction_path is None else sitk.GetArrayFromImage(read_mask(case.prediction_path))
    name = slicer.mrmlScene.GenerateUniqueName(_("Case {number}").format(number=case.number))
    volume_node = add_volume_node(image, name)
    try:
        title = revision.note or _("Case {number} prostate").format(number=case.number)
        node = place_contour(mask, drawn, volume_node, revision.model_version, revision.model_sha256, title)
    except Exception:
        remove_with_display(volume_node)
        raise
    note_case(node, case.id, mask)
    set_case_note(node, revision.note)
    return volume_node, node


def results_that_are(case_id: str) -> list[slicer.vtkMRMLSegmentationNode]:
    """The results in the scene that were stored as a case, or came from it."""
    nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    return [node for node in nodes if case_of(node) == case_id]


def cases_to_accept_next() -> list[tuple[slicer.vtkMRMLScalarVolumeNode, NetworkFacts]]:
    """Volumes of the scene that are no case yet, with what the network said of them, the most doubtful first.

    What the network is least sure of teaches it most.
    """
    ranked = []
    for volume_node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
        results = results_of(volume_node)
        facts = next((facts_of(node) for node in results if facts_of(node) is not None), None)
        if facts is not None and not any(case_of(node) for node in results):
            ranked.append((volume_node, facts))
    return sorted(ranked, key=lambda pair: pair[1].review_rank)


def cases_until_retraining(library: CaseLibrary, registry: ModelRegistry) -> int:
    """How many more training cases it takes until retraining the active version pays; 0 when it does.

    Where the active version cannot be used, the built-in one takes its place.
    """
    try:
        model = registry.active().description
    except ModelError:
        model = describe_model()
    return max(0, LEAST_CASES - len(library.new_for(model)))


def case_number(case_id: str) -> int:
    """The number of a case within its library, from its ID."""
    return int(case_id.rpartition("-")[2])

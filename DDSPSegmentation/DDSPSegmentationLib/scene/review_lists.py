"""What the panel's list of scans goes through: the volumes of the scene, or the results in the folder of a batch."""

from __future__ import annotations

import SimpleITK as sitk
import slicer

from ..engine.errors import InputError
from ..engine.images import read_mask
from ..engine.quality import verdict
from ..engine.t2_recognition import AXIAL_T2
from ..service.batch_review import BatchReview, Reviewed
from ..service.dicom_files import patient_id_of
from ..service.mask_files import write_mask
from ..service.report import expected_dice_of
from ..service.review_states import ACCEPTED, CORRECTED, REJECTED, TO_REVIEW
from .conversion import add_volume_node, read_segment
from .input_choice import candidates, recognition_of
from .result_nodes import (
    ATTRIBUTE_PREFIX,
    NetworkFacts,
    case_of,
    differs_from_case,
    facts_of,
    is_edited,
    note_facts,
    own_segment_id,
    results_of,
    table_of,
)
from .results import place_contour, remove_with_display, uncertainty_volume_of
from .slice_views import empty_layers

_REJECTED = ATTRIBUTE_PREFIX + "Rejected"


class SceneList:
    """The scans of the scene: volumes that are segmented, the most doubtful first, then those that could be."""

    title = ""

    def rows(self) -> list[Reviewed]:
        """One for each scan; the key is the ID of its node."""
        judged, others = [], []
        for node in candidates():
            results = results_of(node)
            facts = next((facts_of(result) for result in results if facts_of(result) is not None), None)
            if results:
                judged.append((facts is None, () if facts is None else facts.review_rank, self._row(node, facts)))
            elif recognition_of(node).kind == AXIAL_T2:
                others.append(self._row(node, None))
        return [row for *_order, row in sorted(judged, key=lambda found: found[:2])] + others

    @staticmethod
    def _row(node, facts: NetworkFacts | None) -> Reviewed:
        expected = None if facts is None else facts.expected_dice
        word = "" if facts is None else verdict(expected and expected.value, facts.warnings)
        stored = [result for result in results_of(node) if _is_stored(result, node)]
        if node.GetAttribute(_REJECTED):
            state = REJECTED
        elif stored:
            state = CORRECTED if is_edited(stored[0], node) else ACCEPTED
        else:
            state = TO_REVIEW
        return Reviewed(node.GetID(), node.GetName(), state, word)

    def key_of(self, volume_node) -> str:
        """The scan that a volume is; "" where it is none of the list's."""
        return volume_node.GetID() if volume_node in candidates() else ""

    def open(self, key: str) -> tuple:
        """Volume and result of a scan; the result is ``None`` where there is none yet."""
        node = slicer.mrmlScene.GetNodeByID(key)
        return node, next(iter(results_of(node)), None)

    def decide(self, key: str, state: str) -> None:
        """Reject a scan, or take that back; what was accepted is seen by its case."""
        slicer.mrmlScene.GetNodeByID(key).SetAttribute(_REJECTED, "1" if state == REJECTED else None)

    def note_stored(self, key: str, node) -> None:
        """A result was accepted, or that was taken back."""
        self.decide(key, TO_REVIEW)

    def leave_all_but(self, key: str) -> list[str]:
        """This scan alone is looked at now. Returns the others that stay open for what would be lost with them."""
        return []

    def close(self) -> None:
        """The list is not looked at any more."""


class FolderList:
    """The results of a batch; a scan is in the scene only as long as it is looked at, or holds what would be lost."""

    def __init__(self, review: BatchReview):
        self._review, self.title = review, review.folder.name
        self._opened: dict[str, tuple] = {}  # name to the nodes of its scan and its contour
        self._isReported = True

    def rows(self) -> list[Reviewed]:
        """One for each scan that the batch segmented; the key is its name."""
        return self._review.rows()

    def key_of(self, volume_node) -> str:
        """The scan that a volume was opened as; "" where it is none of the list's."""
        return next((name for name, nodes in self._opened.items() if nodes[0] is volume_node), "")

    def open(self, key: str) -> tuple:
        """Volume and result of a scan, loaded unless they are there.

        Raises:
            DDSPSegmentationError: scan or mask are not there any more, or cannot be read; the scene stays as it was.
        """
        nodes = self._opened.get(key)
        if nodes is None or not all(map(slicer.mrmlScene.IsNodePresent, nodes)):
            self._opened[key] = nodes = self._load(key)
        return nodes

    def _load(self, name: str) -> tuple:
        review = self._review
        case, entry = review.scan_of(name), review.entry(name)
        image = case.load()
        drawn = read_mask(review.mask_path(name)) if review.is_network_mask(name) else None
        if review.has_correction(name):
            mask = read_mask(review.corrected_path(name))
        else:
            mask = drawn if drawn is not None else read_mask(review.mask_path(name))
        if mask.GetSize() != image.GetSize():
            raise InputError(
                f"The mask of '{name}' has {mask.GetSize()} voxels, its scan {image.GetSize()}.", "Run the batch again."
            )
        identity = entry["identity"]
        volume_node = add_volume_node(image, name)
        try:
            files, is_dicom = case.files()
            if is_dicom:
                _note_patient(volume_node, patient_id_of(files[0]))
            node = place_contour(
                sitk.GetArrayFromImage(mask),
                None if drawn is None else sitk.GetArrayFromImage(drawn),
                volume_node,
                identity["model_version"],
                identity["model_sha256"],
            )
        except Exception:
            remove_with_display(volume_node)
            raise
        if drawn is not None:
            note_facts(_recorded_facts(entry), node)
        return volume_node, node

    def decide(self, key: str, state: str) -> None:
        """Note a state in review.json."""
        self._review.decide([key], state)
        self._isReported = False

    def note_stored(self, key: str, node) -> None:
        """A result was accepted, or that was taken back; a corrected contour is kept beside the mask, too."""
        volume_node, corrected = self._opened[key][0], self._review.corrected_path(key)
        if case_of(node) and is_edited(node, volume_node):
            mask = sitk.GetImageFromArray(read_segment(node, own_segment_id(node), volume_node))
            mask.CopyInformation(read_mask(self._review.mask_path(key)))
            write_mask(mask, corrected, corrected=True)
            self.decide(key, CORRECTED)
            return
        self.decide(key, ACCEPTED if case_of(node) else TO_REVIEW)
        corrected.unlink(missing_ok=True)

    def leave_all_but(self, key: str) -> list[str]:
        """Take the other scans out of the scene. Returns those that stay: corrected, and stored by nobody yet."""
        kept = {name: nodes for name, nodes in self._opened.items() if name == key or not _taken_out(nodes[0])}
        self._opened = kept
        return [name for name in kept if name != key]

    def close(self) -> None:
        """Bring the report in line with what was decided."""
        if not self._isReported:
            self._review.write_report()
            self._isReported = True


def _is_stored(node, volume_node) -> bool:
    return bool(case_of(node)) and not differs_from_case(node, volume_node)


def _taken_out(volume_node) -> bool:
    """Whether a scan left the scene with its results, or was not there any more; it stays where work would be lost."""
    if not slicer.mrmlScene.IsNodePresent(volume_node):
        return True
    results = results_of(volume_node)
    if any(is_edited(result, volume_node) and not _is_stored(result, volume_node) for result in results):
        return False
    for result in results:
        for part in (uncertainty_volume_of(result), table_of(result, volume_node)):
            if part is not None:
                slicer.mrmlScene.RemoveNode(part)
        remove_with_display(result)
    _forget_patient(volume_node)
    empty_layers(volume_node)
    remove_with_display(volume_node)
    return True


def _recorded_facts(entry: dict) -> NetworkFacts:
    """What the network said, as the batch wrote it down."""
    identity = entry["identity"]
    return NetworkFacts(
        expected_dice=expected_dice_of(entry),
        slice_doubts=entry.get("slice_doubts", []),
        warnings=entry["warnings"],
        notices=entry["notices"],
        model_version=identity["model_version"],
        mode=identity["mode"],
        bias_field=entry["measurements"]["bias_field"],
        device=entry["device"],
        threshold=identity["threshold"],
        seconds=round(sum(value or 0.0 for value in entry["seconds"].values()), 2),
    )


def _note_patient(volume_node, patient_id: str) -> None:
    """Put a scan below its patient, as Slicer's own import does, so that the case library knows whose it is."""
    if not patient_id:
        return
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), volume_node.GetName())
    name = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMPatientIDAttributeName()
    hierarchy.SetItemAttribute(patient, name, patient_id)
    hierarchy.CreateItem(patient, volume_node)


def _forget_patient(volume_node) -> None:
    """Take the item that ``_note_patient`` made out of the hierarchy, unless something else lies below it by now."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(volume_node)
    parent = hierarchy.GetItemParent(item) if item else 0
    if not parent or parent == hierarchy.GetSceneItemID() or hierarchy.GetNumberOfItemChildren(parent) > 1:
        return
    hierarchy.SetItemParent(item, hierarchy.GetSceneItemID())
    hierarchy.RemoveItem(parent)

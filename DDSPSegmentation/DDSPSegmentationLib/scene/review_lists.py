"""What the panel's list of scans goes through: the volumes of the scene, or the results in the folder of a batch."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import slicer
from slicer.i18n import tr as _

from ..engine.errors import DDSPSegmentationError, InputError
from ..engine.images import read_mask
from ..engine.t2_recognition import AXIAL_T2
from ..service.batch_review import BatchReview, Reviewed
from ..service.report import expected_dice_of
from ..service.review_states import ACCEPTED, CORRECTED, REJECTED, TO_REVIEW
from .conversion import add_volume_node, read_segment
from .input_choice import candidates, recognition_of
from .result_nodes import (
    ATTRIBUTE_PREFIX,
    NetworkFacts,
    case_of,
    differs_from_case,
    differs_from_file,
    facts_of,
    is_edited,
    note_facts,
    note_file,
    own_segment_id,
    psa_of,
    results_of,
    table_of,
    volume_of,
)
from .results import place_contour, remove_with_display, state_of, uncertainty_volume_of
from .slice_views import empty_layers

_REJECTED = ATTRIBUTE_PREFIX + "Rejected"
_REVIEWED = ATTRIBUTE_PREFIX + "Reviewed"  # name and content of a scan that a batch was given


class SceneList:
    """The scans of the scene: volumes that are segmented, the most doubtful first, then those that could be."""

    title = ""

    def __init__(self) -> None:
        self._accepted: dict[str, tuple] = {}  # ID of a result to what its state depends on, and the state

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

    def _row(self, node, facts: NetworkFacts | None) -> Reviewed:
        word = "" if facts is None else facts.word
        accepted = (self._state(result, node) for result in results_of(node))
        state = REJECTED if node.GetAttribute(_REJECTED) else next(filter(None, accepted), TO_REVIEW)
        return Reviewed(node.GetID(), node.GetName(), state, word)

    def _state(self, result, volume_node) -> str:
        """How a result was accepted, "" where it is not, as it is now; its voxels are read when they changed alone."""
        if not case_of(result):
            return ""
        labelmap = result.GetBinaryLabelmapInternalRepresentation(own_segment_id(result))
        times = result.GetMTime(), 0 if labelmap is None else labelmap.GetMTime()
        stamp = *times, *state_of(volume_node)[1:]
        if self._accepted.get(result.GetID(), ("",))[0] != stamp:
            state = CORRECTED if is_edited(result, volume_node) else ACCEPTED
            self._accepted[result.GetID()] = stamp, state if _is_stored(result, volume_node) else ""
        return self._accepted[result.GetID()][1]

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

    def leave_all_but(self, key: str, running) -> dict[str, str]:
        """This scan alone is looked at now; nothing leaves the scene."""
        return {}

    def close(self) -> None:
        """The list is not looked at any more."""


class FolderList:
    """The results of a batch; a scan is in the scene only as long as it is looked at, or holds what would be lost."""

    def __init__(self, review: BatchReview):
        self._review, self.title = review, review.folder.name
        self._before: dict[str, tuple] = {}  # name to state and earlier correction, of what was accepted since
        self._isReported = True

    def rows(self) -> list[Reviewed]:
        """One for each scan that the batch segmented; the key is its name."""
        return self._review.rows()

    def key_of(self, volume_node) -> str:
        """The scan that a volume was opened as; "" where it is none of the list's."""
        name, _space, fingerprint = (volume_node.GetAttribute(_REVIEWED) or "").partition(" ")
        return name if self._review.knows(name, fingerprint) else ""

    def _opened(self) -> list[tuple]:
        """Name and volume of the scans that are in the scene, loaded by whichever list."""
        return [(name, node) for node in candidates() if (name := self.key_of(node))]

    def open(self, key: str) -> tuple:
        """Volume and result of a scan, loaded unless they are there.

        Raises:
            DDSPSegmentationError: scan or mask are not there any more, or cannot be read; the scene stays as it was.
        """
        volume_node = next((node for name, node in self._opened() if name == key), None)
        if volume_node is None:
            return self._load(key)
        result = next(iter(results_of(volume_node)), None)
        if result is None:
            result = self._place(key, volume_node, *self._read_masks(key, volume_node.GetImageData().GetDimensions()))
        return volume_node, result

    def _load(self, name: str) -> tuple:
        case = self._review.scan_of(name)
        image = case.load()
        masks = self._read_masks(name, image.GetSize())
        files, is_dicom = case.files()
        volume_node = add_volume_node(image, name)
        try:
            volume_node.SetAttribute(_REVIEWED, f"{name} {self._review.entry(name)['identity']['input']}")
            if is_dicom:
                from ..service.dicom_files import patient_id_of

                _note_patient(volume_node, patient_id_of(files[0]))
            return volume_node, self._place(name, volume_node, *masks)
        except Exception:
            _forget_patient(volume_node)
            remove_with_display(volume_node)
            raise

    def _read_masks(self, name: str, size: tuple) -> tuple[sitk.Image, sitk.Image | None]:
        """The contour that holds, and the network's own where that is known."""
        review = self._review
        drawn = read_mask(review.mask_path(name)) if review.is_network_mask(name) else None
        if review.has_correction(name):
            mask = read_mask(review.corrected_path(name))
        else:
            mask = drawn if drawn is not None else read_mask(review.mask_path(name))
        if mask.GetSize() != tuple(size):
            raise InputError(
                _("The mask of '{name}' has {found} voxels, its scan {expected}.").format(
                    name=name, found=mask.GetSize(), expected=tuple(size)
                ),
                _("Run the batch again."),
            )
        return mask, drawn

    def _place(self, name: str, volume_node, mask: sitk.Image, drawn: sitk.Image | None):
        entry = self._review.entry(name)
        identity, voxels = entry["identity"], sitk.GetArrayFromImage(mask)
        network_voxels = None if drawn is None else sitk.GetArrayFromImage(drawn)
        node = place_contour(voxels, network_voxels, volume_node, identity["model_version"], identity["model_sha256"])
        note_file(node, voxels)
        if drawn is not None:
            note_facts(_recorded_facts(entry), node)
        return node

    def decide(self, key: str, state: str) -> None:
        """Note a state in review.json."""
        self._review.decide([key], state)
        self._isReported = False

    def note_stored(self, key: str, node) -> None:
        """A result was accepted, or that was taken back; a contour that is not the batch's is kept beside its mask.

        Raises:
            DDSPSegmentationError: it was not noted.
        """
        volume_node, review = volume_of(node), self._review
        if not _is_stored(node, volume_node):
            if key in self._before:
                state, kept = self._before.pop(key)
                review.take_back_correction(key, kept)
                self.decide(key, state)
            return
        networks, mask = read_mask(review.mask_path(key)), read_segment(node, own_segment_id(node), volume_node)
        if mask.shape != networks.GetSize()[::-1]:
            raise InputError(
                _("'{name}' was cropped or resampled since it was opened, so it was not noted.").format(name=key),
                _("Delete it from the scene and open it again."),
            )
        image = sitk.GetImageFromArray(mask)
        image.CopyInformation(networks)
        is_networks = review.is_network_mask(key) and _are_same(image, networks)
        state, before = ACCEPTED if is_networks else CORRECTED, review.state(key)
        if before == state and (is_networks or self._is_correction(key, image)):
            return
        kept = review.set_correction(key, None if is_networks else image)
        try:
            self.decide(key, state)
        except DDSPSegmentationError:
            review.take_back_correction(key, kept)
            raise
        self._before[key] = before, kept

    def _is_correction(self, name: str, mask: sitk.Image) -> bool:
        return self._review.has_correction(name) and _are_same(read_mask(self._review.corrected_path(name)), mask)

    def leave_all_but(self, key: str, running) -> dict[str, str]:
        """Take the other scans out of the scene.

        Args:
            running: the volume that is being segmented, or ``None``.

        Returns:
            Those that stay, and why.
        """
        others = [(name, node) for name, node in self._opened() if name != key]
        reasons = [(name, node, _why_it_stays(node, running)) for name, node in others]
        for _name, node, reason in reasons:
            if not reason:
                _take_out(node)
        return {name: reason for name, _node, reason in reasons if reason}

    def close(self) -> None:
        """Bring the report in line with what was decided."""
        if not self._isReported:
            self._review.write_report()
            self._isReported = True


def _is_stored(node, volume_node) -> bool:
    return bool(case_of(node)) and not differs_from_case(node, volume_node)


def _are_same(one: sitk.Image, other: sitk.Image) -> bool:
    return np.array_equal(*(sitk.GetArrayViewFromImage(image) != 0 for image in (one, other)))


def _drawn_on(volume_node) -> list:
    """Every segmentation of a scan, whoever made it."""
    nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    return [
        node
        for node in nodes
        if not node.GetHideFromEditors()
        and volume_node in (volume_of(node), node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()))
    ]


def _why_it_stays(volume_node, running) -> str:
    """Why a scan stays in the scene although another one is looked at; "" where nothing would be lost with it."""
    results = results_of(volume_node)
    if volume_node is running:
        return _("it is being segmented")
    if any(not _is_stored(node, volume_node) and differs_from_file(node, volume_node) for node in results):
        return _("its contour was changed and is not accepted yet")
    if any(node.GetSegmentation().GetNumberOfSegments() > (node in results) for node in _drawn_on(volume_node)):
        return _("something else was drawn on it")
    if any(map(psa_of, results)):
        return _("its PSA is nowhere else")
    return ""


def _take_out(volume_node) -> None:
    """Take a scan out of the scene, and all that belongs to it."""
    for result in _drawn_on(volume_node):
        for part in (uncertainty_volume_of(result), table_of(result, volume_node)):
            if part is not None:
                slicer.mrmlScene.RemoveNode(part)
        remove_with_display(result)
    _forget_patient(volume_node)
    empty_layers(volume_node)
    remove_with_display(volume_node)


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

"""From results in the scene to cases of the library, and back into the scene."""

from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from learning_parts import toy_scan
from panel_parts import add_result
from scene_parts import ThresholdRunner, node_names, put_under_transform, rigid_matrix

from DDSPSegmentationLib.engine.errors import DatasetError, DDSPSegmentationError
from DDSPSegmentationLib.engine.images import read_image, read_mask
from DDSPSegmentationLib.engine.model import ModelDescription
from DDSPSegmentationLib.engine.run_settings import RunSettings
from DDSPSegmentationLib.engine.scan_identity import NOTHING_SEEN, ScanIdentity
from DDSPSegmentationLib.library.case_library import HOLD_OUT, TRAINING, CaseLibrary
from DDSPSegmentationLib.library.model_registry import ModelRegistry
from DDSPSegmentationLib.scene import case_exchange, dicom_tags
from DDSPSegmentationLib.scene.conversion import add_volume_node, image_from_volume_node, read_segment, write_segment
from DDSPSegmentationLib.scene.dicom_tags import patient_key_of
from DDSPSegmentationLib.scene.result_nodes import (
    case_of,
    differs_from_case,
    facts_of,
    is_edited,
    network_mask,
    own_segment_id,
    results_of,
    set_case_note,
    volume_of,
)
from DDSPSegmentationLib.scene.results import place_result

pytestmark = pytest.mark.usefixtures("scene")
UIDS, PATIENT, ISSUER = "1.2.3.4", "0010,0020", "0010,0021"


@pytest.fixture
def library(tmp_path):
    return CaseLibrary(tmp_path / "Cases")


@pytest.fixture
def registry(tmp_path):
    return ModelRegistry(tmp_path / "Models")


def mask_of(node):
    return read_segment(node, own_segment_id(node), volume_of(node))


def correct(node, slices=2):
    """Take slices off the top of the gland; returns what is left."""
    mask = mask_of(node).copy()
    occupied = np.flatnonzero(mask.any(axis=(1, 2)))
    mask[occupied[-slices:]] = 0
    write_segment(mask, node, own_segment_id(node), volume_of(node))
    return mask


def voxels(path):
    return sitk.GetArrayFromImage(read_image(path))


class Database:
    """A DICOM database that knows one tag set for each instance."""

    isOpen = True

    def __init__(self, **tags):
        self.tags = tags

    def instanceValue(self, uid, tag):
        return self.tags.get(uid, {}).get(tag, "")


# ---- accept


def test_a_corrected_contour_is_stored_with_all_that_belongs_to_it(library):
    volume, node = add_result()
    network = mask_of(node).copy()
    corrected = correct(node)
    set_case_note(node, "apex was too long")
    stored = case_exchange.store_result(library, node, volume)
    case, revision = stored.case, stored.case.current
    assert stored.is_new and (case.number, len(case.revisions)) == (1, 1)
    image = read_image(case.image_path)
    expected = image_from_volume_node(volume)
    assert (sitk.GetArrayViewFromImage(image) == sitk.GetArrayViewFromImage(expected)).all()
    for part in (image, read_mask(case.mask_path), read_mask(case.prediction_path)):
        assert np.allclose(part.GetOrigin(), expected.GetOrigin()) and part.GetSpacing() == expected.GetSpacing()
        assert np.allclose(part.GetDirection(), expected.GetDirection())
    assert (voxels(case.mask_path) == corrected).all() and (voxels(case.prediction_path) == network).all()
    assert (revision.state, revision.model_version, revision.note) == ("corrected", "threshold-1", "apex was too long")
    assert revision.model_sha256 == "0" * 64
    overlap = 2 * np.sum(corrected & network) / (corrected.sum() + network.sum())
    assert revision.dice == pytest.approx(overlap, abs=1e-4)
    assert case_of(node) == case.id and not differs_from_case(node, volume)


def test_a_contour_that_nobody_corrected_is_stored_as_such(library):
    volume, node = add_result()
    revision = case_exchange.store_result(library, node, volume).case.current
    assert (revision.state, revision.dice) == ("unedited", 1.0)


def test_a_contour_of_an_unknown_network_is_stored_without_a_prediction(library):
    volume, node = add_result()
    node.SetAttribute("DDSPSegmentation.NetworkMask", None)
    case = case_exchange.store_result(library, node, volume).case
    assert case.prediction_path is None and case.current.dice is None


def test_nothing_in_the_library_names_the_volume_or_the_patient(library, monkeypatch):
    volume, node = add_result(name="DOE^JOHN T2")
    volume.SetAttribute("DICOM.instanceUIDs", UIDS)
    tags = {PATIENT: "MRN-4711", ISSUER: "St. Elsewhere", "0008,0070": "SIEMENS", "0008,1090": "Skyra",
            "0018,0087": "3", "0010,0010": "DOE^JOHN"}  # fmt: skip
    monkeypatch.setattr(slicer, "dicomDatabase", Database(**{UIDS: tags}), raising=False)
    case = case_exchange.store_result(library, node, volume).case
    assert case.scanner == "SIEMENS Skyra 3 T"
    assert patient_key_of(volume) == "MRN-4711"  # the issuer is not always known
    for path in library.folder.rglob("*"):
        assert "DOE" not in path.name
        if path.is_file():
            content = path.read_bytes()
            assert not any(word in content for word in (b"DOE", b"4711", b"Elsewhere", UIDS.encode())), path


def test_a_second_scan_of_a_patient_belongs_to_the_same_patient(library, monkeypatch):
    tags = [(UIDS, "A"), ("5.6", "A"), ("7.8", "B")]
    database = Database(**{uid: {PATIENT: patient} for uid, patient in tags})
    monkeypatch.setattr(slicer, "dicomDatabase", database, raising=False)
    cases = []
    for seed, (uid, _patient) in enumerate(tags):
        volume, node = add_result(seed)
        volume.SetAttribute("DICOM.instanceUIDs", f"{uid} 9.9.9")
        cases.append(case_exchange.store_result(library, node, volume).case)
    assert cases[0].patient == cases[1].patient != cases[2].patient
    assert cases[0].split == cases[1].split


def test_the_patient_is_known_from_the_scene_where_the_database_is_not(library, scene):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    constants = slicer.vtkMRMLSubjectHierarchyConstants
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "DOE^JOHN")
    hierarchy.SetItemAttribute(patient, constants.GetDICOMPatientIDAttributeName(), "A")
    hierarchy.SetItemLevel(patient, constants.GetDICOMLevelPatient())
    study = hierarchy.CreateStudyItem(patient, "MR")
    cases = []
    for seed in range(2):
        volume, node = add_result(seed)
        hierarchy.CreateItem(study, volume)
        cases.append(case_exchange.store_result(library, node, volume).case)
    assert cases[0].patient == cases[1].patient
    volume, node = add_result(2)
    assert case_exchange.store_result(library, node, volume).case.patient != cases[0].patient


@pytest.mark.parametrize("patient", ["ANON0042", "Deidentified_0017", "CANON-1931"])
def test_an_id_that_looks_like_a_placeholder_tells_patients_apart(library, monkeypatch, patient):
    database = Database(**{uid: {PATIENT: patient} for uid in ("1.1", "1.2")})
    monkeypatch.setattr(slicer, "dicomDatabase", database, raising=False)
    cases = []
    for seed, uid in enumerate(("1.1", "1.2")):
        volume, node = add_result(seed)
        volume.SetAttribute("DICOM.instanceUIDs", uid)
        assert patient_key_of(volume) == patient
        cases.append(case_exchange.store_result(library, node, volume).case)
    assert cases[0].patient == cases[1].patient


@pytest.mark.parametrize("patient", ["ANONYMOUS", "Anonymized", "unknown", "0000", "N/A", "", "none"])
def test_a_placeholder_makes_nobody_the_same_patient(library, monkeypatch, patient):
    monkeypatch.setattr(slicer, "dicomDatabase", Database(**{UIDS: {PATIENT: patient}}), raising=False)
    cases = []
    for seed in range(2):
        volume, node = add_result(seed)
        volume.SetAttribute("DICOM.instanceUIDs", UIDS)
        cases.append(case_exchange.store_result(library, node, volume).case)
    assert cases[0].patient != cases[1].patient


def test_a_database_that_fails_is_named_in_the_log_once_and_to_whoever_asks(library, monkeypatch, caplog):
    def fail(uid, tag):
        raise RuntimeError("database disk image is malformed")

    monkeypatch.setattr(dicom_tags, "_told", set())
    monkeypatch.setattr(slicer, "dicomDatabase", SimpleNamespace(isOpen=True, instanceValue=fail), raising=False)
    volume, node = add_result()
    assert dicom_tags.database_trouble(volume) == ""  # no DICOM scan, so nothing is to be asked
    volume.SetAttribute("DICOM.instanceUIDs", UIDS)
    case_exchange.store_result(library, node, volume)
    assert [record.message for record in caplog.records] == [dicom_tags.database_trouble(volume)]
    assert "RuntimeError: database disk image is malformed" in caplog.records[0].message


@pytest.mark.parametrize("database", [
    None, Database(), SimpleNamespace(), SimpleNamespace(isOpen=False), SimpleNamespace(isOpen=True),
])  # fmt: skip
def test_a_database_that_cannot_be_asked_does_not_stand_in_the_way(library, monkeypatch, database):
    volume, node = add_result()
    volume.SetAttribute("DICOM.instanceUIDs", UIDS)
    monkeypatch.setattr(slicer, "dicomDatabase", database, raising=False)
    case = case_exchange.store_result(library, node, volume).case
    assert case.patient and case.scanner == ""


def test_the_same_scan_again_is_a_revision_and_the_first_mask_stays(library):
    volume, node = add_result()
    first = case_exchange.store_result(library, node, volume).case
    corrected = correct(node)
    assert differs_from_case(node, volume)
    again = case_exchange.store_result(library, node, volume)
    assert not again.is_new and again.case.id == first.id and again.case.current.number == 2
    assert (voxels(again.case.mask_path) == corrected).all() and first.mask_path.exists()
    assert not differs_from_case(node, volume)


def test_a_refused_contour_leaves_neither_case_nor_note(library):
    volume, node = add_result()
    write_segment(np.zeros_like(mask_of(node)), node, own_segment_id(node), volume)
    with pytest.raises(DatasetError) as refusal:
        case_exchange.store_result(library, node, volume)
    assert refusal.value.next_step and library.cases() == [] and case_of(node) == ""


def test_a_result_of_another_volume_in_the_same_node_is_not_that_case(library):
    volume, node = add_result()
    case_exchange.store_result(library, node, volume)
    node.GetSegmentation().RemoveAllSegments()
    other, _unused = add_result(1, "Other")
    mask = toy_scan(1)[1]
    placed = place_result(ThresholdRunner().segment(mask * 100, RunSettings(device="cpu"), name=""), other, node)
    assert placed.outputSegmentationNode is node and volume_of(node) is other
    assert case_of(node) == ""


def test_a_script_accepts_a_result_and_says_whose_it_is(home):
    from DDSPSegmentation import DDSPSegmentationLogic

    logic, cases = DDSPSegmentationLogic(), []
    for seed in range(2):
        volume, node = add_result(seed)
        joined = cases[0].id if cases else ""
        cases.append(logic.acceptCase(node, volume, samePatientAs=joined).case)
    assert cases[0].folder == home / "DDSPSegmentation" / "Cases"
    assert cases[1].number == 2 and cases[1].patient == cases[0].patient


# ---- undo


def test_a_new_case_is_taken_back(library):
    volume, node = add_result()
    set_case_note(node, "seen twice")
    stored = case_exchange.store_result(library, node, volume)
    case_exchange.take_back(library, node, stored)
    assert library.cases() == [] and case_of(node) == "" and case_exchange.case_note_of(node) == "seen twice"


def test_a_revision_is_taken_back_and_the_one_before_is_current(library):
    volume, node = add_result()
    first = case_exchange.store_result(library, node, volume).case
    correct(node)
    case_exchange.take_back(library, node, case_exchange.store_result(library, node, volume))
    case = library.case(first.id)
    assert case.current == first.current and case_of(node) == case.id
    assert differs_from_case(node, volume)  # the contour is still the later one


# ---- reopen


@pytest.mark.parametrize("moved", [False, True])
def test_a_reopened_case_lies_where_it_was_and_can_be_reset(library, moved):
    volume, node = add_result(name="DOE^JOHN")
    if moved:
        transform = put_under_transform(volume, rigid_matrix())
        node.SetAndObserveTransformNodeID(transform.GetID())
    network, place = mask_of(node).copy(), image_from_volume_node(volume)
    corrected = correct(node)
    set_case_note(node, "left apex")
    case = case_exchange.store_result(library, node, volume).case
    slicer.mrmlScene.Clear(0)
    volume, node = case_exchange.reopen(library.case(case.id))
    image = image_from_volume_node(volume)
    assert (sitk.GetArrayViewFromImage(image) == sitk.GetArrayViewFromImage(place)).all()
    assert np.allclose(image.GetOrigin(), place.GetOrigin()) and np.allclose(image.GetDirection(), place.GetDirection())
    assert results_of(volume) == [node] and facts_of(node) is None and "DOE" not in volume.GetName()
    assert (mask_of(node) == corrected).all() and (network_mask(node, volume) == network).all()
    assert is_edited(node, volume) and case_of(node) == case.id and not differs_from_case(node, volume)
    assert case_exchange.case_note_of(node) == "left apex"
    write_segment(network_mask(node, volume), node, own_segment_id(node), volume)
    assert not is_edited(node, volume)
    again = case_exchange.store_result(library, node, volume)
    assert not again.is_new and again.case.id == case.id
    assert again.case.current.state == "unedited" and again.case.current.model_version == "threshold-1"
    assert again.case.patient == case.patient


def test_a_case_without_a_prediction_is_reopened_too(library):
    image, mask = toy_scan()
    case = library.add(image, mask).case
    volume, node = case_exchange.reopen(case)
    assert network_mask(node, volume) is None and is_edited(node, volume)
    assert (mask_of(node) == sitk.GetArrayViewFromImage(mask)).all()
    again = case_exchange.store_result(library, node, volume)
    assert again.case.id == case.id and not again.is_new and again.case.current.dice is None


def test_a_case_that_cannot_be_read_leaves_the_scene_alone(library):
    volume, node = add_result()
    case = case_exchange.store_result(library, node, volume).case
    case.prediction_path.write_bytes(b"nothing")
    before = node_names()
    with pytest.raises(DDSPSegmentationError):
        case_exchange.reopen(case)
    assert node_names() == before


def test_a_case_that_cannot_be_placed_leaves_the_scene_alone(library, monkeypatch):
    volume, node = add_result()
    case = case_exchange.store_result(library, node, volume).case
    before = node_names()
    monkeypatch.setattr("DDSPSegmentationLib.scene.results.say_who_drew", lambda *words: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        case_exchange.reopen(case)
    assert node_names() == before


# ---- what helps most


def test_volumes_that_are_no_case_yet_are_ranked_by_what_the_network_expects(library):
    nodes = {dice: add_result(seed, str(dice), dice) for seed, dice in enumerate((0.9, 0.6, 0.8))}
    add_volume_node(toy_scan(7)[0], "never segmented")
    ranked = case_exchange.cases_to_accept_next()
    found = [(volume.GetName(), facts.expected_dice.value) for volume, facts in ranked]
    assert found == [("0.6", 0.6), ("0.8", 0.8), ("0.9", 0.9)]
    volume, node = nodes[0.6]
    case_exchange.store_result(library, node, volume)
    assert [facts.expected_dice.value for _volume, facts in case_exchange.cases_to_accept_next()] == [0.8, 0.9]


def test_volumes_without_an_expected_dice_are_ranked_by_their_warnings_and_keep_their_order():
    for seed, warnings in enumerate(([], ["Look."], [], ["Look."])):
        add_result(seed, f"{seed} of unknown Dice", None, warnings=warnings)
    add_result(4, "known", 0.9, warnings=[])
    ranked = [volume.GetName()[0] for volume, _facts in case_exchange.cases_to_accept_next()]
    assert ranked == ["1", "3", "0", "2", "k"]  # what is called good comes last


def test_only_training_cases_that_the_active_version_has_not_seen_make_retraining_pay(library, registry, monkeypatch):
    cases = []
    while sum(case.split == TRAINING for case in cases) < 6 or not any(case.split == HOLD_OUT for case in cases):
        # Glands of various shapes: no two scans are near-copies.
        volume, node = add_result(len(cases), radii=(3 + len(cases) % 3, 6 + len(cases) % 4, 8))
        cases.append(case_exchange.store_result(library, node, volume).case)
        new = sum(case.split == TRAINING for case in cases)
        assert case_exchange.cases_until_retraining(library, registry) == max(0, 5 - new)
    training = [case for case in cases if case.split == TRAINING]
    scans = [("", ScanIdentity(read_image(case.image_path))) for case in training[:3]]
    seen = NOTHING_SEEN.with_training(scans[:2]).with_training(scans[2:])  # of a parent and of the version itself
    active = SimpleNamespace(description=ModelDescription("tuned", "ab", {}, {}, seen=seen))
    monkeypatch.setattr(ModelRegistry, "active", lambda registry: active)
    assert case_exchange.cases_until_retraining(library, registry) == 5 - (len(training) - 3)

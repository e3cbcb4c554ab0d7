"""A result as DICOM: what it says, whom it refers to, and that readers other than its writer read the same."""

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_parts import AXIAL, set_element, write_series, write_slice

from DDSPSegmentationLib import __version__
from DDSPSegmentationLib.engine.errors import InputError
from DDSPSegmentationLib.engine.html_page import RESEARCH_ONLY
from DDSPSegmentationLib.engine.run_settings import RunSettings
from DDSPSegmentationLib.engine.segmentation import Segmentation, measure_gland
from DDSPSegmentationLib.service.batch import BatchSettings, run_batch
from DDSPSegmentationLib.service.case_work import DICOM_REPORT, DICOM_SEGMENTATION, do_case
from DDSPSegmentationLib.service.dicom_results import OLDEST_HIGHDICOM, read_scan, require_highdicom, write_results
from DDSPSegmentationLib.service.dicom_series import load_series
from DDSPSegmentationLib.service.inputs import collect_inputs
from DDSPSegmentationLib.service.mask_files import ANATOMICAL_STRUCTURE, PROSTATE, TERMINOLOGY, write_mask

SHA256 = "0123456789abcdef" * 4
OBLIQUE = (0.98, 0.19, -0.06, -0.17, 0.95, 0.26)
FRAME_OF_REFERENCE, SOP_INSTANCE, PATIENT_NAME, PATIENT_SEX = (0x20, 0x52), (0x8, 0x18), (0x10, 0x10), (0x10, 0x40)
PIECES = ("PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID", "FrameOfReferenceUID")


def upright(axes):
    """The nearest two directions at right angles, as DICOM wants them."""
    row, column = np.array(axes).reshape(2, 3)
    row = row / np.linalg.norm(row)
    column = column - row * (row @ column)
    return (*row, *(column / np.linalg.norm(column)))


def a_series(folder, count=12, **named):
    named["tags"] = {"0020|0052": "1.2.826.99.7", "0020|0011": "4", **named.get("tags", {})}
    return write_series(folder, count, **named)


def answer_for(image, **named) -> Segmentation:
    """A block of prostate in a corner, alike in no two directions."""
    inside = np.zeros(image.GetSize()[::-1], np.uint8)
    inside[3:8, 20:30, 10:26] = 1
    mask = sitk.GetImageFromArray(inside)
    mask.CopyInformation(image)
    gray = sitk.Cast(mask, sitk.sitkFloat32)
    facts = {"warnings": [], "model_version": "v7", "mode": "fast", "threshold": 0.4} | named
    return Segmentation(
        mask=mask, probability=gray, uncertainty=gray, measurements=measure_gland(mask), expected_dice=None,
        features=None, slice_doubts=[], notices=[], seconds={}, peak_memory_mb={}, model_sha256=SHA256,
        bias_field="fast", device="cpu", precision="float32", **facts,
    )  # fmt: skip


def only_case(folder):
    (case,), _ = collect_inputs([folder])
    return case


def written(folder, target, psa=None, **named):
    """Both objects of the series in a folder as (paths, answer)."""
    case = only_case(folder)
    image = load_series(case.source)
    answer = answer_for(image, **named)
    target.mkdir(exist_ok=True)
    paths = {kind: target / f"{kind}.dcm" for kind in (DICOM_SEGMENTATION, DICOM_REPORT)}
    write_results(answer, read_scan(case.source, image), case.name, paths, psa)
    return paths, answer


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Both objects of a series whose files lie the other way round: source headers, Segmentation, report, answer."""
    folder = tmp_path_factory.mktemp("dicom")
    files = a_series(folder / "scan", orientation=upright(OBLIQUE))
    paths, answer = written(folder / "scan", folder / "out", psa=6.5, warnings=["It reaches the edge of the scan."])
    source = [pydicom.dcmread(path) for path in files]
    return source, paths[DICOM_SEGMENTATION], paths[DICOM_REPORT], answer


def codes_of(sequence):
    return sequence[0].CodeValue, sequence[0].CodingSchemeDesignator, sequence[0].CodeMeaning


# ---- the Segmentation


def test_segmentation_belongs_to_the_patient_and_refers_to_every_slice(pair):
    source, path, _, _ = pair
    found = pydicom.dcmread(path)
    assert all(found.get(keyword) == source[0].get(keyword) for keyword in PIECES)
    assert found.SeriesInstanceUID != source[0].SeriesInstanceUID and found.Modality == "SEG"
    (series,) = found.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source[0].SeriesInstanceUID
    uids = [one.ReferencedSOPInstanceUID for one in series.ReferencedInstanceSequence]
    assert sorted(uids) == sorted(slice_.SOPInstanceUID for slice_ in source)
    for frame in found.PerFrameFunctionalGroupsSequence:
        (image,) = frame.DerivationImageSequence[0].SourceImageSequence
        (slice_,) = [one for one in source if one.SOPInstanceUID == image.ReferencedSOPInstanceUID]
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        assert np.allclose(np.float64(position), np.float64(slice_.ImagePositionPatient), atol=1e-6)


def test_segment_says_what_drew_what_and_that_it_is_for_research(pair):
    found = pydicom.dcmread(pair[1])
    assert found.SegmentationType == "BINARY" and found.ContentDescription == RESEARCH_ONLY
    assert "Research use only" in found.SeriesDescription
    (segment,) = found.SegmentSequence
    assert segment.SegmentAlgorithmType == "AUTOMATIC" and segment.SegmentAlgorithmName == "DDSPSegmentation"
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert algorithm.AlgorithmVersion == __version__ == found.SoftwareVersions
    for word in (RESEARCH_ONLY, SHA256, "model v7", "threshold 0.4", "It reaches the edge of the scan."):
        assert word in segment.SegmentDescription


def test_segment_has_the_codes_that_slicers_own_export_gets_from_the_panel(pair):
    (segment,) = pydicom.dcmread(pair[1]).SegmentSequence
    category = codes_of(segment.SegmentedPropertyCategoryCodeSequence)
    kind = codes_of(segment.SegmentedPropertyTypeCodeSequence)
    assert (category, kind) == (ANATOMICAL_STRUCTURE, PROSTATE) and kind[0] == "41216001"
    told = [tuple(part.split("^")) for part in TERMINOLOGY.split("~")[1:3]]
    assert [(value, scheme, meaning) for scheme, value, meaning in told] == [category, kind]


@pytest.mark.parametrize("orientation", (AXIAL, upright(OBLIQUE)), ids=("axial", "oblique"))
@pytest.mark.parametrize("step", (3.3, -3.3), ids=("upwards", "downwards"))
def test_highdicom_and_gdcm_give_the_mask_back_voxel_for_voxel(tmp_path, orientation, step):
    a_series(tmp_path / "scan", orientation=orientation, step=step)
    paths, answer = written(tmp_path / "scan", tmp_path / "out")
    by_gdcm, expected = as_lps(gdcm_image(paths[DICOM_SEGMENTATION])), as_lps(answer.mask)
    assert np.array_equal(sitk.GetArrayFromImage(by_gdcm) != 0, sitk.GetArrayFromImage(expected) == 1)
    for found, wanted in zip(geometry(by_gdcm), geometry(expected), strict=True):
        assert np.allclose(found, wanted, atol=1e-4)
    volume = highdicom.seg.segread(paths[DICOM_SEGMENTATION]).get_volume(combine_segments=True)
    indices = np.argwhere(sitk.GetArrayFromImage(answer.mask) == 1)
    places = [answer.mask.TransformIndexToPhysicalPoint(tuple(map(int, index[::-1]))) for index in indices]
    assert volume.array.sum() == len(places)
    found = np.rint(volume.map_reference_to_indices(np.array(places))).astype(int)
    assert volume.array[tuple(found.T)].all()


def gdcm_image(path):
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    return reader.Execute()


def as_lps(image):
    """On the same voxels, from the same corner: highdicom lets the stack of slices run either way."""
    return sitk.DICOMOrient(image, "LPS")


def geometry(image):
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


def test_headers_that_were_rounded_or_disagree_still_give_the_mask_back(tmp_path):
    for number in range(12):
        place = f"-40\\-48\\{round(5 + 3.37 * number, 1)}"
        axes = f"1\\0\\0\\0\\1\\{number % 2 * 1e-4}"
        tags = {"0020|0052": "1.2.826.99.7", "0020|0032": place, "0020|0037": axes, "0018|0088": "9"}
        write_slice(tmp_path / "scan" / f"{number}.dcm", number, step=3.37, tags=tags)
    paths, answer = written(tmp_path / "scan", tmp_path / "out")
    image = as_lps(gdcm_image(paths[DICOM_SEGMENTATION]))
    assert np.array_equal(sitk.GetArrayFromImage(image) != 0, sitk.GetArrayFromImage(as_lps(answer.mask)) == 1)
    assert image.GetSpacing() == pytest.approx(answer.mask.GetSpacing(), abs=1e-4)


# ---- the report


def test_report_holds_the_figures_of_the_table_with_codes_and_refers_to_the_segment(pair):
    source, segmentation_path, path, answer = pair
    report = highdicom.sr.srread(path)
    assert isinstance(report, highdicom.sr.EnhancedSR) and report.PatientID == source[0].PatientID
    (group,) = report.content.get_volumetric_roi_measurement_groups()
    assert group.finding_type.value == PROSTATE[0] and group.finding_category.value == ANATOMICAL_STRUCTURE[0]
    row = answer.measurements.as_row()
    found = {
        one.name.meaning: (one.name.value, one.value, one.unit.value, one.method.value if one.method else None)
        for one in group.get_measurements()
    }
    assert found == {
        "Volume": ("118565006", row["volume_ml"], "mL", "126030"),
        "Width": ("103355008", row["left_right_mm"], "mm", "110860"),
        "Height": ("121207", row["antero_posterior_mm"], "mm", "110862"),
        "Length": ("410668003", row["cranio_caudal_mm"], "mm", "110861"),
        "Prostate specific Antigen Density": ("15325-4", round(6.5 / row["volume_ml"], 3), "ng/mL/mL", None),
    }
    segmentation = pydicom.dcmread(segmentation_path)
    roi = group.reference_type, group.referenced_segment
    assert roi[0].value == "121191" and roi[1].referenced_segment_numbers == [1]
    assert roi[1].referenced_sop_instance_uid == segmentation.SOPInstanceUID
    assert group.tracking_uid == segmentation.SegmentSequence[0].TrackingUID
    uids = {uid for _, _, uid, _ in report.get_evidence()}
    assert uids == {segmentation.SOPInstanceUID, *(slice_.SOPInstanceUID for slice_ in source)}


def test_report_says_that_a_program_for_research_measured_and_that_nobody_verified_it(pair):
    report = highdicom.sr.srread(pair[2])
    assert "Research use only" in report.SeriesDescription
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    (observer,) = report.content.get_observer_contexts()
    device = observer.observer_identifying_attributes
    assert RESEARCH_ONLY in device.name and device.serial_number == SHA256 and device.model_name == "v7"


def test_without_psa_or_without_prostate_there_is_no_density(tmp_path):
    a_series(tmp_path / "scan")
    case = only_case(tmp_path / "scan")
    image = load_series(case.source)
    full = answer_for(image)
    empty = replace(full, mask=full.mask * 0, measurements=measure_gland(full.mask * 0))
    for name, answer, psa in (("no psa", full, None), ("no prostate", empty, 6.5)):
        paths = {kind: tmp_path / f"{name} {kind}.dcm" for kind in (DICOM_SEGMENTATION, DICOM_REPORT)}
        write_results(answer, read_scan(case.source, image), case.name, paths, psa)
        (group,) = highdicom.sr.srread(paths[DICOM_REPORT]).content.get_volumetric_roi_measurement_groups()
        names = [one.name.meaning for one in group.get_measurements()]
        assert names == ["Volume", "Width", "Height", "Length"]


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian's dicom3tools) is not installed")
def test_a_validator_finds_no_error(pair):
    for path in pair[1:3]:
        said = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, timeout=60)
        assert "Error" not in said.stdout + said.stderr and said.returncode == 0, said.stderr
        assert said.stderr.split("\n")[-2] in ("Segmentation", "EnhancedSR")


# ---- sources that say less, or too much


def test_what_dicom_lets_stand_empty_may_be_missing(tmp_path):
    files = a_series(tmp_path / "scan")
    for path in files:
        header = pydicom.dcmread(path)
        kept = "StudyInstanceUID SeriesInstanceUID SOPClassUID SOPInstanceUID FrameOfReferenceUID Modality".split()
        kept += "SeriesDescription".split()
        for element in list(header):
            if element.tag.group in (0x8, 0x10, 0x20) and not (
                element.keyword in kept or element.keyword.startswith("Image")
            ):
                del header[element.tag]
        for keyword in ("SliceThickness", "EchoTime"):
            del header[keyword]
        header.save_as(path)
    paths, answer = written(tmp_path / "scan", tmp_path / "out")
    found = pydicom.dcmread(paths[DICOM_SEGMENTATION])
    assert found.PatientID is None or found.PatientID == ""
    assert found.pixel_array.sum() == sitk.GetArrayFromImage(answer.mask).sum()


@pytest.mark.parametrize(
    "tag, words",
    [
        (FRAME_OF_REFERENCE, "lacks FrameOfReferenceUID, so no DICOM result can refer to it."),
        (SOP_INSTANCE, "lacks SOPInstanceUID, so no DICOM result can refer to it."),
    ],
    ids=("frame of reference", "instance"),
)
def test_a_source_without_the_uids_is_refused_by_their_names(tmp_path, tag, words):
    files = a_series(tmp_path)
    set_element(files[3], tag, None)
    case = only_case(tmp_path)
    with pytest.raises(InputError) as caught:
        read_scan(case.source, case.load())
    assert caught.value.cause.endswith(words) and caught.value.next_step


def test_a_scan_in_several_series_is_refused(tmp_path):
    for number in range(12):
        tags = {"0020|0052": "1.2.826.99.7"}
        write_slice(tmp_path / f"{number}.dcm", number, series=1 + number // 6, tags=tags)
    case = only_case(tmp_path)
    image = case.load()
    with pytest.raises(InputError, match=r"came as 2 series \(SeriesInstanceUID\), so no DICOM result"):
        read_scan(case.source, image)


def test_what_highdicom_refuses_is_told_without_its_words(tmp_path):
    files = a_series(tmp_path / "scan")
    for path in files:
        set_element(path, PATIENT_SEX, "SECRET")
    with pytest.raises(InputError) as caught:
        written(tmp_path / "scan", tmp_path / "out")
    assert re.fullmatch(
        r"highdicom does not take DICOM series 'case-[0-9a-f]{10}' as the source of a DICOM result \(ValueError\)\.",
        caught.value.cause,
    )
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "character_set, name",
    [
        ("ISO_IR 100", "Müller^Jörg"),
        ("ISO_IR 192", "Müller^Jörg"),
        ("", "Mueller^Joerg"),
        ("\\ISO 2022 IR 87", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ],
    ids=("latin 1", "utf-8", "empty", "Japanese"),
)
def test_names_keep_their_letters(tmp_path, character_set, name):
    files = a_series(tmp_path / "scan")
    for path in files:
        header = pydicom.dcmread(path)
        header.SpecificCharacterSet = character_set.split("\\") if "\\" in character_set else character_set
        header.PatientName = name
        header.save_as(path)
    assert pydicom.dcmread(files[0]).PatientName == name
    paths, _ = written(tmp_path / "scan", tmp_path / "out")
    assert all(pydicom.dcmread(path).PatientName == name for path in paths.values())


@pytest.mark.parametrize("installed", ["0.9.2", None])
def test_without_highdicom_or_with_an_old_one_a_line_says_what_to_install(monkeypatch, installed):
    def version(name):
        if installed is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed

    require_highdicom()
    monkeypatch.setattr(importlib.metadata, "version", version)
    words = f"highdicom, 0.28 or newer; {installed or 'none'} is installed. Run 'pip install -U highdicom'"
    with pytest.raises(InputError, match=words):
        require_highdicom()


def test_the_extra_asks_for_the_highdicom_that_the_program_asks_for():
    project = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'dicom = ["highdicom>={".".join(map(str, OLDEST_HIGHDICOM))},<1"]' in project


def test_nothing_imports_highdicom_before_it_is_asked_for():
    code = (
        "import sys, DDSPSegmentationLib.service.command_line, DDSPSegmentationLib.service.dicom_results; "
        "print('highdicom' in sys.modules)"
    )
    folder = Path(__file__).resolve().parents[2] / "DDSPSegmentation"
    said = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)
    assert said.stdout.strip() == "False", said.stderr


# ---- in a batch


def batch(folder, inputs, dicom=True, psa=None, model="1"):
    cases, skipped = collect_inputs(inputs)

    def segment(name, image, path):
        answer = answer_for(image, model_version=model)
        write_mask(answer.mask, path)
        return answer

    def do(case, outputs, tell):
        return do_case(case, outputs, segment, tell, psa)

    settings = BatchSettings(RunSettings(), ".seg.nrrd", model, SHA256, dicom=dicom, psa=psa)
    return run_batch(cases, skipped, folder, settings, do, lambda line: None)


def names_in(folder):
    return {path.name for path in folder.glob("*.dcm")}


def test_dicom_files_are_named_by_hash_and_nothing_else_names_the_patient(tmp_path):
    a_series(tmp_path / "scan")
    result = batch(tmp_path / "out", [tmp_path / "scan"])
    (name,) = result.done
    assert names_in(tmp_path / "out") == {f"{name}.seg.dcm", f"{name}.sr.dcm"}
    for path in (path for path in (tmp_path / "out").rglob("*") if path.is_file()):
        names_patient = b"Doe^John" in path.read_bytes() or b"ID4711" in path.read_bytes()
        assert names_patient == (path.suffix == ".dcm"), path.name


def test_a_second_run_does_nothing_and_a_lost_file_or_another_psa_does_the_case_again(tmp_path):
    a_series(tmp_path / "scan")
    (name,) = batch(tmp_path / "out", [tmp_path / "scan"]).done
    assert batch(tmp_path / "out", [tmp_path / "scan"]).unchanged == [name]
    (tmp_path / "out" / f"{name}.sr.dcm").unlink()
    assert batch(tmp_path / "out", [tmp_path / "scan"]).done == [name]
    assert batch(tmp_path / "out", [tmp_path / "scan"], psa=4.0).done == [name]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["settings"]["psa"] == 4.0


def test_objects_of_an_earlier_answer_do_not_stay_beside_another_one(tmp_path):
    a_series(tmp_path / "scan")
    batch(tmp_path / "out", [tmp_path / "scan"])
    assert len(names_in(tmp_path / "out")) == 2
    batch(tmp_path / "out", [tmp_path / "scan"], dicom=False, model="2")
    assert names_in(tmp_path / "out") == set()


def test_a_source_that_is_refused_fails_alone_and_before_it_is_segmented(tmp_path):
    a_series(tmp_path / "whole")
    for path in a_series(tmp_path / "lacking", series=2):
        set_element(path, FRAME_OF_REFERENCE, None)
    result = batch(tmp_path / "out", [tmp_path / "whole", tmp_path / "lacking"])
    assert len(result.done) == 1 and len(result.failed) == 1
    ((name, reason),) = result.failed.items()
    assert "lacks FrameOfReferenceUID" in reason and "--format seg.nrrd" in reason
    assert not list((tmp_path / "out").glob(f"{name}.*"))


def test_results_are_no_scans(tmp_path):
    a_series(tmp_path / "scan")
    batch(tmp_path / "scan" / "results", [tmp_path / "scan"])
    cases, skipped = collect_inputs([tmp_path / "scan"])
    assert len(cases) == 1 and any("not MR" in one.reason for one in skipped)

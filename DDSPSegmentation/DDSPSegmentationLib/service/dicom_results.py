"""A result as DICOM: a Segmentation, and a TID 1500 report of what was measured on it, through highdicom.

Both carry patient and study of the scan that they were made of, as DICOM objects do.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid
from pydicom.valuerep import format_number_as_ds

from .. import __version__
from ..engine.errors import InputError
from ..engine.files import write_bytes
from ..engine.html_page import RESEARCH_ONLY
from ..engine.segmentation import Segmentation, psa_density
from .case_work import DICOM_REPORT, DICOM_SEGMENTATION
from .dicom_files import quiet_readers
from .dicom_series import DicomSeries, sorted_slices
from .mask_files import ANATOMICAL_STRUCTURE, PROSTATE, SEGMENT_COLOR, SEGMENT_NAME

if TYPE_CHECKING:
    import highdicom

OLDEST_HIGHDICOM = (0, 28)
PROGRAM = "DDSPSegmentation"
CARRIES_PATIENT = (
    "Note: the DICOM files will carry the patient's name and identifiers, as the scans do; nothing else written does."
)

_ANOTHER_FORMAT = "Choose --format seg.nrrd or nii.gz, or export the series again from the archive."
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID", "FrameOfReferenceUID")
# What DICOM lets stand empty but not be missing, as it is where somebody took it out.
_MAY_BE_EMPTY = """
    PatientID PatientName PatientBirthDate PatientSex AccessionNumber StudyID StudyDate StudyTime ReferringPhysicianName
""".split()
_REFUSALS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_SERIES_NUMBERS = {DICOM_SEGMENTATION: 9801, DICOM_REPORT: 9802}  # far from those of scanners
_LONGEST_DESCRIPTION = 1024

_VOLUME = Code("118565006", "SCT", "Volume")
_BY_VOXELS = Code("126030", "DCM", "Sum of segmented voxel method for volume")
# As ultrasound names them; the axis, told as the method, leaves no doubt.
_DIAMETERS = {
    "left_right_mm": (Code("103355008", "SCT", "Width"), Code("110860", "DCM", "Left-Right Axis")),
    "antero_posterior_mm": (Code("121207", "DCM", "Height"), Code("110862", "DCM", "Anterior-Posterior Axis")),
    "cranio_caudal_mm": (Code("410668003", "SCT", "Length"), Code("110861", "DCM", "Head-Foot Axis")),
}
_PSA_DENSITY = Code("15325-4", "LN", "Prostate specific Antigen Density")
_ML, _MM, _NG_PER_ML_PER_ML = (Code(unit, "UCUM", unit) for unit in ("mL", "mm", "ng/mL/mL"))
_MR_IMAGING = Code("113091000", "SCT", "Magnetic resonance imaging")


def require_highdicom() -> None:
    """Raises InputError: highdicom is not installed, or too old."""
    try:
        version = importlib.metadata.version("highdicom")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST_HIGHDICOM:
        oldest = ".".join(map(str, OLDEST_HIGHDICOM))
        raise InputError(
            f"--format dicom-seg needs the package highdicom, {oldest} or newer; {version or 'none'} is installed.",
            "Run 'pip install -U highdicom' in the same environment, or choose --format seg.nrrd or nii.gz.",
        )


def read_scan(series: DicomSeries, image: sitk.Image) -> list[pydicom.Dataset]:
    """The headers of a series in the order of its slices, with all that a DICOM object made of it needs.

    Args:
        image: what the series was loaded as. Headers may be rounded; what is made of them lies on this even grid.

    Raises:
        InputError: UIDs are missing that such an object refers to, or the slices came as several series.
    """
    with quiet_readers():
        files = sorted_slices(series.files)
        headers = (pydicom.dcmread(file.path, stop_before_pixels=True, force=True) for file in files)
        scan: list[pydicom.Dataset] = list(headers)
    missing = [keyword for keyword in _UIDS if not all(slice_.get(keyword) for slice_ in scan)]
    count = len({file.series for file in files})
    if missing or count > 1:
        why = f"lacks {' and '.join(missing)}" if missing else f"came as {count} series (SeriesInstanceUID)"
        raise InputError(f"DICOM series '{series.name}' {why}, so no DICOM result can refer to it.", _ANOTHER_FORMAT)
    for number, slice_ in enumerate(scan):
        for keyword in _MAY_BE_EMPTY:
            if keyword not in slice_:
                setattr(slice_, keyword, None)
        _lay_on_grid(slice_, image, number)
        _name_character_set(slice_)
    return scan


def write_results(
    answer: Segmentation, scan: Sequence[pydicom.Dataset], name: str, paths: Mapping[str, Path], psa: float | None
) -> None:
    """Write the Segmentation and the report.

    Args:
        scan: what ``read_scan`` gave for the series that was segmented.
        name: of the series, see ``DicomSeries``.
        paths: kind of object, ``DICOM_SEGMENTATION`` and ``DICOM_REPORT``, to file.
        psa: ng/ml, for its density; None when it is not known.

    Raises:
        InputError: highdicom does not take the series as a source. StorageError: a file cannot be written.
    """
    with _refusals_told(name):
        segmentation = _segmentation(answer, scan)
        report = _report(answer, scan, segmentation, psa)
        content = {DICOM_SEGMENTATION: _as_file(segmentation), DICOM_REPORT: _as_file(report)}
    for kind, path in paths.items():
        write_bytes(content[kind], path)


@contextmanager
def _refusals_told(name: str) -> Iterator[None]:
    """highdicom's own words are not told: they may quote the patient's name."""
    try:
        with quiet_readers():
            yield
    except _REFUSALS as error:
        cause = (
            f"highdicom does not take DICOM series '{name}' as the source of a DICOM result ({type(error).__name__})."
        )
        raise InputError(cause, _ANOTHER_FORMAT) from error


def _segmentation(answer: Segmentation, scan: Sequence[pydicom.Dataset]) -> highdicom.seg.Segmentation:
    """A binary one of all slices, those without prostate too: GDCM gives it back as the volume that it is."""
    import highdicom

    algorithm = highdicom.AlgorithmIdentificationSequence(
        PROGRAM, Code("123110", "DCM", "Artificial Intelligence"), __version__, parameters=_parameters(answer)
    )
    segment = highdicom.seg.SegmentDescription(
        1,
        SEGMENT_NAME,
        Code(*ANATOMICAL_STRUCTURE),
        Code(*PROSTATE),
        "AUTOMATIC",
        algorithm,
        tracking_uid=highdicom.UID(),
        tracking_id=SEGMENT_NAME,
        display_color=highdicom.color.CIELabColor.from_rgb(*(round(255 * channel) for channel in SEGMENT_COLOR)),
    )
    segment.SegmentDescription = _description(answer)
    return highdicom.seg.Segmentation(
        scan,
        sitk.GetArrayViewFromImage(answer.mask) != 0,
        "BINARY",
        [segment],
        **_as_new_series(DICOM_SEGMENTATION, answer),
        content_label="PROSTATE",
        content_description=RESEARCH_ONLY,
        series_description="Prostate segmentation. Research use only.",
        omit_empty_frames=False,
    )


def _report(
    answer: Segmentation, scan: Sequence[pydicom.Dataset], segmentation: pydicom.Dataset, psa: float | None
) -> highdicom.sr.EnhancedSR:
    """TID 1500 with one group of measurements, which refers to the segment."""
    from highdicom import sr

    device = sr.DeviceObserverIdentifyingAttributes(
        generate_uid(entropy_srcs=[PROGRAM, __version__, answer.model_sha256]),
        name=f"{PROGRAM} {__version__}. {RESEARCH_ONLY}",
        manufacturer_name=PROGRAM,
        model_name=_ascii(answer.model_version),
        serial_number=answer.model_sha256,
    )
    segment = segmentation.SegmentSequence[0]
    group = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        sr.TrackingIdentifier(segment.TrackingUID, segment.TrackingID),
        referenced_segment=sr.ReferencedSegment(
            segmentation.SOPClassUID,
            segmentation.SOPInstanceUID,
            segment.SegmentNumber,
            source_series=sr.SourceSeriesForSegmentation.from_source_image(scan[0]),
        ),
        finding_category=Code(*ANATOMICAL_STRUCTURE),
        finding_type=Code(*PROSTATE),
        algorithm_id=sr.AlgorithmIdentification(
            PROGRAM, __version__, [f"{name}={value}" for name, value in _parameters(answer).items()]
        ),
        measurements=_measurements(answer, psa),
    )
    observer = sr.ObserverContext(sr.CodedConcept("121007", "DCM", "Device"), device)
    content = sr.MeasurementReport(
        sr.ObservationContext(observer_device_context=observer),
        _MR_IMAGING,
        imaging_measurements=[group],
        title=Code("126000", "DCM", "Imaging Measurement Report"),
        referenced_images=scan,
    )
    return sr.EnhancedSR(
        [*scan, segmentation],
        content,
        **_as_new_series(DICOM_REPORT, answer),
        is_complete=True,
        series_description="Prostate measurements. Research use only.",
    )


def _as_new_series(kind: str, answer: Segmentation) -> dict[str, Any]:
    """An object that is alone in a series of its own, and what made it."""
    import highdicom

    return {
        "series_instance_uid": highdicom.UID(),
        "series_number": _SERIES_NUMBERS[kind],
        "sop_instance_uid": highdicom.UID(),
        "instance_number": 1,
        "manufacturer": PROGRAM,
        "manufacturer_model_name": PROGRAM,
        "software_versions": __version__,
        "device_serial_number": answer.model_sha256,
    }


def _measurements(answer: Segmentation, psa: float | None) -> list[highdicom.sr.Measurement]:
    """The figures that the table of a batch has, too."""
    from highdicom.sr import Measurement

    row = answer.measurements.as_row()
    found = [Measurement(_VOLUME, row["volume_ml"], _ML, method=_BY_VOXELS)]
    found += [Measurement(code, row[column], _MM, method=axis) for column, (code, axis) in _DIAMETERS.items()]
    density = psa_density(psa or 0.0, answer.measurements.volume_ml)
    if density is not None:
        found.append(Measurement(_PSA_DENSITY, round(density, 3), _NG_PER_ML_PER_ML))
    return found


def _parameters(answer: Segmentation) -> dict[str, str]:
    """Which weights answered, and how they were asked."""
    return {
        "model": _ascii(answer.model_version),
        "model SHA-256": answer.model_sha256,
        "mode": answer.mode,
        "threshold": f"{answer.threshold:g}",
        "bias field": answer.bias_field,
    }


def _description(answer: Segmentation) -> str:
    told = ", ".join(f"{name} {value}" for name, value in _parameters(answer).items())
    text = " ".join((f"{RESEARCH_ONLY} {PROGRAM} {__version__}: {told}.", *map(_ascii, answer.warnings)))
    return text[:_LONGEST_DESCRIPTION]


def _ascii(text: str) -> str:
    """In letters that every character set of DICOM has."""
    return text.encode("ascii", "replace").decode()


def _lay_on_grid(header: pydicom.Dataset, image: sitk.Image, number: int) -> None:
    """A slice that does not say how thick it is reaches to the next one."""
    width, height, distance = image.GetSpacing()
    row, column = np.reshape(image.GetDirection(), (3, 3)).T[:2]
    header.ImagePositionPatient = _as_ds(image.TransformIndexToPhysicalPoint((0, 0, number)))
    header.ImageOrientationPatient = _as_ds((*row, *column))
    header.PixelSpacing = _as_ds((height, width))
    (header.SpacingBetweenSlices,) = _as_ds((distance,))
    header.SliceThickness = header.get("SliceThickness") or header.SpacingBetweenSlices


def _as_ds(numbers: Iterable[float]) -> list[str]:
    return [format_number_as_ds(float(number)) for number in numbers]


def _name_character_set(dataset: pydicom.Dataset) -> None:
    """The default set by its name where others follow it, and by none where it is alone: highdicom takes no other."""
    found = dataset.get("SpecificCharacterSet")
    names = [found] if isinstance(found, str) else list(found or [])
    if not any(names):
        dataset.pop("SpecificCharacterSet", None)
    elif not names[0]:
        dataset.SpecificCharacterSet = ["ISO 2022 IR 6", *names[1:]]


def _as_file(dataset: pydicom.Dataset) -> bytes:
    content = BytesIO()
    dataset.save_as(content, enforce_file_format=True)
    return content.getvalue()

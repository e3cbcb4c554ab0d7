"""What one DICOM file says about its slice: the header through pydicom, the pixels through SimpleITK's GDCM."""

from __future__ import annotations

import math
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom import uid
from pydicom.tag import Tag

from ..engine.images import silent_itk
from ..engine.plain_names import plainly_named
from ..engine.t2_recognition import ScanFacts

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
MR_CLASSES = (uid.MRImageStorage, uid.EnhancedMRImageStorage)
CAPTURE_CLASSES = (
    uid.SecondaryCaptureImageStorage,
    uid.MultiFrameSingleBitSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
)
READ_HERE = (
    *uid.UncompressedTransferSyntaxes,
    *uid.RLETransferSyntaxes,
    *uid.JPEGTransferSyntaxes,
    *uid.JPEGLSTransferSyntaxes,
    uid.JPEG2000Lossless,
    uid.JPEG2000,
)

# What a slice is recognized and placed by; nothing else is read, least of all about the patient.
_KEYWORDS = """
    SOPClassUID ImageType Modality SeriesDescription ScanningSequence SequenceName EchoTime EchoNumbers ProtocolName
    DiffusionBValue SeriesInstanceUID InstanceNumber ImagePositionPatient ImageOrientationPatient SamplesPerPixel
    PhotometricInterpretation NumberOfFrames Rows Columns PixelSpacing BitsAllocated BitsStored HighBit
    SpacingBetweenSlices
    StudyInstanceUID FrameOfReferenceUID
"""
_TAGS = [Tag(keyword) for keyword in _KEYWORDS.split()]
_PLACING = ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")


@dataclass(frozen=True, slots=True)
class DicomFile:
    """One file of a series. ``position`` and ``spacing`` (x, y) are mm in LPS; what the file does not say is empty.

    ``readable`` is False for a truncated or damaged file, of which only ``series`` and perhaps ``instance`` are known.
    ``syntax`` is its transfer syntax, ``room`` the study and the frame of reference in which its position holds.
    ``commas`` are the keywords of what places it that is written with a decimal comma, and so is no number of DICOM.
    ``distance`` is SpacingBetweenSlices, which places nothing. ``bits_agree`` is False where BitsAllocated, BitsStored
    and HighBit contradict each other. The names among its ``facts`` are never shown to anyone.
    """

    path: Path = field(repr=False)
    series: str = field(repr=False)
    instance: int | None = None
    readable: bool = False
    facts: ScanFacts = field(default=ScanFacts(), repr=False)
    photometric: str = ""
    position: tuple[float, ...] = ()
    orientation: tuple[float, ...] = ()
    size: tuple[int, int] = (0, 0)
    spacing: tuple[float, ...] = ()
    echo_number: int | None = None
    frames: int = 1
    enhanced: bool = False
    syntax: str = ""
    capture: bool = False
    commas: tuple[str, ...] = ()
    distance: float | None = None
    bits_agree: bool = True
    room: tuple[str, str] = field(default=("", ""), repr=False)

    @property
    def color(self) -> bool:
        return bool(self.photometric) and not self.photometric.startswith("MONOCHROME")

    @property
    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Directions of its rows and columns, and its normal, as unit vectors in LPS; it must have an orientation."""
        row, column = np.array(self.orientation).reshape(2, 3)
        return row, column, np.cross(row, column)

    def beside(self, first: DicomFile) -> DicomFile:
        """The same, with all that the first slice of its series says, too, in memory but once."""
        alike = (one.name for one in fields(self) if getattr(self, one.name) == getattr(first, one.name))
        return replace(self, **{name: getattr(first, name) for name in alike})


def read_dicom_file(path: Path) -> DicomFile | None:
    """What the file says, or None for a hidden file, DICOMDIR or anything that is not DICOM.

    A file that is no image of a series that can be told comes back with an empty ``series``: a report, a file that may
    not be opened, one that is cut off within its first lines.
    """
    if path.name.startswith(".") or path.name.upper() == "DICOMDIR":
        return None
    try:
        with open(path, "rb") as file, quiet_readers():
            if not _looks_like_dicom(file):
                return DicomFile(path, "") if path.suffix.lower() in DICOM_SUFFIXES else None
            dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS, force=True)
            if dataset.file_meta.get("MediaStorageSOPClassUID") == uid.MediaStorageDirectoryStorage:
                return None
            syntax = str(dataset.file_meta.get("TransferSyntaxUID", uid.ImplicitVRLittleEndian))
            return _described(path, dataset, syntax, whole=_has_all_pixels(file, dataset, syntax))
    except Exception:  # pydicom raises almost anything on garbage
        return DicomFile(path, "")


def patient_id_of(path: Path) -> str:
    """The PatientID of a file, or ""; for the case library alone, which keeps a salted digest of it."""
    try:
        with quiet_readers():
            dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[Tag("PatientID")], force=True)
            return str(dataset.get("PatientID") or "").strip()
    except Exception:
        return ""


def read_pixels(file: DicomFile) -> np.ndarray:
    """The gray values of a slice (y, x, or with one frame before them), rescale slope and intercept applied.

    Raises:
        Exception: of any class, as the decoders raise it.
    """
    with quiet_readers():
        if file.syntax == uid.RLELossless:
            return _run_length_pixels(file.path)
        if file.distance == 0:
            return _pixels_without_distance(file.path)
        return _gdcm_pixels(file.path)


@contextmanager
def quiet_readers() -> Iterator[None]:
    """pydicom and ITK warn on the console, in their own jargon and with the values they stumble over."""
    with warnings.catch_warnings(), silent_itk():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _silent_decoders() -> Iterator[None]:
    """GDCM's JPEG 2000 decoder writes what it stumbles over straight to the process's standard error."""
    try:
        sys.stderr.flush()
        kept = os.dup(2)
    except (AttributeError, OSError):  # a program without a console
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _looks_like_dicom(file: BinaryIO) -> bool:
    """With the preamble, or without as old scanners write it: then group 2 or 8 comes first."""
    head = file.read(132)
    file.seek(0)
    return head[128:] == b"DICM" or (head[:2] in (b"\x02\x00", b"\x08\x00") and head[3:4] == b"\x00")


def _has_all_pixels(file: BinaryIO, dataset: pydicom.Dataset, syntax: str) -> bool:
    """Whether the file, read up to its pixels, goes on for as long as its header promises."""
    bits = math.prod(_number(dataset, name) or 0 for name in ("Rows", "Columns", "BitsAllocated"))
    promised = int(bits / 8 * (_number(dataset, "SamplesPerPixel") or 1) * _frames(dataset))
    if promised == 0 or syntax == uid.DeflatedExplicitVRLittleEndian:
        return promised > 0  # a deflated file that is cut off cannot be unpacked at all
    if syntax in uid.UncompressedTransferSyntaxes:
        before = 8 if syntax == uid.ImplicitVRLittleEndian else 12
        return os.fstat(file.fileno()).st_size - file.tell() >= before + promised
    file.seek(0)
    return "PixelData" in pydicom.dcmread(file, specific_tags=["PixelData"], force=True)


def _described(path: Path, dataset: pydicom.Dataset, syntax: str, whole: bool) -> DicomFile:
    series, instance = _text(dataset, "SeriesInstanceUID"), _integer(dataset, "InstanceNumber")
    sop_class = _text(dataset, "SOPClassUID")
    if not whole:  # a damaged slice still counts in its series, so that it is missed there and not passed over
        return DicomFile(path, series if sop_class in MR_CLASSES else "", instance=instance)
    commas = tuple(keyword for keyword in _PLACING if _has_comma(dataset, keyword))
    spacing = _numbers(dataset, "PixelSpacing", 2)
    return DicomFile(
        path=path,
        series=series,
        instance=instance,
        readable=True,
        facts=ScanFacts(
            names=tuple(_text(dataset, name) for name in ("SeriesDescription", "ProtocolName", "SequenceName")),
            image_type=_text(dataset, "ImageType"),
            modality=_text(dataset, "Modality") or "none",
            scanning_sequence=_text(dataset, "ScanningSequence"),
            b_value=_number(dataset, "DiffusionBValue"),
            echo_time=_number(dataset, "EchoTime"),
        ),
        photometric=_text(dataset, "PhotometricInterpretation"),
        position=_numbers(dataset, "ImagePositionPatient", 3),
        orientation=_unit_axes(_numbers(dataset, "ImageOrientationPatient", 6)),
        size=(_integer(dataset, "Columns") or 0, _integer(dataset, "Rows") or 0),
        spacing=spacing[::-1] if spacing and min(spacing) > 0 else (),
        echo_number=_integer(dataset, "EchoNumbers"),
        frames=_frames(dataset),
        enhanced=sop_class == uid.EnhancedMRImageStorage,
        syntax=syntax,
        capture=sop_class in CAPTURE_CLASSES,
        commas=commas,
        distance=_number(dataset, "SpacingBetweenSlices"),
        bits_agree=_bits_agree(dataset),
        room=(_text(dataset, "StudyInstanceUID"), _text(dataset, "FrameOfReferenceUID")),
    )


def _bits_agree(dataset: pydicom.Dataset) -> bool:
    """Whether gray values fill the lowest bits of their words; of others GDCM silently cuts some off."""
    allocated, stored, highest = (_integer(dataset, name) for name in ("BitsAllocated", "BitsStored", "HighBit"))
    return stored is None or (0 < stored <= (allocated or 0) and highest in (None, stored - 1))


def _gdcm_pixels(path: Path) -> np.ndarray:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    with plainly_named(path, ".dcm") as plain, _silent_decoders():
        reader.SetFileName(str(plain))
        return sitk.GetArrayFromImage(reader.Execute())


def _pixels_without_distance(path: Path) -> np.ndarray:
    """ITK refuses a slice whose SpacingBetweenSlices is 0, so it reads a copy that does not say it."""
    dataset = pydicom.dcmread(path, force=True)
    del dataset["SpacingBetweenSlices"]
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, "slice.dcm")
        dataset.save_as(plain)
        return _gdcm_pixels(plain)


def _run_length_pixels(path: Path) -> np.ndarray:
    """GDCM divides by the number of segments of a run-length coded frame: nought of them would end the process."""
    slice_ = pydicom.dcmread(path, force=True)
    slope, intercept = (slice_.get(name) for name in ("RescaleSlope", "RescaleIntercept"))
    pixels = slice_.pixel_array
    return pixels if slope in (None, 1) and not intercept else pixels * float(slope or 1) + float(intercept or 0)


def _values(dataset: pydicom.Dataset, keyword: str) -> list:
    """The values of an element; none where it is missing or they are not of its type."""
    try:
        value = dataset.get(keyword)
        if isinstance(value, Sequence) and not isinstance(value, str):
            return list(value)
    except Exception:  # pydicom raises almost anything on garbage
        return []
    return [] if value is None else [value]


def _has_comma(dataset: pydicom.Dataset, keyword: str) -> bool:
    """Whether a number's text has a comma; asked before pydicom makes numbers of it."""
    value = getattr(dataset.get_item(keyword), "value", None)
    return isinstance(value, bytes) and b"," in value


def _text(dataset: pydicom.Dataset, keyword: str) -> str:
    return "\\".join(map(str, _values(dataset, keyword))).strip(" \0")


def _numbers(dataset: pydicom.Dataset, keyword: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(map(float, _values(dataset, keyword)))
    except (TypeError, ValueError):
        return ()
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else ()


def _number(dataset: pydicom.Dataset, keyword: str) -> float | None:
    return next(iter(_numbers(dataset, keyword, 1)), None)


def _integer(dataset: pydicom.Dataset, keyword: str) -> int | None:
    number = _number(dataset, keyword)
    return None if number is None else int(number)


def _frames(dataset: pydicom.Dataset) -> int:
    return _integer(dataset, "NumberOfFrames") or 1


def _unit_axes(numbers: tuple[float, ...]) -> tuple[float, ...]:
    """Row and column directions, empty where they are not two directions at all."""
    return numbers if all(abs(math.hypot(*axis) - 1) <= 0.01 for axis in (numbers[:3], numbers[3:])) else ()

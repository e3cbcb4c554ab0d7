"""DICOM series as scanners, archives and de-identification leave them: tags, geometry, and what lies among them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
from hard_inputs_expected import IMPORT, Built, Clean, Grid, Outcome, done, hard, refused
from hard_inputs_files import Volume, save_nifti
from pydicom import uid
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag

ROOT = "1.2.826.0.1.3680043.8.498.4711"
LEGACY_CONVERTED = "1.2.840.10008.5.1.4.1.1.4.4"
VALUES, STACK, OBJECTS = "DICOM: tags", "DICOM: geometry", "DICOM: objects and files"
# How a scan whose name does not say T2 is had all the same: by an option, whatever it is called.
ANY_WAY = refused(r"--series\b", exits=(1, 2))


def number(value: float) -> str:
    """At most 16 characters, as DICOM wants it."""
    return format(value + 0.0, ".9g")


def series_of(volume: Volume, number_of_series: int = 2, name: str = "t2_tse_tra") -> list[Dataset]:
    """One classic MR slice for each plane of the third axis."""
    slices = []
    for index in range(volume.voxels.shape[2]):
        plane, meta = Dataset(), FileMetaDataset()
        meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        plane.file_meta = meta
        plane.SOPClassUID = meta.MediaStorageSOPClassUID = uid.MRImageStorage
        plane.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = f"{ROOT}.{number_of_series}.4.{index + 1}"
        plane.StudyInstanceUID, plane.SeriesInstanceUID = f"{ROOT}.1", f"{ROOT}.{number_of_series}"
        plane.FrameOfReferenceUID = f"{ROOT}.3"
        plane.PatientName, plane.PatientID, plane.PatientBirthDate = "Test^Phantom", "T0", ""
        plane.Modality, plane.Manufacturer, plane.SpecificCharacterSet = "MR", "Made up", "ISO_IR 100"
        plane.ImageType = ["ORIGINAL", "PRIMARY", "M", "NORM"]
        plane.SeriesDescription = plane.ProtocolName = name
        plane.SequenceName, plane.ScanningSequence, plane.SequenceVariant = "*tse2d1_25", "SE", "SK"
        plane.RepetitionTime, plane.EchoTime, plane.EchoNumbers, plane.EchoTrainLength = "5660", "104", "1", "25"
        plane.SliceThickness = plane.SpacingBetweenSlices = number(volume.spacing[2])
        plane.SeriesNumber, plane.InstanceNumber = "4", str(index + 1)
        plane.ImagePositionPatient = [number(x) for x in (volume.affine @ [0, 0, index, 1])[:3]]
        plane.ImageOrientationPatient = [number(x) for x in volume.axes[:, :2].T.ravel()]
        plane.SliceLocation = number(float(volume.axes[:, 2] @ (volume.affine @ [0, 0, index, 1])[:3]))
        plane.PixelSpacing = [number(volume.spacing[1]), number(volume.spacing[0])]
        plane.Rows, plane.Columns = volume.voxels.shape[1::-1]
        plane.SamplesPerPixel, plane.PhotometricInterpretation = 1, "MONOCHROME2"
        plane.BitsAllocated, plane.BitsStored, plane.HighBit, plane.PixelRepresentation = 16, 12, 11, 0
        plane.PixelData = volume.voxels[:, :, index].T.astype("<u2").tobytes()
        plane["PixelData"].VR = "OW"
        slices.append(plane)
    return slices


def save_series(slices: Sequence[Dataset], folder: Path, names: Sequence[str] = ()) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in names or [f"IM{index:04d}.dcm" for index in range(1, len(slices) + 1)]]
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        for plane, path in zip(slices, paths, strict=True):
            plane.save_as(path, enforce_file_format=True)
    return paths


def raw(plane: Dataset, keyword: str, text: str | bytes) -> None:
    """Bytes that no DICOM library would write."""
    value = text.encode() if isinstance(text, str) else text
    value += b" " * (len(value) % 2)
    tag = Tag(keyword)
    kind = pydicom.datadict.dictionary_VR(tag)
    plane[tag] = RawDataElement(tag, kind, len(value), value, 0, False, True)


Change = Callable[[list[Dataset]], "list[Dataset] | None"]


def series(slug: str, kind: str, what: str, change: Change, *right: Outcome, grid=None, names=(), **how) -> None:
    """An input that is the sample as one series, changed; ``grid`` makes the right one of the clean scans."""

    def build(folder: Path, clean: Clean) -> Built:
        slices = series_of(clean.scans[0])
        changed = change(slices)
        slices = slices if changed is None else changed
        save_series(slices, folder / "series", names[: len(slices)])
        return Built({"scan": grid(clean) if grid else clean.grid()})

    hard(slug, kind, what, build, *(right or (done(),)), **how)


def each(**values) -> Change:
    """Set values in every slice; None takes the element out, bytes are written as they are."""

    def change(slices: list[Dataset]) -> None:
        for plane in slices:
            _set(plane, values)

    return change


def one(index: int, **values) -> Change:
    def change(slices: list[Dataset]) -> None:
        _set(slices[index], values)

    return change


def _set(plane: Dataset, values: dict) -> None:
    for keyword, value in values.items():
        if value is None:
            del plane[keyword]
        elif isinstance(value, bytes):
            raw(plane, keyword, value)
        else:
            setattr(plane, keyword, value)


# Spacing ------------------------------------------------------------------------------------------------------------

_NO_SPACING = refused(r"pixel ?spacing")
for _slug, _what, _change in (
    ("missing", "PixelSpacing is missing", each(PixelSpacing=None)),
    ("empty", "PixelSpacing is there but empty", each(PixelSpacing=b"")),
    ("missing-in-one", "PixelSpacing is missing in slice 7 alone", one(6, PixelSpacing=None)),
    ("zero", "PixelSpacing is 0\\0", each(PixelSpacing=b"0\\0")),
    ("half-zero", "PixelSpacing is 0.5\\0", each(PixelSpacing=b"0.5\\0")),
    ("zero-in-one", "PixelSpacing is 0\\0 in the first slice", one(0, PixelSpacing=b"0\\0")),
    ("negative", "PixelSpacing is negative", each(PixelSpacing=b"-0.5\\-0.5")),
    ("one-value", "PixelSpacing has one value", each(PixelSpacing=b"0.5")),
    ("three-values", "PixelSpacing has three values", each(PixelSpacing=b"0.5\\0.5\\3.0")),
    ("nan", "PixelSpacing is nan", each(PixelSpacing=b"nan\\nan")),
    ("infinite", "PixelSpacing is inf", each(PixelSpacing=b"inf\\inf")),
    ("with-unit", "PixelSpacing says mm", each(PixelSpacing=b"0.5 mm\\0.5 mm")),
):
    series(f"pixel-spacing-{_slug}", VALUES, _what, _change, _NO_SPACING)
series(
    "pixel-spacing-other-in-one",
    VALUES,
    "PixelSpacing of one slice is another",
    one(4, PixelSpacing=["0.6", "0.6"]),
    refused("pixel (size|spacing)"),
)
series("pixel-spacing-exponent", VALUES, "PixelSpacing is 5.0E-01", each(PixelSpacing=b"5.0E-01\\5.0E-01 "), done())
series("pixel-spacing-blanks", VALUES, "PixelSpacing has blanks around", each(PixelSpacing=b" 0.5 \\ 0.5 "), done())


def commas(*keywords: str) -> Change:
    def change(slices: list[Dataset]) -> None:
        for plane in slices:
            for keyword in keywords:
                value = plane[keyword].value
                values = [value] if isinstance(value, str | float | int) else list(value)
                raw(plane, keyword, "\\".join(f"{float(x):.6f}".replace(".", ",") for x in values))

    return change


_COMMA = (done(), refused("comma"))
for _slug, _keywords in (
    ("spacing", ("PixelSpacing",)),
    ("position", ("ImagePositionPatient",)),
    ("orientation", ("ImageOrientationPatient",)),
    ("everywhere", ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "EchoTime", "SliceThickness")),
):
    series(f"decimal-comma-{_slug}", VALUES, f"decimal commas in {', '.join(_keywords)}", commas(*_keywords), *_COMMA)
series(
    "decimal-comma-in-one",
    VALUES,
    "decimal commas in PixelSpacing of one slice, as after a repair by hand",
    lambda slices: commas("PixelSpacing")(slices[8:9]),
    *_COMMA,
)
for _slug, _value in (("zero", b"0.0"), ("negative", b"-3.0"), ("other", b"5.0"), ("text", b"3 mm"), ("none", None)):
    series(
        f"spacing-between-slices-{_slug}",
        VALUES,
        "SpacingBetweenSlices is of no use; the positions are right",
        each(SpacingBetweenSlices=_value),
        done(),
    )
series("slice-thickness-none", VALUES, "no SliceThickness", each(SliceThickness=None), done())
series("slice-thickness-zero", VALUES, "SliceThickness 0", each(SliceThickness=b"0"), done())
series("slice-location-wrong", VALUES, "SliceLocation 0 in every slice", each(SliceLocation=b"0"), done())

# Rescaling, gray values

for _slug, _values, _right in (
    ("slope-2", dict(RescaleSlope="2", RescaleIntercept="-10"), (done(),)),
    ("slope-fraction", dict(RescaleSlope="0.37", RescaleIntercept="0.5"), (done(),)),
    # Of a slope of 0 nothing can be seen; whether it is ignored, as many viewers do, or refused, is both right.
    ("slope-zero", dict(RescaleSlope="0", RescaleIntercept="0"), (done(), refused("slope|constant"))),
    ("slope-comma", dict(RescaleSlope=b"1,0", RescaleIntercept=b"0,0"), (done(), refused("comma|slope"))),
    ("inverted", dict(PhotometricInterpretation="MONOCHROME1"), (done(), refused("inverted|MONOCHROME1"))),
    ("echo-time-comma", dict(EchoTime=b"104,0"), (done(), refused("comma|echo time"))),
    ("echo-time-none", dict(EchoTime=None), (done(),)),
    ("bits-stored-16", dict(BitsStored=16, HighBit=15), (done(),)),
    # 12 bits of a signed type are positive here: the sign bit is never set.
    ("signed", dict(PixelRepresentation=1), (done(),)),
    ("window-text", dict(WindowCenter=b"wide", WindowWidth=b"open"), (done(),)),
):
    series(f"gray-{_slug}", VALUES, f"{', '.join(_values)} in every slice", each(**_values), *_right)

# Names and identities

for _slug, _values in (
    ("removed", dict(SeriesDescription=None, ProtocolName=None, SequenceName=None)),
    ("empty", dict(SeriesDescription="", ProtocolName="", SequenceName="")),
    ("blank", dict(SeriesDescription=b"  ", ProtocolName=b"  ", SequenceName=None)),
    ("vista", dict(SeriesDescription="3D_VISTA", ProtocolName="3D_VISTA", SequenceName=None)),
    ("space", dict(SeriesDescription="SPACE tra", ProtocolName="SPACE tra", SequenceName=None)),
    ("cube", dict(SeriesDescription="Ax CUBE", ProtocolName="Prostate", SequenceName=None)),
    ("propeller", dict(SeriesDescription="Ax PROPELLER HR", ProtocolName="Prostate", SequenceName=None)),
    ("blade", dict(SeriesDescription="blade_tra_p2", ProtocolName="blade_tra_p2", SequenceName=None)),
    ("multivane", dict(SeriesDescription="MultiVane TRA", ProtocolName="MV", SequenceName=None)),
    ("number", dict(SeriesDescription="Series 5", ProtocolName="5", SequenceName=None)),
    ("japanese", dict(SpecificCharacterSet="ISO_IR 192", SeriesDescription="横断", ProtocolName="", SequenceName=None)),
    ("anonymized", dict(SeriesDescription="ANONYMIZED", ProtocolName="REMOVED", SequenceName="REMOVED")),
):
    series(
        f"named-{_slug}",
        VALUES,
        "the series' names do not say T2; MR, axial, TE 104 ms, the only series",
        each(**_values),
        done(),
        ANY_WAY,
    )
series("named-only-by-protocol", VALUES, "T2 in ProtocolName alone", each(SeriesDescription=None, SequenceName=None))


def _any_series(folder: Path, clean: Clean) -> Built:
    slices = series_of(clean.scans[0], name="Prostata 3")
    each(SequenceName=None)(slices)
    save_series(slices, folder / "series")
    return Built({"scan": clean.grid()}, extra=("--series", "any"))


hard("series-any", VALUES, "a series without a telling name, by a user who knows that it is T2", _any_series, done())


def _any_of_two(folder: Path, clean: Clean) -> Built:
    slices = series_of(clean.scans[0], 2, name="")
    others = series_of(clean.scans[1], 7, name="")
    for plane in (*slices, *others):
        _set(plane, dict(SequenceName=None))
    for plane in others:
        plane.ImageType, plane.EchoTime = ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"], "90"
    save_series(slices, folder / "a")
    save_series(others, folder / "b")
    return Built({"scan": clean.grid()}, extra=("--series", "any"))


# The name may be missing; what the image type says is no question of names.
hard(
    "series-any-beside-an-adc",
    VALUES,
    "the same beside a nameless series whose image type says ADC",
    _any_of_two,
    done(says=("adc|diffusion",)),
)

_UID = "SeriesInstanceUID"
series("series-uid-missing", VALUES, "no SeriesInstanceUID", each(SeriesInstanceUID=None), done(), refused(_UID))
series("series-uid-empty", VALUES, "SeriesInstanceUID empty", each(SeriesInstanceUID=""), done(), refused(_UID))
series(
    "series-uid-letters",
    VALUES,
    "SeriesInstanceUID is no UID but a hash in letters",
    each(SeriesInstanceUID=b"anon-9f86d081-884c"),
    done(),
)
series("study-uid-missing", VALUES, "no StudyInstanceUID", each(StudyInstanceUID=None), done())
series("sop-uid-missing", VALUES, "no SOPInstanceUID", each(SOPInstanceUID=None), done())
series(
    "sop-uid-same",
    VALUES,
    "one SOPInstanceUID in all slices, as a careless script leaves it",
    each(SOPInstanceUID=f"{ROOT}.9"),
    done(),
)
series("sop-class-missing", VALUES, "no SOPClassUID", each(SOPClassUID=None), done(), refused("SOPClassUID|SOP class"))
series("frame-of-reference-missing", VALUES, "no FrameOfReferenceUID", each(FrameOfReferenceUID=None), done())
series("instance-numbers-missing", VALUES, "no InstanceNumber", each(InstanceNumber=None), done())
series("instance-numbers-same", VALUES, "InstanceNumber 1 in every slice", each(InstanceNumber="1"), done())
series("instance-numbers-text", VALUES, "InstanceNumber is text", each(InstanceNumber=b"first"), done())
series("modality-missing", VALUES, "no Modality", each(Modality=None), done(), refused("modality|not MR"), ANY_WAY)


def _split(*starts: int) -> Change:
    def change(slices: list[Dataset]) -> None:
        for number_of_part, start in enumerate(starts, 1):
            for plane in slices[start:]:
                plane.SeriesInstanceUID = f"{ROOT}.2.{number_of_part}"

    return change


def _alternating(slices: list[Dataset]) -> None:
    for index, plane in enumerate(slices):
        plane.SeriesInstanceUID = f"{ROOT}.2.{index % 2}"


def _own_uids(slices: list[Dataset]) -> None:
    for index, plane in enumerate(slices):
        plane.SeriesInstanceUID = f"{ROOT}.2.{index}"


# Joined they are the one stack; each part alone is half a gland, whose mask would look sound and be wrong.
_PARTS = (done(), refused("SeriesInstanceUID|series UID|several series|parts of one"))
series("series-uid-per-slice", VALUES, "a SeriesInstanceUID of its own for each slice", _own_uids, *_PARTS)
series("series-uid-halves", VALUES, "two SeriesInstanceUIDs: slices 1-9 and 10-19", _split(0, 9), *_PARTS)
series("series-uid-thirds", VALUES, "three SeriesInstanceUIDs, one after the other", _split(0, 6, 12), *_PARTS)
series("series-uid-alternating", VALUES, "two SeriesInstanceUIDs, slice by slice", _alternating, *_PARTS)
series(
    "character-set-wrong",
    VALUES,
    "UTF-8 names under the character set of ASCII",
    each(SpecificCharacterSet="ISO_IR 6", PatientName="Müller^Jörg".encode(), ProtocolName="t2_tra_Größe".encode()),
)
series("character-set-unknown", VALUES, "a character set that does not exist", each(SpecificCharacterSet=b"UTF-9 "))

# Geometry -----------------------------------------------------------------------------------------------------------


def _rounded(keyword: str, digits: int) -> Change:
    def change(slices: list[Dataset]) -> None:
        for plane in slices:
            raw(plane, keyword, "\\".join(f"{float(x):.{digits}f}" for x in plane[keyword].value))

    return change


def near(millimetres: float) -> Callable[[Clean], Grid]:
    return lambda clean: clean.grid(place_mm=millimetres)


for _digits in (3, 4, 5):
    series(
        f"orientation-{_digits}-decimals",
        STACK,
        f"direction cosines with {_digits} decimals",
        _rounded("ImageOrientationPatient", _digits),
        done(),
        grid=near(0.5),
    )
# 1.00 and 0.95, -0.32 are orthogonal; the rows are 0.2 % too long for unit vectors.
series(
    "orientation-2-decimals",
    STACK,
    "direction cosines with 2 decimals",
    _rounded("ImageOrientationPatient", 2),
    done(),
    refused("orientation|direction|orthogonal|unit|sideways"),
    grid=near(1.5),
)
series(
    "orientation-1-decimal",
    STACK,
    "direction cosines with 1 decimal: 3 degrees off",
    _rounded("ImageOrientationPatient", 1),
    refused("orientation|direction|sheared|sideways|orthogonal"),
)


def _leaning(by: float) -> Change:
    def change(slices: list[Dataset]) -> None:
        for plane in slices:
            row, column = np.array(plane.ImageOrientationPatient, float).reshape(2, 3)
            row = np.sqrt(1 - by**2) * row + by * column
            plane.ImageOrientationPatient = [number(x) for x in (*row, *column)]

    return change


for _slug, _by in (("0005", 0.0005), ("0010", 0.001), ("0019", 0.0019)):
    series(
        f"orientation-leaning-{_slug}",
        STACK,
        f"rows {_by} off orthogonal to the columns, as rounding leaves it",
        _leaning(_by),
        done(notes=(r"orthogonal",)),
        grid=near(0.28),
    )
for _slug, _by in (("0023", 0.0023), ("0100", 0.01), ("0500", 0.05)):
    series(
        f"orientation-leaning-{_slug}",
        STACK,
        f"rows {_by} off orthogonal to the columns: more than rounding",
        _leaning(_by),
        refused("orthogonal|shear"),
    )
for _digits, _right in ((2, (done(),)), (1, (done(),)), (0, (done(), refused("rounded|unevenly|positions")))):
    series(
        f"positions-{_digits}-decimals",
        STACK,
        f"positions with {_digits} decimals",
        _rounded("ImagePositionPatient", _digits),
        *_right,
        grid=near(0.12 if _digits else 1.0),
    )
_PLACE = refused("position")
series("position-missing", STACK, "no ImagePositionPatient", each(ImagePositionPatient=None), _PLACE)
series("position-missing-in-one", STACK, "one slice without position", one(5, ImagePositionPatient=None), _PLACE)
series(
    "position-same",
    STACK,
    "the same ImagePositionPatient in all slices",
    each(ImagePositionPatient=["0", "0", "0"]),
    _PLACE,
)
_TURNED = refused("orientation")
series("orientation-missing", STACK, "no ImageOrientationPatient", each(ImageOrientationPatient=None), _TURNED)
series("orientation-zero", STACK, "ImageOrientationPatient of zeros", each(ImageOrientationPatient=["0"] * 6), _TURNED)
series(
    "orientation-other-in-one",
    STACK,
    "one slice of another orientation",
    one(3, ImageOrientationPatient=["1", "0", "0", "0", "1", "0"]),
    _TURNED,
)


def _shifted(by: Callable[[int], np.ndarray]) -> Change:
    def change(slices: list[Dataset]) -> None:
        for index, plane in enumerate(slices):
            place = np.array(plane.ImagePositionPatient, float) + by(index)
            plane.ImagePositionPatient = [number(x) for x in place]

    return change


def _normal(slices: Sequence[Dataset]) -> np.ndarray:
    row, column = np.array(slices[0].ImageOrientationPatient, float).reshape(2, 3)
    return np.cross(row, column)


def _along_normal(distance: Callable[[int], float]) -> Change:
    return lambda slices: _shifted(lambda index: distance(index) * _normal(slices))(slices)


series(
    "gantry-tilt",
    STACK,
    "each slice 0.8 mm farther forward than the normal says: a sheared stack",
    _shifted(lambda index: np.array([0, -0.8 * index, 0])),
    refused("shear|sideways|tilt"),
)
series(
    "sideways-drift",
    STACK,
    "each slice 0.01 mm to the side, 0.2 mm in all: less than half a pixel",
    _shifted(lambda index: np.array([0.01 * index, 0, 0])),
    done(),
    grid=near(0.3),
)
series(
    "jumping-table",
    STACK,
    "the second half lies 6 mm to the side",
    _shifted(lambda index: np.array([6.0 * (index > 9), 0, 0])),
    refused("shear|sideways"),
)
series(
    "uneven-spacing",
    STACK,
    "distances of 2.4 and 3.6 mm in turn",
    _along_normal(lambda index: 0.6 * (index % 2)),
    refused("uneven"),
)
series("slice-missing", STACK, "slice 8 is missing", lambda s: s[:7] + s[8:], refused("lack|missing"))
series("slices-missing-two", STACK, "slices 5 and 12 are missing", lambda s: s[:4] + s[5:11] + s[12:], refused("lack"))


def _end_slices_gone(clean: Clean) -> Grid:
    affine = clean.scans[0].cropped((slice(None), slice(None), slice(1, 18))).affine
    return Grid(clean.glands[0][:, :, 1:-1], affine, dice=0.94)  # the gland's ends look different without neighbors


# That the scan once had more slices, nobody can know.
series("end-slices-missing", STACK, "without the first and last slice", lambda s: s[1:-1], grid=_end_slices_gone)
series("slice-alone", STACK, "one slice of the series", lambda s: s[9:10], refused("slice"))
series("slices-seven", STACK, "seven slices of the series", lambda s: s[6:13], refused("slice"))
series("reversed", STACK, "file names and instance numbers run against the positions", lambda s: s[::-1], done())


def _copied(slices: list[Dataset], new_uid: bool, darker: float = 0) -> list[Dataset]:
    twin = copy.deepcopy(slices[6])
    if new_uid:
        twin.SOPInstanceUID = twin.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}.8"
    if darker:
        twin.PixelData = (np.frombuffer(twin.PixelData, "<u2") * darker).astype("<u2").tobytes()
    return [*slices, twin]


# The same file twice takes nothing away; two slices at one place that differ cannot both be right.
_TWICE = refused("position|twice|cop(y|ies)")
series("slice-twice-same-file", STACK, "one file twice", lambda s: _copied(s, False), done(), _TWICE)
series("slice-twice-new-uid", STACK, "a slice twice under another UID", lambda s: _copied(s, True), done(), _TWICE)
series("slice-twice-other", STACK, "two slices at one place that differ", lambda s: _copied(s, True, 0.5), _TWICE)


def _again(slices: list[Dataset], times: int, echoes: bool = False, far_mm: float = 0) -> list[Dataset]:
    everything = list(slices)
    for time in range(1, times):
        for index, plane in enumerate(copy.deepcopy(slices)):
            plane.SOPInstanceUID = plane.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}.8.{time}.{index}"
            plane.InstanceNumber = str(len(everything) + 1)
            plane.AcquisitionNumber = str(time + 1)
            if echoes:
                plane.EchoTime, plane.EchoNumbers = str(104 + 60 * time), str(time + 1)
            if far_mm:
                place = np.array(plane.ImagePositionPatient, float) + far_mm * time * _normal(slices)
                plane.ImagePositionPatient = [number(x) for x in place]
            everything.append(plane)
    return everything


series("time-series", STACK, "three time points in one series", lambda s: _again(s, 3), refused("time|position"))
series("two-echoes", STACK, "two echoes in one series", lambda s: _again(s, 2, echoes=True), refused("echo"))
series(
    "two-stacks",
    STACK,
    "two stacks with a gap of 40 mm in one series",
    lambda s: _again(s, 2, far_mm=97),
    refused("stack|lack|gap"),
)

# What lies among the slices -----------------------------------------------------------------------------------------


def screenshot(slices: Sequence[Dataset], index: int = 0, color: bool = True, place: bool = False) -> Dataset:
    """A picture of a workstation under the series' UID; without position unless told."""
    shot = copy.deepcopy(slices[0])
    shot.SOPClassUID = shot.file_meta.MediaStorageSOPClassUID = uid.SecondaryCaptureImageStorage
    shot.SOPInstanceUID = shot.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}.7.{index}"
    for keyword in (
        "PixelSpacing",
        "SliceLocation",
        *(() if place else ("ImagePositionPatient", "ImageOrientationPatient")),
    ):
        del shot[keyword]
    shot.ConversionType, shot.InstanceNumber = "WSD", "0"
    shot.ImageType = ["DERIVED", "SECONDARY"]
    shot.SamplesPerPixel, shot.PhotometricInterpretation = (3, "RGB") if color else (1, "MONOCHROME2")
    if color:
        shot.PlanarConfiguration = 0
    shot.Rows = shot.Columns = 128
    shot.BitsAllocated, shot.BitsStored, shot.HighBit = 8, 8, 7
    shot.PixelData = bytes(range(256)) * (64 * (3 if color else 1))
    return shot


_LEFT_OUT = done(says=("screenshot|colou?r|secondary|capture|left out|not part|no position",))
_NAMES = [f"IM{index:04d}.dcm" for index in range(1, 20)]
for _slug, _names in (
    ("first", ["IM0000.dcm", *_NAMES]),
    ("last", ["ZZ.dcm", *_NAMES]),
    ("middle", ["IM0009a.dcm", *_NAMES]),
):
    series(
        f"screenshot-{_slug}",
        OBJECTS,
        f"a color screenshot under the series' UID, its file name {_slug}",
        lambda s: [screenshot(s), *s],
        _LEFT_OUT,
        names=_names,
    )
series(
    "screenshot-two",
    OBJECTS,
    "two color screenshots, first and last",
    lambda s: [screenshot(s), screenshot(s, 1), *s],
    _LEFT_OUT,
    names=["IM0000.dcm", "ZZ.dcm", *_NAMES],
)
series(
    "screenshot-gray",
    OBJECTS,
    "a gray screenshot without position",
    lambda s: [screenshot(s, color=False), *s],
    _LEFT_OUT,
    names=["IM0000.dcm", *_NAMES],
)
series(
    "screenshot-with-position",
    OBJECTS,
    "a color screenshot that kept the first slice's position",
    lambda s: [screenshot(s, place=True), *s],
    _LEFT_OUT,
    names=["IM0000.dcm", *_NAMES],
)


def _localizer_inside(slices: list[Dataset]) -> list[Dataset]:
    scout = copy.deepcopy(slices[9])
    scout.SOPInstanceUID = scout.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}.6"
    scout.ImageOrientationPatient = ["0", "1", "0", "0", "0", "-1"]
    return [*slices, scout]


series(
    "sagittal-slice-inside",
    OBJECTS,
    "a sagittal planning slice under the series' UID",
    _localizer_inside,
    _LEFT_OUT,
    refused("orientation"),
)


def frames_of(slices: list[Dataset], sop_class: str) -> list[Dataset]:
    """All slices as the frames of one object."""
    whole = copy.deepcopy(slices[0])
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = sop_class
    whole.NumberOfFrames = str(len(slices))
    whole.PixelData = b"".join(plane.PixelData for plane in slices)
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = whole.PixelSpacing, whole.SliceThickness
    orientation.ImageOrientationPatient = whole.ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    whole.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for plane in slices:
        frame, place = Dataset(), Dataset()
        place.ImagePositionPatient = plane.ImagePositionPatient
        frame.PlanePositionSequence = [place]
        frames.append(frame)
    whole.PerFrameFunctionalGroupsSequence = frames
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceLocation"):
        del whole[keyword]
    return [whole]


_FRAMES = (done(), refused("enhanced|multi-?frame"))
series("enhanced", OBJECTS, "enhanced MR", lambda s: frames_of(s, uid.EnhancedMRImageStorage), *_FRAMES)
series("legacy-converted", OBJECTS, "legacy converted enhanced MR", lambda s: frames_of(s, LEGACY_CONVERTED), *_FRAMES)
series(
    "multi-frame-capture",
    OBJECTS,
    "all slices as one multi-frame secondary capture, as some archives convert them",
    lambda s: frames_of(s, uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage),
    *_FRAMES,
    refused("secondary|capture"),
)


def _beside(slug: str, what: str, add: Callable[[Path, list[Dataset]], None], *right: Outcome) -> None:
    def build(folder: Path, clean: Clean) -> Built:
        slices = series_of(clean.scans[0])
        save_series(slices, folder / "series")
        add(folder / "series", slices)
        return Built({"scan": clean.grid()})

    hard(slug, OBJECTS, what, build, *(right or (done(),)))


def _other_object(sop_class: str, modality: str) -> Callable[[Path, list[Dataset]], None]:
    def add(folder: Path, slices: list[Dataset]) -> None:
        report = copy.deepcopy(slices[0])
        for keyword in (
            "PixelData",
            "Rows",
            "Columns",
            "PixelSpacing",
            "ImagePositionPatient",
            "ImageOrientationPatient",
        ):
            del report[keyword]
        report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = sop_class
        report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}.5"
        report.Modality = modality
        save_series([report], folder, ["IM0000.dcm"])

    return add


_beside("report-inside", "a structured report under the series' UID", _other_object(uid.BasicTextSRStorage, "SR"))
_beside(
    "presentation-state-inside",
    "a presentation state under the series' UID",
    _other_object(uid.GrayscaleSoftcopyPresentationStateStorage, "PR"),
)
_beside("text-called-dcm", "a text file called notes.dcm", lambda f, s: (f / "notes.dcm").write_text("none") and None)
_beside("empty-called-dcm", "an empty file called IM0000.dcm", lambda f, s: (f / "IM0000.dcm").touch())
_beside(
    "hidden-copies",
    "macOS' ._ files beside the slices",
    lambda f, s: [(f / f"._{path.name}").write_bytes(b"\0\5\26\7" + bytes(60)) for path in list(f.iterdir())] and None,
)
_beside(
    "thumbs-and-autorun",
    "Thumbs.db, autorun.inf and a viewer's program",
    lambda f, s: (
        [(f / name).write_bytes(b"MZ" + bytes(900)) for name in ("Thumbs.db", "autorun.inf", "viewer.exe", "README")]
        and None
    ),
)

for _slug, _syntax in (("implicit", uid.ImplicitVRLittleEndian), ("deflated", uid.DeflatedExplicitVRLittleEndian)):

    def _in_syntax(slices: list[Dataset], syntax=_syntax) -> None:
        for plane in slices:
            plane.file_meta.TransferSyntaxUID = syntax

    series(f"syntax-{_slug}", OBJECTS, f"{_slug} transfer syntax", _in_syntax, done(), refused("compress|uncompressed"))


def _run_length(slices: list[Dataset]) -> None:
    for plane in slices:
        plane.compress(uid.RLELossless)


series("syntax-run-length", OBJECTS, "run-length compressed", _run_length)


def _claiming(syntax: str) -> Change:
    def change(slices: list[Dataset]) -> None:
        for plane in slices:
            plane.file_meta.TransferSyntaxUID = syntax
            plane.PixelData = pydicom.encaps.encapsulate([b"\0\0\0\x0cjP  " + bytes(200)])
            plane["PixelData"].VR, plane["PixelData"].is_undefined_length = "OB", True

    return change


series("syntax-htj2k", OBJECTS, "High-Throughput JPEG 2000", _claiming("1.2.840.10008.1.2.4.201"), refused("compress"))
series("syntax-video", OBJECTS, "MPEG-4 video as transfer syntax", _claiming(uid.MPEG4HP41), refused("compress"))
series(
    "syntax-j2k-garbage",
    OBJECTS,
    "JPEG 2000 whose frames are garbage",
    _claiming(uid.JPEG2000Lossless),
    refused("damaged|cannot be (read|unpacked)"),
)


def _no_meta(folder: Path, clean: Clean) -> None:
    """Without preamble and file meta information, as old scanners write it."""
    for path in save_series(series_of(clean.scans[0]), folder / "series"):
        content = path.read_bytes()
        length = int.from_bytes(content[140:144], "little")
        path.write_bytes(content[144 + length :])


hard("no-preamble", OBJECTS, "slices without preamble and meta information (explicit syntax)", _no_meta, done())


def _damaged_slice(damage: Callable[[bytes], bytes]) -> Callable[[Path, Clean], None]:
    def build(folder: Path, clean: Clean) -> None:
        path = save_series(series_of(clean.scans[0]), folder / "series")[9]
        path.write_bytes(damage(path.read_bytes()))

    return build


_DAMAGED = refused("damaged|truncated|cannot be read|lack|missing|empty")
for _slug, _what, _damage in (
    ("cut-pixels", "slice 10 ends in the middle of its pixels", lambda content: content[: len(content) // 2]),
    ("cut-last-byte", "slice 10 lacks its last bytes", lambda content: content[:-2]),
    ("cut-header", "slice 10 ends in its header", lambda content: content[:600]),
    ("cut-preamble", "slice 10 has 100 bytes", lambda content: content[:100]),
    ("zeros", "slice 10 is all zeros, as after a crash of the disk", lambda content: bytes(len(content))),
    ("empty", "slice 10 is empty", lambda content: b""),
):
    hard(f"slice-{_slug}", OBJECTS, _what, _damaged_slice(_damage), _DAMAGED)


def _no_suffix(folder: Path, clean: Clean) -> None:
    slices = series_of(clean.scans[0])
    save_series(slices, folder / "DICOM" / "PA0", [f"IM{index}" for index in range(len(slices))])


hard("names-without-suffix", OBJECTS, "DICOM/PA0/IM0 to IM18, as on a patient's disc", _no_suffix, done())


def _mask_for_series(folder: Path, clean: Clean) -> Built:
    save_series(series_of(clean.scans[1]), folder / "series")
    save_nifti(folder / "series_mask.nii.gz", clean.mask())
    return Built({"scan": clean.case()})


# A library case may come from DICOM one day; today's answer must at least say what is missing.
hard(
    "import-series-with-mask",
    OBJECTS,
    "a DICOM folder with a NIfTI mask beside it",
    _mask_for_series,
    done(),
    refused("scans? with(out)? (a )?masks?|no scan|DICOM"),
    command=IMPORT,
)

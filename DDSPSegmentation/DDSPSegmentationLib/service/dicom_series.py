"""Axial T2-weighted series in a folder of DICOM files, each loaded as one volume or refused with its reason.

Nothing that DICOM says about the patient leaves this file: cases are named by a hash, reasons are our own words, and
slices are named by number only.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..engine.errors import InputError
from ..engine.images import MINIMUM_SLICES, MOST_DEGREES_FROM_AXIAL, degrees_from, plane_of
from ..engine.plain_names import printable
from ..engine.t2_recognition import NOT_AXIAL, UNNAMED, recognize
from ..learning.comparison_words import counted
from .dicom_files import READ_HERE, DicomFile, read_dicom_file, read_pixels
from .dicom_grouping import ROUNDED_STEP_MM, UNEVEN_SPACING, joined_series, strays_among

MISSING_SLICE = 1.5
MOST_SIDEWAYS_PIXELS = 0.5
ORIENTATION_TOLERANCE = 1e-3
ECHO_TOLERANCE = 0.02
MOST_NUMBERS = 8
NO_SERIES = "without SeriesInstanceUID, so that nothing tells which of them are one scan; export them again with it"
UNCOMPRESSED = "Export it uncompressed (Explicit VR Little Endian)."


@dataclass(frozen=True)
class Skipped:
    """Something named or found that is no scan to segment, without its folder and in words that name no patient."""

    label: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", printable(self.label))


@dataclass(frozen=True)
class DicomSeries:
    """An axial T2-weighted series.

    Attributes:
        name: ``case-`` and ten hexadecimal digits of the SHA-256 of its SeriesInstanceUID, or of all of them.
        files: every file that belongs to it, those that cannot be read too.
    """

    name: str
    files: tuple[DicomFile, ...]


def series_among(paths: Iterable[Path], any_name: bool = False) -> tuple[list[DicomSeries], list[Skipped]]:
    """The axial T2-weighted series of a list of files, and why the others are none.

    Files without suffix count, DICOMDIR, hidden and other files do not. Series come in the order of their first file.

    Args:
        any_name: take an axial series whose name does not say what it is, too.
    """
    groups: dict[str, list[DicomFile]] = {}
    nameless = others = 0
    for path in paths:
        file = read_dicom_file(path)
        if file is not None and file.series:
            group = groups.setdefault(file.series, [])
            group.append(file.beside(group[0]) if group else file)
        elif file is not None and file.readable:
            nameless += 1
        elif file is not None:
            others += 1
    scans: dict[str, list[DicomFile]] = {}
    strays: dict[str, int] = {}
    unnamed: set[str] = set()
    skipped: list[Skipped] = []
    for number, (uid, files) in enumerate(groups.items(), start=1):
        odd = strays_among(files)
        slices = [file for file in files if file not in odd]
        if reason := _reason_to_skip(slices, any_name):
            skipped.append(Skipped(f"series {number} of {len(groups)} ({counted(len(files), 'image')})", reason))
        else:
            scans[uid], strays[uid] = slices, len(odd)
            if any_name and _reason_to_skip(slices, any_name=False):
                unnamed.add(uid)
    found: list[DicomSeries] = []
    for uids in joined_series(scans):
        name = f"case-{hashlib.sha256(''.join(uids).encode('utf-8', 'surrogateescape')).hexdigest()[:10]}"
        files = [file for uid in uids for file in scans[uid]]
        if len(files) < MINIMUM_SLICES and unnamed.issuperset(uids):  # a localizer is often called nothing, too
            reason = f"its name does not say T2, and {MINIMUM_SLICES} slices are needed"
            skipped.append(Skipped(f"a series ({counted(len(files), 'image')})", reason))
            continue
        found.append(DicomSeries(name, tuple(files)))
        if count := sum(strays[uid] for uid in uids):
            skipped.append(Skipped(f"{counted(count, 'image')} of {name}", "no slice of it: color or a screenshot"))
    if nameless:
        skipped.append(Skipped(counted(nameless, "DICOM image"), NO_SERIES))
    if others:
        reason = "no image that can be read: a report, another object, or damaged"
        skipped.append(Skipped(counted(others, "DICOM file"), reason))
    return found, skipped


def load_series(series: DicomSeries) -> sitk.Image:
    """Stack the slices in the order of ``sorted_slices``.

    Returns:
        A scalar volume (LPS, mm) with rescale slope and intercept applied and no metadata.

    Raises:
        InputError: the series is no single evenly spaced stack, or a file of it cannot be read; slices are named by
            their number.
    """
    title = f"DICOM series '{series.name}'"
    _check_files(series.files, title)
    _check_one_acquisition(series.files, title)
    _check_one_grid(series.files, title)
    stack = sorted_slices(series.files)
    row, column, normal = series.files[0].axes
    spacing = _slice_spacing(stack, normal, title)
    image = sitk.GetImageFromArray(_voxels(stack, title))
    image.SetSpacing((*stack[0].spacing, spacing))
    image.SetOrigin(stack[0].position)
    image.SetDirection(np.column_stack((row, column, normal)).ravel())
    return image


def sorted_slices(files: Sequence[DicomFile]) -> list[DicomFile]:
    """The slices of one stack in the order in which they lie in the patient.

    Each is placed by its ImagePositionPatient projected on the slice normal, the cross product of the row and column
    directions in ImageOrientationPatient, so that the normal of the volume points from the first slice to the last.
    Instance numbers, slice locations and file names do not count: they may run either way or be missing. Files without
    a place come last, in the order given.
    """
    placed = next((file for file in files if file.orientation), None)
    if placed is None:
        return list(files)
    normal = placed.axes[2]
    return sorted(files, key=lambda file: float(normal @ file.position) if file.position else np.inf)


def _reason_to_skip(files: Sequence[DicomFile], any_name: bool) -> str:
    """Empty for an axial T2."""
    readable = [file for file in files if file.readable]
    if not readable:
        return "none of its images can be read (truncated or damaged)"
    first = readable[0]
    if first.photometric == "MONOCHROME1":
        return "inverted gray values"
    if first.color:
        return "color images"
    off_axial = _reason_not_axial(readable)
    echoes = [file.facts.echo_time for file in readable if file.facts.echo_time is not None]
    recognition = recognize(replace(first.facts, echo_time=max(echoes, default=None), axial=not off_axial))
    if recognition.kind == NOT_AXIAL and off_axial:
        return off_axial
    if recognition.kind == UNNAMED:
        return "" if any_name else f"{recognition.reason}; --series any takes it"
    return recognition.reason


def _reason_not_axial(files: Sequence[DicomFile]) -> str:
    if any(file.frames > 1 or file.enhanced for file in files):
        return ""  # such an object is refused when it is loaded
    placed = [file for file in files if file.orientation]
    if not placed:
        return _reason_without_orientation(files)
    angles = [degrees_from(file.axes[2], 2) for file in placed]
    tilted = [angle for angle in angles if angle > MOST_DEGREES_FROM_AXIAL]
    if len(tilted) == len(angles):
        return (
            f"{plane_of(placed[0].axes[2])}, not axial: slice normal {np.median(tilted):.0f} degrees from cranio-caudal"
        )
    if 2 * len(tilted) >= len(angles):
        return f"not axial: {len(tilted)} of {counted(len(angles), 'slice')} lie in other orientations"
    return ""


def _reason_without_orientation(files: Sequence[DicomFile]) -> str:
    """Empty where the orientation is there in a form that is refused when the series is loaded."""
    if any("ImageOrientationPatient" in file.commas for file in files):
        return ""
    if any(file.position for file in files):
        return "its images have no orientation in the patient (two unit vectors in ImageOrientationPatient)"
    return "its images have no position and no orientation in the patient"


def _check_files(files: Sequence[DicomFile], title: str) -> None:
    """Every file is one readable slice with its place in the patient."""
    again = "Export the series again from the scanner or the archive."
    damaged = [file for file in files if not file.readable]
    _refuse(
        damaged, files, f"{title} has {{count}} that cannot be read, truncated or damaged", "Send the series again."
    )
    if any(file.frames > 1 or file.enhanced for file in files):
        raise InputError(
            f"{title} is an enhanced multi-frame object, which is not read here.",
            "Export it as a classic single-frame series, or load it in Slicer and save it as NRRD.",
        )
    unsupported = [file for file in files if file.syntax not in READ_HERE]
    _refuse(unsupported, files, f"{title} is compressed in a way that cannot be read here", UNCOMPRESSED)
    cut = [file for file in files if not file.bits_agree]
    cause = f"{title} has {{count}} whose BitsAllocated, BitsStored and HighBit contradict each other"
    _refuse(cut, files, cause, again)
    comma = [file for file in files if file.commas]
    keywords = sorted({keyword for file in comma for keyword in file.commas})
    cause = f"{title} has {{count}} with a decimal comma in {' and '.join(keywords)}, where DICOM has a point"
    _refuse(comma, files, cause, again)
    unplaced = [file for file in files if not (file.position and file.orientation)]
    _refuse(unplaced, files, f"{title} has {{count}} without position or orientation", again)
    unmeasured = [file for file in files if not file.spacing]
    _refuse(unmeasured, files, f"{title} has {{count}} without pixel spacing", again)


def _check_one_acquisition(files: Sequence[DicomFile], title: str) -> None:
    """One echo, whether told apart by number or by time."""
    numbers = {file.echo_number for file in files if file.echo_number is not None}
    times = sorted({file.facts.echo_time for file in files if file.facts.echo_time is not None})
    differ = bool(times) and times[-1] - times[0] > ECHO_TOLERANCE * times[-1]
    if len(numbers) > 1 or differ:
        found = max(len(numbers), len(times) if differ else 1)
        raise InputError(
            f"{title} holds {found} echoes; one T2-weighted echo is needed.",
            "Export the echo with the longest echo time as a series of its own.",
        )


def _check_one_grid(files: Sequence[DicomFile], title: str) -> None:
    """Orientation, matrix and pixel size are alike in all slices."""
    usual = np.array(_most_common(tuple(np.round(file.orientation, 3)) for file in files))
    tilted = [file for file in files if np.abs(np.array(file.orientation) - usual).max() > 2 * ORIENTATION_TOLERANCE]
    sizes = _most_common(file.size for file in files)
    resized = [file for file in files if file.size != sizes]
    pixels = np.array(_most_common(tuple(np.round(file.spacing, 4)) for file in files))
    rescaled = [file for file in files if np.abs(np.array(file.spacing) - pixels).max() > 1e-3 * pixels.max()]
    for odd, what in ((tilted, "orientation"), (resized, "matrix size"), (rescaled, "pixel size")):
        _refuse(
            odd,
            files,
            f"{title} is mixed: {{count}} of {len(files)} with another {what} than the others",
            "Export the axial T2-weighted slices as a series of their own.",
        )


def _slice_spacing(stack: Sequence[DicomFile], normal: np.ndarray, title: str) -> float:
    """The even distance in mm between neighbors of a stack sorted along its normal."""
    if len(stack) == 1:
        return 1.0  # of no use: one slice is refused as a volume
    positions = np.array([file.position for file in stack])
    places = positions @ normal
    steps = np.diff(places)
    usual = float(np.median(steps[steps > 0.01])) if (steps > 0.01).any() else 0.0
    same = [index for index, step in enumerate(steps) if step <= max(0.01, UNEVEN_SPACING * usual)]
    if same:
        raise InputError(
            f"{title} has several slices at one position: {_pairs(same, stack)}.",
            "Remove the copies, or export one acquisition or time point as a series of its own.",
        )
    gaps = [index for index, step in enumerate(steps) if step >= MISSING_SLICE * usual]
    if gaps:
        found = f"{max(steps[index] for index in gaps):.2f} mm where {usual:.2f} mm is usual"
        raise InputError(
            f"{title} lacks slices between {_pairs(gaps, stack)}: {found}.", "Send or export the whole series again."
        )
    uneven = [
        index for index, step in enumerate(steps) if abs(step - usual) > max(UNEVEN_SPACING * usual, ROUNDED_STEP_MM)
    ]
    if uneven:
        found = f"{steps.min():.2f} to {steps.max():.2f} mm"
        raise InputError(
            f"{title} is spaced unevenly, {found}: look between {_pairs(uneven, stack)}.",
            "Export the series again, or resample it to even spacing in Slicer (Acquisition geometry regularization).",
        )
    sideways = positions - positions[0] - np.outer(places - places[0], normal)
    if np.linalg.norm(sideways, axis=1).max() > MOST_SIDEWAYS_PIXELS * min(stack[0].spacing):
        raise InputError(
            f"{title} is sheared: its slices are shifted sideways by up to "
            f"{np.linalg.norm(sideways, axis=1).max():.1f} mm, seen along the normal of ImageOrientationPatient.",
            "Load it in Slicer with Acquisition geometry regularization, harden the transform and save it as NRRD.",
        )
    return float((places[-1] - places[0]) / (len(stack) - 1))


def _voxels(stack: Sequence[DicomFile], title: str) -> np.ndarray:
    """The slices as one array (z, y, x), of the scanner's type where all slices share it, else float32."""
    slices = []
    for file in stack:
        try:
            pixels = read_pixels(file)
        except Exception as error:  # the decoders raise almost anything on garbage
            raise InputError(
                f"{title} has a slice whose pixels cannot be read: {_named([file], stack)}.",
                f"Send the series again. {UNCOMPRESSED}",
            ) from error
        if pixels.size != file.size[0] * file.size[1]:
            raise InputError(
                f"{title} has a slice that is no single gray image: {_named([file], stack)}.",
                "Export the series again.",
            )
        slices.append(pixels.reshape(file.size[::-1]))
    kind = np.result_type(*slices)
    return np.stack(slices).astype(np.float32 if kind.kind == "f" else kind)


def _refuse(odd: Sequence[DicomFile], files: Sequence[DicomFile], cause: str, next_step: str) -> None:
    """Raise the cause, with the count and the numbers of the odd slices where there are any."""
    if odd:
        raise InputError(f"{cause.format(count=counted(len(odd), 'slice'))}: {_named(odd, files)}.", next_step)


def _most_common(values: Iterable):
    return Counter(values).most_common(1)[0][0]


def _named(chosen: Sequence[DicomFile], files: Sequence[DicomFile]) -> str:
    """The chosen slices by their numbers."""
    if any(not file.position for file in files) and any(file.instance is None for file in files):
        return f"{len(chosen)} of {len(files)}, without a slice number"
    numbers, how = _numbers(sorted_slices(files))
    return _listed([str(number) for number in sorted(numbers[file] for file in chosen)], how)


def _pairs(starts: Sequence[int], stack: Sequence[DicomFile]) -> str:
    """The slices that begin at a start and their next neighbors, by their numbers."""
    numbers, how = _numbers(stack)
    return _listed([f"{numbers[stack[start]]} and {numbers[stack[start + 1]]}" for start in starts], how)


def _numbers(files: Sequence[DicomFile]) -> tuple[dict[DicomFile, int], str]:
    """A number for each file: the scanner's where each has its own, else counted in the order given."""
    instances = [file.instance for file in files if file.instance is not None]
    if len(set(instances)) == len(files):
        return dict(zip(files, instances, strict=True)), "by instance number"
    return {file: index for index, file in enumerate(files, start=1)}, "counted along the slice normal"


def _listed(places: Sequence[str], how: str) -> str:
    noun = "slice" if len(places) == 1 and places[0].isdigit() else "slices"
    more = f" and {len(places) - MOST_NUMBERS} more" if len(places) > MOST_NUMBERS else ""
    return f"{noun} {', '.join(places[:MOST_NUMBERS])}{more} ({how})"

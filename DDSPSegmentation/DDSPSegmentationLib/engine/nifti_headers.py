"""What a NIfTI file promises, checked before ITK reads it: that fills gaps and replaces what is no number, unasked."""

from __future__ import annotations

import gzip
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .image_headers import (
    CHECK_TYPE,
    COPY_AGAIN,
    GZIP_START,
    HEADER_BYTES,
    RESAMPLE,
    check_length,
    rounding_mm,
    shear_of,
    unpack,
)

QUATERNION_TOLERANCE = 1e-3  # what single precision and a writer's rounding leave above a length of 1
NIFTI = (".nii", ".nii.gz")
_NIFTI_2 = 540  # the size in its header
_AS_NIFTI_1 = "Convert it to NIfTI-1 (.nii.gz) or NRRD."
_EXPORT_AGAIN = "Export the scan again, as NRRD or from its DICOM series."
_LAYOUT = np.dtype(
    {
        "names": (
            "size", "dimensions", "type", "bits", "handed", "spacing", "offset", "slope", "qform", "sform",
            "quaternion", "origin", "affine", "magic",
        ),
        "formats": ("i4", "8i2", "i2", "i2", "f4", "3f4", "f4", "f4", "i2", "i2", "3f4", "3f4", "(3,4)f4", "S4"),
        "offsets": (0, 40, 70, 72, 76, 80, 108, 112, 252, 254, 256, 268, 280, 344),
        "itemsize": HEADER_BYTES,
    }
)  # fmt: skip
_FLOATS = {16: "f4", 64: "f8"}
_READ = {  # and how many bits each has; of color it is said later that it is color
    2: 8, 4: 16, 8: 32, 16: 32, 64: 64, 128: 24, 256: 8, 512: 16, 768: 32, 1024: 64, 1280: 64, 2304: 32,
}  # fmt: skip
_COMPLEX = {32, 1792, 2048}
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
_VOXELS_AT_ONCE = 1 << 20


def nifti_suffix(path: Path) -> str:
    """``.nii.gz`` for a compressed file and ``.nii`` for any other, whatever they are called."""
    with open(path, "rb") as file:
        return ".nii.gz" if file.read(len(GZIP_START)) == GZIP_START else ".nii"


def check_nifti(path: Path) -> None:
    """ITK fills the missing end of a truncated file with zeros and drops a shear when there is a qform: look first.

    Raises:
        InputError: truncated, damaged, foreign, inverted values, or axes that are sheared, no numbers or contradict the
            voxel size.
    """
    header, found = _start_of(path)
    fields = _fields_of(header, path.name)
    _check_size(fields, path.name)
    _check_type(fields, path.name)
    _check_place(fields, path.name)
    _check_scale(fields, path.name)
    check_length(path.name, found, int(fields["offset"]) + _voxel_count(fields) * int(fields["bits"]) // 8)


def count_non_numbers(path: Path, volume: int | None = None) -> tuple[int, int, int]:
    """How many voxels are NaN, how many infinite, and of how many; 0 of 0 where the type of voxel knows neither.

    Args:
        volume: look at this one alone, where there are four dimensions.
    """
    fields = _fields_of(_header_of(path), path.name)
    kind = _FLOATS.get(int(fields["type"]))
    if kind is None:
        return 0, 0, 0
    layout = np.dtype(kind).newbyteorder(fields.dtype["size"].byteorder)
    one_of_several = volume is not None and fields["dimensions"][0] == 4
    voxels = left = _voxel_count(fields) // (max(1, int(fields["dimensions"][4])) if one_of_several else 1)
    first = int(fields["offset"]) + (volume * voxels * layout.itemsize if volume and one_of_several else 0)
    missing = infinite = 0
    with _opened(path) as file:
        file.seek(first)
        while left > 0:
            count = min(left, _VOXELS_AT_ONCE)
            values = np.frombuffer(file.read(count * layout.itemsize), layout)
            if not values.size:
                break
            missing += int(np.isnan(values).sum())
            infinite += int(np.isinf(values).sum())
            left -= count
    return missing, infinite, voxels


def places_of(path: Path) -> dict[str, np.ndarray]:
    """The places that a file gives its voxels, ``qform``, ``sform`` or both: affines 3 x 4 from index to RAS mm."""
    fields = _fields_of(_header_of(path), path.name)
    places = {}
    if fields["qform"] > 0:
        places["qform"] = _affine_of_quaternion(fields)
    if fields["sform"] > 0:
        places["sform"] = fields["affine"].astype(float)
    return places


def taken_place(places: dict[str, np.ndarray], image: sitk.Image) -> str:
    """Which of the places ITK took: with two forms that depends on their codes, and on whether they are alike."""
    columns = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    read = _LPS_TO_RAS @ np.column_stack([columns, image.GetOrigin()])
    return min(places, key=lambda name: apart_mm(places[name], read, image.GetSize()))


def keep_own_axes(image: sitk.Image, path: Path) -> None:
    """Give an image the axes of its file's sform where they are rounded; ITK made them orthogonal without a word."""
    places = places_of(path)
    if not places or taken_place(places, image) != "sform":
        return
    columns = _LPS_TO_RAS @ places["sform"][:, :3]
    axes = columns / np.linalg.norm(columns, axis=0)
    if rounding_mm(axes.ravel(), image.GetSize()):
        image.SetDirection(axes.ravel())


def apart_mm(one: np.ndarray, other: np.ndarray, size: Sequence[int]) -> float:
    """How far two affines (3 x 4) put a corner of a volume of this size apart, at most."""
    corners = np.array([[*corner, 1] for corner in itertools.product(*((0, count - 1) for count in size))]).T
    return float(np.linalg.norm((one - other) @ corners, axis=0).max())


def _opened(path: Path) -> BinaryIO:
    """A file unpacked, at its start."""
    return cast(BinaryIO, (gzip.open if nifti_suffix(path) == ".nii.gz" else open)(path, "rb"))


def _header_of(path: Path) -> bytes:
    """The first bytes of a file, unpacked no further than they reach."""
    with _opened(path) as file:
        return file.read(HEADER_BYTES)


def _start_of(path: Path) -> tuple[bytes, int]:
    """The first bytes of a file, unpacked, and the length of all of it."""
    with open(path, "rb") as file:
        if nifti_suffix(path) == ".nii.gz":
            return unpack(file, path.name)
        return file.read(HEADER_BYTES), path.stat().st_size


def _fields_of(header: bytes, name: str) -> np.void:
    """A header in its own byte order; InputError for anything but a NIfTI-1 image in one file."""
    if header.startswith(GZIP_START):
        cause = f"File '{name}' is compressed twice."
        raise InputError(cause, "Unpack it once.")
    layouts = (_LAYOUT, _LAYOUT.newbyteorder()) if len(header) >= HEADER_BYTES else ()
    headers = [np.frombuffer(header, layout, 1)[0] for layout in layouts]
    for fields in headers:
        if fields["size"] == 348 and fields["magic"] == b"n+1":
            return fields
        if fields["size"] == _NIFTI_2 and header[4:7] in (b"n+2", b"ni2"):
            raise InputError(f"File '{name}' is NIfTI-2, which is not read here.", _AS_NIFTI_1)
        if fields["size"] == 348 and fields["magic"] == b"ni1":
            cause = f"File '{name}' is the header of a NIfTI pair (.hdr, .img) and not a readable NIfTI image."
            raise InputError(cause, "Convert the pair to one file, .nii.gz or NRRD.")
    raise InputError(f"File '{name}' is not a readable NIfTI image.", CHECK_TYPE)


def _voxel_count(fields: np.void) -> int:
    count = max(0, min(7, int(fields["dimensions"][0])))
    return math.prod(max(1, int(extent)) for extent in fields["dimensions"][1 : 1 + count])


def _check_size(fields: np.void, name: str) -> None:
    count, *size = map(int, fields["dimensions"])
    if not 1 <= count <= 7 or min(size[:count]) < 1:
        found = " x ".join(map(str, size[: max(0, count)]))
        cause = f"File '{name}' has a damaged header: {count} dimensions of {found or 'no'} voxels."
        raise InputError(cause, COPY_AGAIN)


def _check_type(fields: np.void, name: str) -> None:
    kind, offset = int(fields["type"]), fields["offset"]
    if kind in _COMPLEX:
        cause = f"File '{name}' has complex values; a magnitude image is needed."
        raise InputError(cause, "Export the magnitude image of the T2-weighted series.")
    if kind not in _READ:
        cause = f"File '{name}' has voxels of a type that is not read here (datatype {kind}, {fields['bits']} bits)."
        raise InputError(cause, "Save it with 16-bit integers or 32-bit floating point.")
    if fields["bits"] != _READ[kind]:
        cause = f"File '{name}' contradicts itself: voxels of datatype {kind} have {_READ[kind]} bits"
        raise InputError(f"{cause}, and its bitpix is {fields['bits']}.", _EXPORT_AGAIN)
    if not (np.isfinite(offset) and offset >= HEADER_BYTES):
        cause = f"File '{name}' has a damaged header: its voxels start at byte {offset:g} (vox_offset), inside it."
        raise InputError(cause, COPY_AGAIN)


def _check_scale(fields: np.void, name: str) -> None:
    if fields["slope"] < 0:
        cause = f"File '{name}' has inverted gray values: its scl_slope is {fields['slope']:g}, negative."
        raise InputError(cause, _EXPORT_AGAIN)
    if 0 < fields["slope"] < np.finfo(np.float32).tiny:  # some readers take it for none
        cause = f"File '{name}' has a scl_slope of {fields['slope']:g}, by which nothing can be scaled."
        raise InputError(cause, _EXPORT_AGAIN)


def _check_place(fields: np.void, name: str) -> None:
    """Voxel size and axes are numbers and do not contradict each other."""
    spacing = fields["spacing"][: max(0, min(7, int(fields["dimensions"][0])))]
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        found = " x ".join(f"{step:g}" for step in spacing)
        raise InputError(
            f"File '{name}' has a voxel spacing of {found} mm; it must be above zero.", "Export the scan again."
        )
    if fields["sform"] > 0:
        _check_affine(fields["affine"].astype(float), spacing, name)
    if fields["qform"] > 0:
        _check_quaternion(fields, name)


def _check_quaternion(fields: np.void, name: str) -> None:
    if not np.isfinite(fields["quaternion"]).all():
        raise InputError(f"File '{name}' has a qform whose quaternion is not valid numbers.", _EXPORT_AGAIN)
    if not np.isfinite(fields["origin"]).all():
        raise InputError(f"File '{name}' has a qform whose origin is not valid numbers.", _EXPORT_AGAIN)
    length = float(np.linalg.norm(fields["quaternion"].astype(float)))
    if length > 1 + QUATERNION_TOLERANCE:
        cause = f"File '{name}' has a qform whose quaternion is too long: {length:.4g} instead of at most 1."
        raise InputError(cause, _EXPORT_AGAIN)


def _check_affine(affine: np.ndarray, spacing: np.ndarray, name: str) -> None:
    """The affine (sform) has orthogonal columns as long as the voxels are, and an origin."""
    columns = affine[:, :3]
    lengths = np.linalg.norm(columns, axis=0)
    with np.errstate(all="ignore"):
        shear = shear_of(columns / lengths)
    if shear:
        found = f"off orthogonal by {shear:.2g}" if math.isfinite(shear) else "not valid numbers"
        raise InputError(f"File '{name}' is sheared: the axes of its affine (sform) are {found}.", RESAMPLE)
    if not np.isfinite(affine).all():
        raise InputError(f"File '{name}' has an affine (sform) whose origin is not valid numbers.", _EXPORT_AGAIN)
    if (np.abs(lengths[: spacing.size] - spacing) > 0.01 * spacing).any():
        sizes = [" x ".join(f"{step:.3g}" for step in steps) for steps in (lengths[: spacing.size], spacing)]
        raise InputError(
            f"File '{name}' contradicts itself: its affine has voxels of {sizes[0]} mm, its pixdim {sizes[1]} mm.",
            _EXPORT_AGAIN,
        )


def _affine_of_quaternion(fields: np.void) -> np.ndarray:
    """The qform as an affine, by the formula in nifti1.h."""
    b, c, d = fields["quaternion"].astype(float)
    a = math.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    axes = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    steps = fields["spacing"] * (1, 1, -1 if fields["handed"] < 0 else 1)
    return np.column_stack([axes * steps, fields["origin"].astype(float)])

"""Image files in and out: what is read is whole, what is refused is named, what is written is never half there."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import InputError, StorageError, is_out_of_memory
from .file_doubts import about_non_numbers, doubts_about_file
from .files import DANGLING, NO_FILE, os_errors_as, write_aside
from .gland_labels import Label, chosen_labels, inside, segments_of
from .image_headers import (
    CHECK_TYPE,
    COPY_AGAIN,
    RESAMPLE,
    bytes_before_voxels,
    check_metaimage,
    check_nrrd,
    detached_voxels,
    metaimage_parts,
    rounding_mm,
    says_true,
    shear_of,
)
from .nifti_headers import NIFTI, check_nifti, count_non_numbers, keep_own_axes, nifti_suffix
from .plain_names import is_plain, plainly_named

MASK_ENDINGS = tuple(f"{sign}{word}" for sign in "_-" for word in ("segmentation", "mask", "label", "seg"))
IMAGE_FORMATS = {
    ".nii.gz": ("NIfTI", "NiftiImageIO", check_nifti),
    ".nii": ("NIfTI", "NiftiImageIO", check_nifti),
    ".nrrd": ("NRRD", "NrrdImageIO", check_nrrd),
    ".nhdr": ("NRRD", "NrrdImageIO", check_nrrd),
    ".mha": ("MetaImage", "MetaImageIO", check_metaimage),
    ".mhd": ("MetaImage", "MetaImageIO", check_metaimage),
}
META = (".mha", ".mhd")
MINIMUM_SLICES = 8
MINIMUM_IN_PLANE = 32
IN_PLANE_MM = (45.0, 600.0)
WHOLE_GLAND_MM = 60.0  # a field of view below it may end within the gland
THROUGH_PLANE_MM = (40.0, 500.0)
MOST_DEGREES_FROM_AXIAL = 35.0  # of the slices' normal from cranio-caudal
AXIAL, TILTED = "axial", "tilted"
THICK_SLICE = 1.5  # times the finest spacing
LABELMAP_VALUES = 8
FARTHEST_MM = 1e5  # from the scanner's center; farther off, single precision no longer tells voxels apart
MOST_VOXELS = 1 << 31  # a scan of 1024 x 1024 x 300 has a seventh of it
LARGEST_VALUE = float(np.finfo(np.float32).max)
_PERMISSIVE = "ITK_NIFTI_SFORM_PERMISSIVE"
_BIG_ENDIAN = ("binarydatabyteordermsb", "elementbyteordermsb")
MOST_LABELS = 32
IGNORED = 255
ROUNDED_LABEL = 0.01

_EXPORT = "Export the scan as NRRD, NIfTI (.nii, .nii.gz) or MetaImage (.mha, .mhd)."


def image_suffix(path: str | os.PathLike) -> str | None:
    """The suffix of a supported image file as a key of ``IMAGE_FORMATS``, or None for any other file."""
    name = Path(path).name.lower()
    return next((suffix for suffix in IMAGE_FORMATS if name.endswith(suffix) and name != suffix), None)


def image_stem(path: str | os.PathLike) -> str:
    """The name of a file without the suffix of an image, all of it for any other file."""
    name = Path(path).name
    return name[: len(name) - len(image_suffix(path) or "")]


def stem_of_scan(stem: str) -> str | None:
    """Name of the scan that a mask's name points to, both without suffix; ``None`` for a name that is no mask's."""
    bare = stem[:-4] if stem.lower().endswith(".seg") else stem
    ending = next((ending for ending in MASK_ENDINGS if bare.lower().endswith(ending) and bare.lower() != ending), "")
    bare = bare[: len(bare) - len(ending)]
    return None if bare == stem else bare


def read_image(
    path: str | os.PathLike, layers: bool = False, volume: int | None = None, doubts: list[str] | None = None
) -> sitk.Image:
    """Read one 3D scalar volume with its geometry (LPS, mm) and without any metadata of the file.

    Whatever the format, voxels that are not numbers (NaN) are 0 in it.

    Args:
        layers: take a volume with several values a voxel, too, as a segmentation of several layers has them.
        volume: which one of a file of four dimensions, as dataset.json says; without it such a file is refused.
        doubts: gets a sentence on each thing that was assumed, see ``doubts_about_file``.

    Raises:
        InputError: missing, truncated, damaged, foreign or sheared file, one with infinite voxels, or one that is not a
            3D scalar volume; the message holds the file's name and never a folder. Whether it can be segmented is up to
            ``check_image``.
    """
    path = Path(path)
    suffix = image_suffix(path)
    if suffix is None:
        raise InputError(f"File '{path.name}' is not of a supported type (suffix '{path.suffix}').", _EXPORT)
    with os_errors_as(InputError, f"File '{path.name}' cannot be read", "Check that you may read it."):
        _check_is_file(path)
        if path.stat().st_size == 0:
            raise InputError(f"File '{path.name}' is empty (0 bytes).", COPY_AGAIN)
        check_format = IMAGE_FORMATS[suffix][2]
        check_format(path)
        misread = suffix in NIFTI and _is_misread_by_itk(path, suffix)
        # A NIfTI file is often called .nii.gz and not compressed, or the other way round.
        by_content = nifti_suffix(path) if suffix in NIFTI else suffix
        with plainly_named(path, by_content, always=misread or by_content != suffix) as plain:
            image = _read(plain, path.name, suffix, layers, volume)
        if suffix in META:
            _check_first_slice(image, path, volume or 0)
        elif suffix in NIFTI and not layers:
            keep_own_axes(image, path)
        # ITK has read 0 for what is no number in a NIfTI file, so these are counted in the file.
        counts = count_non_numbers(path, volume) if suffix in NIFTI else _non_numbers(image)
        _check_numbers(path.name, *counts)
        if doubts is not None:
            doubts += doubts_about_file(path, image) + about_non_numbers(counts[0], counts[2])
        return image if suffix in NIFTI or not counts[0] else _without_nan(image)


def _check_is_file(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        cause = f"File '{path.name}' {DANGLING}."
        raise InputError(cause, "Fetch the data set's files, or give the file itself.")
    if not path.exists():
        raise InputError(f"File '{path.name}' does not exist.", "Check its name and folder.")
    if path.is_dir():
        raise InputError(f"'{path.name}' is a folder, not an image file.", "Give the image file in it.")
    if not path.is_file():
        raise InputError(f"'{path.name}' {NO_FILE}.", "Give the image file itself.")


def _non_numbers(image: sitk.Image) -> tuple[int, int, int]:
    """How many values are NaN, how many infinite, and of how many; 0 of 0 where their type knows neither."""
    voxels = sitk.GetArrayViewFromImage(image)
    if voxels.dtype.kind != "f":
        return 0, 0, 0
    return int(np.isnan(voxels).sum()), int(np.isinf(voxels).sum()), voxels.size


def _check_numbers(name: str, missing: int, infinite: int, voxels: int) -> None:
    if infinite:
        raise InputError(f"File '{name}' has {infinite} infinite voxels.", "Replace these values or export again.")
    if voxels and missing == voxels:
        cause = f"File '{name}' holds nothing but voxels that are not numbers (NaN)."
        raise InputError(cause, "Export the scan again.")


def _without_nan(image: sitk.Image) -> sitk.Image:
    numbers = np.nan_to_num(sitk.GetArrayViewFromImage(image))
    zeroed = sitk.GetImageFromArray(numbers, isVector=image.GetNumberOfComponentsPerPixel() > 1)
    zeroed.CopyInformation(image)
    return zeroed


def read_mask(path: str | os.PathLike, labels: Sequence[Label] = (), doubts: list[str] | None = None) -> sitk.Image:
    """Read a mask of the prostate: 1 inside, 0 elsewhere, uint8.

    Segments that the file itself names come first, then ``labels``, see ``gland_labels``; without names every value but
    0 is inside, and 255 only where there is no other.

    Args:
        labels: what a description beside the file says that its values mean.
        doubts: as in ``read_image``.

    Raises:
        InputError: as ``read_image``, or the file holds a scan or a probability map instead of labels, or names
            structures none of which is the prostate.
    """
    path = Path(path)
    segments = segments_of(path) if path.is_file() else []
    last = max((label.layer for label in segments), default=0)
    image = read_image(path, layers=last > 0, doubts=doubts)
    if last >= image.GetNumberOfComponentsPerPixel():
        cause = f"Mask '{path.name}' has no layer {last}, where its header looks for a segment."
        raise InputError(cause, "Save the segmentation again.")
    voxels = _whole_numbers(sitk.GetArrayViewFromImage(image), path.name)
    named = segments or list(labels)
    gland = inside(voxels, chosen_labels(named, path.name)) if named else _marked(voxels)
    mask = sitk.GetImageFromArray(gland.astype(np.uint8))
    mask.CopyInformation(image)
    return mask


def _marked(voxels: np.ndarray) -> np.ndarray:
    """Where a mask without names has a label: any but 0, and but 255 beside others, which means "to be ignored"."""
    inside = voxels != 0
    labeled = inside & (voxels != IGNORED)
    return labeled if labeled.any() else inside


def _whole_numbers(voxels: np.ndarray, name: str) -> np.ndarray:
    """Label values as integers; those that a scale factor in the file moved a little are rounded."""
    values = np.unique(voxels)
    found = ""
    if not np.isfinite(values).all() or np.abs(values - np.round(values)).max() > ROUNDED_LABEL:
        found = "values between whole numbers; it looks like a probability map"
    elif values.size == 2 and values[0] == 0:
        pass  # whatever stands for the inside
    elif (values[0] < 0 and values[0] != -1) or values[-1] > 255 or values.size > MOST_LABELS:
        found = f"{values.size} different values from {values[0]:g} to {values[-1]:g}; it looks like a scan"
    if found:
        raise InputError(f"Mask '{name}' has {found}.", "Give a labelmap: 0 outside and 1 inside the prostate.")
    return np.rint(voxels).astype(np.int64)


def check_image(image: sitk.Image, name: str) -> None:
    """Refuse what cannot be a T2 volume of the prostate, in the field's words.

    Args:
        image: as it came from a file, a DICOM series or Slicer.
        name: what the user calls it.

    Raises:
        InputError: cause, value found and next step.
    """
    _check_structure(name, image.GetSize(), image.GetNumberOfComponentsPerPixel(), image.GetPixelID())
    _check_geometry(image, name)
    _check_extent(image, name)
    _check_values(image, name)


def about_rounding(image: sitk.Image) -> list[str]:
    """A sentence on axes that are not quite orthogonal, as rounding leaves them."""
    off = rounding_mm(image.GetDirection(), _extent_mm(image))
    words = "The scan's axes are rounded and taken as orthogonal: up to {off:.2g} mm at the edge of the field of view."
    return [words.format(off=off)] if off else []


def other_plane(image: sitk.Image) -> str:
    """What a stack of thick slices is that are not axial: coronal, sagittal or tilted; "" for an axial or a 3D scan."""
    spacing = np.array(image.GetSpacing())
    through = int(spacing.argmax())
    normal = np.array(image.GetDirection()).reshape(3, 3)[:, through]
    plane = plane_of(normal)
    if spacing.max() <= THICK_SLICE * spacing.min() or plane == AXIAL:
        return ""
    return f"tilted by {degrees_from(normal, 2):.0f} degrees" if plane == TILTED else plane


def plane_of(normal: np.ndarray) -> str:
    """How slices with this normal (x, y, z) lie: axial, coronal, sagittal, or tilted between these."""
    planes = ((2, AXIAL), (1, "coronal"), (0, "sagittal"))
    return next((plane for axis, plane in planes if degrees_from(normal, axis) <= MOST_DEGREES_FROM_AXIAL), TILTED)


def degrees_from(normal: np.ndarray, axis: int) -> float:
    """Between the normal of slices and an axis of the patient: 0 left-right, 1 front-back, 2 cranio-caudal."""
    return float(np.degrees(np.arccos(min(1.0, abs(float(normal[axis]))))))


def about_small_view(image: sitk.Image) -> list[str]:
    """A sentence on a field of view that may be smaller than the gland with what lies around it."""
    smallest = min(_extent_mm(image)[axis] for axis in _axes(image)[0])
    words = f"The field of view is {smallest:.0f} mm wide; below {WHOLE_GLAND_MM:.0f} mm it may end within the gland."
    return [words] if smallest < WHOLE_GLAND_MM else []


def write_image(image: sitk.Image, path: str | os.PathLike, compress: bool = True) -> None:
    """Write aside in the same folder, then rename: at any instant the file is absent, the old one, or whole.

    Args:
        image: a 3D scalar volume; its metadata is written where the format has room for it (NRRD).
        path: its suffix chooses the format; an existing file is replaced.
        compress: gzip (NRRD, NIfTI) or zlib (MHA) on the voxels.

    Raises:
        InputError: not a 3D scalar volume.
        StorageError: no permission, no folder, disk full, or a format that keeps its voxels in a second file.
    """
    path = Path(path)
    suffix = image_suffix(path)
    if suffix is None or suffix in (".mhd", ".nhdr"):
        raise StorageError(
            f"'{path.name}' cannot be written: its format is not one file that holds header and voxels.",
            "Use .nrrd, .nii.gz or .mha.",
        )
    _check_structure(path.name, image.GetSize(), image.GetNumberOfComponentsPerPixel(), image.GetPixelID())

    def write(aside: Path) -> None:
        with silent_itk(), _written_plainly(aside) as plain:
            sitk.WriteImage(image, str(plain), useCompression=compress)
        # ITK does not notice a disk that fills up under a compressed NIfTI file, so what was written is read once.
        read_image(aside)

    write_aside(path, suffix, write)


@contextmanager
def _written_plainly(path: Path) -> Iterator[Path]:
    """A name that ITK can write to; what it wrote there is moved to the path."""
    if is_plain(str(path)):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, f"volume{image_suffix(path)}")
        yield plain
        shutil.copyfile(plain, path)


def _is_misread_by_itk(path: Path, suffix: str) -> bool:
    """ITK opens T2.nii when asked for T2.nii.gz beside it, and refuses suffixes of mixed case as in T2.Nii."""
    twin = suffix == ".nii.gz" and path.with_suffix("").exists()
    return twin or path.name[-len(suffix) :] not in (suffix, suffix.upper())


def _check_first_slice(image: sitk.Image, path: Path, volume: int) -> None:
    """Refuse voxels that are not those of the file: ITK's MetaImage reader goes by names, and tells no failure."""
    _, fields, offset = metaimage_parts(path)
    if says_true(fields, "compresseddata"):
        return
    voxels = sitk.GetArrayViewFromImage(image)
    swapped = any(says_true(fields, key) for key in _BIG_ENDIAN)
    data = detached_voxels(path)
    whole = math.prod(map(int, fields["dimsize"].split())) * voxels.itemsize
    with open(data or path, "rb") as file:
        file.seek((bytes_before_voxels(fields, data, whole) if data else offset) + volume * voxels.nbytes)
        expected = np.fromfile(file, voxels.dtype.newbyteorder(">" if swapped else "<"), voxels[0].size)
    if not np.array_equal(voxels[0].ravel(), expected, equal_nan=voxels.dtype.kind == "f"):
        cause = f"What was read is not what lies in the file of '{path.name}'."
        raise InputError(cause, "Save it as one file: NRRD, .mha or NIfTI.")


def _read(path: Path, name: str, suffix: str, layers: bool, volume: int | None) -> sitk.Image:
    """Header first, so that a 4D or color file is refused before its voxels are loaded."""
    format_name, image_io, _ = IMAGE_FORMATS[suffix]
    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io)
    with silent_itk():
        try:
            reader.SetFileName(str(path))
            reader.ReadImageInformation()
        except (RuntimeError, ValueError) as error:
            raise InputError(f"File '{name}' is not a readable {format_name} image.", CHECK_TYPE) from error
        size = reader.GetSize()
        if len(size) == 4 and (volume is not None or size[3] == 1):
            _choose_volume(reader, volume or 0, name)
            size = size[:3]
        components, kind = (1, sitk.sitkUInt8) if layers else (reader.GetNumberOfComponents(), reader.GetPixelID())
        _check_structure(name, size, components, kind)
        _check_spacing(name, reader.GetSpacing()[:3])
        if math.prod(size) > MOST_VOXELS:
            raise _too_large(name, size)
        try:
            image = reader.Execute()
        except (RuntimeError, MemoryError, OverflowError) as error:
            if is_out_of_memory(error):
                raise _too_large(name, size) from error
            raise InputError(
                f"File '{name}' is truncated or damaged: its header promises {_times(size)} voxels that "
                "are not all there.",
                COPY_AGAIN,
            ) from error
    return erase_metadata(image)


def _choose_volume(reader: sitk.ImageFileReader, volume: int, name: str) -> None:
    """Let a reader of a file of four dimensions read one volume of it."""
    *size, count = reader.GetSize()
    if volume >= count:
        cause = f"File '{name}' has {count} volumes, but dataset.json says that T2 is number {volume}."
        raise InputError(cause, "Correct dataset.json.")
    reader.SetExtractIndex((0, 0, 0, volume))
    reader.SetExtractSize((*size, 0))


def _too_large(name: str, size: tuple[int, ...]) -> InputError:
    return InputError(
        f"File '{name}' is too large: {_times(size)} voxels do not fit into memory.",
        "Check its header, or give the axial T2-weighted volume alone.",
    )


def erase_metadata(image: sitk.Image) -> sitk.Image:
    """The image without the names, dates and whatever else a reader put into its dictionary."""
    try:
        for key in image.GetMetaDataKeys():
            image.EraseMetaData(key)
    except TypeError:  # a key that is not UTF-8
        return without_metadata(image)
    return image


def without_metadata(image: sitk.Image) -> sitk.Image:
    """A copy with an empty dictionary; one by ``sitk.Image`` would share the original's."""
    plain = sitk.GetImageFromArray(sitk.GetArrayViewFromImage(image), image.GetNumberOfComponentsPerPixel() > 1)
    plain.CopyInformation(image)
    return plain


def _check_structure(name: str, size: tuple[int, ...], components: int, pixel_id: int) -> None:
    if len(size) == 2:
        raise InputError(
            f"Volume '{name}' has 1 slice; a 3D acquisition of at least {MINIMUM_SLICES} slices is needed.",
            "Choose the whole series.",
        )
    if len(size) != 3:
        raise InputError(
            f"Volume '{name}' has {len(size)} dimensions ({_times(size)}); a 3D volume is needed.",
            "Split the series and give one volume of it.",
        )
    if min(size) == 0:
        raise InputError(f"Volume '{name}' is empty ({_times(size)} voxels).", "Load the scan again.")
    if components != 1:
        raise InputError(
            f"Volume '{name}' has {components} values in each voxel; a scalar volume is needed.",
            "Give the T2-weighted volume itself, not a color or vector image.",
        )
    if pixel_id in (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64):
        raise InputError(
            f"Volume '{name}' has complex values; a magnitude image is needed.",
            "Export the magnitude image of the T2-weighted series.",
        )


def _check_spacing(name: str, spacing: tuple[float, ...]) -> None:
    if not all(math.isfinite(step) and step > 0 for step in spacing):
        raise InputError(
            f"Volume '{name}' has a voxel spacing of {_times(spacing)} mm; it must be above zero.",
            "Correct the spacing in the Volumes module or export the scan again.",
        )


def _check_geometry(image: sitk.Image, name: str) -> None:
    _check_spacing(name, image.GetSpacing())
    if not np.isfinite(image.GetOrigin()).all():
        raise InputError(f"Volume '{name}' has no valid origin.", "Export the scan again.")
    if max(map(abs, image.GetOrigin())) > FARTHEST_MM:
        found = _times(image.GetOrigin())
        raise InputError(
            f"Volume '{name}' has its origin at {found} mm, far from any patient.", "Export the scan again."
        )
    if shear := shear_of(image.GetDirection()):
        raise InputError(f"Volume '{name}' is sheared: its axes are off orthogonal by {shear:.2g}.", RESAMPLE)


def _check_extent(image: sitk.Image, name: str) -> None:
    """Sizes along the patient's axes, so that a volume stored in another axis order is judged alike."""
    in_plane, through = _axes(image)
    size = image.GetSize()
    if size[through] < MINIMUM_SLICES:
        count = f"{size[through]} slice{'s' if size[through] > 1 else ''}"
        raise InputError(
            f"Volume '{name}' has {count}; a 3D acquisition of at least {MINIMUM_SLICES} slices is needed.",
            "Choose the whole series.",
        )
    if min(size[axis] for axis in in_plane) < MINIMUM_IN_PLANE:
        found = _times([size[axis] for axis in in_plane])
        raise InputError(
            f"Volume '{name}' has {found} voxels in plane; at least {MINIMUM_IN_PLANE} x {MINIMUM_IN_PLANE} "
            "are needed.",
            "Give the axial T2-weighted volume uncropped.",
        )
    extent = _extent_mm(image)
    for axes, limits, words in ((in_plane, IN_PLANE_MM, "in plane"), ([through], THROUGH_PLANE_MM, "through plane")):
        if not all(limits[0] <= extent[axis] <= limits[1] for axis in axes):
            found = _times([round(extent[axis], 1) for axis in axes])
            raise InputError(
                f"Volume '{name}' has a field of view of {found} mm {words}; {limits[0]:.0f} to "
                f"{limits[1]:.0f} mm is expected.",
                "Check the voxel spacing and that the volume is a T2-weighted scan of the prostate.",
            )


def _axes(image: sitk.Image) -> tuple[list[int], int]:
    """The two image axes (0, 1, 2 for x, y, z) that lie across the patient, and the one along."""
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    through = next(axis for axis, letter in enumerate(code) if letter in "SI")
    return [axis for axis in range(3) if axis != through], through


def _extent_mm(image: sitk.Image) -> list[float]:
    """The field of view along the image's axes (x, y, z)."""
    return [count * step for count, step in zip(image.GetSize(), image.GetSpacing(), strict=True)]


def _check_values(image: sitk.Image, name: str) -> None:
    voxels = sitk.GetArrayViewFromImage(image)
    lowest, highest = voxels.min(), voxels.max()
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        count = int(voxels.size - np.isfinite(voxels).sum())
        raise InputError(
            f"Volume '{name}' has {count} voxels that are not numbers (NaN or infinite).",
            "Export the scan again or replace these values.",
        )
    if max(-float(lowest), float(highest)) > LARGEST_VALUE:
        raise InputError(
            f"Volume '{name}' has values from {lowest:g} to {highest:g}, too large to compute with.",
            "Rescale the volume or export the scan again.",
        )
    if lowest == highest:
        raise InputError(f"Volume '{name}' is constant: every voxel is {lowest:g}.", "Load the scan again.")
    if lowest <= -500 and np.count_nonzero((voxels >= -1100) & (voxels <= -900)) >= 0.05 * voxels.size:
        raise InputError(
            f"Volume '{name}' looks like CT, values from {lowest:g} to {highest:g}.",
            "Give the axial T2-weighted MR volume.",
        )
    # A thinned look first: sorting all voxels of a scan costs more than a second.
    few = np.unique(voxels[::3, ::5, ::5]).size < LABELMAP_VALUES
    if few and (count := np.unique(voxels).size) < LABELMAP_VALUES:
        raise InputError(
            f"Volume '{name}' looks like a labelmap: it has {count} different values.",
            "Give the T2-weighted volume itself, not a segmentation.",
        )


def _times(values) -> str:
    return " x ".join(f"{value:g}" for value in values)


@contextmanager
def silent_itk() -> Iterator[None]:
    """ITK's warnings off while we read or write, and as they were afterwards."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    before = os.environ.get(_PERMISSIVE)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    os.environ[_PERMISSIVE] = "1"  # axes rounded in a NIfTI file are made orthogonal; how far off they may be is ours
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
        if before is None:
            del os.environ[_PERMISSIVE]
        else:
            os.environ[_PERMISSIVE] = before

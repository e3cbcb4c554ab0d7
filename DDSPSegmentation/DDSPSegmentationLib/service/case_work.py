"""One scan of a batch, from its file to mask, pictures and figures; in whatever process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import SimpleITK as sitk

from ..engine.errors import InputError, StorageError
from ..engine.images import other_plane, write_image
from ..engine.pictures import PROSTATE_COLOR, contour_picture, thumbnail
from ..engine.segmentation import Segmentation

if TYPE_CHECKING:
    from .inputs import InputCase

Segment = Callable[[str, sitk.Image, Path], Segmentation]  # of a case's name and scan; writes the mask to the path
Tell = Callable[[str, float], None]  # phase and its fraction


MAPS = ("probability", "uncertainty")  # of a ``Segmentation``, in [0, 1] on the scan's own grid
DICOM_SEGMENTATION, DICOM_REPORT = "segmentation", "report"
DICOM_SUFFIXES = {DICOM_SEGMENTATION: ".seg.dcm", DICOM_REPORT: ".sr.dcm"}


class Outputs(NamedTuple):
    """Where the files of a case go; of what is wanted, ``maps``: name, one of ``MAPS``, to path, and ``dicom``: kind of
    object, see ``DICOM_SUFFIXES``, to path."""

    mask: Path
    picture: Path
    thumbnail: Path
    maps: Mapping[str, Path] = {}
    dicom: Mapping[str, Path] = {}

    @property
    def beside(self) -> tuple[Path, ...]:
        """All but the mask."""
        return self.picture, self.thumbnail, *self.maps.values(), *self.dicom.values()

    def to_dict(self) -> dict:
        """As JSON can hold it."""
        values: dict = {name: str(getattr(self, name)) for name in ("mask", "picture", "thumbnail")}
        for kind in ("maps", "dicom"):
            values[kind] = {name: str(path) for name, path in getattr(self, kind).items()}
        return values

    def within(self, folder: Path) -> Outputs:
        """The same names in a folder, and its own for thumbnails."""
        maps, dicom = ({name: folder / path.name for name, path in paths.items()} for paths in (self.maps, self.dicom))
        thumbnail = folder / self.thumbnail.parent.name / self.thumbnail.name
        return Outputs(folder / self.mask.name, folder / self.picture.name, thumbnail, maps, dicom)

    def paths(self) -> list[Path]:
        return [*self.beside, self.mask]

    @classmethod
    def from_dict(cls, values: dict) -> Outputs:
        """What ``to_dict`` made."""
        mask, picture, thumbnail = (Path(values[name]) for name in ("mask", "picture", "thumbnail"))
        maps, dicom = ({name: Path(path) for name, path in values[kind].items()} for kind in ("maps", "dicom"))
        return cls(mask, picture, thumbnail, maps, dicom)


def read_case(case: InputCase) -> tuple[sitk.Image, list[str]]:
    """The scan of a case, and a sentence on each thing that was assumed to read it.

    Raises:
        InputError: it cannot be read, or its slices are not axial.
    """
    doubts: list[str] = []
    image = case.load(doubts)
    if plane := other_plane(image):
        raise InputError(f"The slices of '{case.name}' are {plane}, not axial.", "Give the axial T2-weighted series.")
    return image, doubts


def do_case(
    case: InputCase,
    outputs: Outputs,
    segment: Segment,
    tell: Tell = lambda phase, fraction: None,
    psa: float | None = None,
) -> dict:
    """Read a scan, segment it and write its files.

    Args:
        psa: the patient's, in ng/ml; for a report in DICOM.

    Returns:
        What the batch records of it besides the identity of its result and the hash of its mask.

    Raises:
        Exception: whatever a scan can make of a reader.
    """
    tell("Reading", 0.0)
    image, doubts = read_case(case)
    headers = _headers_of(case, image) if outputs.dicom else []
    answer = segment(case.name, image, outputs.mask)
    answer.warnings += doubts
    if not outputs.mask.is_file():
        raise StorageError(f"'{outputs.mask.name}' was not written.", "Check the disk and try again.")
    for name, path in outputs.maps.items():
        write_image(getattr(answer, name), path)
    if outputs.dicom:
        from .dicom_results import write_results

        tell("Writing DICOM", 0.0)
        write_results(answer, headers, case.name, outputs.dicom, psa)
    tell("Drawing", 0.0)
    contour_picture(image, [(answer.mask, PROSTATE_COLOR)], outputs.picture, uncertainty=answer.uncertainty)
    thumbnail(image, answer.mask, outputs.thumbnail)
    return {
        "measurements": answer.as_row(),
        "slice_doubts": list(answer.slice_doubts),
        "warnings": list(answer.warnings),
        "notices": list(answer.notices),
        "seconds": dict(answer.seconds),
        "peak_memory_mb": dict(answer.peak_memory_mb),
        "device": answer.device,
        "precision": answer.precision,
    }


def _headers_of(case: InputCase, image: sitk.Image) -> list:
    """Of the slices of a DICOM series; see ``dicom_results``. Raises InputError: they do not say enough."""
    from .dicom_results import read_scan
    from .dicom_series import DicomSeries

    assert isinstance(case.source, DicomSeries)
    return read_scan(case.source, image)

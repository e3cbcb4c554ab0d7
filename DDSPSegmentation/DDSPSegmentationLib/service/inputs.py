"""From what the user names (files, folders, DICOM) to cases with stable names, and reasons for all the rest."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import SimpleITK as sitk

from ..engine.errors import InputError
from ..engine.files import DANGLING, LINKED_FOLDER, NO_FILE, file_sha256, files_below, os_errors_as, why_unreachable
from ..engine.image_headers import detached_voxels
from ..engine.images import image_stem, image_suffix, read_image, stem_of_scan
from ..engine.t2_recognition import NOT_AXIAL, ScanFacts, recognize
from .case_work import MAPS
from .dicom_files import read_dicom_file
from .dicom_grouping import doubts_about_parts, files_of_scan
from .dicom_series import NO_SERIES, DicomSeries, Skipped, load_series, series_among

LONGEST_NAME_BYTES = 120
SHOWN_REASONS = 3

_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(?=\.|$)", re.IGNORECASE)
_MAP_ENDINGS = tuple(f".{name}" for name in MAPS)
_NUMBERED = re.compile(r"[A-Za-z]{0,4}\d+")  # B100 is a patient's number and no b-value
_OTHER_SCANS = (NOT_AXIAL, "ADC map", "diffusion", "dynamic contrast", "FLAIR", "T1")
_PAIR_HEADERS = (".hdr", ".hdr.gz")
_PAIR = "is half of a NIfTI or Analyze pair (.hdr, .img), which is not read; convert the pair to .nii.gz"
_UNSAFE = re.compile(r"[^\w.\-]+")


@dataclass(frozen=True)
class InputCase:
    """One scan to segment; nothing is read before ``load`` or ``fingerprint``.

    Attributes:
        name: unique in the run and safe as a file name on every system.
        stem: what the name was made of, where other scans could change that; see ``key``.
    """

    name: str
    source: Path | DicomSeries = field(repr=False)
    stem: str = ""

    @property
    def key(self) -> str:
        """What the part is drawn by that does the case; no other scan changes it."""
        return self.stem or self.name

    def load(self, doubts: list[str] | None = None) -> sitk.Image:
        """The scan with its geometry.

        Args:
            doubts: gets a sentence on each thing that was assumed.

        Raises:
            InputError: it cannot be read or is no single evenly spaced volume.
        """
        if not isinstance(self.source, DicomSeries):
            return read_image(self.source, doubts=doubts)
        if doubts is not None:
            doubts += doubts_about_parts(self.source.files)
        return load_series(self.source)

    def files(self) -> tuple[list[Path], bool]:
        """The files that it is read from, and whether they are the slices of a DICOM series; see ``case_of_files``."""
        if isinstance(self.source, DicomSeries):
            return [file.path for file in self.source.files], True
        return [self.source], False

    def fingerprint(self) -> str:
        """SHA-256 of the content; names, folders and dates of the files do not count.

        Raises:
            InputError: a file cannot be read.
        """
        if isinstance(self.source, DicomSeries):  # a slice's file name can be its UID, so it is not told
            title = f"A slice of DICOM series '{self.name}'"
            digests = sorted(_digest(file.path, title) for file in self.source.files)
            return hashlib.sha256("".join(digests).encode()).hexdigest()
        title = f"File '{self.source.name}'"
        digest = _digest(self.source, title)
        voxels = detached_voxels(self.source)
        if voxels is None or not os.path.isfile(voxels):
            return digest
        return hashlib.sha256((digest + _digest(voxels, title)).encode()).hexdigest()


def case_of_files(name: str, files: Sequence[Path], dicom: bool) -> InputCase:
    """A case from what ``InputCase.files`` gave, in another process."""
    if not dicom:
        return InputCase(name, files[0])
    read = (read_dicom_file(path) for path in files)
    return InputCase(name, DicomSeries(name, tuple(file for file in read if file is not None)))


@dataclass(frozen=True)
class _Found:
    """A file of a case or a slice of one; ``place`` is its path from the folder named, or from the one above it."""

    path: Path
    place: PurePath
    nested: bool


def collect_inputs(
    paths: Sequence[str | os.PathLike], any_series: bool = False
) -> tuple[list[InputCase], list[Skipped]]:
    """Find the scans in files and folder trees.

    Args:
        paths: image files, folders with image files and DICOM files at any depth, or one file of a DICOM series, which
            stands for that series in its folder.
        any_series: take an axial DICOM series whose name does not say T2, too.

    Returns:
        The cases (image files by path, then DICOM series) and what was passed over. A file given itself or lying in
        the folder given is named by its stem, one further down by its stem and eight digits of the hash of its path
        below that folder, so that a file more in the tree renames no other.

    Raises:
        InputError: there is no scan at all.
    """
    skipped: list[Skipped] = []
    images: dict[Path, _Found] = {}
    slices: dict[Path, None] = {}
    for path in map(Path, paths):
        for found in _look_into(path, skipped):
            key = Path(os.path.realpath(found.path))
            dangling = not key.exists()
            if not dangling and not key.is_file():
                skipped.append(Skipped(found.path.name, NO_FILE))
            elif image_suffix(found.path) is None and dangling:
                skipped.append(Skipped(found.path.name, DANGLING))
            elif image_suffix(found.path) is None and found.path.name.lower().endswith(_PAIR_HEADERS):
                skipped.append(Skipped(found.path.name, _PAIR))
            elif image_suffix(found.path) is None:
                slices.setdefault(key)
            elif reason := _reason_to_skip(found.path):
                skipped.append(Skipped(found.path.name, reason))
            else:
                images.setdefault(key, found)
    cases = _name_files(images.values())
    series, others = series_among(slices, any_series)
    cases += [InputCase(one.name, one) for one in series]
    skipped += others
    if not cases:
        raise _nothing_found(skipped)
    return cases, skipped


def _look_into(path: Path, skipped: list[Skipped]) -> list[_Found]:
    name = path.name or "folder"
    try:
        if not path.exists():
            skipped.append(Skipped(name, DANGLING if path.is_symlink() else "does not exist"))
            return []
        if path.is_file():
            return _look_at_file(path, skipped)
        if not path.is_dir():
            skipped.append(Skipped(name, NO_FILE))
            return []
    except OSError:
        skipped.append(Skipped(name, "cannot be read"))
        return []
    files, unreachable, linked = files_below(path)
    skipped += [Skipped(folder.name, f"{LINKED_FOLDER}; name it itself") for folder in linked]
    skipped += [Skipped("a folder", why_unreachable(error)) for error in unreachable]
    return [
        _Found(file, file.relative_to(path), nested=True) if file.parent != path else _directly_named(file)
        for file in files
    ]


def _directly_named(path: Path) -> _Found:
    return _Found(path, PurePath(Path(os.path.abspath(path)).parent.name, path.name), nested=False)


def _look_at_file(path: Path, skipped: list[Skipped]) -> list[_Found]:
    """An image file, or all of the folder's files that belong to the series of this DICOM file."""
    if image_suffix(path) is not None or path.name.lower().endswith(_PAIR_HEADERS):
        return [_directly_named(path)]
    chosen = read_dicom_file(path)
    if chosen is None or not chosen.series:
        known = chosen is not None and chosen.readable
        reason = NO_SERIES if known else "is neither a supported image nor a DICOM image"
        skipped.append(Skipped(path.name, reason))
        return []
    neighbors = (neighbor for neighbor in sorted(path.parent.iterdir()) if neighbor.is_file())
    read = (read_dicom_file(neighbor) for neighbor in neighbors if image_suffix(neighbor) is None)
    return [_directly_named(file.path) for file in files_of_scan(chosen, filter(None, read))]


def _reason_to_skip(path: Path) -> str | None:
    stem = image_stem(path)
    scan = stem_of_scan(stem)
    if scan is not None:
        return f"is a segmentation ({stem[len(scan) :]})"
    if stem.lower().endswith(_MAP_ENDINGS):
        return f"is a map of a result ({stem[stem.rindex('.') :]})"
    told = recognize(ScanFacts(names=(stem,)))
    if told.kind in _OTHER_SCANS and not _NUMBERED.fullmatch(stem):
        return told.reason
    if path.exists() and not os.access(path, os.R_OK):
        return "may not be read"
    return None


def _name_files(images: Iterable[_Found]) -> list[InputCase]:
    """Stems, told apart by a hash of the place wherever two files could share one."""
    ordered = sorted(images, key=lambda found: os.path.abspath(found.path))
    stems = [safe_name(image_stem(found.path)) for found in ordered]
    shared = Counter(stem.casefold() for stem, found in zip(stems, ordered, strict=True) if not found.nested)
    cases: list[InputCase] = []
    taken: set[str] = set()
    for found, stem in zip(ordered, stems, strict=True):
        key = placed = f"{stem}-{_short_hash(found.place.as_posix())}"
        if not found.nested:
            key = stem.casefold()
            placed = placed if shared[key] > 1 else stem
        name, count = placed, 1
        while name.casefold() in taken:
            count += 1
            name = f"{placed}-{count}"
        taken.add(name.casefold())
        cases.append(InputCase(name, found.path, key))
    return cases


def safe_name(text: str) -> str:
    """A name that every file system takes: letters of any script, digits, ``.``, ``-`` and ``_``, not too long."""
    text = unicodedata.normalize("NFC", text)
    name = _UNSAFE.sub("_", text).strip("._-") or "scan"
    if len(name.encode()) > LONGEST_NAME_BYTES:
        name = f"{name.encode()[:LONGEST_NAME_BYTES].decode(errors='ignore')}-{_short_hash(text)}"
    return f"_{name}" if _RESERVED.match(name) else name


def _short_hash(text: str) -> str:
    return hashlib.sha256(unicodedata.normalize("NFC", text).encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _digest(path: Path, title: str) -> str:
    if path.is_symlink() and not os.path.exists(path):
        raise InputError(f"{title} {DANGLING}.", "Fetch the data set's files, or give the file itself.")
    with os_errors_as(InputError, f"{title} cannot be read", "Check that you may read it."):
        return file_sha256(path)


def _nothing_found(skipped: Sequence[Skipped]) -> InputError:
    wanted = "Give image files (NRRD, NIfTI, MHA, MHD) or a folder with them or with an axial T2-weighted DICOM series."
    if not skipped:
        return InputError("No scan was found in what was given.", wanted)
    return InputError(f"No scan to segment was found ({reasons_of(skipped)}).", wanted)


def reasons_of(skipped: Sequence[Skipped]) -> str:
    """Why the first of them were passed over, and how many more were."""
    shown = "; ".join(f"{one.label}: {one.reason}" for one in skipped[:SHOWN_REASONS])
    return shown + (f"; and {len(skipped) - SHOWN_REASONS} more" if len(skipped) > SHOWN_REASONS else "")

"""Folders of scans with expert masks: the layouts that are read, the folds, and a cache of prepared arrays."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..engine.errors import DatasetError, StorageError
from ..engine.images import check_image, read_image, read_mask
from ..engine.preprocessing import Grid, PreprocessingSettings, prepare

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
CACHE_FORMAT = 1


@dataclass(frozen=True)
class Case:
    """One scan with its expert mask.

    Attributes:
        name: the case's name; ``patient``: cases of one patient never part; ``centre``: where it was acquired, or ''.
    """

    name: str
    image_path: Path
    label_path: Path
    centre: str = ""
    patient: str = ""

    def load_image(self) -> sitk.Image:
        image = read_image(self.image_path)
        check_image(image, self.name)
        return image

    def load_mask(self) -> sitk.Image:
        """The expert's mask as 0 and 1 (zones merged), on the scan's grid."""
        return sitk.Cast(read_mask(self.label_path) > 0, sitk.sitkUInt8)


def read_dataset(folder: Path | str) -> list[Case]:
    """Find the cases of a folder in one of three layouts, sorted by name.

    * PROMISE12 as distributed: ``Case00.mhd`` (+ ``.raw``) beside ``Case00_segmentation.mhd``, in subfolders or not;
    * ``images/`` and ``labels/`` with the same file names, optionally ``index.csv`` with columns case and centre;
    * nnU-Net raw or Medical Segmentation Decathlon: ``imagesTr/`` (``name_0000.nii.gz`` or ``name.nii.gz``) and
      ``labelsTr/name.nii.gz``; of several channels or a 4D file the T2 volume must have been taken out before.

    Raises:
        DatasetError: the folder is missing, has no known layout, or scans without a mask.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"Folder '{folder.name}' does not exist.", "Name the folder that holds the training cases.")
    if (folder / "imagesTr").is_dir() and (folder / "labelsTr").is_dir():
        cases = _read_pairs(folder / "imagesTr", folder / "labelsTr")
    elif (folder / "images").is_dir() and (folder / "labels").is_dir():
        cases = _read_pairs(folder / "images", folder / "labels")
    else:
        cases = _read_promise12(folder)
    if not cases:
        raise DatasetError(
            f"Folder '{folder.name}' has no scans with masks.",
            "Expected CaseNN.mhd with CaseNN_segmentation.mhd, images/ with labels/, or imagesTr/ with labelsTr/.",
        )
    centres = _read_centres(folder / "index.csv")
    return [replace(case, centre=centres.get(case.name, ""), patient=case.patient or case.name) for case in cases]


def _stem(path: Path) -> str:
    name = path.name
    return next((name[: -len(suffix)] for suffix in SUFFIXES if name.lower().endswith(suffix)), "")


def _images(folder: Path) -> dict[str, Path]:
    files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and _stem(path))
    return {_stem(path): path for path in files}


def _read_pairs(image_folder: Path, label_folder: Path) -> list[Case]:
    labels = _images(label_folder)
    images = {}
    for stem, path in _images(image_folder).items():
        channel = stem[-5:]
        if stem not in labels and channel[:1] == "_" and channel[1:].isdigit():
            if channel != "_0000":
                continue  # another channel of the same case; the T2 volume is channel 0
            stem = stem[:-5]
        images[stem] = path
    missing = sorted(set(images) - set(labels))
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(images)} scans have no mask in '{label_folder.name}': {', '.join(missing[:5])}.",
            "Add the masks or take the scans out.",
        )
    return [Case(name, images[name], labels[name]) for name in sorted(images)]


def _read_promise12(folder: Path) -> list[Case]:
    masks = sorted(folder.rglob("*_segmentation.mhd"))
    cases = []
    for mask in masks:
        scan = mask.with_name(mask.name.replace("_segmentation", ""))
        if not scan.is_file():
            raise DatasetError(f"Mask '{mask.name}' has no scan '{scan.name}' beside it.", "Add the scan.")
        cases.append(Case(scan.stem, scan, mask))
    return sorted(cases, key=lambda case: case.name)


def _read_centres(index: Path) -> dict[str, str]:
    if not index.is_file():
        return {}
    with open(index, newline="", encoding="utf-8") as file:
        return {row["case"]: row.get("centre") or "" for row in csv.DictReader(file) if row.get("case")}


def split_folds(cases: Sequence[Case], folder: Path | str | None = None, count: int = 5) -> list[list[str]]:
    """Names of the cases in each fold: ``folds.json`` of the folder, else drawn by patient, spread over centres.

    The draw depends only on the names, so that it is the same on every machine.
    """
    listed = Path(folder) / "folds.json" if folder is not None else None
    if listed is not None and listed.is_file():
        folds = json.loads(listed.read_text(encoding="utf-8"))["folds"]
        unknown = {name for fold in folds for name in fold} - {case.name for case in cases}
        if unknown:
            raise DatasetError(f"folds.json names unknown cases: {', '.join(sorted(unknown)[:5])}.", "Correct the file.")
        return folds
    patients = sorted({(case.centre, case.patient) for case in cases})
    random.Random(0).shuffle(patients)
    patients.sort(key=lambda item: item[0])
    fold_of = {patient: position % count for position, (_, patient) in enumerate(patients)}
    return [[case.name for case in cases if fold_of[case.patient] == fold] for fold in range(count)]


def select_fold(cases: Sequence[Case], folds: list[list[str]], fold: int | None) -> tuple[list[Case], list[Case]]:
    """Training and validation cases of a fold; ``None`` trains on all cases and validates on none."""
    if fold is None:
        return list(cases), []
    if not 0 <= fold < len(folds):
        raise DatasetError(f"Fold {fold} does not exist; there are folds 0 to {len(folds) - 1}.", "Choose one of them.")
    held_out = set(folds[fold])
    return [case for case in cases if case.name not in held_out], [case for case in cases if case.name in held_out]


@dataclass(frozen=True)
class PreparedCase:
    """A scan and its mask on the network's grid.

    Attributes:
        corrected, uncorrected: normalised scan (z, y, x) float16 with and without bias-field correction.
        label: share of each voxel inside the prostate (z, y, x) float16, in [0, 1].
        gland_centre: index (z, y, x) of the mask's centroid.
    """

    name: str
    corrected: np.ndarray
    uncorrected: np.ndarray
    label: np.ndarray
    gland_centre: tuple[float, float, float]


def prepare_case(case: Case, settings: PreprocessingSettings) -> PreparedCase:
    """Preprocess one case as inference does, with and without bias-field correction."""
    image, mask = case.load_image(), case.load_mask()
    if mask.GetSize() != image.GetSize():
        raise DatasetError(
            f"Case '{case.name}': the mask has {mask.GetSize()} voxels, the scan {image.GetSize()}.",
            "Draw or resample the mask on the scan's own grid.",
        )
    mask.CopyInformation(image)
    corrected, grid = prepare(image, settings)
    uncorrected, _ = prepare(image, replace(settings, bias_field="off"))
    return PreparedCase(case.name, *_packed(corrected, uncorrected, _label_on(grid, mask, case.name)))


def _label_on(grid: Grid, mask: sitk.Image, name: str) -> np.ndarray:
    label = grid.to_network(grid.canonical_array(mask))
    if not (label >= 0.5).any():
        raise DatasetError(f"Case '{name}': the mask is empty.", "Draw the prostate or take the case out.")
    return label


def _packed(corrected: np.ndarray, uncorrected: np.ndarray, label: np.ndarray) -> tuple:
    centre = tuple(float(index.mean()) for index in np.nonzero(label >= 0.5))
    return corrected.astype(np.float16), uncorrected.astype(np.float16), label.astype(np.float16), centre


def prepare_dataset(
    cases: Iterable[Case],
    settings: PreprocessingSettings,
    cache_folder: Path | str | None = None,
    progress: Callable[[str], None] = print,
) -> list[PreparedCase]:
    """Prepare cases, or take them from the cache, which is keyed by the files' content and the settings."""
    prepared = []
    cases = list(cases)
    for number, case in enumerate(cases, 1):
        cached = None if cache_folder is None else Path(cache_folder) / f"{_cache_key(case, settings)}.npz"
        result = None if cached is None else _read_cached(case.name, cached)
        if result is None:
            result = prepare_case(case, settings)
            if cached is not None:
                _write_cached(result, cached)
            progress(f"prepared {case.name} ({number} of {len(cases)})")
        prepared.append(result)
    return prepared


def _cache_key(case: Case, settings: PreprocessingSettings) -> str:
    digest = hashlib.sha256(json.dumps([CACHE_FORMAT, settings.to_dict()], sort_keys=True).encode())
    for path in (case.image_path, case.label_path):
        for part in (path, path.with_suffix(".raw")) if path.suffix == ".mhd" else (path,):
            if part.is_file():
                digest.update(part.read_bytes())
    return digest.hexdigest()[:32]


def _read_cached(name: str, path: Path) -> PreparedCase | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return PreparedCase(name, *_packed(arrays["corrected"], arrays["uncorrected"], arrays["label"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # missing or damaged: it is prepared again


def _write_cached(case: PreparedCase, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(suffix=".part", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            np.savez(file, corrected=case.corrected, uncorrected=case.uncorrected, label=case.label)
        os.replace(aside, path)
    except OSError as error:
        raise StorageError(f"The cache cannot be written ({error.strerror}).", "Free space or name another folder.") from error

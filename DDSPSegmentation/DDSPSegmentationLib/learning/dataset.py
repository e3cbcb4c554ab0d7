"""Folders of scans with expert masks: the layouts that are read, the folds, and a cache of prepared arrays."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..engine.errors import DatasetError
from ..engine.files import files_below, make_folder, os_errors_as, write_aside
from ..engine.gland_labels import Label, labels_in_description
from ..engine.grids import about_fit, on_grid
from ..engine.image_headers import detached_voxels
from ..engine.images import check_image, image_stem, image_suffix, read_image, read_mask
from ..engine.plain_names import printable
from ..engine.preprocessing import PreprocessingSettings, prepare
from ..engine.scan_identity import ScanIdentity, ScanTexture
from .case_index import IndexRow, decoded, index_in, read_index

CACHE_FORMAT = 3
PROMISE12_MASK = "_segmentation.mhd"


@dataclass(frozen=True)
class Case:
    """One scan with its expert mask.

    Attributes:
        name: the case's name; ``center``: where it was acquired, or ''.
        patient: cases of one patient never part; the case's name where ``patient_is_known`` is False.
        volume: which volume of a 4D file is the T2 scan; ``None`` where that is not known.
        labels: what a description of the data set says that the values of its masks mean.
    """

    name: str
    image_path: Path
    label_path: Path
    center: str = ""
    patient: str = ""
    volume: int | None = None
    patient_is_known: bool = False
    labels: tuple[Label, ...] = ()

    def load_image(self, doubts: list[str] | None = None) -> sitk.Image:
        """The T2 scan.

        Args:
            doubts: gets a sentence on each thing that was assumed where its file is silent or contradicts itself.

        Raises:
            InputError: the file cannot be read, or is no T2 scan of the prostate.
        """
        image = self._read_image(doubts)
        check_image(image, self.name)
        return image

    def load_mask(self, doubts: list[str] | None = None) -> sitk.Image:
        """The expert's mask as 0 and 1 (zones merged), exactly on the scan's grid, see ``on_grid``.

        Args:
            doubts: as in ``load_image``, and what was assumed where it does not cover or quite fit the scan.

        Raises:
            InputError, DatasetError: a file cannot be read, or the mask lies on another grid.
        """
        of_file: list[str] = []
        mask, image = read_mask(self.label_path, self.labels, of_file), self._read_image()
        try:
            completed = on_grid(mask, image)
        except DatasetError as error:
            raise DatasetError(f"Case '{self.name}': {error.cause}", error.next_step) from error
        if doubts is not None:
            doubts += [f"Its mask: {doubt}" for doubt in of_file] + about_fit(mask, image)
        return completed

    def _read_image(self, doubts: list[str] | None = None) -> sitk.Image:
        return read_image(self.image_path, volume=self.volume, doubts=doubts)


def read_dataset(folder: Path | str) -> list[Case]:
    """Find the cases of a folder in one of three layouts, sorted by name.

    * PROMISE12 as distributed: ``Case00.mhd`` (+ ``.raw``) beside ``Case00_segmentation.mhd``, in subfolders or not;
      a subfolder without any mask (the challenge's test cases) is left out;
    * ``images/`` and ``labels/`` with the same file names, optionally ``index.csv``, see ``read_index``;
    * nnU-Net raw or Medical Segmentation Decathlon: ``imagesTr/`` (``name_0000.nii.gz``, or ``name.nii.gz`` of 3 or 4
      dimensions) and ``labelsTr/name.nii.gz``; ``dataset.json`` says which channel is T2, else it is the first.

    Raises:
        DatasetError: the folder is missing, has no known layout, scans without a mask, or one name for two cases.
    """
    cases, no_pair = find_cases(folder)
    if no_pair:
        count, shown = len(cases) + len(no_pair), [f"{name}: {why}" for name, why in no_pair.items()][:5]
        cause = f"{len(no_pair)} of {count} scans are no case of folder '{Path(folder).name}'. {' '.join(shown)}"
        raise DatasetError(cause, "Add what is missing or take the scans out.")
    return cases


def find_cases(folder: Path | str) -> tuple[list[Case], dict[str, str]]:
    """The cases of a folder as ``read_dataset`` has them, and by name why other scans are no case.

    Raises:
        DatasetError: the folder is missing, has no known layout, no case at all, or one name for two cases.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"Folder '{folder.name}' does not exist.", "Name the folder that holds the training cases.")
    if (folder / "imagesTr").is_dir() and (folder / "labelsTr").is_dir():
        description = _read_description(folder / "dataset.json")
        cases, no_pair = _read_pairs(folder / "imagesTr", folder / "labelsTr", *description)
    elif (folder / "images").is_dir() and (folder / "labels").is_dir():
        cases, no_pair = _read_pairs(folder / "images", folder / "labels")
    else:
        cases, no_pair = _read_promise12(folder)
    if not cases and not no_pair:
        raise DatasetError(
            f"Folder '{folder.name}' has no scans with masks.",
            "Expected CaseNN.mhd with CaseNN_segmentation.mhd, images/ with labels/, or imagesTr/ with labelsTr/.",
        )
    return indexed(cases, folder) if cases else [], no_pair


def indexed(cases: Sequence[Case], folder: Path) -> list[Case]:
    """The cases, by names that can be written anywhere, with center and patient as the folder's index.csv tells them.

    See ``read_index``.

    Raises:
        DatasetError: there is such a file, but it cannot be used, or lies in a subfolder.
    """
    places = {place for case in cases for path in (case.image_path, case.label_path) for place in path.parents}
    nested = next(filter(None, (index_in(place) for place in sorted(places) if folder in place.parents)), None)
    if nested:
        raise DatasetError(
            f"'{nested.relative_to(folder).as_posix()}' is not used: it does not lie in '{folder.name}' itself.",
            "Put it there and name the cases as folder/scan where they lie loose, or name its folder alone.",
        )
    rows = read_index(folder, {case.name for case in cases})
    told = [(case, rows.get(case.name, IndexRow())) for case in cases]
    return [
        replace(
            case,
            name=printable(case.name),
            center=row.center,
            patient=row.patient or printable(case.name),
            patient_is_known=bool(row.patient),
        )
        for case, row in told
    ]


def _images(folder: Path) -> dict[str, Path]:
    """Image files by name without suffix; what macOS and others hide behind a dot is no image."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not is_image_file(path):
            continue
        stem = image_stem(path)
        if stem in found:
            twins = f"'{found[stem].name}' and '{path.name}'"
            raise DatasetError(f"'{folder.name}' has case '{stem}' twice: {twins}.", "Remove one of them.")
        found[stem] = path
    return found


def is_image_file(path: Path) -> bool:
    """Whether a path is called like an image and is no folder; what a link, a pipe or a device is, its reading says."""
    is_called_image = image_suffix(path) is not None and not path.name.startswith(".")
    return is_called_image and os.path.lexists(path) and not path.is_dir()


def _read_pairs(
    image_folder: Path, label_folder: Path, t2_channel: int | None = None, meaning: tuple[Label, ...] = ()
) -> tuple[list[Case], dict[str, str]]:
    labels, files = _images(label_folder), _images(image_folder)
    wanted = f"_{t2_channel or 0:04d}"
    images, no_pair = {}, {}
    for stem, path in files.items():
        base, channel = stem[:-5], stem[-5:]
        is_channel = channel[0] == "_" and channel[1:].isdigit() and (base in labels or base + wanted in files)
        if stem in labels or not is_channel:
            images[stem] = path
        elif channel == wanted:
            images[base] = path
        elif base + wanted not in files:
            no_pair[base] = f"It has no file '{base}{wanted}' (the T2 scan)."
    alone = sorted(labels[name].name for name in labels.keys() - images.keys() - no_pair.keys())
    others = f", where {', '.join(alone[:5])} {'have' if len(alone) > 1 else 'has'} no scan" if alone else ""
    for name in sorted(images.keys() - labels.keys()):
        no_pair[name] = f"It has no mask in '{label_folder.name}'{others}."
    paired = sorted(images.keys() & labels.keys())
    return [Case(name, images[name], labels[name], volume=t2_channel, labels=meaning) for name in paired], no_pair


def _read_description(path: Path) -> tuple[int | None, tuple[Label, ...]]:
    """What dataset.json says: the channel called T2 (Decathlon: modality; nnU-Net: channel_names), and the labels."""
    if not path.is_file():
        return None, ()
    what = "Write it as nnU-Net and the Medical Segmentation Decathlon do."
    with os_errors_as(DatasetError, "dataset.json cannot be read", "Check that you may read it."):
        content = path.read_bytes()
    try:
        values = json.loads(decoded(content))
    except json.JSONDecodeError as error:
        raise DatasetError(f"dataset.json is no JSON text from line {error.lineno} on.", what) from error
    except ValueError as error:
        raise DatasetError("dataset.json is text neither in UTF-8 nor in Windows-1252.", what) from error
    if not isinstance(values, dict):
        raise DatasetError("dataset.json holds no names with values.", what)
    try:
        channels = values.get("channel_names") or values.get("modality") or {}
        found = [int(number) for number, name in channels.items() if str(name).lower().startswith("t2")]
        return min(found, default=None), tuple(labels_in_description(values.get("labels")))
    except (ValueError, AttributeError, TypeError) as error:
        raise DatasetError("dataset.json does not say its channels and labels by number.", what) from error


def _read_promise12(folder: Path) -> tuple[list[Case], dict[str, str]]:
    cases: dict[str, Case] = {}
    no_pair: dict[str, str] = {}
    masks = sorted(path for path in files_below(folder)[0] if path.name.endswith(PROMISE12_MASK))
    for mask in masks:
        scan = mask.with_name(mask.name.replace(PROMISE12_MASK, ".mhd"))
        if not is_image_file(scan):
            no_pair[mask.name] = f"It has no scan '{scan.name}' beside it."
            continue
        if scan.stem in cases:
            places = [path.parent.name for path in (cases[scan.stem].image_path, scan)]
            raise DatasetError(
                f"Case '{scan.stem}' is there twice, in '{places[0]}' and '{places[1]}'.", "Remove one of them."
            )
        cases[scan.stem] = Case(scan.stem, scan, mask)
    for place in sorted({mask.parent for mask in masks}):
        scans = {path.stem for path in place.glob("*.mhd") if not path.name.startswith(".")}
        scans = {stem for stem in scans if not stem.endswith("_segmentation")}
        no_pair |= dict.fromkeys(sorted(scans - cases.keys()), "It has no mask beside it.")
    return [cases[name] for name in sorted(cases)], no_pair


def read_datasets(folders: Iterable[Path | str]) -> list[Case]:
    """The cases of several folders, one after the other; a patient column may join scans of different folders.

    Raises:
        DatasetError: a folder cannot be read, or two folders have a case of one name.
    """
    cases: dict[str, Case] = {}
    for folder in folders:
        for case in read_dataset(folder):
            if case.name in cases:
                raise DatasetError(
                    f"Two data sets have a case named '{case.name}'.", "Rename the files of one, or leave one out."
                )
            cases[case.name] = case
    return list(cases.values())


def split_folds(cases: Sequence[Case], folders: Iterable[Path | str] = (), count: int = 5) -> list[list[str]]:
    """Names of the cases in each fold: as a folder's ``folds.json`` says, every other patient drawn.

    The draw spreads each center's patients evenly over the folds and depends only on the names, so that it is the same
    on every machine. A patient whose scan is listed takes scans of other folders along into that fold. There are never
    more folds than patients.

    Args:
        cases: of all folders together, see :func:`read_datasets`.
        folders: those that the cases came from.

    Raises:
        DatasetError: a ``folds.json`` is damaged, names unknown cases or one twice, or parts the scans of a patient.
    """
    patient_of = {case.name: case.patient for case in cases}
    center_of: dict[str, str] = {}
    for case in cases:
        center_of.setdefault(case.patient, case.center)
    fold_of: dict[str, int] = {}
    for path in (Path(folder) / "folds.json" for folder in folders):
        if path.is_file():
            listed = _listed_folds(path, patient_of)
            count = max(len(listed), *(fold + 1 for fold in fold_of.values())) if fold_of else len(listed)
            for fold, name in ((fold, name) for fold, names in enumerate(listed) for name in names):
                if fold_of.setdefault(patient_of[name], fold) != fold:
                    raise DatasetError(f"folds.json parts the cases of patients: {patient_of[name]}.", _CORRECT)
    drawn = sorted((center, patient) for patient, center in center_of.items() if patient not in fold_of)
    random.Random(0).shuffle(drawn)
    drawn.sort(key=lambda item: item[0])
    count = min(count, len(center_of))
    for center, patient in drawn:
        of_center = Counter(fold for other, fold in fold_of.items() if center_of[other] == center)
        of_all = Counter(fold_of.values())
        fold_of[patient] = min(range(count), key=lambda fold: (of_center[fold], of_all[fold], fold))
    return [[case.name for case in cases if fold_of[case.patient] == fold] for fold in range(count)]


_CORRECT = "Correct the file."


def _listed_folds(path: Path, known: Container[str]) -> list[list[str]]:
    try:
        folds = json.loads(path.read_text(encoding="utf-8"))["folds"]
        times = Counter(name for fold in folds for name in fold)
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise DatasetError(
            f"folds.json cannot be read ({found}).", 'Expected {"folds": [["Case00", ...], ...]}.'
        ) from error
    for what, names in (
        ("names unknown cases", [name for name in times if name not in known]),
        ("names cases more than once", [name for name, number in times.items() if number > 1]),
    ):
        if names:
            raise DatasetError(f"folds.json {what}: {', '.join(sorted(names)[:5])}.", _CORRECT)
    return folds


def select_folds(
    cases: Sequence[Case], folds: list[list[str]], left_out: Iterable[int]
) -> tuple[list[Case], list[Case]]:
    """Training and validation cases when some folds are left out; none left out trains on all, validates on none."""
    held_out: set[str] = set()
    for fold in left_out:
        if not 0 <= fold < len(folds):
            raise DatasetError(
                f"Fold {fold} does not exist; there are folds 0 to {len(folds) - 1}.", "Choose one of them."
            )
        held_out |= set(folds[fold])
    return [case for case in cases if case.name not in held_out], [case for case in cases if case.name in held_out]


@dataclass(frozen=True)
class PreparedCase:
    """A scan and its mask on the network's grid.

    Attributes:
        corrected, uncorrected: normalized scan (z, y, x) float16 with and without bias-field correction.
        label: share of each voxel inside the prostate (z, y, x) float16, in [0, 1].
        gland_center: index (z, y, x) of the mask's centroid.
        identity: what the scan itself is recognized by, whatever its name.
    """

    name: str
    corrected: np.ndarray
    uncorrected: np.ndarray
    label: np.ndarray
    gland_center: tuple[float, float, float]
    identity: ScanIdentity


def prepare_case(case: Case, settings: PreprocessingSettings) -> PreparedCase:
    """Preprocess one case as inference does, with and without bias-field correction."""
    image, mask = case.load_image(), case.load_mask()
    if not sitk.GetArrayViewFromImage(mask).any():
        raise DatasetError(f"Case '{case.name}': the mask is empty.", "Draw the prostate or take the case out.")
    corrected, grid = prepare(image, settings)
    uncorrected, _ = prepare(image, replace(settings, bias_field="off"))
    label = grid.to_network(grid.canonical_array(mask))
    if not (label >= 0.5).any():
        raise DatasetError(f"Case '{case.name}': the mask is smaller than a voxel.", "Draw the prostate.")
    return _packed(case.name, corrected, uncorrected, label, ScanIdentity(image).without_image())


def _packed(
    name: str, corrected: np.ndarray, uncorrected: np.ndarray, label: np.ndarray, identity: ScanIdentity
) -> PreparedCase:
    """Rounded first: what comes fresh is to the bit what comes from the cache."""
    corrected, uncorrected, label = (array.astype(np.float16) for array in (corrected, uncorrected, label))
    z, y, x = (float(index.mean()) for index in np.nonzero(label >= 0.5))
    return PreparedCase(name, corrected, uncorrected, label, (z, y, x), identity)


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
    return hashlib.sha256(
        json.dumps([CACHE_FORMAT, settings.to_dict(), files_digest(case)], sort_keys=True).encode()
    ).hexdigest()[:32]


def files_digest(case: Case) -> str:
    """SHA-256 of what is in a case's files, wherever they lie and whatever they are called."""
    digest = hashlib.sha256()
    with os_errors_as(DatasetError, f"Case '{case.name}' cannot be read", "Check its files."):
        for path in (case.image_path, case.label_path):
            for part in (path, detached_voxels(path) if path.is_file() else None):
                if part is not None and part.is_file():
                    digest.update(part.read_bytes())
    if case.volume is not None:
        digest.update(f"volume {case.volume}".encode())
    return digest.hexdigest()


def _read_cached(name: str, path: Path) -> PreparedCase | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            identity = ScanIdentity.of_parts(str(arrays["digest"]), ScanTexture.of_window(arrays["texture"]))
            return _packed(name, arrays["corrected"], arrays["uncorrected"], arrays["label"], identity)
    except Exception:  # missing or damaged, for which numpy and zipfile raise many types: it is prepared again
        return None


def _write_cached(case: PreparedCase, path: Path) -> None:
    arrays: dict[str, Any] = {"corrected": case.corrected, "uncorrected": case.uncorrected, "label": case.label}
    arrays |= {"digest": np.array(case.identity.digest), "texture": case.identity.texture.window}
    make_folder(path.parent)
    write_aside(path, ".npz", lambda aside: np.savez(aside, **arrays))

"""A DICOM series in, DICOM objects out, and what programs other than ours make of them: one command.

    python Testing/Benchmarks/dicom_roundtrip.py SERIES [--output FOLDER] [--psa 6.5]

The folder of one axial T2-weighted series is segmented with ``--format dicom-seg``. What dciodvfy says of both objects
is printed word for word. The mask is read back through highdicom, SimpleITK's GDCM and dcmqi's segimage2itkimage and
held against the .seg.nrrd beside it, voxel for voxel in the patient; the report through highdicom's parser, its
figures against measurements.csv. A program that is not installed is named and passed over. The exit code is 1 where
one finds an error or reads something else.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import highdicom
import numpy as np
import SimpleITK as sitk

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "DDSPSegmentation"))

from DDSPSegmentationLib.service.arguments import DICOM_FORMAT  # noqa: E402
from DDSPSegmentationLib.service.case_work import DICOM_REPORT, DICOM_SEGMENTATION, DICOM_SUFFIXES  # noqa: E402
from DDSPSegmentationLib.service.command_line import main as ddsp_segmentation  # noqa: E402
from DDSPSegmentationLib.service.dicom_files import quiet_readers  # noqa: E402

VALIDATOR, CONVERTER = "dciodvfy", "segimage2itkimage"
COLUMNS = {
    "Volume": "volume_ml",
    "Width": "left_right_mm",
    "Height": "antero_posterior_mm",
    "Length": "cranio_caudal_mm",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series", type=Path)
    parser.add_argument("--output", type=Path, help="(default: a folder that is deleted)")
    parser.add_argument("--psa", type=float, default=6.5)
    chosen = parser.parse_args()
    with _folder(chosen.output) as folder:
        words = ["segment", chosen.series, "--output", folder, "--format", DICOM_FORMAT, "--psa", chosen.psa]
        code = ddsp_segmentation([str(word) for word in words])
        with open(folder / "measurements.csv", newline="", encoding="utf-8") as file:
            (row,) = csv.DictReader(file)
        paths = {kind: folder / f"{row['case']}{suffix}" for kind, suffix in DICOM_SUFFIXES.items()}
        found = [_validated(path) for path in paths.values()]
        found += _masks_are_one(paths[DICOM_SEGMENTATION], folder / f"{row['case']}.seg.nrrd")
        found.append(_figures_are_those_of(paths[DICOM_REPORT], row, chosen.psa))
    return code or int(not all(found))


@contextmanager
def _folder(wanted: Path | None) -> Iterator[Path]:
    if wanted is not None:
        yield wanted
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _validated(path: Path) -> bool:
    """The validator's words, and whether there is no error among them."""
    if shutil.which(VALIDATOR) is None:
        print(f"\n{VALIDATOR} (Debian's dicom3tools) is not installed.")
        return True
    said = subprocess.run([VALIDATOR, "-new", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(f"\n$ {VALIDATOR} -new {path.name}\n{said.stdout}", end="")
    return said.returncode == 0 and "Error" not in said.stdout


def _masks_are_one(path: Path, mask: Path) -> list[bool]:
    """Whether each reader finds the voxels of the mask, and where it does."""
    expected = _places(sitk.ReadImage(str(mask)))
    readers = {"highdicom": _by_highdicom(path), "SimpleITK (GDCM)": _places(_by_gdcm(path))}
    if shutil.which(CONVERTER):
        readers[f"dcmqi {CONVERTER}"] = _places(_by_dcmqi(path))
    else:
        print(f"\n{CONVERTER} (dcmqi) is not installed.", end="")
    print(f"\nThe mask has {len(expected)} voxels.")
    same = []
    for name, places in readers.items():
        same.append(places.shape == expected.shape and bool(np.allclose(places, expected, atol=1e-3)))
        print(f"  {name}: {len(places)}, {'the same' if same[-1] else 'NOT the same'} places in the patient")
    return same


def _places(image: sitk.Image) -> np.ndarray:
    """Where the voxels inside lie, mm in LPS, in an order that the way of storing does not decide."""
    axes = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    inside = np.argwhere(sitk.GetArrayViewFromImage(image) != 0)[:, ::-1]
    return _sorted(inside @ axes.T + image.GetOrigin())


def _sorted(places: np.ndarray) -> np.ndarray:
    return places[np.lexsort(np.round(places, 2).T)]


def _by_highdicom(path: Path) -> np.ndarray:
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    return _sorted(volume.map_indices_to_reference(np.argwhere(volume.array != 0)))


def _by_gdcm(path: Path) -> sitk.Image:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    return reader.Execute()


def _by_dcmqi(path: Path) -> sitk.Image:
    with tempfile.TemporaryDirectory() as folder:
        words = [CONVERTER, "--inputDICOM", path, "--outputDirectory", folder, "--outputType", "nrrd"]
        subprocess.run(words, check=True, capture_output=True)
        return sitk.ReadImage(str(Path(folder, "1.nrrd")))


def _figures_are_those_of(path: Path, row: dict[str, str], psa: float) -> bool:
    """Whether the report, as highdicom parses it, holds the figures of the table."""
    with quiet_readers():
        report = highdicom.sr.srread(path)
    (group,) = report.content.get_volumetric_roi_measurement_groups()
    print(f"\nThe report: {group.finding_type.meaning} ({group.finding_type.value}), of the segment of")
    print(f"  {group.referenced_segment.referenced_sop_instance_uid}")
    expected = {name: float(row[column]) for name, column in COLUMNS.items()}
    expected["Prostate specific Antigen Density"] = round(psa / expected["Volume"], 3)
    found = {}
    for one in group.get_measurements():
        found[one.name.meaning] = one.value
        method = f" ({one.method.meaning})" if one.method else ""
        print(f"  {one.name.meaning} {one.value:g} {one.unit.meaning}{method}")
    same = found == expected
    print(f"  {'the same' if same else 'NOT the same'} figures as in measurements.csv")
    return same


if __name__ == "__main__":
    sys.exit(main())

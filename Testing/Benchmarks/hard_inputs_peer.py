"""The hard inputs given to a reader alone, as a script of a few lines uses SimpleITK; what becomes of them?

    python Testing/Benchmarks/hard_inputs_peer.py [--kind NAME] [--only SLUG] [--report FILE] [--seconds 60]

Each image file of an input goes through ``sitk.ReadImage``, the first series of each folder with DICOM files through
``sitk.ImageSeriesReader``, all in one child process with a time limit. It is right where what was read has the grid
(and, up to their scale, the voxels) of the scan that a mask is expected for, or where an exception tells of what is
expected to be refused. Only kinds are asked for in which reading and geometry decide, and of these only inputs that
need no knowledge of MR and no decision of what a scan is. Building needs no network.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "DDSPSegmentation"), str(Path(__file__).resolve().parent)]
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a child of a fork must not wait for its parent's threads

import SimpleITK as sitk  # noqa: E402
from hard_inputs import CORPUS, remove  # noqa: E402
from hard_inputs_expected import QUATERNION_MM, SEGMENT, Built, Clean, Grid, Input, _off_mm  # noqa: E402
from hard_inputs_files import Volume  # noqa: E402
from hard_inputs_run import patients  # noqa: E402

KINDS = (
    "DICOM: tags", "DICOM: geometry", "DICOM: objects and files", "voxel types", "dimensions",
    "truncated and bit-flipped files", "other files under an image's name", "NIfTI: forms and variants",
    "rounded directions", "names: patterns", "names: not UTF-8", "names: too long", "names: signs",
    "files of two parts",
)  # fmt: skip
# What these ask is answered by who knows MR or what is wanted of a scan, not by who reads, or is about output.
KNOWLEDGE = {
    "gray-inverted", "series-any-beside-an-adc", "slice-alone", "slices-seven", "type-complex", "type-rgb", "type-rgba",
    "dims-2d", "dims-one-slice", "dims-one-row", "dims-4d-two", "dims-4d-many", "dims-5d-vector", "dims-mha-channels",
    "dims-nrrd-vector", "dicom-called-nii", "units-meters", "units-micrometers", "slope-negative", "latin1-output",
    "long-output",
}  # fmt: skip
SUFFIXES = (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd", ".hdr")
_VOXELS = (".raw", ".img", ".img.gz", ".zraw")
MOST_MEMORY = 12 << 30
LEAST_ALIKE = 0.9  # correlation with the voxels of the right scan
DIED, HUNG, OTHER, TAKEN, REFUSED = "died", "hung", "other grid or voxels", "read, to be refused", "refused, to be read"
FAULTS = (DIED, HUNG, OTHER, TAKEN, REFUSED)


@dataclass
class Read:
    """What a script was given: volumes, and how many exceptions there were; ``ended`` where it came to no end."""

    volumes: list[Volume]
    exceptions: int = 0
    ended: str = ""


def entries(kinds=(), slugs=()) -> list[Input]:
    """The inputs that a reader alone can be asked for."""
    return [
        entry
        for entry in CORPUS.values()
        if entry.kind in KINDS
        and entry.command == SEGMENT
        and entry.slug not in KNOWLEDGE
        and (not (kinds or slugs) or entry.kind in kinds or entry.slug in slugs)
    ]


def scans() -> Clean:
    """The scans that inputs are built from; where a mask is expected, the very voxels stand for it."""
    volumes = patients()
    return Clean(volumes, tuple(volume.voxels for volume in volumes))


def read_all(paths: list[Path], folder: Path) -> None:
    """The script: all image files and the first series of each folder, into numbered files in ``folder``."""
    exceptions, number = 0, 0
    for path in paths:
        try:
            found = _found(path)
        except OSError:
            found, exceptions = [], exceptions + 1
        for place, is_series in found:
            number += 1
            try:
                _keep(_read_series(place) if is_series else sitk.ReadImage(place), folder / f"{number}.npz")
            except Exception:
                exceptions += 1
    (folder / "exceptions.json").write_text(json.dumps(exceptions))


def _found(path: Path) -> list[tuple[str, bool]]:
    """Image files, and folders that hold others, which may be DICOM; of a file's folder that file alone."""
    is_image = path.name.lower().endswith(SUFFIXES)
    if not path.is_dir():
        return [(str(path), False)] if is_image or not path.exists() else [(str(path.parent), True)]
    found = []
    for parent, _, names in sorted(os.walk(path)):
        images = [name for name in sorted(names) if name.lower().endswith(SUFFIXES)]
        found += [(os.path.join(parent, name), False) for name in images]
        if any(name not in images and not name.lower().endswith(_VOXELS) for name in names):
            found.append((parent, True))
    return found


def _read_series(folder: str) -> sitk.Image:
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(folder, series[0]))
    return reader.Execute()


def _keep(image: sitk.Image, path: Path) -> None:
    voxels, size = sitk.GetArrayFromImage(image), image.GetDimension()
    affine = np.eye(size + 1)
    affine[:size, :size] = np.reshape(image.GetDirection(), (size, size)) * image.GetSpacing()
    affine[:size, size] = image.GetOrigin()
    while size > 3 and voxels.shape[0] == 1:
        voxels, size = voxels[0], size - 1
    kept = [*range(min(3, size)), -1]
    np.savez(path, voxels=voxels.T, affine=affine[np.ix_(kept, kept)])


def read_in_child(paths: list[Path], folder: Path, seconds: float) -> Read:
    """What the script reads; a death and a hang are told."""
    import resource

    child = os.fork()
    if not child:
        try:
            os.setsid()
            faulthandler.disable()  # pytest's would tell of every death
            resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            nowhere = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(nowhere, descriptor)
            read_all(paths, folder)
        finally:
            os._exit(0)
    deadline, pid, status = time.monotonic() + seconds, 0, 0
    while not pid and time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.01)
    if not pid:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return Read([], ended=HUNG)
    if os.WIFSIGNALED(status):
        return Read([], ended=DIED)
    volumes = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as kept:
            volumes.append(Volume(kept["voxels"], kept["affine"]))
    return Read(volumes, json.loads((folder / "exceptions.json").read_text()))


def fault(entry: Input, grids: dict[str, Grid], read: Read) -> str:
    """What is wrong, by the outcome that comes nearest; "" where one of them is met."""
    if read.ended:
        return read.ended
    faults = []
    for outcome in entry.right:
        left = list(read.volumes)
        missing = 0
        for name in outcome.done:
            match = next((volume for volume in left if _fits(grids[name], volume)), None)
            missing += match is None
            left = [volume for volume in left if volume is not match]
        if not missing and not left and (read.exceptions or not outcome.refusals):
            return ""
        faults.append(REFUSED if missing and not left else TAKEN if left and not missing else OTHER)
    return faults[0]


def _fits(grid: Grid, volume: Volume) -> bool:
    if volume.voxels.shape != grid.gland.shape or not _off_mm(grid, volume) <= grid.place_mm + QUATERNION_MM:
        return False
    with np.errstate(all="ignore"):
        return bool(np.corrcoef(volume.voxels.ravel().astype(float), grid.gland.ravel())[0, 1] >= LEAST_ALIKE)


def check(entry: Input, clean: Clean, folder: Path, seconds: float) -> str:
    """Build an input and have it read; what is wrong, "" where it is right."""
    (folder / "in").mkdir(parents=True)
    (folder / "read").mkdir()
    built = entry.build(folder / "in", clean) or Built({"scan": clean.grid()})
    paths = [folder / given for given in built.given]
    return fault(entry, built.grids, read_in_child(paths, folder / "read", seconds))


def table(outcomes: dict[str, str]) -> str:
    """Right and wrong by kind, in Markdown."""
    counts: dict[str, Counter] = {}
    for slug, found in outcomes.items():
        counts.setdefault(CORPUS[slug].kind, Counter())[found] += 1
    whole = sum(counts.values(), Counter())
    rows = [[kind, of.total(), of[""], *(of[one] for one in FAULTS)] for kind, of in counts.items()]
    rows.append([f"**{one}**" for one in ("all", whole.total(), whole[""], *(whole[one] for one in FAULTS))])
    head = ["kind", "inputs", "right", *FAULTS]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head), *rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", action="append", default=[], metavar="NAME", help="only this kind; may be repeated")
    parser.add_argument("--only", action="append", default=[], metavar="SLUG", help="only this input; may be repeated")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write all lines and the table there, too")
    parser.add_argument("--seconds", type=float, default=60.0, help="the longest reading (default: %(default)g)")
    chosen = parser.parse_args()
    clean, told, outcomes = scans(), [], {}
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    work = Path(tempfile.mkdtemp(prefix="hard-inputs-peer-"))
    try:
        for entry in entries(chosen.kind, chosen.only):
            try:
                outcomes[entry.slug] = check(entry, clean, work / entry.slug, chosen.seconds)
            finally:
                remove(work / entry.slug)
            told.append(f"{entry.kind}: {entry.slug}: {outcomes[entry.slug] or 'right'}")
            print(told[-1], flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    told.append(f"\nSimpleITK {sitk.Version.VersionString()}\n{table(outcomes)}")
    print(told[-1])
    if chosen.report:
        chosen.report.write_text("\n".join(told) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

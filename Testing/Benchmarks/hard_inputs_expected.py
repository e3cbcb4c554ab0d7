"""What a hard input is, what is right for it, and the judge who compares that with what was found."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from hard_inputs_files import Volume

SEGMENT, IMPORT, EVALUATE = "segment", "cases import", "evaluate"
EVALUATE_MODEL, IMPORT_MODEL, SEGMENT_MODEL = "evaluate --dataset", "models import", "segment --model"
GIVEN = "{given}"  # where the paths stand that ``Built.given`` names
# One network and no bias field: what is asked here is how files are read, and a run takes a second.
_FAST = ("--mode", "fast", "--bias-field", "off")
_AS_NIFTI = ("--output", "out", "--format", "nii.gz", *_FAST)
COMMANDS: dict[str, tuple[str, ...]] = {
    SEGMENT: ("segment", GIVEN, *_AS_NIFTI),
    IMPORT: ("cases", "import", GIVEN, "--cases", "library", "--models", "models"),
    EVALUATE: ("evaluate", "--predictions", "in/predictions", "--references", "in/references", "--output", "out"),
    EVALUATE_MODEL: ("evaluate", "--dataset", GIVEN, "--output", "out", *_FAST),
    IMPORT_MODEL: ("models", "import", GIVEN, "--models", "models"),
    SEGMENT_MODEL: ("segment", "in/scans", "--model", GIVEN, *_AS_NIFTI),
}

PLACE_MM = 0.1  # at a corner; what 16 characters of DICOM round off is less
QUATERNION_MM = 0.15  # what a qform in single precision may be off besides, for turns of nearly 180 degrees
SAME_DICE = 0.99
# Words of libraries and of Python, and places in our own files: none of them helps who reads a line.
JARGON = re.compile(
    r"itk::|WARNING: In |gdcm|pydicom|zlib|nifti_|\berrno\b|Traceback|Exception|unhandled|surrogates|"
    r"object has no attribute|codec can't|Expecting (?:value|property)|"
    r"\b[A-Za-z]*Error\b(?!:)|\w+\.(?:py|cxx|h|hxx):\d+|object at 0x|Segmentation fault|core dumped"
)
REFUSALS = re.compile(r"^error: |^Refused: |: not compared\. ")


@dataclass(frozen=True)
class Clean:
    """The scans that everything is built from, and what the product makes of each as a plain file.

    ``glands`` are bool (x, y, z) and lie on the grid of the scan of the same number: the bundled one first, then two
    made of it that count as other patients. ``model`` is an exported version named ``hospital-2``.
    """

    scans: tuple[Volume, ...]
    glands: tuple[np.ndarray, ...]
    model: bytes = b""

    def grid(self, number: int = 0, **how) -> Grid:
        return Grid(self.glands[number], self.scans[number].affine, **how)

    def case(self, number: int = 1, **how) -> Grid:
        """As a stored case, with the voxels of its scan and every voxel of its mask."""
        return self.grid(number, voxels=self.scans[number].voxels, dice=0.99999, **how)

    def mask(self, number: int = 1) -> Volume:
        return self.scans[number].with_voxels(self.glands[number].astype(np.uint8))


@dataclass(frozen=True)
class Grid:
    """A mask that is right: its voxels (x, y, z), their place (LPS; None: anywhere) and the least Dice.

    ``place_mm`` bounds how far a corner may lie off, for readers of a NIfTI mask's sform and of its qform.
    ``voxels``: of the scan that must be stored with it. ``most_dice`` bounds a Dice that must not be perfect.
    """

    gland: np.ndarray
    affine: np.ndarray | None
    dice: float = SAME_DICE
    place_mm: float = PLACE_MM
    voxels: np.ndarray | None = None
    most_dice: float = 1.0


@dataclass
class Built:
    """What a builder made: the right masks by name, and what the command is given (by default the folder ``in``)."""

    grids: dict[str, Grid] = field(default_factory=dict)
    given: Sequence[str] = ("in",)
    extra: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    """One way to be right; of the words each is a pattern, whatever its case.

    Attributes:
        exits: exit codes.
        done: names of the grids (or versions) that there must be a result for, one each, and for nothing else.
        refusals: as many lines of refusal as patterns, each for another one.
        says: each is in some printed line. notes: the same, or in run.json.
        one_patient: all stored cases are of one patient.
    """

    exits: tuple[int, ...]
    done: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    one_patient: bool = False


def done(*names: str, exits: Sequence[int] = (0,), **words) -> Outcome:
    """A result for each name (``scan`` where none is given), nothing refused."""
    return Outcome(tuple(exits), names or ("scan",), **words)


def refused(*patterns: str, done: Sequence[str] = (), exits: Sequence[int] = (1, 2), **words) -> Outcome:
    """One line for each pattern; a result for the neighbors named in ``done`` alone."""
    return Outcome(tuple(exits) if not done else (1,), tuple(done), patterns, **words)


Build = Callable[[Path, Clean], "Built | None"]


@dataclass(frozen=True)
class Input:
    """One hard input.

    Attributes:
        slug: its name. kind: the row of the table it counts in. what: one sentence.
        build: fills an empty folder ``in``; answers what is right, None for the sample's grid as ``scan``.
        right: the outcomes, of which any one will do. command: a key of COMMANDS.
        process: runs in a process of its own. nobody: runs without root's privilege to read everything.
        runs: how often the command is given; the last run is judged, and none may die. interrupt: a signal that the
        first run gets as soon as a scan is done; ``interrupted`` says what that run must answer.
    """

    slug: str
    kind: str
    what: str
    build: Build
    right: tuple[Outcome, ...]
    command: str = SEGMENT
    process: bool = False
    nobody: bool = False
    runs: int = 1
    interrupt: int = 0
    interrupted: Outcome | None = None


CORPUS: dict[str, Input] = {}


def hard(slug: str, kind: str, what: str, build: Build, *right: Outcome, **how) -> None:
    """Enter an input into the corpus."""
    if slug in CORPUS:
        raise ValueError(f"'{slug}' is there twice")
    CORPUS[slug] = Input(slug, kind, what, build, right, **how)


@dataclass
class Result:
    """A mask, stored case, compared pair or version that was found."""

    name: str
    volume: Volume | None = None
    qform: Volume | None = None
    scan: np.ndarray | None = None
    patient: str = ""
    dice: float | None = None


@dataclass
class Found:
    """What a run left behind; ``ended`` is empty where it came to its own end."""

    ended: str = ""
    exit_code: int | None = None
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)
    recorded: list[str] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)

    @property
    def printed(self) -> list[str]:
        return [line for line in (*self.out, *self.err) if line.strip()]


def judge(right: Sequence[Outcome], grids: dict[str, Grid], found: Found) -> list[str]:
    """What is wrong, measured by the outcome that comes nearest; nothing where one of them is met."""
    faults = [_against(outcome, grids, found) for outcome in right]
    return faults_of_any_run(found) + min(faults, key=len)


def faults_of_any_run(found: Found) -> list[str]:
    """What no run may do, whatever it is given."""
    faults = [found.ended] if found.ended else []
    for line in found.printed:
        if any(not character.isprintable() and character != "\t" for character in line):
            faults.append(f"a line that cannot be printed: {line!a:.160}")
        elif match := JARGON.search(line):
            faults.append(f"jargon '{match.group()}': {line:.160}")
    return faults[:3] + [f"left behind: {name}" for name in found.leftovers[:3]]


def _against(outcome: Outcome, grids: dict[str, Grid], found: Found) -> list[str]:
    faults = []
    if not found.ended and found.exit_code not in outcome.exits:
        faults.append(f"exit code {found.exit_code}, not {' or '.join(map(str, outcome.exits))}")
    faults += _unlike(outcome.done, grids, found.results)
    faults += _refusals(outcome.refusals, found)
    for words, lines in ((outcome.says, found.printed), (outcome.notes, [*found.printed, *found.recorded])):
        faults += [f"no line says /{one}/" for one in words if not _matching(one, lines)]
    if outcome.one_patient and len({result.patient for result in found.results}) != 1:
        faults.append("not stored as one patient")
    return faults


def _matching(pattern: str, lines: Sequence[str]) -> list[str]:
    return [line for line in lines if re.search(pattern, line, re.IGNORECASE)]


def _refusals(patterns: Sequence[str], found: Found) -> list[str]:
    lines = [line for line in found.out if REFUSALS.search(line)] + [line for line in found.err if line.strip()]
    if len(lines) != len(patterns):
        shown = f": {lines[0]:.200}" if lines else ""
        return [f"{len(lines)} lines of refusal, not {len(patterns)}{shown}"]
    if any(
        all(re.search(pattern, line, re.IGNORECASE) for pattern, line in zip(patterns, order, strict=True))
        for order in itertools.permutations(lines)
    ):
        return []
    return [f"refused, but not for /{'/ and /'.join(patterns)}/: {lines[0]:.200}"]


def _unlike(names: Sequence[str], grids: dict[str, Grid], results: Sequence[Result]) -> list[str]:
    """Each name has a result of its own that fits, and no result is left over."""
    left, faults = list(results), []
    for name in names:
        unfit = {id(result): _unfit(name, grids.get(name), result) for result in left}
        match = min(left, key=lambda result: len(unfit[id(result)]), default=None)
        if match is not None and not unfit[id(match)]:
            left.remove(match)
        elif match is not None and len(left) == 1:
            left.remove(match)
            faults.append(f"'{match.name}': {unfit[id(match)]}")
        else:
            faults.append(f"no result for '{name}'")
    return faults + [f"a result that nobody expects: '{result.name}'" for result in left]


def _unfit(name: str, grid: Grid | None, result: Result) -> str:
    """In which way a result is not the one of a grid; "" where it is."""
    if grid is None:  # a version is known by its name
        return "" if result.name == name else f"is not '{name}'"
    if result.dice is not None:
        same = result.name == name and grid.dice <= result.dice <= grid.most_dice
        return "" if same else f"Dice {result.dice:.4f} of '{result.name}'"
    if result.volume is None:
        return "cannot be read as a mask"
    if result.volume.voxels.shape != grid.gland.shape:
        return f"has {result.volume.voxels.shape} voxels, not {grid.gland.shape}"
    off = _off_mm(grid, result.volume)
    if result.qform is not None:
        off = max(off, _off_mm(grid, result.qform) - QUATERNION_MM)
    if not off <= grid.place_mm:
        return f"lies up to {off:.2f} mm off the scan's grid"
    dice = _dice(result.volume.voxels != 0, grid.gland)
    if not dice >= grid.dice:
        return f"Dice {dice:.4f} to the right mask"
    if grid.voxels is not None and (result.scan is None or not np.array_equal(result.scan, grid.voxels)):
        return "the scan that is stored with it has other voxels"
    return ""


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    total = np.count_nonzero(one) + np.count_nonzero(other)
    return 2 * np.count_nonzero(one & other) / total if total else 1.0


def _off_mm(grid: Grid, volume: Volume) -> float:
    """How far the corners lie apart at most; 0 where no place is asked for."""
    if grid.affine is None:
        return 0.0
    corners = np.array([[*corner, 1] for corner in itertools.product(*((0, n - 1) for n in grid.gland.shape))]).T
    return float(np.linalg.norm(((volume.affine - grid.affine) @ corners)[:3], axis=0).max())

"""Mutated headers and truncated files of every format: is each refused with its cause, or read as it says?

    python Testing/Benchmarks/fuzz_headers.py [--minutes 60] [--seed 0] [--only FORMAT] [--report FILE]
    python Testing/Benchmarks/fuzz_headers.py --seed 0 --repeat NUMBER [--keep FOLDER]

Each mutant is a small part of the bundled scan whose header was spoiled one to three times; seed and number make it
again. It goes through the reading of a batch: the same search for scans and the same long-lived process, which here
stops where the network would begin. What was read is held against the untouched scan, and where it differs against a
plain reading of the header (fuzz_headers_stated.py):

refused        one line that names a cause
harmless       voxels and places of the untouched scan
as stated      other voxels or another place, those that the header truly states
died, late     the reading process ended, or took too long, and was replaced: caught
WRONG          other voxels or another place than stated, a slice left out without a word, a line that names no cause,
               or an error outside the reading process, where it would end the batch
"""

from __future__ import annotations

import argparse
import faulthandler
import itertools
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "DDSPSegmentation"), str(Path(__file__).resolve().parent)]

from fuzz_headers_mutants import FORMATS, mutant, scan, untouched  # noqa: E402
from fuzz_headers_stated import FARTHEST_MM, SENSELESS, Stated, stated, stated_volume  # noqa: E402
from hard_inputs_expected import JARGON  # noqa: E402

from DDSPSegmentationLib.engine.errors import DDSPSegmentationError  # noqa: E402
from DDSPSegmentationLib.engine.run_settings import RunSettings  # noqa: E402
from DDSPSegmentationLib.service.batch_record import UnexpectedError, error_text  # noqa: E402
from DDSPSegmentationLib.service.case_process import CaseProcess  # noqa: E402
from DDSPSegmentationLib.service.case_work import Outputs  # noqa: E402
from DDSPSegmentationLib.service.inputs import InputCase, collect_inputs  # noqa: E402

SECONDS = 20.0
MOST_MEMORY = 6 << 30  # of addresses, in the process that reads
REFUSED, HARMLESS, STATED, DIED, LATE, WRONG = "refused", "harmless", "as stated", "died in the child", "late", "WRONG"
NEVER_READ = ("hdr + img", "NIfTI-2", "enhanced MR")  # refused, whatever else they say
CLASSES = (REFUSED, HARMLESS, STATED, DIED, LATE, WRONG)

# Reading -------------------------------------------------------------------------------------------------------------


class _Reached(Exception):
    """The network would begin now."""


def read_in_child() -> None:
    """The process that does the scans of a batch; at each scan it stops where the network would begin."""
    from DDSPSegmentationLib.engine.images import check_image, read_mask
    from DDSPSegmentationLib.service import case_work, case_worker, runner

    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    runner.load_torch = lambda: ""  # nothing is computed here, and after a death another one starts sooner
    do_case = case_work.do_case

    def read(case, outputs, segment, tell, psa=None) -> dict:
        faulthandler.dump_traceback_later(0.7 * SECONDS, file=open(outputs.mask.with_suffix(".late"), "w"))  # noqa: SIM115
        images, doubts = [], []

        def stop(name, image, path):
            check_image(image, name)
            images.append(image)
            raise _Reached

        if case.name.endswith(".seg"):
            tell("Reading", 0.0)
            images.append(read_mask(case.source, doubts=doubts))
        else:
            with suppress(_Reached):
                do_case(SimpleNamespace(name=case.name, load=lambda told: case.load(doubts)), outputs, stop, tell)
        return _facts(images[0], outputs.mask, doubts)

    case_work.do_case = read
    case_worker.main()


def _facts(image, path: Path, doubts: list[str]) -> dict:
    import SimpleITK as sitk

    np.save(path, sitk.GetArrayViewFromImage(image).T)
    axes = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    return {"affine": np.vstack([np.column_stack([axes, image.GetOrigin()]), [0, 0, 0, 1]]).tolist(), "doubts": doubts}


class Reader:
    """Gives mutants to the product in an own folder and says what became of each; used as a context."""

    def __init__(self, seed: int):
        self._seed = seed
        self._folder = Path(tempfile.mkdtemp(prefix="fuzz-headers-"))
        aside = f"TMPDIR={self._new('tmp')}"  # what the reading process leaves when it dies is deleted
        command = ("env", aside, sys.executable, str(Path(__file__).resolve()))
        self._process = CaseProcess(RunSettings(device="cpu"), SECONDS, command)
        self._untouched: dict[str, Stated] = {}

    def __enter__(self) -> Reader:
        signal.signal(signal.SIGALRM, _too_late)
        return self

    def __exit__(self, *ending: object) -> None:
        self._process.__exit__(*ending)
        shutil.rmtree(self._folder, ignore_errors=True)

    def outcome(self, number: int) -> tuple[str, str]:
        """Class of a mutant, and what the product said of it or what is wrong."""
        kind = FORMATS[number % len(FORMATS)]
        return self.outcome_of(kind, mutant(kind, self._seed, number))

    def outcome_of(self, kind: str, files: dict[str, bytes]) -> tuple[str, str]:
        """The same of files of a format."""
        folder = self._new("in")
        for name, content in files.items():
            (folder / name).write_bytes(content)
        signal.setitimer(signal.ITIMER_REAL, 3 * SECONDS)
        try:
            return self._judged(kind, folder)
        except DDSPSegmentationError as error:
            return _refused(error_text(error), kind)
        except UnexpectedError as error:
            return WRONG, f"no cause: {error_text(error)} {error.frames[-1:]}"
        except Exception as error:  # in the process of the batch
            return WRONG, f"would end the batch: {type(error).__name__}: {error}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._new("tmp")

    def _judged(self, kind: str, folder: Path) -> tuple[str, str]:
        """The worst outcome of all scans that a batch finds in the folder."""
        mask = kind == "seg.nrrd"
        cases, skipped = ([InputCase("T2.seg", folder / "T2.seg.nrrd")], []) if mask else collect_inputs([folder])
        left_out = [f"{one.label}: {one.reason}" for one in skipped]
        outcomes = [self._read(kind, case, folder, left_out) for case in cases]
        slices = sum(len(case.files()[0]) for case in cases)
        if kind == "DICOM series" and slices < len(untouched(kind)) and not left_out:
            outcomes.append((WRONG, "slices left out without a word"))
        return max(outcomes, key=lambda outcome: CLASSES.index(outcome[0]))

    def _read(self, kind: str, case: InputCase, folder: Path, left_out: list[str]) -> tuple[str, str]:
        case.fingerprint()
        outputs = Outputs(folder / "read.npy", folder / "picture.png", folder / "thumbnail.png")
        try:
            facts = self._process(case, outputs, lambda phase, fraction: None)
        except DDSPSegmentationError as error:
            name, text = _refused(error_text(error), kind)
            return name, text if name != LATE else f"{text} {' '.join((folder / 'read.late').read_text().split())}"
        voxels, affine = np.load(outputs.mask), np.array(facts["affine"])
        told = "; ".join([*facts["doubts"], *left_out])
        if not self._of(kind).faults(voxels, affine):
            return HARMLESS, told
        files, dicom = case.files()
        mask = kind == "seg.nrrd"
        try:
            with np.errstate(all="ignore"):
                says = _marked(stated(files, dicom), files[0]) if mask else stated(files, dicom)
        except SENSELESS as error:
            return WRONG, f"read, but its header makes no sense ({type(error).__name__}: {error})"
        faults = says.faults(voxels, affine)
        if not mask and np.abs(affine).max() > FARTHEST_MM:  # a mask is held against the grid of its scan
            faults.append("so far away that no voxel has a place of its own")
        if not says.places and not facts["doubts"]:
            faults.append("a place assumed without a word")
        return (WRONG, "; ".join(faults)) if faults else (STATED, told)

    def _of(self, kind: str) -> Stated:
        if kind not in self._untouched:
            folder = self._new("untouched")
            paths = [folder / name for name in untouched(kind)]
            for path in paths:
                path.write_bytes(untouched(kind)[path.name])
            shown = [path for path in paths if path.suffix not in (".raw", ".zraw")]
            says = stated(shown, kind == "DICOM series") if kind not in NEVER_READ else stated_volume(scan())
            self._untouched[kind] = _marked(says, shown[0]) if kind == "seg.nrrd" else says
        return self._untouched[kind]

    def _new(self, name: str) -> Path:
        shutil.rmtree(self._folder / name, ignore_errors=True)
        (self._folder / name).mkdir()
        return self._folder / name


def _too_late(number, frame):
    raise TimeoutError("the process of the batch hangs")


def _refused(text: str, kind: str) -> tuple[str, str]:
    caught = {"ended the process that did it": DIED, "took longer than": LATE}
    for words, name in caught.items():
        if words in text:
            return (WRONG, f"masks are read in the process itself: {text}") if kind == "seg.nrrd" else (name, text)
    if JARGON.search(text) or not text.isprintable():
        return WRONG, f"no words of a user: {text}"
    return REFUSED, text


def _marked(says: Stated, path: Path) -> Stated:
    """What a mask states, by the value that its header gives to a segment (1 where it gives none), else by any."""
    header = path.read_bytes().partition(b"\n\n")[0]
    values = {int(value) for value in re.findall(rb"LabelValue:=\s*(-?\d+)\s*$", header, re.MULTILINE)} | {1}
    labels = says.voxels[0]
    readings = [(labels == value) for value in sorted(values)] + [labels != 0]
    return replace(says, voxels=tuple(one.astype(np.uint8) for one in readings))


# The run -------------------------------------------------------------------------------------------------------------


def table(counts: dict[str, Counter]) -> str:
    """Outcomes by format, in Markdown."""
    rows = [[kind, str(of.total()), *(str(of[one]) for one in CLASSES)] for kind, of in counts.items()]
    whole = sum(counts.values(), Counter())
    rows.append([f"**{text}**" for text in ("all", whole.total(), *(whole[one] for one in CLASSES))])
    head = ["format", "mutants", *CLASSES]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head), *rows))


def run(numbers, reader: Reader, say: Callable[[str], None], until: float) -> dict[str, Counter]:
    """Outcomes by format; each mutant that is wrong, dead or late is told with its number."""
    counts: dict[str, Counter] = {}
    for number in numbers:
        if time.monotonic() > until:
            break
        outcome, text = reader.outcome(number)
        kind = FORMATS[number % len(FORMATS)]
        counts.setdefault(kind, Counter())[outcome] += 1
        if outcome in (DIED, LATE, WRONG):
            say(f"{number} {kind}: {outcome}: {text}")
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=0, help="of all mutants (default: %(default)s)")
    parser.add_argument("--only", choices=FORMATS, metavar="FORMAT", help=f"one of: {', '.join(FORMATS)}")
    parser.add_argument("--repeat", type=int, metavar="NUMBER", help="this mutant alone, and what was said of it")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="with --repeat: write its files there")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write all lines and the table there, too")
    chosen = parser.parse_args()
    faulthandler.enable()
    told: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        told.append(line)

    with Reader(chosen.seed) as reader:
        if chosen.repeat is not None:
            kind = FORMATS[chosen.repeat % len(FORMATS)]
            if chosen.keep:
                chosen.keep.mkdir(parents=True, exist_ok=True)
                for name, content in mutant(kind, chosen.seed, chosen.repeat).items():
                    (chosen.keep / name).write_bytes(content)
            print(f"{chosen.repeat} {kind}: {': '.join(reader.outcome(chosen.repeat))}")
            return 0
        first, step = (FORMATS.index(chosen.only), len(FORMATS)) if chosen.only else (0, 1)
        counts = run(itertools.count(first, step), reader, say, time.monotonic() + 60 * chosen.minutes)
    say(f"\n{table(counts)}")
    if chosen.report:
        chosen.report.write_text("\n".join(told) + "\n", encoding="utf-8")
    return 1 if any(of[WRONG] for of in counts.values()) else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["-m"]:
        read_in_child()
    else:
        sys.exit(main())

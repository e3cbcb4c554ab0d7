"""The batch runner: many cases into one output folder, resumable at any instant, one failing case stopping none."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..engine.errors import Canceled, DDSPSegmentationError, InputError, ModelError, StorageError, TorchMissingError
from ..engine.files import csv_text, delete_leftovers, make_folder, retry_while_open, write_aside
from ..engine.run_settings import RunSettings
from ..engine.segmentation import EXPECTED_COLUMNS
from ..library.folder_lock import FolderInUseError, FolderLock
from .batch_record import BatchRecord, error_text, known_sha256, log_unexpected, without_folders
from .case_work import DICOM_SUFFIXES, Outputs, Tell
from .mask_files import masks_aside, place_aside
from .part_record import PartRecord, check_parts, claim_part
from .parts import Listed, Part
from .report import word_of, write_report

if TYPE_CHECKING:
    from .inputs import InputCase, Skipped

EXIT_DONE, EXIT_SOME_FAILED, EXIT_USAGE, EXIT_TORCH_MISSING = 0, 1, 2, 3
THUMBNAILS = "thumbnails"

DoCase = Callable[["InputCase", Outputs, Tell], dict]  # see ``case_work.do_case``

_REPORT_EVERY_SECONDS = 30.0
_TABLES_SHARE = 0.05  # of the time, at most, goes into writing again what is said of all cases
_GO_ON = "Run the same command again to continue."


@dataclass(frozen=True)
class BatchSettings:
    """What a batch is asked for.

    Attributes:
        run: how each scan is segmented.
        mask_suffix: ``.seg.nrrd`` or ``.nii.gz``.
        model_version, model_sha256: the weights that will answer.
        maps: which of ``case_work.MAPS`` are written, too.
        dicom: whether DICOM objects are written, too; ``psa``: the patient's in ng/ml, for the report among them.
    """

    run: RunSettings
    mask_suffix: str
    model_version: str
    model_sha256: str
    maps: tuple[str, ...] = ()
    dicom: bool = False
    psa: float | None = None

    def identity(self) -> dict:
        """What decides a result besides the scan; a change of any of it makes a case be done again."""
        location = self.run.location and list(self.run.location)
        asked = {"location": location, "maps": list(self.maps), "dicom": self.dicom, "psa": self.psa}
        return {name: value for name, value in asked.items() if value} | {
            "mode": self.run.mode,
            "threshold": self.run.threshold,
            "bias_field": self.run.bias_field,
            "mask_suffix": self.mask_suffix,
            "model_version": self.model_version,
            "model_sha256": self.model_sha256,
        }


@dataclass
class BatchResult:
    """How a run ended; names in the order in which the cases were taken up.

    Attributes:
        exit_code: 0 all done, 1 some failed or not reached, 2 usage, 3 torch missing.
        done: cases segmented now; unchanged: cases that were there already; failed: name to reason.
        message: one line on why the run ended early, else empty.
    """

    exit_code: int = EXIT_DONE
    done: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    message: str = ""


def run_batch(
    cases: Iterable[InputCase],
    skipped: Iterable[Skipped],
    output_folder: str | Path,
    settings: BatchSettings,
    do_case: DoCase,
    progress: Callable[[str], None] = print,
    show_doing: Callable[[str], None] = lambda text: None,
    part: Part | None = None,
    jobs: int = 1,
    end_work: Callable[[], None] = lambda: None,
) -> BatchResult:
    """Segment every case that is not there yet and write masks, pictures, table, report and run.json.

    A case is left as it is when its input, the settings, the model and the package are those of the recorded result
    and its files are there with the recorded hash. A mask that somebody changed since is kept beside the new one.

    Args:
        cases: with ``name`` (unique, usable as a file name), ``load()`` and ``fingerprint()``.
        skipped: inputs that are not cases, with ``label`` and ``reason``; they are listed and nothing else.
        output_folder: made when it is missing.
        do_case: reads a case, segments it and writes its files; what ends it ends that case alone.
        progress: takes one line of text at a time.
        show_doing: takes what is being done right now, which the next such text or line replaces.
        part: do the cases of this part alone; its record is its own, and tables and report are left to the merge.
        jobs: so many cases are done at once, from as many threads, which take them from one list.
        end_work: ends the cases that are being done at once, when the run ends before its time.

    Returns:
        the result; nothing is raised for a case, a full disk, a missing torch or Ctrl-C.
    """
    cases, skipped, folder = list(cases), list(skipped), Path(output_folder)
    try:
        make_folder(folder)
        if part is not None:
            own = [case for case in cases if part.holds(case.key)]
            progress(f"{len(own)} of {len(cases)} scans are of this part.")
            with claim_part(folder, part, Listed.of(cases), progress).open() as record:
                batch = _Batch(folder, record, settings, do_case, progress, show_doing, jobs, end_work)
                return batch.run(own, skipped if part.number == 0 else [])  # one part tells of them for all
        check_parts(folder, None)
        with FolderLock(folder):
            for place in (folder, folder / THUMBNAILS):
                delete_leftovers(place)
            batch = _Batch(folder, BatchRecord.read(folder), settings, do_case, progress, show_doing, jobs, end_work)
            return batch.run(cases, skipped)
    except FolderInUseError as error:  # a scheduler may try a part again
        return BatchResult(EXIT_USAGE if part is None else EXIT_SOME_FAILED, message=str(error))
    except (InputError, StorageError) as error:
        return BatchResult(EXIT_USAGE, message=str(error))


class _Batch:
    def __init__(
        self,
        folder: Path,
        record: BatchRecord,
        settings: BatchSettings,
        do_case: DoCase,
        progress: Callable[[str], None],
        show_doing: Callable[[str], None],
        jobs: int,
        end_work: Callable[[], None],
    ):
        self._folder, self._settings, self._do_case = folder, settings, do_case
        self._progress, self._show_doing = progress, show_doing
        self._jobs, self._end_work, self._ending = jobs, end_work, False
        self._record = record
        self._part = record if isinstance(record, PartRecord) else None
        self._result = BatchResult()
        self._seconds: list[float] = []
        self._tables_due = 0.0
        self._report_due = time.monotonic() + _REPORT_EVERY_SECONDS

    def run(self, cases: list[InputCase], skipped: list[Skipped]) -> BatchResult:
        about = {
            "package": __version__,
            "model_version": self._settings.model_version,
            "model_sha256": self._settings.model_sha256,
            "settings": self._settings.identity(),
        }
        for one in skipped:
            self._progress(f"skipped {one.label}: {one.reason}")
        try:
            self._record.start(about, [case.name for case in cases], skipped)
            (self._folder / THUMBNAILS).mkdir(exist_ok=True)
            if self._jobs == 1:
                for number, case in enumerate(cases, 1):
                    self._one(case, number, len(cases))
            else:
                self._several_at_once(cases)
        except TorchMissingError as error:
            self._end_early(EXIT_TORCH_MISSING, str(error))
        except ModelError as error:
            self._end_early(EXIT_USAGE, str(error))
        except (KeyboardInterrupt, Canceled):
            reached = len(self._result.done) + len(self._result.unchanged) + len(self._result.failed)
            kept = "; their results are kept" if reached else ""
            self._end_early(EXIT_SOME_FAILED, f"Stopped after {reached} of {len(cases)} cases{kept}. {_GO_ON}")
        except FolderInUseError as error:
            self._end_early(EXIT_SOME_FAILED, str(error))
        except (StorageError, OSError) as error:
            self._end_early(EXIT_SOME_FAILED, f"{error_text(error)} {_GO_ON}")
        if not self._result.message and self._result.failed:
            self._result.exit_code = EXIT_SOME_FAILED
        self._finish()
        return self._result

    def _several_at_once(self, cases: list[InputCase]) -> None:
        with ThreadPoolExecutor(self._jobs) as pool:
            at_work: set[Future] = set()
            try:
                for number, case in enumerate(cases, 1):
                    if len(at_work) == self._jobs:
                        at_work = _without_finished(at_work)
                    at_work.add(pool.submit(self._one, case, number, len(cases)))
                while at_work:
                    at_work = _without_finished(at_work)
            except BaseException:
                self._ending = True
                self._end_work()
                raise

    def _one(self, case: InputCase, number: int, total: int) -> None:
        """Do, keep or fail one case; what concerns the other cases as much is raised, and ends the run."""
        label = f"[{number}/{total}] {case.name}"
        started = time.monotonic()
        try:
            self._record.check()
            identity = self._settings.identity() | {"package": __version__, "input": case.fingerprint()}
            if self._is_done(case.name, identity):
                self._result.unchanged.append(case.name)
                self._progress(f"{label}: unchanged")
                return
            self._set_unknown_mask_aside(case.name)
            with self._record.running(case.name):
                entry = self._segmented(case, identity, label)
            self._remove_kept_twins(case.name, entry["mask"]["sha256"])
        except (Canceled, TorchMissingError, ModelError, FolderInUseError):
            raise
        except Exception as error:  # whatever one case does, the others are still wanted
            if not self._ending:  # or it was ended, and nothing is said of it
                with self._record.mutex:
                    self._fail(case.name, label, error)
            return
        with self._record.mutex:
            self._note_done(case.name, entry, label, time.monotonic() - started, total - number)

    def _note_done(self, name: str, entry: dict, label: str, seconds: float, remaining: int) -> None:
        self._record.set_done(name, entry)
        self._result.done.append(name)
        self._seconds.append(seconds)
        row, time_left = entry["measurements"], self._time_left(remaining)
        word = word_of(entry)
        expected = f", expected Dice {row['expected_dice']}" if row["expected_dice"] != "" else ""
        expected += f", {word}" if word else ""
        line = f"{label}: {row['volume_ml']} ml{expected}, {self._seconds[-1]:.1f} s{time_left}"
        self._progress(f"{line}. {' '.join(entry['warnings'])}" if entry["warnings"] else line)
        self._write_tables()

    def _segmented(self, case: InputCase, identity: dict, label: str) -> dict:
        outputs = self._outputs(case.name)

        def tell(phase: str, fraction: float) -> None:
            self._show_doing(f"{label}: {phase.lower()}{f' {fraction:.0%}' if fraction else ''}")

        tell("Reading", 0.0)
        with self._staged(outputs) as staged:
            facts = self._do_case(case, staged, tell)
        mask = outputs.mask
        before = self._record.entry(case.name)
        previous = before.get("mask")
        if previous and previous["file"] != mask.name:
            self._remove_if_ours(previous)
        if before.get("identity", {}).get("dicom") and not outputs.dicom:  # of another answer than this one
            for suffix in DICOM_SUFFIXES.values():
                (self._folder / f"{case.name}{suffix}").unlink(missing_ok=True)
        return {
            "identity": identity,
            "mask": {"file": mask.name, "sha256": known_sha256(mask)},
            **facts,
        }

    @contextmanager
    def _staged(self, outputs: Outputs) -> Iterator[Outputs]:
        """Where a part makes its files, in a folder of its own, and then their way to the one shared by all parts."""
        if self._part is None:
            yield outputs
            return
        staged = outputs.within(self._part.staging)
        make_folder(staged.thumbnail.parent)
        yield staged
        self._record.check()
        for source, target in zip(staged.paths(), outputs.paths(), strict=True):
            retry_while_open(partial(source.replace, target))

    def _fail(self, name: str, label: str, error: Exception) -> None:
        reason = error_text(error)
        self._record.check()
        self._discard_outputs(name)
        self._result.failed[name] = reason
        self._progress(f"{label}: FAILED: {reason}")
        self._record.set_failed(name, reason)
        if not isinstance(error, DDSPSegmentationError) or getattr(error, "frames", None):
            log_unexpected(self._record.place, name, error)
        if _concerns_the_disk(error):
            raise StorageError(f"The run stopped at case '{name}'. {reason}")

    def _outputs(self, name: str) -> Outputs:
        folder, picture = self._folder, f"{name}.png"
        suffix = ".nrrd" if self._settings.mask_suffix.endswith(".nrrd") else self._settings.mask_suffix
        maps = {one: folder / f"{name}.{one}{suffix}" for one in self._settings.maps}
        mask = folder / f"{name}{self._settings.mask_suffix}"
        dicom = {kind: folder / f"{name}{ending}" for kind, ending in DICOM_SUFFIXES.items() if self._settings.dicom}
        return Outputs(mask, folder / picture, folder / THUMBNAILS / picture, maps, dicom)

    def _is_done(self, name: str, identity: dict) -> bool:
        entry = self._record.entry(name)
        if entry.get("state") != "done" or entry.get("identity") != identity:
            return False
        outputs = self._outputs(name)
        return known_sha256(outputs.mask) == entry["mask"]["sha256"] and all(map(Path.is_file, outputs.beside))

    def _set_unknown_mask_aside(self, name: str) -> None:
        """Keep a mask that this folder's record does not know: somebody edited it or put it there."""
        self._record.check()
        entry, mask = self._record.entry(name), self._outputs(name).mask
        if not mask.exists() or known_sha256(mask) == entry.get("mask", {}).get("sha256"):
            return
        kept = place_aside(self._folder, name, self._settings.mask_suffix)
        mask.rename(kept)
        if entry.get("state") != "running":
            self._progress(f"'{mask.name}' was changed since it was written; it is kept as '{kept.name}'.")

    def _remove_kept_twins(self, name: str, sha256: str) -> None:
        """A kept mask equal to the result is what a killed run had written before it could say so."""
        for kept in list(masks_aside(self._folder, name, self._settings.mask_suffix)):
            if known_sha256(kept) == sha256:
                kept.unlink()

    def _discard_outputs(self, name: str) -> None:
        """A failed case leaves no mask or picture of ours behind that could be taken for its result."""
        entry = self._record.entry(name)
        if entry.get("mask"):
            self._remove_if_ours(entry["mask"])
        outputs = self._outputs(name)
        mask = outputs.mask
        if entry.get("state") == "running":
            mask.unlink(missing_ok=True)
        if not mask.exists():
            for path in outputs.beside:
                path.unlink(missing_ok=True)

    def _remove_if_ours(self, recorded: dict) -> None:
        path = self._folder / recorded["file"]
        if known_sha256(path) == recorded["sha256"]:
            path.unlink()

    def _time_left(self, remaining: int) -> str:
        if not remaining:
            return ""
        return f", about {_duration(remaining * sum(self._seconds) / len(self._seconds) / self._jobs)} left"

    def _write_tables(self) -> None:
        """Write what is said of all cases again, unless that was done so lately that it would take all the time."""
        started = time.monotonic()
        if self._part is not None or started < self._tables_due:
            return
        self._record.save()
        write_measurements(self._record, self._folder)
        if started >= self._report_due:
            write_report(self._record, self._folder)
            self._report_due = time.monotonic() + _REPORT_EVERY_SECONDS
        self._tables_due = time.monotonic() + (time.monotonic() - started) / _TABLES_SHARE

    def _end_early(self, exit_code: int, message: str) -> None:
        self._result.exit_code, self._result.message = exit_code, without_folders(message)

    def _finish(self) -> None:
        try:
            self._record.finish(self._result.message)
            if self._part is None:
                write_measurements(self._record, self._folder)
                write_report(self._record, self._folder)
        except (StorageError, OSError) as error:
            if not self._result.message:
                self._end_early(EXIT_SOME_FAILED, f"{error_text(error)} {_GO_ON}")


def _without_finished(at_work: set[Future]) -> set[Future]:
    """Those that are still at work once one is not. Raises what a finished one raised."""
    finished: set[Future] = set()
    while not finished:  # a wait without end would keep Ctrl-C waiting on Windows
        finished, at_work = wait(at_work, 1.0, FIRST_COMPLETED)
    for one in finished:
        one.result()
    return at_work


def _concerns_the_disk(error: BaseException) -> bool:
    """A disk that is full or gone stops the run; one file that another program holds open fails one case."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__
    number = cause.errno if isinstance(cause, OSError) else None
    if isinstance(error, StorageError):
        return number not in (errno.EACCES, errno.EPERM)
    return number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_measurements(record: BatchRecord, folder: Path) -> None:
    """Write measurements.csv, a row a case that is done. Raises StorageError."""
    columns = dict.fromkeys(["case"])
    for _, entry in record.done():
        columns |= dict.fromkeys(_in_columns_of_today(entry["measurements"]))

    def write(aside: Path) -> None:
        with open(aside, "w", encoding="utf-8", newline="") as file:
            file.write(csv_text([columns]))
            for name, entry in record.done():
                row = {"case": name} | _in_columns_of_today(entry["measurements"])
                file.write(csv_text([[row.get(column, "") for column in columns]]))

    write_aside(folder / "measurements.csv", ".csv", write)


def _in_columns_of_today(measurements: dict) -> dict:
    """What an older version recorded as expected Dice had no interval and knew nothing: its columns are empty."""
    if EXPECTED_COLUMNS[1] in measurements:
        return measurements
    row: dict = {}
    for column, value in measurements.items():
        row |= dict.fromkeys(EXPECTED_COLUMNS, "") if column == EXPECTED_COLUMNS[0] else {column: value}
    return row


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"

"""What a batch of very many cases costs besides the network: one command.

    python Testing/Benchmarks/many_cases.py [--cases 100000] [--parts 16] [--folder FOLDER]
    python Testing/Benchmarks/many_cases.py --series 2000

So many small files are listed, hashed and, by a stub in place of the network, given masks, pictures and records, as the
batch does it; half-way the run is ended as by Ctrl-C and started again. Printed are seconds, and of a process of its
own for each step the processor's seconds (with its listing) and peak memory: listing, the stub's run, resuming until
the first new case, finding out that all is done, and the merge. With --parts 1 the batch runs in one and writes its
tables itself. Twice the cases should take twice the time and hardly more memory; run it with two numbers to see it.
In memory (``--folder /dev/shm``) the drive's own time for each file does not count.

With ``--series`` so many DICOM series of 20 slices with a real one's header are listed, and nothing else.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "DDSPSegmentation"))

import pydicom  # noqa: E402

from DDSPSegmentationLib.engine.files import write_bytes  # noqa: E402
from DDSPSegmentationLib.engine.run_settings import RunSettings  # noqa: E402
from DDSPSegmentationLib.engine.segmentation import EXPECTED_COLUMNS  # noqa: E402
from DDSPSegmentationLib.service.batch import BatchResult, BatchSettings, run_batch  # noqa: E402
from DDSPSegmentationLib.service.case_work import Outputs  # noqa: E402
from DDSPSegmentationLib.service.inputs import InputCase, collect_inputs  # noqa: E402
from DDSPSegmentationLib.service.parts import Part  # noqa: E402
from DDSPSegmentationLib.service.report_command import merged  # noqa: E402

PER_FOLDER, SLICES = 1000, 20
SETTINGS = BatchSettings(RunSettings(), ".seg.nrrd", "1", "0" * 64)
FACTS = {
    "measurements": {"volume_ml": 41.5, "seconds": 1.0, "device": "cpu"}
    | dict.fromkeys((f"{axis}_mm" for axis in ("left_right", "antero_posterior", "cranio_caudal")), 45.25)
    | dict(zip(EXPECTED_COLUMNS, (0.91, 0.86, 0.94), strict=True)),
    "slice_doubts": [0.01 * number for number in range(24)],
    "warnings": [],
    "notices": ["The bias field was corrected."],
    "seconds": {"preprocess": 0.4, "segment": 0.6},
    "peak_memory_mb": {"preprocess": 400.0, "segment": 600.0},
    "device": "cpu",
    "precision": "float32",
}


class Stub:
    """Writes files as a case does, and ends the run at a case, as Ctrl-C does; below 0 every case is an error."""

    def __init__(self, stop_after: int):
        self.calls, self.stop_after, self.first_call = 0, stop_after, 0.0

    def __call__(self, case: InputCase, outputs: Outputs, tell: Callable) -> dict:
        self.first_call = self.first_call or time.perf_counter()
        if self.stop_after < 0:
            raise ValueError("This case is done already.")
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        self.calls += 1
        for path in outputs.paths():
            write_bytes(case.name.encode(), path)
        return FACTS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--parts", type=int, default=16)
    parser.add_argument("--series", type=int, help="list so many DICOM series instead")
    parser.add_argument(
        "--folder", type=Path, help="an empty folder on the drive to be tried (default: a temporary one)"
    )
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as place:
        scans, output = Path(place, "scans"), Path(place, "output")
        if chosen.series:
            make_series(scans, chosen.series)
            tell("listing", lambda: list_scans(scans), chosen.series)
            return 0
        make_scans(scans, chosen.cases)
        print(f"{chosen.cases} cases in {chosen.parts} parts; MB before anything: {peak_memory_mb():.0f}", flush=True)
        whole = chosen.cases + 1
        steps: dict[str, Callable[[], float]] = {
            "listing": lambda: list_scans(scans),
            "stub's run of the first half": lambda: run(
                scans, output, chosen.parts, chosen.cases // 2, whole_time=True
            ),
            "resuming until the first new case": lambda: run(scans, output, chosen.parts, 0),
            "stub's run of the rest": lambda: run(scans, output, chosen.parts, whole, whole_time=True),
            "finding out that all is done": lambda: run(scans, output, chosen.parts, -1, whole_time=True),
        }
        if chosen.parts > 1:
            steps["merge"] = lambda: merge(output)
        for name, step in steps.items():
            tell(name, step, chosen.cases)
    return 0


def make_scans(folder: Path, count: int) -> None:
    for number in range(count):
        path = folder / f"{number // PER_FOLDER:04d}" / f"scan{number:07d}.nrrd"
        if number % PER_FOLDER == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(b"NRRD0004\n# %d\n" % number * 64)


def make_series(folder: Path, count: int) -> None:
    """Axial T2 series; to be quick, in the bytes of one slice digits take the place of others."""
    told = io.BytesIO()
    pydicom.dcmwrite(told, slice_of_a_series(), enforce_file_format=True)
    for number in range(count):
        place = folder / f"series{number:06d}"
        place.mkdir(parents=True)
        of_series = told.getvalue().replace(b".7000000", b".7%06d" % number)
        for index in range(SLICES):
            content = of_series.replace(b"-30.000", b"%+07.3f" % (3.6 * index - 30)).replace(b"7777", b"%04d" % index)
            (place / f"IM{index:04d}.dcm").write_bytes(content)


def slice_of_a_series() -> pydicom.Dataset:
    header = pydicom.Dataset()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.SOPClassUID, header.Modality = pydicom.uid.MRImageStorage, "MR"
    header.SOPInstanceUID = "1.2.826.0.1.3680043.8.498.13.7000000.7777"
    header.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.11.7000000"
    header.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.12.7000000"
    header.FrameOfReferenceUID = "1.2.826.0.1.3680043.8.498.14.7000000"
    header.ImageType, header.InstanceNumber = ["ORIGINAL", "PRIMARY", "M", "NORM", "DIS2D"], "7777"
    header.SeriesDescription = header.ProtocolName = "t2_tse_tra"
    header.SequenceName, header.ScanningSequence, header.EchoTime, header.EchoNumbers = "*tse2d1_25", "SE", "104", "1"
    header.PatientName, header.PatientID, header.Manufacturer = "Nobody", "N0000001", "SIEMENS"
    header.ImagePositionPatient = ["-101.2345", "-99.123456", "-30.000"]
    header.ImageOrientationPatient = ["0.99992", "0.0123", "0", "-0.0123", "0.99992", "0"]
    header.PixelSpacing, header.SliceThickness, header.SpacingBetweenSlices = ["0.5", "0.5"], "3", "3.6"
    header.Rows = header.Columns = 4
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 12, 11, 0
    header.SamplesPerPixel, header.PhotometricInterpretation, header.PixelData = 1, "MONOCHROME2", bytes(32)
    return header


def list_scans(scans: Path) -> float:
    started = time.perf_counter()
    collect_inputs([scans])
    return time.perf_counter() - started


def run(scans: Path, output: Path, count: int, stop_after: int, whole_time: bool = False) -> float:
    """Do all parts, one after the other; the seconds of them without their listing.

    Args:
        stop_after: so many cases the run is ended.
        whole_time: to the end, and not to the first case that is done.
    """
    cases, skipped = collect_inputs([scans])
    seconds, stub = 0.0, Stub(stop_after)
    parts = [Part(number, count) for number in range(count)] if count > 1 else [None]
    for part in parts:
        started = time.perf_counter()
        result = run_batch(cases, skipped, output, SETTINGS, stub, lambda line: None, part=part)
        seconds += time.perf_counter() - started
        if ended(result):
            return seconds if whole_time else seconds - (time.perf_counter() - stub.first_call)
    return seconds


def ended(result: BatchResult) -> bool:
    """Whether the stub has ended the run. Raises RuntimeError: something else has."""
    if result.failed or (result.message and not result.message.startswith("Stopped after")):
        raise RuntimeError(f"{result.message} {list(result.failed.items())[:3]}")
    return bool(result.message)


def merge(output: Path) -> float:
    started = time.perf_counter()
    record = merged(output)
    if record.head["missing"]:
        raise RuntimeError(f"{record.head['missing'][:3]}")
    return time.perf_counter() - started


def peak_memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def tell(name: str, step: Callable[[], float], count: int) -> None:
    seconds, processor, memory = in_own_process(step)
    each = 1e6 * processor / count
    line = f"{name}: {seconds:.1f} s, {processor:.1f} s of them at work ({each:.0f} us a case), peak {memory:.0f} MB"
    print(line, flush=True)


def in_own_process(step: Callable[[], float]) -> tuple[float, float, float]:
    """Seconds of a step, and processor seconds and peak memory in MB of a process that does nothing else."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=lambda: theirs.send((step(), time.process_time(), peak_memory_mb())))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(process.exitcode)
    return ours.recv()


if __name__ == "__main__":
    sys.exit(main())

"""What it gains to do several scans at once: `segment` by one process and by several, in alternation; one command.

    python Testing/Benchmarks/jobs.py [SCANS...] [--jobs 2] [--copies 12] [--rounds 5]

Each round runs the command line twice on the same scans (so many copies of the bundled one unless others are named):
with ``--jobs 1``, whose one process uses all cores, and with ``--jobs``, whose processes divide them. Printed of each
run are wall time, from start to end of the command, processor time, and the peak of the memory of all its processes,
shared pages counted once (PSS, asked for five times a second); then the ratios, and the median seconds of each phase
of a scan. A phase that takes one of several processes no longer than the one that has all cores gained nothing by
them: that is where doing several scans at once helps. The machine should have nothing else to do. Linux alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LIBRARY = REPOSITORY / "DDSPSegmentation"
SAMPLE = LIBRARY / "Resources" / "SampleData" / "ProstateX-0000.nrrd"
ASK_EVERY_S = 0.2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="*", type=Path, metavar="SCANS", help="as `segment` takes them")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--copies", type=int, default=12, help="of the bundled scan, where no scans are named")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    runs: dict[int, list[Run]] = {1: [], chosen.jobs: []}
    with tempfile.TemporaryDirectory() as place:
        scans = chosen.scans or [copies_of_the_sample(Path(place, "scans"), chosen.copies)]
        print(f"{len(os.sched_getaffinity(0))} cores, of which {busy_cores():.1f} are busy with something else")
        for number in range(chosen.rounds):
            for jobs, done in runs.items():
                done.append(Run(scans, Path(place, f"{number}-{jobs}"), jobs))
                print(f"--jobs {jobs}: {done[-1]}", flush=True)
    one, several = runs.values()
    ratios = [a.wall / b.wall for a, b in zip(one, several, strict=True)]
    print(
        f"--jobs {chosen.jobs} is {statistics.median(ratios):.2f} times as fast "
        f"(median of {len(ratios)} rounds, {min(ratios):.2f} to {max(ratios):.2f})"
    )
    memory = [max(run.peak_mb for run in done) for done in (one, several)]
    times = f"{memory[1] / memory[0]:.2f} times"
    print(f"memory: {memory[0]:.0f} MB, with --jobs {chosen.jobs} {memory[1]:.0f} MB ({times})")
    print(f"median seconds of a scan: by one process with all cores, by one of {chosen.jobs}")
    for phase in one[0].phases:
        seconds = [statistics.median(second for run in done for second in run.phases[phase]) for done in (one, several)]
        print(f"  {phase}: {seconds[0]:.2f}, {seconds[1]:.2f}")
    return 0


class Run:
    """One `segment` to its end; whose cases must all be done.

    Attributes:
        wall, processor: seconds. peak_mb: of all processes at once. phases: the seconds of each case, by phase.
    """

    def __init__(self, scans: list[Path], output: Path, jobs: int):
        words = [*map(str, scans), "--output", str(output), "--jobs", str(jobs), "--device", "cpu"]
        command = [sys.executable, "-m", "DDSPSegmentationLib.service.command_line", "segment", *words]
        environment = os.environ | {"PYTHONPATH": str(LIBRARY)}
        before, started, self.peak_mb = os.times(), time.perf_counter(), 0.0
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT)
            while process.poll() is None:
                self.peak_mb = max(self.peak_mb, memory_mb(process.pid))
                time.sleep(ASK_EVERY_S)
            self.wall = time.perf_counter() - started
            if process.returncode:
                said.seek(0)
                raise SystemExit(said.read().decode())
        after = os.times()
        self.processor = sum(after[2:4]) - sum(before[2:4])
        cases = json.loads((output / "run.json").read_bytes())["cases"].values()
        phases = next(iter(cases))["seconds"]
        self.count, self.phases = len(cases), {name: [case["seconds"][name] for case in cases] for name in phases}

    def __str__(self) -> str:
        cores = self.processor / self.wall
        return f"{self.count} scans, {self.wall:.1f} s, {cores:.2f} cores at work, peak {self.peak_mb:.0f} MB"


def copies_of_the_sample(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        shutil.copyfile(SAMPLE, folder / f"scan{number}{SAMPLE.suffix}")
    return folder


def memory_mb(pid: int) -> float:
    """Proportional set size of a process and all that it started; what is gone meanwhile counts nothing."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        started_by = [path.read_text(encoding="ascii") for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return 0.0
    children = " ".join(started_by).split()
    own = next((float(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")), 0.0)
    return own / 1000 + sum(memory_mb(int(child)) for child in children)


def busy_cores(seconds: float = 2.0) -> float:
    """How many cores of the machine do anything while we wait."""

    def ticks() -> list[int]:
        return [int(word) for word in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]

    before = ticks()
    time.sleep(seconds)
    spent = [after - earlier for after, earlier in zip(ticks(), before, strict=True)]
    return (sum(spent) - spent[3] - spent[4]) / os.sysconf("SC_CLK_TCK") / seconds


if __name__ == "__main__":
    sys.exit(main())

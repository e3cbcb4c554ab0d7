"""A batch in parts on a real Slurm, with a node that fails and a task that is requeued: one command.

    python Testing/Benchmarks/cluster.py

Slurm (Debian's and Ubuntu's slurm-wlm and munge; no rights of root) is started in a temporary folder, with two nodes of
one processor on this computer. docs/cluster/segment.sbatch itself is submitted as an array of four tasks, for twelve
scans made of the bundled one. In the middle of its work one task loses its node: all that runs there is killed at once,
Slurm finds the node down and starts the task again. Another task is requeued by ``scontrol requeue`` in the middle of
its work. Meanwhile ``report`` must end with 1 and name what is missing; at the end with 0, every scan measured once,
its mask that of a run in one. Arrays that are divided in another way must be refused. Printed are times, what
each task said besides its scans, and what was looked at; the exit code is 1 where something is not as it must be.

Where Slurm is missing or cannot be started here, one line says what is, and the exit code is 0: skipped. Whatever ends
this program (but kill -9), Slurm ends with it, and the folder is deleted.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "DDSPSegmentation"))

import SimpleITK as sitk  # noqa: E402
from cluster_slurm import NotStarted, Slurm, wait_for  # noqa: E402
from crash_isolation import SAMPLE  # noqa: E402

from DDSPSegmentationLib.service.case_entries import CaseEntries, journal_lines  # noqa: E402
from DDSPSegmentationLib.service.part_record import read_turns  # noqa: E402
from DDSPSegmentationLib.service.parts import Part  # noqa: E402

SCRIPT = REPOSITORY / "docs" / "cluster" / "segment.sbatch"
PARTS, OF_EACH = 4, 3
TASK_SECONDS, ARRAY_SECONDS, NODE_SECONDS = 180.0, 480.0, 120.0
FINAL_STATES = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"}
ARRAY, OTHER_ARRAYS = f"0-{PARTS - 1}", ("1,3", "0-1")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="ddsp-cluster-") as place:
            folder = Path(place)
            folder.chmod(0o711)  # munge asks that others may pass
            with Slurm(folder / "slurm", _environment(folder)) as slurm:
                return Trial(folder, slurm).run()
    except NotStarted as reason:
        print(f"Skipped: {reason}")
        return 0
    except KeyboardInterrupt:
        print("Stopped; Slurm is ended and its folder deleted.")
        return 1


def _environment(folder: Path) -> dict[str, str]:
    """With the command ``ddsp-segmentation`` of this very code in front, by this Python."""
    command = folder / "bin" / "ddsp-segmentation"
    command.parent.mkdir()
    module = "DDSPSegmentationLib.service.command_line"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m {module} "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    return {
        "PATH": os.pathsep.join([str(command.parent), os.environ["PATH"]]),
        "PYTHONPATH": str(REPOSITORY / "DDSPSegmentation"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",  # as segment.sbatch says it for one processor, for the run in one, too
    }


def make_scans(folder: Path) -> list[str]:
    """Copies of the bundled scan without some of its outer rows and columns, as many for each part; their names."""
    folder.mkdir()
    image, names, parts = sitk.ReadImage(str(SAMPLE)), list[str](), Counter[int]()
    for number in range(1000):
        name = f"scan{number:02d}"
        part = next(part for part in range(PARTS) if Part(part, PARTS).holds(name))
        if parts[part] < OF_EACH:
            parts[part] += 1
            names.append(name)
            edge = len(names)
            sitk.WriteImage(image[edge:, 2 * edge :, :], str(folder / f"{name}.nrrd"), useCompression=True)
    return names


class Trial:
    def __init__(self, folder: Path, slurm: Slurm):
        self._slurm, self._started = slurm, time.monotonic()
        self._scans, self._results, self._whole = folder / "scans", folder / "results", folder / "in-one"
        self._logs = folder / "logs"
        self._logs.mkdir()
        self._names = make_scans(self._scans)
        self._lost_node = ""
        self._found: list[tuple[bool, str]] = []

    def run(self) -> int:
        print(f"{self._slurm.version()}, two nodes of one processor each\n\n| s | what happened |\n|---:|---|")
        try:
            self._segment_in_one()
            self._submit()
            failed = self._let_a_node_fail()
            requeued = self._requeue_another()
            self._look_at_early_report(failed)
            self._bring_node_back()
            self._wait_for_array()
            self._look_at_report()
            self._look_at_turns(failed, requeued)
            self._try_other_arrays()
        except (RuntimeError, TimeoutError) as error:
            self._must(False, str(error))
        all_right = all(right for right, _ in self._found)
        self._show_logs(whole=not all_right)
        print("\n| as it must be | what was looked at |\n|---|---|")
        for right, what in self._found:
            print(f"| {'yes' if right else 'NO'} | {what} |")
        return int(not all_right)

    def _tell(self, what: str) -> None:
        print(f"| {time.monotonic() - self._started:.0f} | {what} |", flush=True)

    def _must(self, right: bool, what: str) -> None:
        self._found.append((right, what))

    # ---- what is done

    def _segment_in_one(self) -> None:
        started = time.monotonic()
        self._slurm.ask("ddsp-segmentation", "segment", self._scans, "--output", self._whole, "--jobs", 2)
        each = (time.monotonic() - started) / len(self._names)
        self._tell(f"a run in one, two scans at once, has segmented {len(self._names)} scans, one each {each:.1f} s")

    def _sbatch(self, array: str, *options: str) -> list[object]:
        log = f"--output={self._logs}/{array}-%a.txt"
        words = [*options, f"--array={array}", "--cpus-per-task=1", log, SCRIPT, self._scans, self._results]
        return ["sbatch", "--parsable", *words]

    def _submit(self) -> None:
        self._array = self._slurm.ask(*self._sbatch(ARRAY)).strip()
        self._tell(f"`sbatch --array={ARRAY} --cpus-per-task=1 docs/cluster/segment.sbatch SCANS RESULTS`")

    def _let_a_node_fail(self) -> int:
        part = self._wait_for_one_in_the_middle()
        self._lost_node = self._tasks()[part]["NodeList"]
        self._slurm.fail(self._lost_node)
        self._tell(f"{self._lost_node} fails: all that runs there is killed, task {part} with {self._progress(part)}")
        return part

    def _requeue_another(self) -> int:
        part = self._wait_for_one_in_the_middle()
        self._slurm.ask("scontrol", "requeue", f"{self._array}_{part}")
        self._tell(f"`scontrol requeue` of task {part}, with {self._progress(part)}")
        return part

    def _bring_node_back(self) -> None:
        node = self._lost_node
        wait_for(f"{node} to be found down", lambda: self._slurm.node_state(node).startswith("down"), NODE_SECONDS)
        self._tell(f"Slurm has found {node} down; {node} is started again")
        self._slurm.start_node(node)

    def _wait_for_array(self) -> None:
        def has_ended() -> bool:
            states = [task["JobState"] for task in self._tasks().values()]
            return len(states) == PARTS and set(states) <= FINAL_STATES

        wait_for("the array to end", has_ended, ARRAY_SECONDS, every=1.0)
        self._tell("all tasks have ended")

    # ---- what is looked at

    def _tasks(self) -> dict[int, dict[str, str]]:
        """What Slurm says of each task that has been started; the others are one line of its list."""
        every = [task for task in self._slurm.tasks() if task["ArrayJobId"] == self._array]
        return {int(task["ArrayTaskId"]): task for task in every if task["ArrayTaskId"].isdecimal()}

    def _done(self, part: int) -> set[str]:
        entries = read_turns(self._results, part, CaseEntries()).cases
        return {name for name, entry in entries.items() if entry["state"] == "done"}

    def _progress(self, part: int) -> str:
        return f"{len(self._done(part))} of its {OF_EACH} scans done"

    def _wait_for_one_in_the_middle(self) -> int:
        """A part at work, with a scan that is done, one that is under way and another one."""

        def in_the_middle() -> list[int]:
            at_work = [part for part, task in self._tasks().items() if task["JobState"] == "RUNNING"]
            at_work = [part for part in at_work if self._tasks()[part]["NodeList"] != self._lost_node]
            return [part for part in at_work if 0 < len(self._done(part)) < OF_EACH - 1]

        return wait_for("a task in the middle of its work", in_the_middle, TASK_SECONDS)[0]

    def _report(self) -> subprocess.CompletedProcess:
        ended = self._slurm.run("ddsp-segmentation", "report", self._results)
        counts = re.search(r"\d+ segmented, .* missing", ended.stdout + ended.stderr)
        self._tell(f"`ddsp-segmentation report` ends with {ended.returncode}: {counts[0] if counts else ended.stderr}")
        return ended

    def _look_at_early_report(self, failed: int) -> None:
        lacking = set(self._names_of(failed)) - self._done(failed)
        ended = self._report()
        said = re.findall(r"^missing: (.+?): (.+)$", ended.stdout, re.MULTILINE)
        named = {name for name, reason in said if reason.startswith(f"of part {failed}: ")}
        part = [reason for name, reason in said if name == f"part {failed} of {PARTS}"]
        self._must(ended.returncode == 1, "in between, `report` ends with 1")
        self._must(len(part) == 1 and "has not ended" in part[0], f"it says of part {failed}: {' '.join(part)}")
        self._must(named == lacking != set(), f"and names its scans that are not done: {', '.join(sorted(named))}")

    def _names_of(self, part: int) -> list[str]:
        return [name for name in self._names if Part(part, PARTS).holds(name)]

    def _look_at_report(self) -> None:
        ended = self._report()
        ours, theirs = (json.loads((folder / "run.json").read_bytes()) for folder in (self._results, self._whole))
        with open(self._results / "measurements.csv", newline="", encoding="utf-8") as file:
            rows = [row["case"] for row in csv.DictReader(file)]
        self._must(ended.returncode == 0 and not ours["missing"], "at the end `report` ends with 0, nothing is missing")
        self._must(rows == self._names, f"measurements.csv has each of the {len(rows)} scans once")
        masks, same = ({name: case["mask"] for name, case in run["cases"].items()} for run in (ours, theirs))
        self._must(masks == same and len(masks) == len(rows), "each mask is, byte for byte, that of the run in one")
        self._must(not list(self._results.glob("*.kept-*")), "no mask is kept beside another one")

    def _look_at_turns(self, failed: int, requeued: int) -> None:
        measured, ends = Counter[str](), dict[int, list[str]]()
        for part in range(PARTS):
            turns = sorted((self._results / "parts" / f"part-{part}").glob("turn-*.jsonl"))
            journals = [list(journal_lines(path)) for path in turns]
            lines = [line for journal in journals for line in journal]
            measured.update(line["case"] for line in lines if line.get("entry", {}).get("state") == "done")
            ends[part] = [journal[-1].get("end", {}).get("message", "none") for journal in journals]
        self._must(measured == Counter(self._names), "each scan was measured in one start alone")
        self._must(ends.pop(failed) == ["none", ""], f"part {failed}: a first start without an end, and a second one")
        stopped, *second = ends.pop(requeued)
        self._must(stopped.startswith("Stopped after") and second == [""], f"part {requeued}: {stopped} A second start")
        self._must(all(end == [""] for end in ends.values()), "the other parts: one start")
        tasks = self._tasks()
        restarts = {part: task["Restarts"] for part, task in tasks.items() if task["Restarts"] != "0"}
        self._must(restarts == {failed: "1", requeued: "1"}, "Slurm says of these two that it started them once more")
        codes = {task["ExitCode"] for task in tasks.values()}
        self._must(codes == {"0:0"}, "exit codes of all tasks: 0")

    def _try_other_arrays(self) -> None:
        before = sorted((self._results / "parts").rglob("*"))
        for array in OTHER_ARRAYS:
            ended = self._slurm.run(*self._sbatch(array, "--wait"))
            self._tell(f"`sbatch --wait --array={array} ...` ends with {ended.returncode}")
            said = {line for log in self._logs.glob(f"{array}-*") for line in log.read_text().splitlines()}
            errors = sorted(line for line in said if line.startswith("error: "))
            right = ended.returncode == 2 and all(f"--num-parts {PARTS}" in line for line in errors)
            self._must(right and bool(errors), f"`--array={array}` is refused: {''.join(errors[:1])}")
        self._must(sorted((self._results / "parts").rglob("*")) == before, "a refused array leaves nothing behind")

    def _show_logs(self, whole: bool) -> None:
        print(f"\nWhat each task said{'' if whole else ' besides its scans'}:\n\n```")
        for log in sorted(self._logs.glob(f"{ARRAY}-*")):
            for line in log.read_text(encoding="utf-8").splitlines():
                if whole or not line.startswith("["):
                    print(f"{log.stem.removeprefix(f'{ARRAY}-')}: {line}")
        print("```")


if __name__ == "__main__":
    sys.exit(main())

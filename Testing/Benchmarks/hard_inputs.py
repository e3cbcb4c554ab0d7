"""Inputs that hospitals, archives and other programs really send: is each one segmented rightly or refused in one line?

    python Testing/Benchmarks/hard_inputs.py [--kind NAME] [--only SLUG] [--output FOLDER] [--report FILE] [--list]

Builds more than 200 inputs from the bundled scan, gives each to its command, and prints ``right`` or ``WRONG`` with
what was found instead, then a table by kind. What is right stands beside each input in hard_inputs_*.py. Without
--output everything happens in a temporary folder, and nothing of it is kept.

The process that has loaded torch forks a child for each run, which calls the command line's own main() and forks its
case workers; a few runs are processes of their own, as users start them. A run that dies is told by its signal, one
that does not end is ended.
"""

from __future__ import annotations

import argparse
import os
import shutil
import stat
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "DDSPSegmentation"), str(Path(__file__).resolve().parent)]
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a child of a fork must not wait for its parent's threads

import hard_inputs_damage  # noqa: E402, F401
import hard_inputs_dicom  # noqa: E402, F401
import hard_inputs_geometry  # noqa: E402, F401
import hard_inputs_masks  # noqa: E402, F401
import hard_inputs_names  # noqa: E402, F401
import hard_inputs_system  # noqa: E402, F401
from hard_inputs_expected import CORPUS, Built, Clean, Input, faults_of_any_run, judge  # noqa: E402
from hard_inputs_run import clean_scans, load_program, look_at, run_input  # noqa: E402

SECONDS = 60.0


def check(entry: Input, clean: Clean, folder: Path, seconds: float = SECONDS) -> list[str]:
    """Build an input in an empty folder and run it; what is wrong, nothing where it is right."""
    inside = folder / "in"
    inside.mkdir(parents=True)
    built = entry.build(inside, clean) or Built({"scan": clean.grid()})
    faults = []
    for number in range(entry.runs):
        interrupt = entry.interrupt if number == 0 else 0
        found = run_input(entry, built, folder, seconds, interrupt)
        if interrupt and entry.interrupted:
            # What is left is found beside the run that follows; here it is asked how the run ended.
            found.results = []
            faults += [f"interrupted: {fault}" for fault in judge([entry.interrupted], {}, found)]
        elif not interrupt and number + 1 < entry.runs:
            faults += [f"run {number + 1}: {fault}" for fault in faults_of_any_run(found)]
    look_at(entry.command, folder, found)
    return faults + judge(entry.right, built.grids, found)


def remove(folder: Path) -> None:
    """Delete a folder in which somebody may have closed others, or nested them deeper than a path may be long."""
    if not folder.is_dir():
        return
    for _, folders, _, descriptor in os.fwalk(folder):
        for name in folders:
            if stat.S_ISDIR(os.lstat(name, dir_fd=descriptor).st_mode):
                os.chmod(name, 0o700, dir_fd=descriptor)
    shutil.rmtree(folder, ignore_errors=True)


def table(outcomes: dict[str, list[str]]) -> str:
    """Right and wrong by kind, in Markdown."""
    right = Counter(CORPUS[slug].kind for slug, faults in outcomes.items() if not faults)
    total = Counter(CORPUS[slug].kind for slug in outcomes)
    rows = [f"| {kind} | {count} | {right[kind]} | {count - right[kind]} |" for kind, count in total.items()]
    good = sum(right.values())
    rows.append(f"| **all** | **{len(outcomes)}** | **{good}** | **{len(outcomes) - good}** |")
    return "\n".join(["| kind | inputs | right | wrong |", "|---|---|---|---|", *rows])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--kind", action="append", default=[], metavar="NAME", help="only inputs of this kind; may be repeated"
    )
    parser.add_argument("--only", action="append", default=[], metavar="SLUG", help="only this input; may be repeated")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="keep every input and what became of it there")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write all lines and the table there, too")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="the longest run (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="name the inputs and run none")
    chosen = parser.parse_args()
    entries = [
        entry
        for entry in CORPUS.values()
        if not (chosen.kind or chosen.only) or entry.kind in chosen.kind or entry.slug in chosen.only
    ]
    if chosen.list or not entries:
        kinds = ", ".join(dict.fromkeys(f"'{entry.kind}'" for entry in CORPUS.values()))
        lines = [f"{entry.kind}: {entry.slug}: {entry.what}" for entry in entries]
        print("\n".join(lines) or f"No input is called or of a kind like that. The kinds are {kinds}.")
        return 0 if entries else 2
    told: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        told.append(line)

    work = Path(tempfile.mkdtemp(prefix="hard-inputs-"))
    try:
        folder = chosen.output.resolve() if chosen.output else work
        outcomes = check_all(entries, folder, say, chosen.seconds, keep=chosen.output is not None)
    finally:
        remove(work)
    say("\n" + table(outcomes))
    if chosen.report:
        chosen.report.write_text("\n".join(told) + "\n", encoding="utf-8")
    return 1 if any(outcomes.values()) else 0


def check_all(entries, folder: Path, say, seconds: float = SECONDS, keep: bool = False) -> dict[str, list[str]]:
    """Faults by slug, told while they are found; one input that cannot be built is a fault of its own."""
    load_program()
    clean = clean_scans(folder / "clean")
    outcomes: dict[str, list[str]] = {}
    for entry in entries:
        place = folder / entry.slug
        remove(place)
        started = time.monotonic()
        try:
            faults = check(entry, clean, place, seconds)
        except Exception as error:  # the others are still wanted
            faults = [f"NOT BUILT: {type(error).__name__}: {error}"]
        outcomes[entry.slug] = faults
        verdict = f"WRONG: {'; '.join(faults)}" if faults else "right"
        say(f"{entry.kind}: {entry.slug} ({time.monotonic() - started:.1f} s): {verdict}")
        if not keep:
            remove(place)
    return outcomes


if __name__ == "__main__":
    sys.exit(main())

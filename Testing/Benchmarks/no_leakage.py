"""Does a hold-out case ever get into a training? Twenty rounds of accept and retrain, and a look into every ledger.

    python Testing/Benchmarks/no_leakage.py --output FOLDER [--rounds 20] [--seed 0] [--break-it library|job]

A made-up hospital works with the real case library, registry and retraining; only the network is tiny, and takes a few
steps a round. Each round brings new patients, second scans, re-edits, deletions, cases that come back from the trash
or are accepted again (with the patient's key and without), near copies (also under another key, or under the key of
somebody else by mistake), imports of folders with scans that are there already, and versions that are activated,
rolled back and deleted. The hospital knows who every scan is of, whatever the library believes.

At the end the ledgers of all versions, deleted ones too, are held against everything that was ever held out: cases,
patients, persons and the scans themselves. With --break-it a hold-out patient is moved to training behind the
library's back (library), or a hold-out case put into a job (job); then the benchmark passes when that is noticed.

Figures: OUTPUT/no_leakage.json, and the lines that are printed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from leakage_record import OLD_TRAINING, Record, check, summary
from toy_hospital import (
    QUICK,
    compare_on_a_toy_scan,
    content_of,
    edited,
    make_tiny_model,
    near_copy,
    scan_of,
    start_registry,
)

from DDSPSegmentationLib.engine.devices import set_threads
from DDSPSegmentationLib.engine.errors import DatasetError
from DDSPSegmentationLib.engine.files import write_text
from DDSPSegmentationLib.engine.images import read_image
from DDSPSegmentationLib.engine.model import BUILTIN_MODEL
from DDSPSegmentationLib.library.case_library import HOLD_OUT, TRAINING, CaseLibrary
from DDSPSegmentationLib.service.retraining import make_job, retrain

RESULTS_FILE = "no_leakage.json"
FIRST_PATIENTS = 6


@dataclass(frozen=True)
class Scan:
    """An image that the hospital has, and whose it is."""

    person: int
    key: str
    image: sitk.Image
    mask: sitk.Image


class Hospital:
    """Its scans, and what a busy department does with them in a round."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.draw, self.record = folder, np.random.default_rng(seed), Record()
        self.library = CaseLibrary(folder / "Cases")
        self.library.folder.mkdir()
        salt = hashlib.sha256(str(seed).encode()).hexdigest()  # with it the splits are the same in every run
        (self.library.folder / "salt").write_text(salt + "\n", encoding="utf-8")
        self.registry = start_registry(folder / "Models", make_tiny_model(folder / "tiny", OLD_TRAINING))
        self.scans: list[Scan] = []
        self.case_scan: dict[str, Scan] = {}
        self.deleted: list[Scan] = []
        self.persons = 0

    # ---- what a round brings

    def work(self, number: int) -> None:
        """Everything but the retraining."""
        for _ in range(FIRST_PATIENTS if number == 0 else 2):
            self.new_patient()
        rare = [self.second_scan, self.copy, self.copy_under_another_key, self.copy_under_a_wrong_key, self.restore]
        often = [self.revise, self.delete, self.delete, self.accept_again]
        events = [*often, *(rare[place] for place in self.draw.choice(len(rare), 3, replace=False))]
        for place in self.draw.permutation(len(events)):
            events[place]()
            self.record.look_at(self.library)
        if number % 4 == 1:
            self.import_folder(number)
        self.record.look_at(self.library)

    def new_patient(self) -> None:
        self.persons += 1
        key = f"PID-{self.persons}" if self.draw.random() < 0.7 else ""
        self._accept(Scan(self.persons, key, *scan_of(self.persons)), "new patient")

    def second_scan(self) -> None:
        known = [scan for scan in self.scans if scan.key]
        if known:
            first = self._one_of(known)
            visit = len(self.scans) + 1
            self._accept(Scan(first.person, first.key, *scan_of(first.person, visit)), "second scan")

    def revise(self) -> None:
        cases = self.library.cases()
        if cases:
            case = self._one_of(cases)
            scan = self.case_scan[case.id]
            self.library.add(scan.image, edited(scan.mask, self.draw))
            self.record.done["re-edit"] += 1

    def copy(self) -> None:
        twin = self._one_of(self.scans)
        key = twin.key if self.draw.random() < 0.5 else ""
        self._accept(Scan(twin.person, key, near_copy(twin.image, self.draw), twin.mask), "near copy")

    def copy_under_another_key(self) -> None:
        """The same person comes back from another hospital with another number, then has a new scan there."""
        twin = self._one_of(self.scans)
        key = f"OTHER-{len(self.scans)}"
        self._accept(Scan(twin.person, key, near_copy(twin.image, self.draw), twin.mask), "near copy, other key")
        if self.draw.random() < 0.5:
            visit = len(self.scans) + 1
            self._accept(Scan(twin.person, key, *scan_of(twin.person, visit)), "second scan, other key")

    def copy_under_a_wrong_key(self) -> None:
        """A typing error: the image is one person's, the key another's."""
        twin = self._one_of(self.scans)
        others = [scan for scan in self.scans if scan.key and scan.person != twin.person]
        if others:
            wrong = Scan(twin.person, self._one_of(others).key, near_copy(twin.image, self.draw), twin.mask)
            self._accept(wrong, "near copy, somebody else's key", keep_key=False)

    def delete(self) -> None:
        cases = self.library.cases()
        if len([case for case in cases if case.split == TRAINING]) > 4:
            case = self._one_of(cases)
            self.library.delete(case.id)
            self.deleted.append(self.case_scan[case.id])
            self.record.done["deletion"] += 1

    def accept_again(self) -> None:
        """A deleted scan comes back, under the patient's key or without one."""
        if self.deleted:
            scan = self.deleted.pop(int(self.draw.integers(len(self.deleted))))
            key = scan.key if self.draw.random() < 0.5 else ""
            what = "accepted again" if key else "accepted again without key"
            self._accept(Scan(scan.person, key, scan.image, edited(scan.mask, self.draw)), what)

    def restore(self) -> None:
        for case_id in self.library.trashed():
            try:
                self.library.restore(case_id)
            except DatasetError as error:  # its scan was accepted again meanwhile
                self.record.refused.append(str(error))
                continue
            self.record.done["restored"] += 1
            return

    def import_folder(self, number: int) -> None:
        """A colleague's folder: scans that are here already, a new patient, and a case of the first version's."""
        folder = self.folder / f"import-{number}"
        self.persons += 2
        new, old = (Scan(person, "", *scan_of(person)) for person in (self.persons - 1, self.persons))
        names = {f"mail-{number}-{place}": self._one_of(self.scans) for place in range(2)}
        names |= {f"mail-{number}-new": new, OLD_TRAINING[number // 4 % 2]: old}
        for part in ("images", "labels"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        for name, scan in names.items():
            self.record.person_of[content_of(scan.image)] = scan.person
            sitk.WriteImage(scan.image, str(folder / "images" / f"{name}.mha"))
            sitk.WriteImage(edited(scan.mask, self.draw), str(folder / "labels" / f"{name}.mha"))
        before = {case.id for case in self.library.cases()}
        report = self.library.import_folder(folder, seen=self.registry.seen_cases())
        self.record.refused += [f"{name}: {reason}" for name, reason in report.failed.items()]
        of_content = {content_of(scan.image): scan for scan in names.values()}
        for case in self.library.cases():
            if case.id not in before:
                self.case_scan[case.id] = of_content[content_of(read_image(case.image_path))]
                self.scans.append(self.case_scan[case.id])
        self.record.done["folder imported"] += 1

    def _accept(self, scan: Scan, what: str, keep_key: bool = True) -> None:
        self.record.person_of[content_of(scan.image)] = scan.person
        prediction = edited(scan.mask, self.draw)
        scanner = f"scanner {scan.person % 2}"
        try:
            stored = self.library.add(
                scan.image,
                scan.mask,
                prediction=prediction,
                model_version=self.registry.active().name,
                patient_key=scan.key,
                scanner=scanner,
                seen=self.registry.seen_cases(),
            )
        except DatasetError as error:
            self.record.refused.append(f"{what}: {error}")
            return
        kept = scan if keep_key else Scan(scan.person, "", scan.image, scan.mask)
        self.case_scan[stored.case.id] = kept
        if stored.is_new:
            self.scans.append(kept)
        self.record.done[what] += 1

    def _one_of(self, things: list):
        return things[int(self.draw.integers(len(things)))]

    # ---- retraining and versions

    def retrain(self, tamper=None) -> None:
        """One run through the real service; its frozen lists are kept, since the run's folder goes."""
        run = make_job(self.library.folder, self.registry.folder, device="cpu")
        if tamper is not None:
            tamper(run)
        job = json.loads((run / "job.json").read_text(encoding="utf-8"))
        for case in job["cases"]:  # what is really in the file that will be read
            content = content_of(read_image(self.library.folder / case["image"]))
            self.record.contents.setdefault(case["id"], set()).add(content)
            self.record.patients.setdefault(case["id"], set()).add(case["patient"])
        version = retrain(run, settings=QUICK)
        self.record.jobs[version.ledger["run"]] = job
        self.record.versions[version.name] = {
            "ledger": version.ledger,
            "training": version.description.training,
            "comparison": version.comparison,
        }
        self.record.done["retrained"] += 1
        self._switch(version.name)

    def _switch(self, newest: str) -> None:
        """Activate most versions, roll some back, delete one now and then."""
        if self.draw.random() < 0.7:
            self.registry.activate(newest)
            self.record.done["activated"] += 1
        if self.draw.random() < 0.3 and self.registry.previous() not in ("", BUILTIN_MODEL):  # which is slow
            self.registry.roll_back()
            self.record.done["rolled back"] += 1
        spare = [v.name for v in self.registry.versions() if not v.builtin and v.name != self.registry.active().name]
        if spare and self.draw.random() < 0.4:
            self.registry.delete(self._one_of(spare))
            self.record.done["version deleted"] += 1


# ---- faults, to see that the check can fail


def break_library(hospital: Hospital) -> str:
    """Move a hold-out patient with all cases to training, in every file, as nobody should."""
    folder = hospital.library.folder
    case = next(case for case in hospital.library.cases() if case.split == HOLD_OUT)
    path = folder / "patients.json"
    patients = json.loads(path.read_text(encoding="utf-8"))
    patients["splits"][case.patient] = TRAINING
    path.write_text(json.dumps(patients), encoding="utf-8")
    for other in hospital.library.cases():
        if other.patient == case.patient:
            os.replace(other.image_path, folder / "imagesTr" / other.image_path.name)
            os.replace(other.label_path, folder / "labelsTr" / other.label_path.name)
            record = other.record_folder / "case.json"
            values = json.loads(record.read_text(encoding="utf-8"))
            record.write_text(json.dumps(values | {"split": TRAINING}), encoding="utf-8")
    return case.id


def break_job(run: Path) -> None:
    """Put a hold-out case among the training cases of a job."""
    path = run / "job.json"
    job = json.loads(path.read_text(encoding="utf-8"))
    next(case for case in job["cases"] if case["split"] == HOLD_OUT)["split"] = TRAINING
    path.write_text(json.dumps(job), encoding="utf-8")


# ---- the command


def run(output: Path, rounds: int, seed: int, fault: str = "") -> dict:
    """All rounds and the check; what came of it is also in OUTPUT/no_leakage.json."""
    work = output / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    compare_on_a_toy_scan(work)
    hospital = Hospital(work, seed)
    broken_at, refusal = rounds // 2, ""
    for number in range(rounds):
        hospital.work(number)
        has_hold_out = any(case.split == HOLD_OUT for case in hospital.library.cases())
        breaks_now = bool(fault) and number >= broken_at and has_hold_out
        if breaks_now:
            broken_at = rounds  # once is enough
            if fault == "library":
                break_library(hospital)
        try:
            hospital.retrain(break_job if breaks_now and fault == "job" else None)
        except DatasetError as error:
            if not fault:
                raise
            refusal = str(error)
            break
        counts = hospital.library.split_counts()
        print(f"round {number + 1}: {counts}", flush=True)
    hospital.record.look_at(hospital.library)
    found = check(hospital.record)
    results = summary(hospital.record, found) | {"seed": seed, "fault": fault, "refusal": refusal}
    write_text(json.dumps(results, indent=2) + "\n", output / RESULTS_FILE)
    shutil.rmtree(work)
    return results


def report(results: dict) -> str:
    lines = [
        f"{results['versions']} versions, {results['cases']} cases; ever held out: {results['held_out']}, "
        f"ever in a training list: {results['trained_on']} cases",
        f"done: {results['done']}; refused at the door: {len(results['refused'])}",
    ]
    if results["refusal"]:
        lines.append(f"The retraining refused: {results['refusal']}")
    lines += results["leaks"]
    lines.append(f"{len(results['leaks'])} leaks")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--break-it", choices=("library", "job"), default="")
    chosen = parser.parse_args()
    set_threads()
    results = run(chosen.output, chosen.rounds, chosen.seed, chosen.break_it)
    print(report(results))
    noticed = bool(results["leaks"] or results["refusal"])
    if chosen.break_it:
        print("The fault was noticed." if noticed else "The fault was NOT noticed.")
    return int(noticed != bool(chosen.break_it))


if __name__ == "__main__":
    sys.exit(main())

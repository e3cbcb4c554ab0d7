"""Does a scan that a version has seen ever get called unseen? Twenty rounds of two hospitals that accept and retrain.

    python Testing/Benchmarks/no_leakage.py --output FOLDER [--rounds 20] [--seed 0] [--break-it FAULT]

Two made-up hospitals, each with a real case library and registry, work with the real retraining; only the networks
are tiny, and take a few steps a round. Each round brings new patients, second scans, re-edits, deletions, cases that
come back from the trash or are accepted again (with the patient's key and without), copies of all kinds (renamed, in
other units, noisy, resampled, cropped; also under another key, or under the key of somebody else by mistake), scans
that the first version was trained on, imports of folders whose names mean nothing, folders to rehearse (with patients
of the library and copies among them), rehearsed patients who come as patients later, scans by mail from the other
hospital, its versions by export and import, and versions that are activated, rolled back and deleted. The benchmark
knows what every version has seen and who every scan is of, whatever library and registry believe.

Told at once is a scan that some version of the registry has seen and that is held out; a comparison on a scan that
one of its versions has seen; a version that does not know again what it saw. At the end the ledgers of all versions,
deleted ones too, are held against everything that was ever held out: cases, patients, persons and the scans
themselves. With --break-it one of these goes wrong, and the benchmark passes when that is noticed:

* library: a hold-out patient is moved to training behind the library's back;
* job: a hold-out case is put into a job;
* door: the library does not ask the versions;
* rehearsal: a version does not say what it rehearsed;
* patients: the library forgets who was rehearsed;
* exchange: an imported version says that it has seen nothing.

Figures: OUTPUT/no_leakage.json, and the lines that are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from leakage_hospital import OLD_PERSONS, OLD_SCANS, Hospital, changed_copy, first_scan
from leakage_record import Truth, check, summary
from registry_parts import vouch
from toy_hospital import always_make_a_version, compare_on_a_toy_scan

from DDSPSegmentationLib.engine.devices import set_threads
from DDSPSegmentationLib.engine.errors import DatasetError
from DDSPSegmentationLib.engine.files import write_text
from DDSPSegmentationLib.engine.model import describe_model, write_description
from DDSPSegmentationLib.engine.scan_identity import NOTHING_SEEN
from DDSPSegmentationLib.learning.training import Trainer
from DDSPSegmentationLib.library.case_library import HOLD_OUT, TRAINING, CaseLibrary
from DDSPSegmentationLib.library.model_registry import ModelRegistry
from DDSPSegmentationLib.library.model_version import ModelVersion
from DDSPSegmentationLib.library.patients import Patients

RESULTS_FILE = "no_leakage.json"


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


def break_door(hospital: Hospital) -> None:
    """Store cases without asking the versions, among them what the first one was trained on."""
    hospital.library = CaseLibrary(hospital.library.folder)
    for number in range(OLD_SCANS):
        hospital.accept(changed_copy(first_scan(OLD_PERSONS + number), hospital.draw), "stored unasked")


def break_rehearsal(hospital: Hospital) -> Callable[[], None]:
    """Leave out of every version what it rehearses; gives what mends it again."""
    whole = Trainer.seen

    def without_replay(trainer: Trainer):
        return trainer.seen_before.with_training([(case.name, case.identity) for case in trainer.training])

    Trainer.seen = property(without_replay)  # type: ignore[assignment,method-assign]
    return lambda: setattr(Trainer, "seen", whole)


def break_patients(hospital: Hospital) -> Callable[[], None]:
    """Forget who was rehearsed."""
    remember = CaseLibrary.rehearse
    CaseLibrary.rehearse = lambda library, scans: [True] * len(scans)  # type: ignore[method-assign]
    return lambda: setattr(CaseLibrary, "rehearse", remember)


def bring_rehearsed(hospital: Hospital) -> None:
    """Every rehearsed patient with a key has another scan, while every draw says hold-out."""
    draw = Patients.split_of
    Patients.split_of = lambda memory, patient: memory.splits.setdefault(patient, HOLD_OUT)  # type: ignore[method-assign]
    try:
        for scan in (scan for scan in hospital.replayed.values() if scan.key):
            hospital.accept(first_scan(scan.person, scan.key, hospital.next_visit()), "next scan of the rehearsed")
            hospital.record.look_at(hospital.library)
    finally:
        Patients.split_of = draw  # type: ignore[method-assign]


def break_exchange(hospital: Hospital) -> Callable[[], None]:
    """Empty the list of what an imported version has seen, without saying so."""
    import_whole = ModelRegistry.import_file

    def import_emptied(registry: ModelRegistry, path: Path) -> ModelVersion:
        version = import_whole(registry, path)
        write_description(version.folder, replace(describe_model(version.folder), seen=NOTHING_SEEN))
        vouch(version.folder)
        return version

    ModelRegistry.import_file = import_emptied  # type: ignore[method-assign,assignment]
    return lambda: setattr(ModelRegistry, "import_file", import_whole)


# ---- the command

FAULTS = ("library", "job", "door", "rehearsal", "patients", "exchange")


def run(output: Path, rounds: int, seed: int, fault: str = "") -> dict:
    """All rounds and the check; what came of it is also in OUTPUT/no_leakage.json."""
    work = output / "work"
    shutil.rmtree(work, ignore_errors=True)
    for name in ("here", "there"):
        (work / name).mkdir(parents=True)
    always_make_a_version()
    compare_on_a_toy_scan(work)
    truth = Truth()
    hospitals = [Hospital(work / name, seed, first, truth) for name, first in (("here", 0), ("there", 100_000))]
    broken = {"rehearsal": break_rehearsal, "patients": break_patients, "exchange": break_exchange}
    mend = broken[fault](hospitals[0]) if fault in broken else lambda: None
    refusal = ""
    try:
        refusal = _all_rounds(hospitals, rounds, fault)
    finally:
        mend()
    found = []
    for hospital in hospitals:
        if hospital.scans:
            hospital.record.look_at(hospital.library)
        found.append(summary(hospital.record, check(hospital.record)))
    results = {"hospitals": found, "leaks": [leak for one in found for leak in one["leaks"]]}
    results |= {"seed": seed, "fault": fault, "refusal": refusal}
    write_text(json.dumps(results, indent=2) + "\n", output / RESULTS_FILE)
    shutil.rmtree(work)
    return results


def _all_rounds(hospitals: list[Hospital], rounds: int, fault: str) -> str:
    """Work and retrain; the refusal that ended it, or ""."""
    broken_at = rounds // 2
    turns = [hospitals, hospitals[::-1]] if fault in ("", "exchange") else [hospitals]  # one is enough to notice it
    for number in range(rounds):
        for hospital, other in turns:
            hospital.work(number, other.to_mail() if number else [])
            has_hold_out = any(case.split == HOLD_OUT for case in hospital.library.cases())
            breaks_now = number >= broken_at and has_hold_out and hospital is hospitals[0]
            if breaks_now:
                broken_at = rounds  # once is enough
                if fault == "library":
                    break_library(hospital)
                if fault == "door":
                    break_door(hospital)
            tamper = break_job if fault == "job" and breaks_now else None
            try:
                hospital.retrain(number, other.to_mail() if number else [], tamper)
            except DatasetError as error:
                if not fault:
                    raise
                return str(error)
            if fault == "patients":
                bring_rehearsed(hospital)
            if number % 3 == 2 or fault == "exchange":
                hospital.receive_version(other)
            print(f"round {number + 1}, {hospital.folder.name}: {hospital.library.split_counts()}", flush=True)
    return ""


def report(results: dict) -> str:
    lines = []
    for found, name in zip(results["hospitals"], ("here", "there"), strict=True):
        lines += [
            f"{name}: {found['versions']} versions, {found['cases']} cases; ever held out: {found['held_out']}, "
            f"ever in a training list: {found['trained_on']} cases",
            f"  asked whether a scan was trained on: {found['asked']} times, wrongly yes: {found['mistaken']}",
            f"  done: {found['done']}; refused at the door: {len(found['refused'])}",
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
    parser.add_argument("--break-it", choices=FAULTS, default="")
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

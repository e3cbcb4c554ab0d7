"""What no_leakage.py saw while the rounds went on, and the check of every ledger against it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from toy_hospital import content_of

from DDSPSegmentationLib.engine.images import read_image
from DDSPSegmentationLib.engine.model import ModelDescription
from DDSPSegmentationLib.engine.scan_identity import ScanIdentity
from DDSPSegmentationLib.library.case_library import HOLD_OUT, TRAINING, CaseLibrary, StoredCase
from DDSPSegmentationLib.library.model_registry import ModelRegistry
from DDSPSegmentationLib.library.model_version import ModelVersion

Base = tuple[int, int]  # person and visit: one acquisition, whatever was made of it since


@dataclass
class Truth:
    """What nobody but the benchmark knows.

    Attributes:
        base_of: by content of the image, also of changed copies.
        saw: by SHA-256 of a version's weights, all that they come from: trained on, rehearsed, and the parents'.
    """

    base_of: dict[str, Base] = field(default_factory=dict)
    saw: dict[str, set[Base]] = field(default_factory=dict)


@dataclass
class Record:
    """What was seen while the rounds went on, for the check at the end.

    Attributes:
        person_of: by content of the image; ``contents``, ``patients``: by case, deleted ones too.
        splits: every split that a case, patient, person or content ever had, by (kind, name).
        jobs: frozen lists of each retraining by its token; ``versions``: ledger, description and comparison by name.
        history: how a person's scans came and where they went, to explain a leak.
        leaks: what was noticed at once: something that was seen, called unseen.
        asked: questions whether a scan was trained on; ``mistaken``: for one that it was not on, answered with yes.
    """

    person_of: dict[str, int] = field(default_factory=dict)
    contents: dict[str, set[str]] = field(default_factory=dict)
    patients: dict[str, set[str]] = field(default_factory=dict)
    splits: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    jobs: dict[str, dict] = field(default_factory=dict)
    versions: dict[str, dict] = field(default_factory=dict)
    done: Counter = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)
    history: dict[str, list[str]] = field(default_factory=dict)
    leaks: list[str] = field(default_factory=list)
    asked: int = 0
    mistaken: int = 0

    def look_at(self, library: CaseLibrary) -> None:
        """Note whose case is in which split, as the library's files have it now."""
        for case in library.cases():
            content = content_of(read_image(case.image_path))
            self.contents.setdefault(case.id, set()).add(content)
            self.patients.setdefault(case.id, set()).add(case.patient)
            self._note(case.split, case.id, case.patient, content)
        patients = json.loads((library.folder / "patients.json").read_text(encoding="utf-8"))
        for patient, split in patients["splits"].items():
            self.splits.setdefault(("patient", patient), set()).add(split)

    def _note(self, split: str, case: str, patient: str, content: str) -> None:
        person = str(self.person_of.get(content, "unknown"))
        for key in (("case", case), ("patient", patient), ("content", content), ("person", person)):
            self.splits.setdefault(key, set()).add(split)

    def new_case(self, case: StoredCase, base: Base, truth: Truth, registry: ModelRegistry) -> None:
        """A scan that a version here has seen must not be drawn hold-out."""
        if case.split == HOLD_OUT:
            for version in registry.versions():
                if version.description and base in truth.saw.get(version.description.sha256, ()):
                    self.leaks.append(f"{version.name} was trained on scan {base}, which is hold-out case {case.id}.")

    def new_version(self, version: ModelVersion, job: dict, truth: Truth, base_of: Mapping[str, Base]) -> None:
        """Keep what is said of a version; no case that it or its parent saw may be compared."""
        assert version.description is not None
        self.jobs[version.ledger["run"]] = job
        self.versions[version.name] = {
            "ledger": version.ledger,
            "training": version.description.training,
            "comparison": version.comparison,
            "seen": [[scan.name for scan in group.scans] for group in version.description.seen.groups],
        }
        compared = version.comparison
        for case in compared["hold_out"]:
            for which in ("old", "new"):
                if base_of[case["name"]] in truth.saw.get(compared[f"{which}_sha256"], ()):
                    name = compared[f"{which}_version"]
                    self.leaks.append(f"{version.name}: compared on case {case['name']}, which {name} was trained on.")

    def ask(self, model: ModelDescription, copies: Iterable[tuple[Base, ScanIdentity]], truth: Truth) -> None:
        """A version must know again what it saw, however it comes back."""
        for base, scan in copies:
            answer, saw = model.was_trained_on(scan), base in truth.saw[model.sha256]
            self.asked += 1
            if saw and answer is not True:
                self.leaks.append(f"{model.version} was trained on scan {base} and says {answer}.")
            self.mistaken += not saw and answer is True

    def everything_of(self, cases: list[str]) -> set[tuple[str, str]]:
        """The cases with all that was ever known of them."""
        found = {("case", case) for case in cases}
        for case in cases:
            found |= {("patient", patient) for patient in self.patients.get(case, ())}
            found |= {("content", content) for content in self.contents.get(case, ())}
            persons = {self.person_of.get(content, "unknown") for content in self.contents.get(case, ())}
            found |= {("person", str(person)) for person in persons}
        return found


def check(record: Record) -> list[str]:
    """One sentence for each way in which something held out got near a training; empty when none did."""
    changed = [key for key, splits in record.splits.items() if len(splits) > 1]
    found = [f"{kind} {name} changed its split. {'; '.join(record.history.get(name, []))}" for kind, name in changed]
    held_out = {key for key, splits in record.splits.items() if HOLD_OUT in splits}
    for job in record.jobs.values():
        held_out |= record.everything_of([case["id"] for case in job["cases"] if case["split"] == HOLD_OUT])
    for name, version in record.versions.items():
        ledger, training = version["ledger"], version["training"]
        held_out |= record.everything_of([case["case"] for case in ledger["hold_out"]])
        found += _disagreements(name, version, record.jobs[ledger["run"]])
        if version["seen"][-1] != [*training["cases"], *training["replay"]]:
            found.append(f"{name} does not say what it was trained on.")
    for name, version in record.versions.items():
        for place, cases in lists_of(version).items():
            leaked = sorted(record.everything_of(cases) & held_out)
            found += [f"{name}: {kind} {key} is held out and in {place}." for kind, key in leaked]
            unknown = sorted(set(cases) - set(record.contents))
            found += [f"{name}: nobody knows case {case} in {place}." for case in unknown]
    return found + record.leaks


def lists_of(version: dict) -> dict[str, list[str]]:
    """Every list of cases that shaped a version's weights, or a choice about them."""
    ledger, training = version["ledger"], version["training"]
    return {
        "the ledger's training list": [case["case"] for case in ledger["training"]],
        "the ledger's replay list": ledger["replay"],
        "what steered a choice": [case for choice in ledger["choices"] for case in choice["steered_by"]],
        "the cross-validation": list(ledger["cross_validation"].get("per_case", {})),
        "model.json's training list": [*training["cases"], *training["replay"]],
    }


def _disagreements(name: str, version: dict, job: dict) -> list[str]:
    """The job, the ledger, the description and the comparison must name the same cases."""
    ledger = version["ledger"]
    found = []
    facts = ("id", "revision", "mask_sha256", "patient")
    for split, listed in ((TRAINING, ledger["training"]), (HOLD_OUT, ledger["hold_out"])):
        frozen = [tuple(case[fact] for fact in facts) for case in job["cases"] if case["split"] == split]
        named = [tuple(case[fact] for fact in ("case", *facts[1:])) for case in listed]
        if frozen != named:
            found.append(f"{name}: job and ledger disagree about the {split} cases.")
    ids = {split: {case["id"] for case in job["cases"] if case["split"] == split} for split in (TRAINING, HOLD_OUT)}
    if set(version["training"]["cases"]) != ids[TRAINING]:
        found.append(f"{name}: model.json names other training cases than the job.")
    compared = version["comparison"]
    if {*(case["name"] for case in compared["hold_out"]), *compared["left_out"]} != ids[HOLD_OUT]:
        found.append(f"{name}: the comparison was made on other cases than the job's hold-out.")
    return found


def summary(record: Record, found: list[str]) -> dict:
    held_out = {key for key, splits in record.splits.items() if HOLD_OUT in splits}
    trained = {case for version in record.versions.values() for cases in lists_of(version).values() for case in cases}
    return {
        "versions": len(record.versions),
        "cases": len(record.contents),
        "held_out": dict(Counter(kind for kind, _ in held_out)),
        "trained_on": len(trained),
        "done": dict(record.done),
        "refused": record.refused,
        "asked": record.asked,
        "mistaken": record.mistaken,
        "leaks": found,
    }

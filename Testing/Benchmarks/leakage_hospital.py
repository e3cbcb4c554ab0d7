"""The hospitals of no_leakage.py: what a busy department does with scans, cases and versions in a round."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from leakage_record import Base, Record, Truth
from scan_recognition import cropped, resampled
from toy_hospital import (
    FIRST_VERSION,
    QUICK,
    content_of,
    edited,
    make_tiny_model,
    near_copy,
    scan_of,
    start_registry,
)

from DDSPSegmentationLib.engine.errors import DatasetError, ModelError
from DDSPSegmentationLib.engine.files import write_text
from DDSPSegmentationLib.engine.images import read_image
from DDSPSegmentationLib.engine.model import BUILTIN_MODEL, ModelDescription
from DDSPSegmentationLib.engine.scan_identity import NOTHING_SEEN, ScanIdentity
from DDSPSegmentationLib.learning.finetuning_settings import LEAST_CASES
from DDSPSegmentationLib.library.case_library import TRAINING, CaseLibrary
from DDSPSegmentationLib.library.patients import read_patients
from DDSPSegmentationLib.service.retraining import make_job, retrain

FIRST_PATIENTS, OLD_SCANS, REPLAYED, ASKED = 8, 10, 6, 8
OLD_PERSONS = 900_000  # whose scans the first version was trained on, elsewhere


@dataclass(frozen=True)
class Scan:
    """An image that a hospital has, and whose it is; copies keep the visit."""

    person: int
    visit: int
    key: str
    image: sitk.Image
    mask: sitk.Image

    @property
    def base(self) -> Base:
        return self.person, self.visit


def first_scan(person: int, key: str = "", visit: int = 0) -> Scan:
    return Scan(person, visit, key, *scan_of(person, visit))


def changed_copy(scan: Scan, draw: np.random.Generator, key: str = "") -> Scan:
    """The scan as it may come back: as it is, in other units and noisy, resampled, cropped, or all of it."""

    def resample(image: sitk.Image) -> sitk.Image:
        return resampled(image, float(draw.uniform(1.4, 2.0)), float(draw.uniform(3.0, 4.0)))

    def crop(image: sitk.Image) -> sitk.Image:
        return cropped(image, int(draw.integers(1, 4)))

    ways: list[list[Callable[[sitk.Image], sitk.Image]]] = [[], [resample], [crop], [crop, resample]]
    image, mask = scan.image, scan.mask
    for change in ways[int(draw.integers(len(ways)))]:
        image = change(image)
    if draw.random() < 0.5:
        image = near_copy(image, draw)
    mask = sitk.Resample(mask, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8)
    return replace(scan, key=key, image=image, mask=mask)


@dataclass
class Hospital:
    """A library and a registry of its own.

    Attributes:
        first_person: its persons are numbered from here, so that no two hospitals have one in common by themselves.
        scans: what it has accepted; ``deleted``: and deleted since; ``replayed``: what it has rehearsed.
        foreign: the one visit by which persons of elsewhere are known here; without a key nobody could tell that
            another visit is theirs.
    """

    folder: Path
    seed: int
    first_person: int
    truth: Truth
    record: Record = field(default_factory=Record)
    scans: list[Scan] = field(default_factory=list)
    deleted: list[Scan] = field(default_factory=list)
    replayed: dict[str, Scan] = field(default_factory=dict)
    case_scan: dict[str, Scan] = field(default_factory=dict)
    foreign: dict[int, int] = field(default_factory=dict)
    persons: int = 0

    def __post_init__(self) -> None:
        self.draw = np.random.default_rng([self.seed, self.first_person])
        old = [first_scan(OLD_PERSONS + number) for number in range(OLD_SCANS)]
        seen = NOTHING_SEEN.with_training([(f"Case{n:02d}", ScanIdentity(scan.image)) for n, scan in enumerate(old)])
        model = make_tiny_model(self.folder / "tiny", seen, seed=self.first_person)
        self.registry = start_registry(self.folder / "Models", model)
        self.truth.saw[self.registry.version(FIRST_VERSION).description.sha256] = {scan.base for scan in old}
        self.library = CaseLibrary(self.folder / "Cases", self.registry)
        self.library.folder.mkdir()
        salt = hashlib.sha256(f"{self.seed} {self.first_person}".encode()).hexdigest()  # the same splits in every run
        (self.library.folder / "salt").write_text(salt + "\n", encoding="utf-8")

    # ---- what a round brings

    def work(self, number: int, mail: list[Scan]) -> None:
        """Everything but the retraining; ``mail``: scans of other hospitals."""
        for _ in range(FIRST_PATIENTS if number == 0 else 2):
            self.new_patient()
        rare = [self.second_scan, self.copy, self.copy_under_another_key, self.copy_under_a_wrong_key, self.restore]
        often = [self.revise, self.delete, self.delete, self.accept_again, self.old_scan, self.rehearsed_scan]
        events = [*often, *(rare[place] for place in self.draw.choice(len(rare), 3, replace=False))]
        events += [lambda scan=scan: self.mailed_scan(scan) for scan in mail]
        for place in self.draw.permutation(len(events)):
            events[place]()
            self.record.look_at(self.library)
        if number % 4 == 1:
            self.import_folder(number)
        self.record.look_at(self.library)

    def new_person(self) -> int:
        self.persons += 1
        return self.first_person + self.persons

    def new_patient(self) -> None:
        person = self.new_person()
        self.accept(first_scan(person, f"PID-{person}" if self.draw.random() < 0.7 else ""), "new patient")

    def second_scan(self) -> None:
        known = [scan for scan in self.scans if scan.key]
        if known:
            first = self.one_of(known)
            self.accept(first_scan(first.person, first.key, self.next_visit()), "second scan")

    def revise(self) -> None:
        cases = [case for case in self.library.cases() if case.id in self.case_scan]
        if cases:
            scan = self.case_scan[self.one_of(cases).id]
            self.library.add(scan.image, edited(scan.mask, self.draw))
            self.record.done["re-edit"] += 1

    def copy(self) -> None:
        twin = self.one_of(self.scans)
        self.accept(changed_copy(twin, self.draw, twin.key if self.draw.random() < 0.5 else ""), "changed copy")

    def copy_under_another_key(self) -> None:
        """The same person comes back from another hospital with another number, then has a new scan there."""
        twin = self.one_of(self.scans)
        key = f"OTHER-{self.first_person}-{len(self.scans)}"
        if self.accept(changed_copy(twin, self.draw, key), "changed copy, other key") and self.draw.random() < 0.5:
            self.accept(first_scan(twin.person, key, self.next_visit()), "second scan, other key")

    def copy_under_a_wrong_key(self) -> None:
        """A typing error: the image is one person's, the key another's."""
        twin = self.one_of(self.scans)
        others = [scan for scan in self.scans if scan.key and scan.person != twin.person]
        if others:
            wrong = changed_copy(twin, self.draw, self.one_of(others).key)
            self.accept(wrong, "changed copy, somebody else's key", keep_key=False)

    def delete(self) -> None:
        cases = self.library.cases()
        if len([case for case in cases if case.split == TRAINING]) > LEAST_CASES:
            case = self.one_of(cases)
            self.library.delete(case.id)
            self.deleted.append(self.case_scan[case.id])
            self.record.done["deletion"] += 1

    def accept_again(self) -> None:
        """A deleted scan comes back, under the patient's key or without one."""
        if self.deleted:
            scan = self.deleted.pop(int(self.draw.integers(len(self.deleted))))
            key = scan.key if self.draw.random() < 0.5 else ""
            what = "accepted again" if key else "accepted again without key"
            self.accept(replace(scan, key=key, mask=edited(scan.mask, self.draw)), what)

    def restore(self) -> None:
        for case_id in self.library.trashed():
            try:
                self.library.restore(case_id)
            except DatasetError as error:  # its scan was accepted again meanwhile
                self.record.refused.append(str(error))
                continue
            self.record.done["restored"] += 1
            return

    def old_scan(self) -> None:
        """A scan that the first version was trained on comes along, changed and under no name."""
        person = OLD_PERSONS + int(self.draw.integers(OLD_SCANS))
        self.accept(changed_copy(first_scan(person), self.draw), "scan of the first version's training")

    def rehearsed_scan(self) -> None:
        """A scan that was rehearsed comes along as a patient's, or the patient has another one."""
        if self.replayed:
            scan = self.one_of(list(self.replayed.values()))
            if scan.key and self.draw.random() < 0.5:
                self.accept(first_scan(scan.person, scan.key, self.next_visit()), "another scan of a rehearsed patient")
            else:
                self.accept(changed_copy(scan, self.draw), "rehearsed scan")

    def to_mail(self) -> list[Scan]:
        """Two scans of its own patients for another hospital."""
        own = [scan for scan in self.scans if 0 < scan.person - self.first_person <= self.persons]
        return [self.one_of(own) for _ in range(2)] if own else []

    def mailed_scan(self, scan: Scan) -> None:
        if self.foreign.setdefault(scan.person, scan.visit) == scan.visit:
            self.accept(changed_copy(scan, self.draw), "scan of another hospital")

    def import_folder(self, number: int) -> None:
        """A colleague's folder: scans that are here already, a new patient, a first version's, names of its others."""
        folder = self.folder / f"import-{number}"
        new = first_scan(self.new_person())
        old = changed_copy(first_scan(OLD_PERSONS + number // 4 % OLD_SCANS), self.draw)
        names = {f"Case{place:02d}": self.one_of(self.scans) for place in range(2)} | {
            "Case02": new,
            f"mail-{number}": old,
        }
        write_folder(folder, names, self.draw)
        for scan in names.values():
            self.know(scan)
        before = {case.id for case in self.library.cases()}
        report = self.library.import_folder(folder)
        self.record.refused += [f"{name}: {reason}" for name, reason in report.failed.items()]
        of_content = {content_of(scan.image): scan for scan in names.values()}
        for case in self.library.cases():
            if case.id not in before:
                scan = of_content[content_of(read_image(case.image_path))]
                self.case_scan[case.id] = scan
                self.scans.append(scan)
                self.record.new_case(case, scan.base, self.truth, self.registry)
        self.record.done["folder imported"] += 1

    def accept(self, scan: Scan, what: str, keep_key: bool = True) -> bool:
        """As the panel does: scan, masks, version and the patient's key; no name. Whether it was stored."""
        self.know(scan)
        try:
            stored = self.library.add(
                scan.image,
                scan.mask,
                prediction=edited(scan.mask, self.draw),
                model_version=self.registry.active().name,
                patient_key=scan.key,
                scanner=f"scanner {scan.person % 2}",
            )
        except DatasetError as error:
            self.record.refused.append(f"{what}: {error}")
            return False
        story = f"{what}, visit {scan.visit}, key '{scan.key}', case {stored.case.id}: {stored.case.split}"
        self.record.history.setdefault(str(scan.person), []).append(story)
        kept = scan if keep_key else replace(scan, key="")
        self.case_scan[stored.case.id] = kept
        if stored.is_new:
            self.scans.append(kept)
            self.record.new_case(stored.case, scan.base, self.truth, self.registry)
        self.record.done[what] += 1
        return True

    def know(self, scan: Scan) -> None:
        content = content_of(scan.image)
        self.record.person_of[content], self.truth.base_of[content] = scan.person, scan.base

    def next_visit(self) -> int:
        return len(self.truth.base_of) + 1

    def one_of(self, things: list):
        return things[int(self.draw.integers(len(things)))]

    # ---- retraining and versions

    def replay_folder(self, number: int, mail: list[Scan]) -> tuple[Path, dict[str, Scan]]:
        """Old cases to rehearse: new persons, some with a key; copies of patients here; a scan of another hospital."""
        folder, scans = self.folder / f"replay-{number}", {}
        for place in range(REPLAYED):
            person = self.new_person()
            scans[f"new-{place}"] = first_scan(person, f"PID-{person}" if place % 2 else "")
        scans["new-0-renamed"] = changed_copy(scans["new-0"], self.draw)
        for place in range(2):
            scans[f"here-{place}"] = changed_copy(self.one_of(self.scans), self.draw)
        for place, scan in enumerate(mail):
            if self.foreign.setdefault(scan.person, scan.visit) == scan.visit:
                scans[f"Case{place:02d}"] = changed_copy(scan, self.draw)
        write_folder(folder, scans, self.draw)
        lines = ["case,patient", *(f"{name},{scan.key}" for name, scan in scans.items())]
        write_text("\n".join(lines) + "\n", folder / "index.csv")
        for scan in scans.values():
            self.know(scan)
        return folder, scans

    def retrain(self, number: int, mail: list[Scan], tamper: Callable[[Path], object] | None = None) -> None:
        """One run through the real service; its frozen lists are kept, since the run's folder goes."""
        replay, scans = self.replay_folder(number, mail) if number % 2 == 0 else ("", {})
        run = make_job(self.library.folder, self.registry.folder, replay, device="cpu")
        if tamper is not None:
            tamper(run)
        job = json.loads((run / "job.json").read_text(encoding="utf-8"))
        trained: set[Base] = set()
        for case in job["cases"]:  # what is really in the file that will be read
            content = content_of(read_image(self.library.folder / case["image"]))
            self.record.contents.setdefault(case["id"], set()).add(content)
            self.record.patients.setdefault(case["id"], set()).add(case["patient"])
            trained |= {self.truth.base_of[content]} if case["split"] == TRAINING else set()
        version = retrain(run, settings=QUICK)
        memory = read_patients(self.library.folder / "patients.json", self.library.folder / "salt")
        pseudonyms = {f"replay-{memory.pseudonym('replay', name)[:12]}": scan for name, scan in scans.items()}
        rehearsed = {name: pseudonyms[name] for name in version.ledger["replay"]}
        for name, scan in rehearsed.items():
            self.record.contents.setdefault(name, set()).add(content_of(scan.image))
        self.replayed |= rehearsed
        saw = self.truth.saw
        parent = version.ledger["parent"]["sha256"]
        saw[version.description.sha256] = trained | {scan.base for scan in rehearsed.values()} | saw.get(parent, set())
        self.record.new_version(version, job, self.truth, {case: scan.base for case, scan in self.case_scan.items()})
        self.ask(version.description)
        self.record.done["retrained with rehearsal" if rehearsed else "retrained"] += 1
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
            self.registry.delete(self.one_of(spare))
            self.record.done["version deleted"] += 1

    def receive_version(self, other: Hospital) -> str:
        """Import the newest version of another hospital, and use it half of the time; its name, or "" if it is here."""
        newest = other.registry.versions()[-1]
        path = self.folder / "exchanged.zip"
        try:
            other.registry.export(newest.name, path)
            self.registry.import_file(path)
        except ModelError as error:  # every hospital's first version has the same name
            self.record.refused.append(str(error))
            return ""
        if self.draw.random() < 0.5:
            self.registry.activate(newest.name)
        self.record.done["version of another hospital"] += 1
        self.ask(self.registry.version(newest.name).description)
        return newest.name

    def ask(self, model: ModelDescription) -> None:
        """Whether a version knows again some of what it saw and takes none of the other scans for such a one."""
        saw = sorted(self.truth.saw[model.sha256])
        others = sorted(set(self.truth.base_of.values()) - set(saw))
        bases = [self.one_of(saw) for _ in range(ASKED)] + [self.one_of(others) for _ in range(ASKED // 2) if others]
        copies = (changed_copy(first_scan(person, visit=visit), self.draw) for person, visit in bases)
        self.record.ask(model, ((copy.base, ScanIdentity(copy.image)) for copy in copies), self.truth)


def write_folder(folder: Path, scans: dict[str, Scan], draw: np.random.Generator) -> None:
    """Scans and edited masks as images/ and labels/."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name, scan in scans.items():
        sitk.WriteImage(scan.image, str(folder / "images" / f"{name}.mha"))
        sitk.WriteImage(edited(scan.mask, draw), str(folder / "labels" / f"{name}.mha"))

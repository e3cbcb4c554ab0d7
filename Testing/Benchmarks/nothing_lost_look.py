"""Holds a case library, a model registry and exported versions against what nothing_lost_child.py has promised.

A state is ``cases`` and ``trash`` {id: {"image", "revisions": {number: [mask, prediction]}}} by the contents that were
handed in, ``versions`` {name: SHA-256 of the weights}, ``active``, ``before`` (versions that were active, oldest
first) and ``archives`` {file: SHA-256 of the weights in it}.
"""

from __future__ import annotations

import json
import zipfile
from copy import deepcopy
from pathlib import Path

from toy_hospital import content_of

from DDSPSegmentationLib.engine.files import file_sha256
from DDSPSegmentationLib.engine.images import read_image
from DDSPSegmentationLib.engine.model import builtin_model_folder, load_networks
from DDSPSegmentationLib.library.case_library import CaseLibrary, StoredCase
from DDSPSegmentationLib.library.model_registry import ModelRegistry
from DDSPSegmentationLib.service.hold_out_uses import USES_FILE

OF_THE_LIBRARY = ("patients.json", "salt", "dataset.json", "splits_final.json")


class Look:
    """Opens everything and writes nothing, but for what opening itself mends.

    Attributes:
        problems: what is not as promised; ``outcome``: how the operation came out that was under way.
        state: what is promised from here on: what was found.
    """

    def __init__(self, folder: Path, promised: dict, pending: dict | None = None):
        self._library, self._registry = CaseLibrary(folder / "Cases"), ModelRegistry(folder / "Models")
        self._archives = folder / "archives"
        self.problems: list[str] = []
        before, after = deepcopy(promised), deepcopy((pending or {}).get("after", promised))
        found = {**self._cases(), **self._versions(), "archives": self._exported()}
        self._name_the_new(found, pending or {}, before, after)
        self.outcome = "nothing was under way"
        if pending:
            self.outcome = "had not happened" if found == comparable(before) else "had happened"
        self.state = before
        if found == comparable(after):
            self.state = after
        elif found != comparable(before):
            for part, seen in found.items():
                allowed = [comparable(state)[part] for state in (before, after)]
                if seen not in allowed:
                    self.problems += _differences(part, seen, allowed[0])
            self.problems = self.problems or ["The parts do not go together: one is from before, one from after."]
            self.state = before | {part: found[part] for part in ("cases", "versions", "active", "archives")}

    def _cases(self) -> dict:
        self.problems += self._library.problems()
        cases = {case.id: self._facts(case) for case in self._library.cases()}
        return {"cases": cases, "trash": sorted(self._library.trashed())}

    def _facts(self, case: StoredCase) -> dict:
        """A case's contents, every file of it read."""
        revisions = {}
        for revision in case.revisions:
            path = case.mask_path_of(revision.number)
            if file_sha256(path) != revision.mask_sha256:
                self.problems.append(f"Mask {revision.number} of case {case.id} is not the one that was stored.")
            has_prediction = revision.number in case.predicted
            prediction = content_of(read_image(case.prediction_path_of(revision.number))) if has_prediction else ""
            revisions[str(revision.number)] = [content_of(read_image(path)), prediction]
        return {"image": content_of(read_image(case.image_path)), "revisions": revisions}

    def _versions(self) -> dict:
        versions = {}
        for version in self._registry.versions():
            if version.builtin:
                continue
            self.problems += [version.problem] if version.problem else []
            if not (version.folder / "weights.pt").is_file():
                self.problems.append(f"Version {version.name} has no weights.")
            versions[version.name] = version.description.sha256 if version.description else ""
        load_networks(self._registry.checked_folder())
        return {"versions": versions, "active": self._registry.active().name, "previous": self._registry.previous()}

    def _exported(self) -> dict:
        """An exported file that is there is whole."""
        found = {}
        for path in self._archives.glob("[!.]*.zip"):
            with zipfile.ZipFile(path) as archive:
                self.problems += [f"'{path.name}' is damaged."] if archive.testzip() else []
                found[path.name] = json.loads(archive.read("model.json"))["sha256"]
        return found

    def _name_the_new(self, found: dict, pending: dict, before: dict, after: dict) -> None:
        """A case or version that appeared gets into ``after`` when it is what was being made, whole."""
        for part, wanted in (("cases", pending.get("new_case")), ("versions", pending.get("new_version"))):
            new = sorted(set(found[part]) - set(before[part]))
            if wanted and len(new) == 1:
                after[part][new[0]] = found[part][new[0]] if wanted is True else wanted
        if pending.get("new_version"):
            for name in set(found["versions"]) - set(before["versions"]):
                if not self._registry.version(name).ledger.get("training"):
                    self.problems.append(f"Version {name} has no ledger.")


def comparable(state: dict) -> dict:
    """A state as looking finds it."""
    before = [name for name in state["before"] if name != state["active"]]
    builtin = builtin_model_folder().name
    previous = before[-1] if before else "" if state["active"] == builtin else builtin
    parts = {part: state[part] for part in ("cases", "versions", "active", "archives")}
    return {**parts, "trash": sorted(state["trash"]), "previous": previous}


def _differences(part: str, found: object, promised: object) -> list[str]:
    if not isinstance(found, dict):
        return [f"{part}: {promised} was promised, {found} was found."]
    lost = [f"{part}: {name} is lost." for name in promised if name not in found]
    added = [f"{part}: {name} was never finished and is listed." for name in found if name not in promised]
    other = [f"{part}: {name} is not as promised." for name in found if found[name] != promised.get(name, found[name])]
    return [*lost, *added, *other]


def unaccounted(library: CaseLibrary, registry: ModelRegistry) -> list[str]:
    """After a write: files that nothing accounts for, and labels that are not the newest mask."""
    problems = []
    cases = library.cases()
    known = {library.folder / name for name in OF_THE_LIBRARY}
    for case in cases:
        known |= {case.image_path, case.label_path, case.record_folder / "case.json"}
        known |= {case.mask_path_of(revision.number) for revision in case.revisions}
        known |= {case.prediction_path_of(number) for number in case.predicted}
        if not case.label_path.is_file() or file_sha256(case.label_path) != case.current.mask_sha256:
            problems.append(f"The label of case {case.id} is not its newest mask.")
    counted = json.loads((library.folder / "dataset.json").read_text())
    if counted["numTraining"] + counted["numTest"] != len(cases):
        problems.append("dataset.json counts other cases than there are.")
    for case_id in library.trashed():
        known |= _of_trashed(library.folder / "trash" / case_id, problems)
    known.add(registry.folder / "active.json")
    known |= set(library.folder.glob(USES_FILE))  # once a retraining has compared on held-out patients
    for version in registry.versions():
        if not version.builtin:
            files = json.loads((version.folder / "manifest.json").read_text())["files"]
            known |= {version.folder / name for name in (*files, "manifest.json")}
    for top in (library.folder, registry.folder):
        there = {path for path in top.rglob("*") if path.suffix != ".lock"}
        files = {path for path in there if path.is_file()}
        empty = [path for path in there - files if path.parent != top and not any(path.iterdir())]
        wanted = {path for path in known if top in path.parents}
        problems += [f"'{path.relative_to(top)}' is left over." for path in sorted([*(files - known), *empty])]
        problems += [f"'{path.relative_to(top)}' is missing." for path in sorted(wanted - files)]
    return problems


def _of_trashed(record: Path, problems: list[str]) -> set[Path]:
    """Files of a deleted case, which must be as whole as those of any other."""
    values = json.loads((record / "case.json").read_text(encoding="utf-8"))
    known = {record / "case.json", record / "image.mha"}
    for revision in values["revisions"]:
        mask = record / f"mask-{revision['number']}.mha"
        known.add(mask)
        if not mask.is_file() or file_sha256(mask) != revision["mask_sha256"]:
            problems.append(f"Mask {revision['number']} of deleted case {record.name} is not the one that was stored.")
    return known | {record / f"prediction-{number}.mha" for number in values["predicted"]}

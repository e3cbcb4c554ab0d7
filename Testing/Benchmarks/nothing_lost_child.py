"""The child process of nothing_lost.py: looks after a kill whether all is whole, then works until it is killed.

It says what it does in one JSON object a line; a word of kind ``done`` carries everything that it has promised so far.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
from nothing_lost_look import Look, unaccounted
from toy_hospital import (
    FIRST_VERSION,
    QUICK,
    always_make_a_version,
    compare_on_a_toy_scan,
    content_of,
    edited,
    scan_of,
)

from DDSPSegmentationLib.engine.errors import DDSPSegmentationError
from DDSPSegmentationLib.engine.images import read_image
from DDSPSegmentationLib.engine.model import builtin_model_folder
from DDSPSegmentationLib.learning.finetuning import FineTuningProgress
from DDSPSegmentationLib.library.case_library import TRAINING, CaseLibrary, StoredCase
from DDSPSegmentationLib.library.model_registry import ModelRegistry
from DDSPSegmentationLib.service.retraining import make_job, retrain
from DDSPSegmentationLib.service.retraining_process import discard_run, unfinished_runs

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate")
OF_THE_LIBRARY = ("patients.json", "salt", "dataset.json", "splits_final.json")
MOST_CASES, FEWEST_TRAINING, MOST_VERSIONS = 9, 5, 6
SHORT = ("accept", "revise", "delete", "restore", "publish", "activate", "roll back", "delete version")


def say(word: str, **values: object) -> None:
    """One line, in one write: a kill leaves it whole or unsaid."""
    os.write(1, (json.dumps({"word": word, **values}) + "\n").encode())


class Fuse:
    """Counts this process's changes to files below a folder, and kills it just before one of them."""

    def __init__(self, folder: Path):
        self._folder, self.count, self._kill_at = str(folder), 0, 0
        sys.addaudithook(self._seen)

    def light(self, step: int) -> None:
        self._kill_at = self.count + step if step else 0

    def _seen(self, event: str, values: tuple) -> None:
        changes = event in CHANGES or (event == "open" and isinstance(values[2], int) and values[2] & WRITING)
        if not changes or not str(values[0]).startswith(self._folder):
            return
        self.count += 1
        if self.count == self._kill_at:
            say("killed", at=f"{event} {Path(str(values[0])).name}")
            os.kill(os.getpid(), signal.SIGKILL)


class Child:
    """Works, and remembers in ``state`` what it promised: what must be there whatever happens next."""

    def __init__(self, folder: Path, seed: int, state: dict):
        self.folder, self.draw, self.seed = folder, random.Random(seed), seed
        self.library, self.registry = CaseLibrary(folder / "Cases"), ModelRegistry(folder / "Models")
        self.fuse, self.made = Fuse(folder), 0
        self.kill_in = ("", 0)  # stage of a retraining, and the change to the file system in it
        weights = json.loads((folder / "tiny" / "model.json").read_text())["sha256"]
        first = {"active": FIRST_VERSION, "before": [builtin_model_folder().name], "versions": {FIRST_VERSION: weights}}
        self.state = state or {"cases": {}, "trash": {}, "archives": {}, **first}
        (folder / "archives").mkdir(exist_ok=True)
        say("ready", state=self.state)

    # ---- operations

    def do(self, operation: str) -> None:
        {
            "accept": self.accept,
            "revise": self.revise,
            "delete": self.delete,
            "restore": self.restore,
            "retrain": self.retrain,
            "publish": self.publish,
            "activate": self.activate,
            "roll back": self.roll_back,
            "delete version": self.delete_version,
            "export version": self.export_version,
            "import version": self.import_version,
        }[operation]()

    def prepare(self, operation: str) -> None:
        """What the operation needs, so that it can be done at once; also keeps library and registry small."""
        while len(self.state["cases"]) > MOST_CASES:
            self.delete()
        if len(self.state["trash"]) > 4:
            self._do("empty trash", lambda after: after["trash"].clear(), self.library.empty_trash)
        while len(self._spare()) > MOST_VERSIONS:
            self.delete_version()
        while len(self._training()) < FEWEST_TRAINING:
            self.accept()
        if operation == "restore" and not self.state["trash"]:
            self.delete()
        if not (self._spare() if operation in ("activate", "roll back") else self._disposable()):
            self.publish()
        if operation == "roll back":
            self.activate()
        if operation == "import version":
            self.export_version()
            self.delete_version(self.archived)

    def accept(self) -> None:
        self.made += 1
        image, mask = scan_of(self.seed, self.made)
        prediction = edited(mask, np.random.default_rng(self.seed))
        facts = {"image": content_of(image), "revisions": {"1": [content_of(mask), content_of(prediction)]}}
        key = f"{self.seed}-{self.made}"

        def act() -> None:
            stored = self.library.add(image, mask, prediction=prediction, model_version="tiny", patient_key=key)
            self.state["cases"][stored.case.id] = facts

        self._do("accept", lambda after: None, act, new_case=facts)

    def revise(self) -> None:
        case = self.draw.choice(sorted(self.state["cases"]))
        stored = self.library.case(case)
        mask = edited(read_image(stored.mask_path), np.random.default_rng(self.draw.randrange(10**6)))
        number = str(stored.next_revision)

        def change(after: dict) -> None:
            after["cases"][case]["revisions"][number] = [content_of(mask), ""]

        self._do("revise", change, lambda: self.library.add(read_image(stored.image_path), mask))

    def delete(self) -> None:
        case = self.draw.choice(sorted(self.state["cases"]))

        def change(after: dict) -> None:
            after["trash"][case] = after["cases"].pop(case)

        self._do("delete", change, lambda: self.library.delete(case))

    def restore(self) -> None:
        case = self.draw.choice(sorted(self.state["trash"]))

        def change(after: dict) -> None:
            after["cases"][case] = after["trash"].pop(case)

        self._do("restore", change, lambda: self.library.restore(case))

    def publish(self) -> None:
        name = f"made-{self.seed}-{self._next()}"
        weights = self.state["versions"][FIRST_VERSION]

        def change(after: dict) -> None:
            after["versions"][name] = weights

        files = {"notes.md": b"Published by a benchmark.\n"}
        self._do("publish", change, lambda: self.registry.publish(self.folder / "tiny", name, files))

    def activate(self, name: str = "") -> None:
        name = name or self.draw.choice(self._spare())

        def change(after: dict) -> None:
            if after["active"] != name:
                after["before"].append(after["active"])
                after["active"] = name

        self._do("activate", change, lambda: self.registry.activate(name))

    def roll_back(self) -> None:
        def change(after: dict) -> None:
            active = after["active"]
            while after["before"] and after["active"] == active:
                after["active"] = after["before"].pop()

        self._do("roll back", change, self.registry.roll_back)

    def delete_version(self, name: str = "") -> None:
        name = name or self.draw.choice(self._disposable())

        def change(after: dict) -> None:
            del after["versions"][name]
            after["before"] = [other for other in after["before"] if other != name]

        self._do("delete version", change, lambda: self.registry.delete(name))

    def export_version(self) -> None:
        self.archived = self.draw.choice(self._disposable())
        path = self.folder / "archives" / f"{self.archived}.zip"

        def change(after: dict) -> None:
            after["archives"][path.name] = after["versions"][self.archived]

        self._do("export version", change, lambda: self.registry.export(self.archived, path))

    def import_version(self) -> None:
        path = self.folder / "archives" / f"{self.archived}.zip"

        def change(after: dict) -> None:
            after["versions"][self.archived] = after["archives"][path.name]

        self._do("import version", change, lambda: self.registry.import_file(path))

    def retrain(self, run_folder: Path | None = None) -> None:
        def act() -> None:
            self._began, self._count = time.monotonic(), self.fuse.count
            self._enter("Making the job")
            run = run_folder or make_job(self.library.folder, self.registry.folder, device="cpu")
            version = retrain(run, self._tell, settings=QUICK)
            self.state["versions"][version.name] = version.description.sha256
            self.retrained = version.name

        self._do("retrain", lambda after: None, act, new_version=True)

    def _tell(self, told: FineTuningProgress) -> None:
        stage = told.stage.split(",")[0]  # without the number of the case
        if stage != self._stage:
            self._enter(stage)

    def _enter(self, stage: str) -> None:
        self._stage = stage
        say("stage", stage=stage, seconds=time.monotonic() - self._began, changes=self.fuse.count - self._count)
        if stage == self.kill_in[0]:
            self.fuse.light(self.kill_in[1])

    def _do(self, operation: str, change: Callable[[dict], None], act: Callable[[], object], **new: object) -> None:
        """Say what will be, do it, promise it. A case or version whose name is not known yet is in ``new``."""
        after = deepcopy(self.state)
        change(after)
        say("begin", operation=operation, after=after, **new)
        started, changes = time.monotonic(), self.fuse.count
        act()
        if not new:
            self.state = after
        seconds, changes = time.monotonic() - started, self.fuse.count - changes
        say("done", operation=operation, state=self.state, seconds=seconds, changes=changes)

    def _spare(self) -> list[str]:
        """Versions that are not active."""
        return sorted(name for name in self.state["versions"] if name != self.state["active"])

    def _disposable(self) -> list[str]:
        return [name for name in self._spare() if name != FIRST_VERSION]

    def _training(self) -> list[StoredCase]:
        return [case for case in self.library.cases() if case.split == TRAINING]

    def _next(self) -> int:
        self.made += 1
        return self.made

    # ---- after a kill

    def repair(self, problems: list[str]) -> str:
        """Write once to library and registry; end an interrupted retraining one way or the other. Says which way."""
        self.accept()
        self.activate(self.state["active"])
        way = ""
        for version in self.registry.versions():
            if version.ledger and not version.comparison:
                problems.append(f"{version.name} of a retraining was published without its comparison.")
        for status in unfinished_runs(self.registry.folder):
            way = self.draw.choice(("resumed", "discarded"))
            if way == "discarded":
                discard_run(status.folder)
                continue
            self.retrain(status.folder)
            version = self.registry.version(self.retrained)
            if version.problem or not version.comparison:
                problems.append(f"The resumed retraining left {version.name} unusable or not compared.")
        if self.registry.runs_folder.is_dir() and any(path.is_dir() for path in self.registry.runs_folder.iterdir()):
            discard_run(make_job(self.library.folder, self.registry.folder, device="cpu"))
        problems += [f"Run {status.folder.name} is left." for status in unfinished_runs(self.registry.folder)]
        return way


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--operation", required=True)
    parser.add_argument("--stage", required=True)
    parser.add_argument("--step", type=int, required=True)
    chosen = parser.parse_args()
    folder = chosen.folder.resolve()
    always_make_a_version()
    compare_on_a_toy_scan(folder)
    promises = json.loads((folder / "promises.json").read_text())
    child = Child(folder, chosen.seed, promises["state"])
    problems, outcome, way = [], "", ""
    try:
        first = Look(folder, child.state, promises["pending"])
        problems, outcome, child.state = first.problems, first.outcome, first.state
        way = child.repair(problems)
        problems += Look(folder, child.state).problems + unaccounted(child.library, child.registry)
    except DDSPSegmentationError as error:
        problems.append(f"{type(error).__name__}: {error}")
    say("looked", problems=problems, outcome=outcome, interrupted_run=way, state=child.state)
    if chosen.operation == "look":
        return
    if chosen.operation == "measure":
        for operation in (*SHORT, "export version", "import version", "retrain"):
            child.prepare(operation)
            child.do(operation)
        return
    child.prepare(chosen.operation)
    say("armed")
    if chosen.stage:
        child.kill_in = chosen.stage, chosen.step
    else:
        child.fuse.light(chosen.step)
    child.do(chosen.operation)
    while True:  # until the kill comes
        operation = child.draw.choice(SHORT)
        child.prepare(operation)
        child.do(operation)


if __name__ == "__main__":
    main()

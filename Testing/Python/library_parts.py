"""Parts for the tests of the case library: scans, a check that a library is whole, and processes that use it.

Run as a script it is one process on a library: ``python library_parts.py ACTION FOLDER [JSON]``; it says ``begin ...``
and ``end ...`` around each change.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from learning_parts import start_script, toy_scan, wait_for_line

from DDSPSegmentationLib.engine.images import read_image, read_mask
from DDSPSegmentationLib.library.case_library import HOLD_OUT, TRAINING, CaseLibrary

FOLDERS = {TRAINING: ("imagesTr", "labelsTr"), HOLD_OUT: ("imagesTs", "labelsTs")}


def other_mask(mask: sitk.Image, seed: int) -> sitk.Image:
    """The mask with its highest slice drawn anew, so that every seed gives another mask."""
    voxels = sitk.GetArrayFromImage(mask)
    top = int(np.flatnonzero(voxels.any(axis=(1, 2)))[-1])
    voxels[top] = voxels[top - 1]
    voxels[top, 18, 20 - 4 : 20 - 4 + 1 + seed % 8] = 0
    other = sitk.GetImageFromArray(voxels)
    other.CopyInformation(mask)
    return other


def filled_library(folder: Path, count: int, first: int = 0) -> CaseLibrary:
    library = CaseLibrary(folder)
    for seed in range(first, first + count):
        image, mask = toy_scan(seed)
        library.add(image, mask, prediction=mask, model_version="1")
    return library


def store_again(library: CaseLibrary, case_id: str, mask: sitk.Image, **given):
    """Another mask of a stored case: its scan is accepted again."""
    return library.add(read_image(library.case(case_id).image_path), mask, **given)


def state_of(library: CaseLibrary) -> dict[str, tuple]:
    """Id to where a case is and which revisions it has."""
    state = {case.id: ("cases", *(revision.number for revision in case.revisions)) for case in library.cases()}
    for case_id in library.trashed():
        text = (library.folder / "trash" / case_id / "case.json").read_text(encoding="utf-8")
        state[case_id] = ("trash", *(revision["number"] for revision in json.loads(text)["revisions"]))
    return state


def assert_whole(folder: Path) -> dict[str, tuple]:
    """Read a library as somebody would who comes after a kill; its files must agree to the byte."""
    library = CaseLibrary(folder)
    cases = library.cases()
    assert library.problems() == []
    split_of = {}
    for case in cases:
        assert split_of.setdefault(case.patient, case.split) == case.split
        image, mask = read_image(case.image_path), read_mask(case.mask_path)
        assert image.GetSize() == mask.GetSize() and mask.GetOrigin() == image.GetOrigin()
        for revision in case.revisions:
            found = hashlib.sha256(case.mask_path_of(revision.number).read_bytes()).hexdigest()
            assert found == revision.mask_sha256
        assert case.label_path.read_bytes() == case.mask_path.read_bytes()
        if case.prediction_path is not None:
            read_mask(case.prediction_path)
    for split, parts in FOLDERS.items():
        ids = {case.id for case in cases if case.split == split}
        for part, ending in zip(parts, ("_0000.mha", ".mha"), strict=True):
            present = {path.name for path in (folder / part).glob("*")}
            assert present == {case_id + ending for case_id in ids}, part
    for case_id in library.trashed():
        assert {"case.json", "image.mha"} <= {path.name for path in (folder / "trash" / case_id).iterdir()}
    if cases:
        described = json.loads((folder / "dataset.json").read_text())
        assert described["numTraining"] == sum(case.split == TRAINING for case in cases)
        splits = json.loads((folder / "patients.json").read_text())["splits"]
        assert all(splits[case.patient] == case.split for case in cases)
    assert not (folder / "unfinished.json").exists()
    state = state_of(library)
    with library.locked():  # what only takes space is swept by the next writer
        pass
    assert list(folder.rglob(".ddsp-*")) == []
    assert state_of(library) == state
    return state


def start_process(action: str, folder: Path, **settings) -> subprocess.Popen:
    return start_script(Path(__file__), action, str(folder), json.dumps(settings))


def finish(process: subprocess.Popen) -> list[str]:
    """The lines of a process that must end well."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output.splitlines()


def say(*words) -> None:
    print(*words, flush=True)


def change_for_ever(folder: Path, seed: int, first: int) -> None:
    """Random changes, each announced and confirmed, until somebody ends the process."""
    draw, library, scan = random.Random(seed), CaseLibrary(folder), first
    stored = {}
    while True:
        ids, trashed = [case.id for case in library.cases()], library.trashed()
        action = draw.choice(["add", "add", "revise", "revise", "delete", "restore", "undo"])
        if action == "add" or not ids:
            image, mask = toy_scan(scan)
            scan += 1
            say("begin", "add", "-")
            result = library.add(image, mask, prediction=mask)
            stored[result.case.id] = result
            say("end", "add", result.case.id)
            continue
        case_id = draw.choice({"restore": trashed, "undo": sorted(set(stored) & set(ids))}.get(action, ids) or [""])
        if not case_id:
            continue
        say("begin", action, case_id)
        if action == "revise":
            mask = other_mask(read_mask(library.case(case_id).mask_path), draw.randrange(8))
            stored[case_id] = store_again(library, case_id, mask)
        elif action == "undo":
            library.undo(stored.pop(case_id))
        else:
            getattr(library, action)(case_id)
            stored.pop(case_id, None)
        say("end", action, case_id)


def add_some(folder: Path, first: int, count: int, host: str, patient: str = "") -> None:
    """Add scans as a process of another computer would, which is known by its name alone."""
    import socket

    socket.gethostname = lambda: host
    library = CaseLibrary(folder)
    for seed in range(first, first + count):
        image, mask = toy_scan(seed)
        result = library.add(image, mask, patient_key=patient and f"{patient} {seed}")
        say("end", "add", result.case.id, result.case.split)


def hold(folder: Path) -> None:
    with CaseLibrary(folder).locked():
        say("held")
        time.sleep(300)


def add_with_little_disk(folder: Path, most_bytes: int) -> None:
    import resource

    from DDSPSegmentationLib.engine.errors import StorageError

    image, mask = toy_scan(99)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    try:
        CaseLibrary(folder).add(image, mask)
    except StorageError as error:
        say("refused", error)


def add_without_permission(folder: Path) -> None:
    from DDSPSegmentationLib.engine.errors import StorageError

    image, mask = toy_scan(99)
    if os.geteuid() == 0:
        os.setuid(65534)
    library = CaseLibrary(folder)
    say("read", len(library.cases()))
    try:
        library.add(image, mask)
    except StorageError as error:
        say("refused", error)


def add_as_another_account(folder: Path, group: int, seed: int) -> None:
    from DDSPSegmentationLib.engine.errors import StorageError

    image, mask = toy_scan(seed)
    os.umask(0o002)
    os.setgroups([group])
    os.setgid(65534)
    os.setuid(65534)
    try:
        say("added", CaseLibrary(folder).add(image, mask).case.id)
    except StorageError as error:
        say("refused", error)


ACTIONS = {
    action.__name__: action
    for action in (
        change_for_ever,
        add_some,
        hold,
        add_with_little_disk,
        add_without_permission,
        add_as_another_account,
    )
}

__all__ = [
    "assert_whole",
    "filled_library",
    "finish",
    "other_mask",
    "start_process",
    "state_of",
    "store_again",
    "wait_for_line",
]

if __name__ == "__main__":
    ACTIONS[sys.argv[1]](Path(sys.argv[2]), **json.loads(sys.argv[3]))

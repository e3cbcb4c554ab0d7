"""One version from several networks, each trained without some folds of the patients, and who may judge whom.

With five folds and the five pairs of neighbors every patient is left out by exactly two members, so that every figure
of a training patient can come from members that saw neither that patient nor a copy of its scan.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..engine.errors import DatasetError, InputError, ModelError
from ..engine.model import ModelDescription, load_networks, save_model
from ..engine.scan_identity import NOTHING_SEEN, ScanIdentity, SeenGroup, SeenScans
from .dataset import Case, PreparedCase

LEFT_OUT = ((0, 1), (1, 2), (2, 3), (3, 4), (4, 0))


def join_members(
    folder: Path | str,
    models: Sequence[Path | str],
    left_out: Sequence[Sequence[int]],
    cases: Sequence[PreparedCase],
    folds: Sequence[Sequence[str]],
    **facts: Any,
) -> ModelDescription:
    """Write one version whose members are the networks of several model folders.

    Args:
        folder: the new version's.
        models: folders with one network each, of one architecture and preprocessing.
        left_out: for each of them the folds that it was not trained on.
        cases: those of all folds; ``folds``: their names.
        facts: further fields of the version's description.

    Raises:
        ModelError: a folder has another architecture or several networks, or was trained on what it should have left
            out.
    """
    loaded = [load_networks(model) for model in models]
    first = loaded[0][1]
    for (networks, description), numbers in zip(loaded, left_out, strict=True):
        if len(networks) != 1 or (description.network, description.preprocessing) != (
            first.network,
            first.preprocessing,
        ):
            cause = f"Model '{description.version}' is not one network of the architecture of '{first.version}'."
            raise ModelError(cause, "Join networks of one training plan.")
        if not description.seen.known:
            cause = f"Model '{description.version}' does not say what it was trained on."
            raise ModelError(cause, "Join networks that carry their list of scans.")
        names = {name for number in numbers for name in folds[number]}
        leaked = [case.name for case in cases if case.name in names and description.was_trained_on(case.identity)]
        if leaked:
            cause = f"Model '{description.version}' was trained on '{leaked[0]}', which it should have left out."
            raise ModelError(cause, "Name the folds that were left out.")
    fold_of = {name: number for number, names in enumerate(folds) for name in names}
    digests = {case.identity.digest for case in cases}
    groups = {group: None for _, description in loaded for group in description.seen.groups}
    elsewhere = SeenScans(tuple(filter(None, (_without(group, digests) for group in groups))), known=True)
    return save_model(
        folder,
        [network for networks, _ in loaded for network in networks],
        first.preprocessing,
        members=[{"left_out": list(numbers)} for numbers in left_out],
        seen=elsewhere.with_training([(case.name, case.identity) for case in cases], fold_of),
        **facts,
    )


def _without(group: SeenGroup, digests: set[str]) -> SeenGroup | None:
    """What a network saw besides the scans of these digests, which no fold holds; None where that is nothing."""
    others = tuple(replace(scan, fold=None) for scan in group.scans if scan.digest not in digests)
    return SeenGroup(group.salt, others) if others else None


def unseen_members(description: ModelDescription, cases: Sequence[Case]) -> dict[str, list[int] | None]:
    """For each case the members that saw no scan of its patient; ``None`` where nobody can tell.

    Args:
        description: of the version; ``cases``: all that are to be judged, since scans of one patient tell of each
            other. One that cannot be read tells nothing.
    """
    of_patient: dict[str, set[int]] = {case.patient: set(range(len(description.members))) for case in cases}
    for case in cases:
        with suppress(DatasetError, InputError):
            of_patient[case.patient] &= set(description.members_that_never_saw(ScanIdentity(case.load_image())))
    return {case.name: sorted(of_patient[case.patient]) if description.seen.known else None for case in cases}


def draw_folds(
    description: ModelDescription, scans: Mapping[str, tuple[str, ScanIdentity]], seed: int
) -> dict[str, int | None]:
    """The fold of each scan (name: patient and identity) among those of a version's members.

    A patient whom the version knows stays in the fold it is in; every other one comes into the smallest, patients of
    these scans counted, and of two alike into that which is no neighbor of the last: a member leaves out neighbors.
    Copies of a scan are of one patient, whatever they are called. ``None``: some scan of the patient was seen by all
    members, or in two folds, so that nobody can judge it any more.
    """
    patient_of = _one_patient(scans)
    known: dict[str, set[int | None]] = {}
    for name, (_, scan) in scans.items():
        known.setdefault(patient_of[name], set()).update(match.fold for match in description.seen.matches(scan))
    count = 1 + max(max(member["left_out"], default=0) for member in description.members)
    fold_of = {patient: next(iter(folds)) if len(folds) == 1 else None for patient, folds in known.items() if folds}
    new = sorted(set(known) - set(fold_of))
    random.Random(seed).shuffle(new)
    for patient in new:
        sizes = Counter(fold_of.values())
        fold_of[patient] = min(range(count), key=lambda fold: (sizes[fold], fold % 2, fold))
    return {name: fold_of[patient_of[name]] for name in scans}


def _one_patient(scans: Mapping[str, tuple[str, ScanIdentity]]) -> dict[str, str]:
    """Whose each scan is, by its content too: a copy under another patient's name is that patient's."""
    root = {patient: patient for patient, _ in scans.values()}

    def root_of(patient: str) -> str:
        while root[patient] != patient:
            patient = root[patient]
        return patient

    together = NOTHING_SEEN.with_training([(name, scan) for name, (_, scan) in scans.items()])
    for patient, scan in scans.values():
        for match in together.matches(scan):
            first, second = sorted((root_of(patient), root_of(scans[match.name][0])))
            root[second] = first
    return {name: root_of(patient) for name, (patient, _) in scans.items()}

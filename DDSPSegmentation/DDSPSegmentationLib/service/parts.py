"""Which part of the scans a run does, said by options or by the scheduler that started it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..engine.errors import InputError

if TYPE_CHECKING:
    from .inputs import InputCase

_SAY_BOTH = "Give --num-parts and --part-id."


@dataclass(frozen=True)
class Part:
    """One of ``count`` parts of the scans, numbered from 0; ``origin`` says from where that is known."""

    number: int
    count: int
    origin: str = ""

    def __str__(self) -> str:
        return f"part {self.number} of {self.count}"

    def holds(self, key: str) -> bool:
        """Whether a case is drawn into this part: by its key alone, so that other cases move none."""
        drawn = int(hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:16], 16)
        return drawn % self.count == self.number


@dataclass(frozen=True)
class Listed:
    """All cases of all parts: how many, and a digest of their names."""

    count: int
    digest: str

    @classmethod
    def of(cls, cases: Iterable[InputCase]) -> Listed:
        names = sorted(case.name for case in cases)
        digest = hashlib.sha256()
        for name in names:
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
        return cls(len(names), digest.hexdigest())


def choose_part(
    count: int | None, number: int | None, environment: Mapping[str, str], recorded: int | None = None
) -> Part | None:
    """The part that is asked for; ``None``: nobody speaks of parts, or there is but one.

    Args:
        count, number: of the options; what is not given comes from the environment of a scheduler.
        recorded: in how many parts the output folder is done already, which an error tells.

    Raises:
        InputError: one of the two is not known, or they do not fit.
    """
    if count == 1 and not number:
        return None
    if count is not None and number is not None:
        return _checked(Part(number, count, "--num-parts and --part-id"))
    told = _told_by_scheduler(count, environment, recorded)
    if told is None and number is not None:
        raise InputError("--part-id alone does not say of how many parts.", "Give --num-parts, too.")
    if told is None and count is not None:
        raise InputError("--num-parts alone does not say which part this is.", "Give --part-id, from 0 on, too.")
    if told is None:
        return None
    if count not in (None, told.count):
        raise InputError(
            f"--num-parts says {count} and {told.origin} says {told.count}, so that it is open which part this is.",
            "Give --part-id, too.",
        )
    if number is not None:
        told = Part(number, told.count, f"--part-id and {told.origin}")
    return _checked(told) if told.count > 1 else None


def _checked(part: Part) -> Part:
    if part.number < part.count:
        return part
    cause = f"There is no part {part.number} of {part.count}: the numbers go from 0 to {part.count - 1}."
    raise InputError(cause, "Give another --part-id.")


def _told_by_scheduler(count: int | None, environment: Mapping[str, str], recorded: int | None) -> Part | None:
    """Raises InputError: the scheduler says which part this is, and not of how many."""
    if "SLURM_ARRAY_TASK_ID" in environment:
        return _told_by_slurm(environment, recorded)
    for variable, total, program in (
        ("JOB_COMPLETION_INDEX", "", "Kubernetes"),
        ("AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE", "AWS Batch"),
    ):
        if variable not in environment:
            continue
        number = _whole_number(variable, environment)
        if total in environment:
            return Part(number, _whole_number(total, environment), f"{variable}={number}, {total}={environment[total]}")
        if count is None:
            raise InputError(
                f"{variable}={number} of {program} says which part this is, and not of how many.",
                "Give --num-parts, too; --num-parts 1 for all scans.",
            )
        return Part(number, count, f"{variable}={number}")
    return None


def _told_by_slurm(environment: Mapping[str, str], recorded: int | None) -> Part:
    """An array that is one row of numbers says it all; --array=3,7, as a part is done again with, says nothing."""
    names = [f"SLURM_ARRAY_TASK_{word}" for word in ("ID", "MIN", "MAX", "COUNT")]
    if missing := [name for name in names if name not in environment]:
        raise InputError(f"In this Slurm array {missing[0]} is not set, so its tasks are not known.", _SAY_BOTH)
    task, first, last, count = (_whole_number(name, environment) for name in names)
    step = environment.get("SLURM_ARRAY_TASK_STEP", "1")
    if count != last - first + 1 or step != "1":
        next_step = "Give the --num-parts of the whole array, and --part-id; --num-parts 1 for all scans."
        if recorded:
            again = f"Submit the array of all {recorded} parts again, of which those that are done end at once"
            next_step = f"{again}, or give --num-parts {recorded} and --part-id."
        raise InputError(
            f"The Slurm array has {count} tasks from {first} to {last} and is no row without gaps, so that it does not "
            "say how many parts there are.",
            next_step,
        )
    return Part(task - first, count, f"SLURM_ARRAY_TASK_ID={task} of {first} to {last}")


def _whole_number(name: str, environment: Mapping[str, str]) -> int:
    if not environment[name].isdecimal():
        raise InputError(f"{name} is '{environment[name][:40]}', which is no whole number.", _SAY_BOTH)
    return int(environment[name])

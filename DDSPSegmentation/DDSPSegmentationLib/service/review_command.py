"""``ddsp-segmentation review``: what is to be looked at in the folder of a batch, and what was decided."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..engine.errors import InputError
from .batch_record import RUN_FILE, BatchRecord
from .report import in_review_order, word_of, write_report
from .review_states import counts, decide, read_decisions, state_of
from .terminal import say


def review(chosen: argparse.Namespace) -> int:
    """List the scans, the most doubtful first; or note a state for some, and write the report anew."""
    folder = Path(chosen.folder)
    if not (folder / RUN_FILE).is_file():
        raise InputError(f"'{folder.name}' is no folder of results (it has no {RUN_FILE}).", "Name that of a batch.")
    record = BatchRecord.read(folder)
    entries = dict(in_review_order(record))
    if chosen.state:
        unknown = [name for name in chosen.cases if name not in entries]
        if unknown or not chosen.cases:
            cause = f"There is no scan '{unknown[0]}' here." if unknown else "No scan is named."
            raise InputError(cause, f"'review {chosen.folder}' lists them.")
        decide(folder, chosen.state, {name: entries[name]["mask"]["sha256"] for name in chosen.cases})
        write_report(record, folder)
    decisions = read_decisions(folder)
    states = {name: state_of(name, entry["mask"]["sha256"], decisions) for name, entry in entries.items()}
    for name, entry in entries.items():
        word = word_of(entry)
        say(f"{name}: {states[name]}{f' ({word})' if word else ''}")
    say(counts(list(states.values())) or "No case has been segmented.")
    return 0

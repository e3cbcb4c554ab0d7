"""``ddsp-segmentation report``: one table and one report of what the parts of a batch found, and what is missing."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from pathlib import Path

from ..engine.errors import InputError
from ..engine.files import delete_leftovers
from .batch import EXIT_DONE, EXIT_SOME_FAILED, EXIT_USAGE, write_measurements
from .batch_record import RUN_FILE, BatchRecord
from .part_record import merge_parts
from .report import REPORT_FILE, write_report
from .terminal import say

_MOST_NAMED = 50
_ABANDONED_SECONDS = 600.0  # so long nothing is written to a file aside whose writer was killed


def report(chosen: argparse.Namespace) -> int:
    """Merge the parts; 1 when something is missing or failed. Any number of such merges may run at once."""
    folder = Path(chosen.folder)
    try:
        record = merged(folder)
    except InputError as error:
        say(f"error: {error}", sys.stderr)
        return EXIT_USAGE
    missing, failed = record.head["missing"], record.failed()
    lines = [f"missing: {one['name']}: {one['reason']}" for one in missing]
    lines += [f"failed: {name}: {reason}" for name, reason in failed]
    for line in lines[:_MOST_NAMED]:
        say(line)
    if len(lines) > _MOST_NAMED:
        say(f"and {len(lines) - _MOST_NAMED} more, which the report names, too")
    counts = f"{len(record.cases) - len(failed)} segmented, {len(failed)} failed, {len(missing)} missing"
    say(f"{counts}. See {folder / REPORT_FILE}")
    return EXIT_SOME_FAILED if lines else EXIT_DONE


def merged(folder: Path) -> BatchRecord:
    """What the parts noted, put together and written: record, table and report. Raises InputError, StorageError."""
    record = merge_parts(folder)
    record.save()
    with suppress(OSError):  # of another user, say
        delete_leftovers(folder, before=(folder / RUN_FILE).stat().st_mtime - _ABANDONED_SECONDS)
    write_measurements(record, folder)
    write_report(record, folder)
    return record

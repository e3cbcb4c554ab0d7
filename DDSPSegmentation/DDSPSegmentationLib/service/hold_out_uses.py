"""How often the hold-out has compared versions: who looks often enough finds a gain by chance."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..engine.errors import ModelError
from ..engine.files import read_json, write_json
from ..learning.statistics import LEAST_PATIENTS

USES_FILE = "hold-out-uses.json"


def count_use(models_folder: Path, run: str, patients: Iterable[str]) -> int:
    """Write down that a retraining is about to compare on these patients, before it does; call it under its lock.

    A use on too few patients to recommend anything is not counted. A run that goes on after a kill counts once, and
    a version that is deleted takes nothing back.

    Args:
        run: the retraining's token; ``patients``: pseudonyms.

    Returns:
        How many retrainings have used one of these patients, this one included.

    Raises:
        ModelError: the list of uses cannot be read. StorageError: it cannot be written.
    """
    now, path = set(patients), models_folder / USES_FILE
    if len(now) < LEAST_PATIENTS:
        return 1
    try:
        uses = read_json(path) if path.is_file() else {}
        count = 1 + sum(not now.isdisjoint(used) for other, used in uses.items() if other != run)
    except (AttributeError, TypeError) as error:
        step = "Restore it from a backup; if you delete it, comparisons are counted anew."
        raise ModelError(f"'{USES_FILE}' in the models folder cannot be read.", step) from error
    write_json({**uses, run: sorted(now)}, path)
    return count

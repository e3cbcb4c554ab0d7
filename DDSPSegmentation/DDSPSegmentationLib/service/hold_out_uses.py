"""How often the hold-out has compared versions: who looks often enough finds a gain by chance."""

from __future__ import annotations

from collections.abc import Iterable

from ..engine.errors import DatasetError
from ..engine.files import read_json, write_json
from ..library.case_library import CaseLibrary
from ..library.patients import read_memory

USES_FILE = "hold-out-uses.json"


def count_use(library: CaseLibrary, run: str, patients: Iterable[str]) -> int:
    """Write down in the library that a retraining is about to compare on these patients, before it does.

    It counts whichever models folder it is for, and on however few patients it is. A run that goes on after a kill
    counts once, and a version that is deleted takes nothing back.

    Args:
        run: the retraining's token; ``patients``: pseudonyms.

    Returns:
        How many retrainings have used one of these patients, this one included.

    Raises:
        DatasetError: the list of uses cannot be read. StorageError: it cannot be written. FolderInUseError: somebody
            writes to the library for longer than a few seconds.
    """
    root = read_memory(library.folder / "patients.json").root  # who turned out to be one patient since is one
    now, path = set(map(root, patients)), library.folder / USES_FILE
    if not now:
        return 1
    with library.locked():
        try:
            uses = read_json(path) if path.is_file() else {}
            count = 1 + sum(not now.isdisjoint(map(root, used)) for other, used in uses.items() if other != run)
        except (AttributeError, TypeError) as error:
            step = "Restore it from a backup; if you delete it, comparisons are counted anew."
            raise DatasetError(f"'{USES_FILE}' in the case library cannot be read.", step) from error
        write_json({**uses, run: sorted(now)}, path)
    return count

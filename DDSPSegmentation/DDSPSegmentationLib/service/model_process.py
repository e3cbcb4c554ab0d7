"""One change of the model registry in a process of its own, for a Slicer whose window goes on answering.

``python -m DDSPSegmentationLib.service.model_process MODELS_FOLDER activate|roll-back|import [NAME|FILE]`` reads the
weights, which takes torch and seconds, makes the change and says on one line of the worker's protocol what came of it:
``result`` with the version's name, or ``error``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from ..library.model_registry import ModelRegistry
from ..library.model_version import ModelVersion
from .protocol import encode_line, error_message

ACTIVATE, ROLL_BACK, IMPORT = "activate", "roll-back", "import"


def main(words: Sequence[str]) -> None:
    folder, action, *subject = words
    registry = ModelRegistry(folder)
    changes: dict[str, Callable[..., ModelVersion]] = {
        ACTIVATE: registry.activate,
        ROLL_BACK: registry.roll_back,
        IMPORT: registry.import_file,
    }
    try:
        message = {"event": "result", "version": changes[action](*subject).name}
    except Exception as error:
        message = error_message(error, None)
    sys.stdout.write(encode_line(message))
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])

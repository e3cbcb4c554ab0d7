"""Errors of the panel: whatever an action raises becomes one sentence in the status line."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from ...engine.errors import DDSPSegmentationError

WENT_WRONG = object()  # what a guarded action that went wrong returns; it is not None and not any answer


class Guard:
    """Does something and returns what that returned; an error is said, and WENT_WRONG is returned.

    Args:
        say: puts a sentence into the panel's status line, for whoever is handed the guard, too.
    """

    def __init__(self, say: Callable[[str], None]):
        self.say = say

    def __call__(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except DDSPSegmentationError as error:
            self.say(str(error))
        except Exception as error:
            logging.exception("DDSP Segmentation")
            self.say(_("Unexpected error: {error}. View > Error Log has the details.").format(error=error))
        return WENT_WRONG

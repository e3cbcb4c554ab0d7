"""What the command line prints: lines that stay and, on a terminal, one about what is being done right now."""

from __future__ import annotations

import shutil
import sys
from contextlib import suppress
from typing import TextIO

_shown = 0  # letters of the line that does not stay


def say(line: str, file: TextIO | None = None) -> None:
    """Print a line at once; a reader that went away does not end the run."""
    show_doing("")
    with suppress(OSError, ValueError):
        print(line, flush=True, file=file)


def show_doing(text: str) -> None:
    """Replace the line about what is being done; an empty one removes it. A pipe or a file gets nothing of it."""
    global _shown
    with suppress(OSError, ValueError, AttributeError):
        if not sys.stdout.isatty():
            return
        text = text[: shutil.get_terminal_size().columns - 1]
        print(f"\r{text.ljust(_shown)}{'' if text else chr(13)}", end="", flush=True)
        _shown = len(text)

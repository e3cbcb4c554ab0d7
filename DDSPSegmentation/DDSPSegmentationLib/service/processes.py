"""What a Python of our own is started with, and how a process is ended."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from .protocol import PACKAGE_FOLDER

_AT_ONCE = getattr(signal, "SIGKILL", signal.SIGTERM)  # on Windows os.kill terminates with any signal but two


def python_environment() -> dict[str, str]:
    """Ours, with this very package in front, and nothing written into the installed folder.

    From Python 3.11 on no file of the working directory is taken for a module, whatever lies beside a user's scans.
    """
    folders = [str(Path(PACKAGE_FOLDER).parent), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(filter(None, folders))
    ours = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **ours}


def kill_tree(pid: int) -> None:
    """End a process that leads a session of its own, and all that it started; on Windows the process alone."""
    if hasattr(os, "killpg"):
        with suppress(OSError):
            os.killpg(pid, _AT_ONCE)
    kill_process(pid)


def kill_process(pid: int) -> None:
    """End a process of this user at once; one that is gone already is fine.

    Raises:
        ValueError: 0, 1 and negative numbers are not a process that may be ended.
    """
    if pid <= 1:
        raise ValueError(f"{pid} is not a process that may be ended")
    with suppress(OSError):
        os.kill(pid, _AT_ONCE)

"""How a process of this computer is ended."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

_AT_ONCE = getattr(signal, "SIGKILL", signal.SIGTERM)  # on Windows os.kill terminates with any signal but two


def kill_process(pid: int) -> None:
    """End a process of this user at once; one that is gone already is fine.

    Raises:
        ValueError: 0, 1 and negative numbers are not a process that may be ended.
    """
    if pid <= 1:
        raise ValueError(f"{pid} is not a process that may be ended")
    with suppress(OSError):
        os.kill(pid, _AT_ONCE)

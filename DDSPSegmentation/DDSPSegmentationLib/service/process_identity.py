"""Processes of this computer: whether one is there, how to end it, and how to make way for others."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

_QUERY, _TERMINATE, _BELOW_NORMAL = 0x1000, 0x0001, 0x4000
_STILL_ACTIVE, _ACCESS_DENIED = 259, 5
NICENESS = 10


def process_is_alive(process: int) -> bool:
    """Whether any process has this id now; in doubt yes. What holds a lock is known better, see ``lock_holder``."""
    if sys.platform == "win32":
        import ctypes

        kernel = ctypes.windll.kernel32
        kernel.OpenProcess.restype = ctypes.c_void_p
        handle = ctypes.c_void_p(kernel.OpenProcess(_QUERY, False, process))
        if not handle:
            return kernel.GetLastError() == _ACCESS_DENIED
        code = ctypes.c_ulong()
        kernel.GetExitCodeProcess(handle, ctypes.byref(code))
        kernel.CloseHandle(handle)
        return code.value == _STILL_ACTIVE
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    # Linux keeps the id of an ended process until its parent has asked how it ended.
    with suppress(OSError, ValueError):
        return not Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].strip().startswith("Z")
    return True


def kill_process(pid: int) -> None:
    """End a process of this user at once; one that is gone already is fine.

    Raises:
        ValueError: 0, 1 and negative numbers are not a process that may be ended.
    """
    if pid <= 1:
        raise ValueError(f"{pid} is not a process that may be ended")
    if sys.platform != "win32":
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
        return
    import ctypes

    kernel = ctypes.windll.kernel32
    kernel.OpenProcess.restype = ctypes.c_void_p
    handle = ctypes.c_void_p(kernel.OpenProcess(_TERMINATE, False, pid))
    if handle:
        kernel.TerminateProcess(handle, 1)
        kernel.CloseHandle(handle)


def lower_priority() -> None:
    """Let everything else on the computer go first."""
    if sys.platform == "win32":
        import ctypes

        kernel = ctypes.windll.kernel32
        kernel.GetCurrentProcess.restype = ctypes.c_void_p
        kernel.SetPriorityClass(ctypes.c_void_p(kernel.GetCurrentProcess()), _BELOW_NORMAL)
    else:
        with suppress(OSError):
            os.nice(NICENESS)

"""Processes of this computer: whether one is still the very same, how to end it, and how to make way for others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

_QUERY, _TERMINATE, _BELOW_NORMAL = 0x1000, 0x0001, 0x4000
_STILL_ACTIVE = 259
NICENESS = 10


def process_birth(pid: int) -> str:
    """When a process was started, as the system tells it; '' for one that has ended.

    The same process always gives the same text, and another one that got its id later gives another.
    """
    if pid <= 0:
        return ""
    if sys.platform.startswith("linux"):
        return _birth_on_linux(pid)
    if sys.platform == "darwin":
        return _birth_on_mac(pid)
    if sys.platform == "win32":
        return _birth_on_windows(pid)
    return "alive" if process_is_alive(pid) else ""


def _birth_on_linux(pid: int) -> str:
    try:
        # The name in parentheses may hold anything, so count from its end: the state first, the start as the 20th.
        words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
    return "" if words[0] in "ZX" else f"{boot} {words[19]}"


def _birth_on_mac(pid: int) -> str:
    command = ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)]
    environment = {**os.environ, "LC_ALL": "C"}
    with suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(command, capture_output=True, text=True, timeout=5, env=environment).stdout
        state, _, started = listed.strip().partition(" ")
        return "" if state.startswith("Z") else started.strip()
    return ""


def _birth_on_windows(pid: int) -> str:
    import ctypes

    kernel = ctypes.windll.kernel32
    kernel.OpenProcess.restype = ctypes.c_void_p
    handle = ctypes.c_void_p(kernel.OpenProcess(_QUERY, False, pid))
    if not handle:
        return ""
    times = [ctypes.c_uint64() for _ in range(4)]
    code = ctypes.c_ulong()
    kernel.GetExitCodeProcess(handle, ctypes.byref(code))
    kernel.GetProcessTimes(handle, *map(ctypes.byref, times))
    kernel.CloseHandle(handle)
    return str(times[0].value) if code.value == _STILL_ACTIVE else ""


def process_is_alive(process: int) -> bool:
    """Whether another process of this host still runs; in doubt yes."""
    if sys.platform == "win32":
        import ctypes

        kernel = ctypes.windll.kernel32
        handle = kernel.OpenProcess(0x1000, False, process)  # PROCESS_QUERY_LIMITED_INFORMATION
        if not handle:
            return kernel.GetLastError() == 5  # access denied: it exists
        code = ctypes.c_ulong()
        kernel.GetExitCodeProcess(handle, ctypes.byref(code))
        kernel.CloseHandle(handle)
        return code.value == 259  # STILL_ACTIVE
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


def end_process(pid: int, birth: str) -> None:
    """End a process of this user at once; one that has ended, or another with its id, is left alone.

    Raises:
        ValueError: see ``kill_process``.
    """
    if pid <= 1 or birth and process_birth(pid) == birth:
        kill_process(pid)


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

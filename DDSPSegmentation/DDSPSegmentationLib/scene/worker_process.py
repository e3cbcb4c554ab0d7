"""One worker process on qt.QProcess: how it is found, started, listened to and ended; and the log of what it prints."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from ..engine.errors import DDSPSegmentationError, WorkerError
from ..engine.files import make_folder
from ..service.processes import kill_process, python_environment
from ..service.protocol import decode_line, garbled

LOG_BYTES = 1_000_000
LONGEST_LINE = 16_000_000

_LAUNCHER_SAW_CRASH = 1  # PythonSlicer's exit code when what it started was killed; a worker never ends with it
_SIGKILL = 9
_REACTION_MS = 1000


def append_to_log(log: Path, data: bytes) -> None:
    """Append to a file that starts anew beyond a megabyte; the one before it stays as ``<name>.1``.

    A disk that takes no more loses the log and nothing else.
    """
    data = data[-LOG_BYTES:]
    with suppress(OSError):
        if log.exists() and log.stat().st_size + len(data) > LOG_BYTES:
            os.replace(log, log.with_name(log.name + ".1"))
        with open(log, "ab") as file:
            file.write(data)


class WorkerProcess:
    """One process from its start to its end; after ``kill`` it says nothing more.

    Args:
        command: program and arguments.
        folder: working directory; made when it is missing.
        onMessage: called with each event, a dictionary.
        onEnd: called once with the error when the process ends or fails by itself.
        onGone: called when nothing of the process is left, however it ended.
    """

    def __init__(
        self,
        command: list[str],
        folder: Path,
        log: Path,
        onMessage: Callable[[dict], None],
        onEnd: Callable[[DDSPSegmentationError], None],
        onGone: Callable[[WorkerProcess], None],
    ):
        self._command, self._folder, self._log = command, folder, log
        self._onMessage, self._onEnd, self._onGone = onMessage, onEnd, onGone
        self._process = None
        self._buffer = b""
        self._started = False
        self._silent = False
        self._signalsUnderWay = 0
        self.workerPid: int | None = None

    def start(self) -> None:
        """Start in the background.

        Raises:
            StorageError: the working directory cannot be made.
        """
        import qt

        make_private_folder(self._folder)
        self._process = qt.QProcess()
        self._process.setProcessChannelMode(qt.QProcess.SeparateChannels)
        environment = qt.QProcessEnvironment()
        for name, value in {**python_environment(), "PYTHONUNBUFFERED": "1"}.items():
            environment.insert(name, value)
        self._process.setProcessEnvironment(environment)
        self._process.setWorkingDirectory(str(self._folder))
        self._slots = {
            "started()": self._counted(self._onStarted),
            "readyReadStandardOutput()": self._counted(self._onOutput),
            "readyReadStandardError()": self._counted(self._onPrinted),
            "finished(int,QProcess::ExitStatus)": self._counted(self._onFinished),
            "errorOccurred(QProcess::ProcessError)": self._counted(self._onError),
        }
        for name, slot in self._slots.items():
            self._process.connect(name, slot)
        self._process.start(self._command[0], list(self._command[1:]))

    @property
    def processId(self) -> int | None:
        """Of the worker once it said hello, before that of what was started; None when there is none."""
        if self.workerPid is not None:
            return self.workerPid
        return (int(self._process.processId()) or None) if self._process is not None else None

    def send(self, line: str) -> None:
        """A line of ``encode_line``: ASCII as text, which PythonQt turns into bytes in every version."""
        self._process.write(line)

    def kill(self) -> None:
        """End everything that was started, now; the process object goes once Qt has noticed."""
        self._silent = True
        if self._process is None:
            self._onGone(self)
            return
        started = int(self._process.processId())  # 0 when it ended, or never started
        if started:
            # It may be a launcher, whose end is not its worker's; hello's word is for systems that do not tell.
            for pid in descendants(started) or filter(None, [self.workerPid]):
                kill_process(pid)
        self._process.closeWriteChannel()
        self._process.kill()
        if not started:
            self._dropSoon()

    def waitForEnd(self, milliseconds: int) -> None:
        """Wait until nothing is left of a killed process."""
        if self._process is not None and self._process.waitForFinished(milliseconds):
            self._drop()

    def _counted(self, slot: Callable) -> Callable:
        """The process object may not go while one of its signals is under way."""

        def receive(*values) -> None:
            self._signalsUnderWay += 1
            try:
                slot(*values)
            finally:
                self._signalsUnderWay -= 1

        return receive

    def _onStarted(self) -> None:
        self._started = True

    def _onOutput(self) -> None:
        self._buffer += self._process.readAllStandardOutput().data()
        while not self._silent and b"\n" in self._buffer:
            line, _newline, self._buffer = self._buffer.partition(b"\n")
            try:
                message = decode_line(line)
            except WorkerError as error:
                self._fail(error)
                return
            self._onMessage(message)
        if len(self._buffer) > LONGEST_LINE:
            self._fail(garbled())

    def _onPrinted(self) -> None:
        append_to_log(self._log, self._process.readAllStandardError().data())

    def _onFinished(self, code: int, status) -> None:
        import qt

        self._onOutput()
        self._onPrinted()
        crashed = status == qt.QProcess.CrashExit
        self._fail(_error_at_end(int(code), crashed, self.workerPid is not None))
        self._dropSoon()

    def _onError(self, kind) -> None:
        import qt

        if not self._started:
            self._fail(
                WorkerError(
                    _("The engine's program '{program}' could not be started.").format(program=self._command[0]),
                    _("Check that the file is there and may be run; install Slicer again if it is not."),
                )
            )
            self._dropSoon()
        elif kind == qt.QProcess.WriteError:  # mostly its end, which says more and comes right after
            qt.QTimer.singleShot(_REACTION_MS, lambda: self._fail(_error_at_end(0, False, True)))

    def _fail(self, error: DDSPSegmentationError) -> None:
        """Say so once, and make sure that nothing keeps running."""
        if self._silent:
            return
        append_to_log(self._log, f"{error}\n".encode())
        self.kill()
        self._onEnd(error)

    def _dropSoon(self) -> None:
        import qt

        qt.QTimer.singleShot(0, self._drop)

    def _drop(self) -> None:
        """Let go of the process object, which must outlive its own signals."""
        if self._process is None:
            return
        if self._signalsUnderWay:
            self._dropSoon()
            return
        process, self._process = self._process, None
        for name, slot in self._slots.items():
            process.disconnect(name, slot)
        process.deleteLater()
        self._onGone(self)


def make_private_folder(folder: Path) -> None:
    """Make the temporary folder where it is missing, as after the system tidied up. Raises StorageError."""
    make_folder(folder, _("Check its disk, or choose another temporary folder in the application settings."))
    with suppress(OSError):  # some drives know no owners
        folder.chmod(0o700)  # scans are nobody else's business


def worker_command() -> list[str]:
    """Program and arguments of the worker. Raises WorkerError, see ``python_program``."""
    return [python_program(), "-m", "DDSPSegmentationLib.service.worker"]


def python_program() -> str:
    """PythonSlicer inside Slicer, where sys.executable need not be a Python; elsewhere this Python.

    Raises:
        WorkerError: this Slicer has no PythonSlicer.
    """
    home = getattr(getattr(slicer, "app", None), "slicerHome", None)
    program = sys.executable
    if home:
        name = "PythonSlicer.exe" if os.name == "nt" else "PythonSlicer"
        beside = os.path.join(home, "bin", name)
        program = shutil.which("PythonSlicer") or (beside if os.path.isfile(beside) else None)
        if program is None:
            raise WorkerError(
                _("PythonSlicer, which runs the engine, is missing from '{home}'.").format(home=home),
                _("Install Slicer again."),
            )
    return program


def descendants(pid: int) -> list[int]:
    """Processes that a process started, and theirs, deepest last; empty where the system does not tell.

    A worker that is missed ends by itself: its standard input closes with its launcher.
    """
    if pid <= 1:  # no process, or the system's own
        return []
    parents = _parents()
    found, level = [], [pid]
    while level:
        level = [child for child, parent in parents.items() if parent in level]
        found += level
    return found


def _parents() -> dict[int, int]:
    """Each process and the one that started it."""
    parents = {}
    if sys.platform.startswith("linux"):
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with suppress(OSError, ValueError, IndexError), open(f"/proc/{entry}/stat", "rb") as file:
                    # The name in parentheses may hold anything, so count from its end: state, then parent.
                    parents[int(entry)] = int(file.read().rpartition(b")")[2].split()[1])
    elif sys.platform == "darwin":
        with suppress(OSError, subprocess.SubprocessError, ValueError):
            listed = subprocess.run(["/bin/ps", "-axo", "pid=,ppid="], capture_output=True, timeout=1).stdout
            for line in listed.splitlines():
                child, parent = map(int, line.split())
                parents[child] = parent
    return parents


def _error_at_end(code: int, crashed: bool, said_hello: bool) -> WorkerError:
    see_log = _("Try again; if it happens again, press Show Log under Advanced and report it.")
    if crashed and code == _SIGKILL or said_hello and code == _LAUNCHER_SAW_CRASH:
        return WorkerError(
            _("The engine was ended from outside; the computer may have run out of memory."),
            _("Close other programs and try again; Show Log under Advanced may say more."),
        )
    if crashed:
        return WorkerError(_("The engine crashed (code {code}).").format(code=code), see_log)
    if said_hello:
        return WorkerError(_("The engine ended unexpectedly (exit code {code}).").format(code=code), see_log)
    return WorkerError(_("The engine ended while it was starting (exit code {code}).").format(code=code), see_log)

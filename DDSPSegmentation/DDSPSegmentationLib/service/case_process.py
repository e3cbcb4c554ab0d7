"""The other side of ``case_worker``: processes that do scan after scan, replaced only when a scan has ended them."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..engine.cores import usable_cores
from ..engine.errors import DDSPSegmentationError, InputError, WorkerError
from ..engine.run_settings import RunSettings
from .batch_record import UnexpectedError
from .case_work import Outputs, Tell
from .processes import kill_tree, python_environment
from .protocol import decode_line, encode_line, error_of

if TYPE_CHECKING:
    from .inputs import InputCase

TIME_LIMIT_S = 1800.0
GOES_ON = "The other scans are not touched by it; export this one again, or look at it in another program."

_MODULE = "DDSPSegmentationLib.service.case_worker"
_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<name>.+)$', re.MULTILINE)


class CaseProcess:
    """Does cases in another process; used as a context, at whose end the process is gone.

    Args:
        settings: how each scan is segmented.
        time_limit: seconds that one scan may take.
        command: what starts the process, for another Python than this one.
        psa: see ``case_work.do_case``.
        environment: variables that it gets besides ours.
    """

    def __init__(
        self,
        settings: RunSettings,
        time_limit: float = TIME_LIMIT_S,
        command: Sequence[str] = (sys.executable,),
        psa: float | None = None,
        environment: Mapping[str, str] | None = None,
    ):
        self._settings, self._time_limit, self._command, self._psa = settings, time_limit, list(command), psa
        self._environment = dict(environment or {})
        self._process: subprocess.Popen | None = None
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._said: Any = None  # what the process prints

    def __enter__(self) -> CaseProcess:
        return self

    def __exit__(self, *ending: object) -> None:
        self._end()

    def __call__(self, case: InputCase, outputs: Outputs, tell: Tell) -> dict:
        """Do one case; see ``case_work.do_case``.

        Raises:
            InputError: the scan ended the process, or took longer than the time limit; other errors of the family as
                the process raised them; UnexpectedError.
        """
        if self._process is None or self._process.poll() is not None:
            self._start()
        phase, until = "Reading", time.monotonic() + self._time_limit
        self._send(case, outputs)
        while True:
            try:
                line = self._answers.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                self._end()
                cause = f"{_doing(phase)} '{case.name}' took longer than {self._time_limit:g} s and was stopped."
                raise InputError(cause, f"{GOES_ON} --time-limit allows more.") from None
            if not line:
                raise self._death(case.name, phase)
            message = decode_line(line)
            if message.get("event") == "result":
                return message["facts"]
            if message.get("event") == "error":
                raise _as_raised(message)
            phase = str(message.get("phase", phase))
            tell(phase, float(message.get("fraction", 0.0)))

    def kill(self) -> None:
        """End the process from another thread; the case that it does fails."""
        process = self._process
        if process is not None:
            kill_tree(process.pid)

    # ---- the process

    def _start(self) -> None:
        self._said = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                [*self._command, "-m", _MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                env=python_environment() | self._environment,
                start_new_session=os.name != "nt",  # Ctrl-C is for us
            )
        except OSError as error:
            cause = f"The process that segments cannot be started: {error}."
            raise WorkerError(cause, "Check the installation.") from error
        self._answers = queue.SimpleQueue()
        assert self._process.stdout is not None
        threading.Thread(target=_listen, args=(self._process.stdout, self._answers), daemon=True).start()

    def _send(self, case: InputCase, outputs: Outputs) -> None:
        assert self._process is not None and self._process.stdin is not None
        files, dicom = case.files()
        request = {
            "name": case.name,
            "files": [str(path) for path in files],
            "dicom": dicom,
            "outputs": outputs.to_dict(),
            "settings": self._settings.to_dict(),
            "psa": self._psa,
        }
        with suppress(OSError):  # a process that is gone says so by its end
            self._process.stdin.write(encode_line(request).encode())
            self._process.stdin.flush()

    def _death(self, name: str, phase: str) -> DDSPSegmentationError:
        """What to tell of a scan that ended the process."""
        assert self._process is not None
        code = self._process.wait()
        with suppress(OSError, ValueError):
            self._said.seek(0)
        said = self._said.read().decode("utf-8", "replace") if self._said is not None else ""
        self._end()
        error: Any = InputError(f"{_doing(phase)} '{name}' ended the process that did it ({_how(code)}).", GOES_ON)
        error.frames = [
            f"  {Path(found['file']).name}:{found['line']} in {found['name']}" for found in _FRAME.finditer(said)
        ][:12]
        return error

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            kill_tree(process.pid)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    if pipe is not None:
                        pipe.close()
        if self._said is not None:
            self._said.close()
            self._said = None


class CaseProcesses:
    """Several processes that do cases at once, as a context; each case is done by one that is free.

    Args:
        jobs: how many; they divide the cores among them.
        settings, time_limit, command, psa: see ``CaseProcess``.
    """

    def __init__(
        self,
        jobs: int,
        settings: RunSettings,
        time_limit: float = TIME_LIMIT_S,
        command: Sequence[str] = (sys.executable,),
        psa: float | None = None,
    ):
        threads = _threads_of_each(jobs) if jobs > 1 else {}
        self._all = [CaseProcess(settings, time_limit, command, psa, threads) for _ in range(jobs)]
        self._free: queue.SimpleQueue[CaseProcess] = queue.SimpleQueue()
        for process in self._all:
            self._free.put(process)

    def __enter__(self) -> CaseProcesses:
        return self

    def __exit__(self, *ending: object) -> None:
        for process in self._all:
            process.__exit__(*ending)

    def __call__(self, case: InputCase, outputs: Outputs, tell: Tell) -> dict:
        """Do one case; see ``CaseProcess``. From as many threads as there are processes."""
        process = self._free.get()
        try:
            return process(case, outputs, tell)
        finally:
            self._free.put(process)

    def kill(self) -> None:
        """End what they do, from another thread."""
        for process in self._all:
            process.kill()


def _threads_of_each(jobs: int) -> dict[str, str]:
    """What tells torch and ITK of their share of the cores; less stays where somebody asked for less."""
    share = max(1, usable_cores() // jobs)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    threads = str(min(share, int(asked)) if asked.isdecimal() and int(asked) else share)
    return dict.fromkeys(("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), threads)


def _listen(stream: BinaryIO, answers: queue.SimpleQueue) -> None:
    with suppress(OSError, ValueError):
        for line in stream:
            answers.put(line)
    answers.put(b"")


def _doing(phase: str) -> str:
    return "Reading" if phase == "Reading" else "Segmenting"


def _how(code: int) -> str:
    """How a process ended, in words."""
    if code == -getattr(signal, "SIGKILL", 9):
        return "it was killed, most likely because memory ran out"
    if code < 0:
        with suppress(ValueError):
            return f"it crashed with {signal.Signals(-code).name}"
    return f"exit code {code}"


def _as_raised(message: dict) -> BaseException:
    """The error that the process raised, with the operating system's behind it where there was one."""
    error: BaseException = (
        error_of(message)
        if message.get("type") != "WorkerError"
        else UnexpectedError(str(message.get("text")), message.get("frames", []))
    )
    if isinstance(message.get("errno"), int):
        error.__cause__ = OSError(message["errno"], os.strerror(message["errno"]))
    return error

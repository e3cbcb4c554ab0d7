"""The engine behind the panel: a worker process that is kept warm, asked through Qt's event loop, and ended at once."""

from __future__ import annotations

import secrets
import shutil
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk
from slicer.i18n import tr as _

from ..engine.errors import Canceled, DDSPSegmentationError, StorageError, WorkerError
from ..engine.run_settings import DEFAULTS, RunSettings
from ..engine.segmentation import Segmentation
from ..service.protocol import check_hello, encode_line, error_of, garbled, segment_request
from ..service.stored_segmentation import StoredSegmentation, write_temporary
from .worker_process import RotatingLog, WorkerProcess, make_folder, worker_command

OnProgress = Callable[[str, float], None]
OnResult = Callable[[Segmentation], None]
OnError = Callable[[DDSPSegmentationError], None]

_END_MS = 1000


@dataclass
class _Request:
    """What was asked and who is to be told; ``scan`` and ``output`` are the files between the processes."""

    id: str
    scan: Path
    output: Path
    line: str
    onProgress: OnProgress | None
    onResult: OnResult
    onError: OnError

    def remove_files(self) -> None:
        with suppress(OSError):
            self.scan.unlink()
        shutil.rmtree(self.output, ignore_errors=True)


class WorkerClient:
    """Starts the worker process, hands it one scan at a time and gives back what it says.

    Everything happens in Qt's event loop, on the thread that made the client; only ``segment`` and
    ``stop(wait=True)`` wait. Each request that ``submit`` accepted is answered exactly once, whatever happens to
    the process, and never before ``submit`` has returned.

    Args:
        folder: for scans, answers and worker.log; made when it is missing. Whoever made it deletes it.
        command: program and arguments of the worker; found by itself when None.
        idle_seconds: without a request for so long the worker ends, to give its memory back.
        hello_seconds: a worker that says nothing for so long is given up.

    Attributes:
        onStateChanged: called without arguments after each change of ``state``, when it is not None.
        logPath: what the worker printed, at most a megabyte, and as much again in ``worker.log.1``.
    """

    def __init__(
        self,
        folder: Path | str,
        command: list[str] | None = None,
        idle_seconds: float = 600.0,
        hello_seconds: float = 120.0,
    ):
        self._folder = Path(folder)
        self._command = command
        self._idle_seconds, self._hello_seconds = idle_seconds, hello_seconds
        self.onStateChanged: Callable[[], None] | None = None
        self.logPath = self._folder / "worker.log"
        self._log = RotatingLog(self.logPath)
        self._worker: WorkerProcess | None = None
        self._ending: dict[WorkerProcess, _Request | None] = {}
        self._hello: dict | None = None
        self._startError: DDSPSegmentationError | None = None
        self._request: _Request | None = None
        self._deliveries: list[Callable[[], None]] = []
        self._timer = _single_shot(self._on_timeout)
        self._delivery_timer = _single_shot(self._deliver_next)
        self._toldState = "off"

    @property
    def state(self) -> str:
        """``off``, ``starting`` (a request may be waiting), ``ready`` or ``busy``."""
        if self._worker is None:
            return "off"
        if self._hello is None:
            return "starting"
        return "ready" if self._request is None else "busy"

    @property
    def hello(self) -> dict | None:
        """What the running worker said about itself (see ``service.protocol``), None before that."""
        return self._hello

    @property
    def startError(self) -> DDSPSegmentationError | None:
        """Why the last start failed; None once a worker said hello."""
        return self._startError

    @property
    def processId(self) -> int | None:
        """Of the worker once it said hello, before that of its launcher; None when none runs."""
        return self._worker.processId if self._worker is not None else None

    def start(self) -> None:
        """Start the worker in the background when none runs; a failure is in ``startError``."""
        if self._worker is not None:
            return
        try:
            self._worker = WorkerProcess(
                self._command or worker_command(),
                self._folder,
                self._log,
                self._on_message,
                self._on_worker_end,
                self._on_worker_gone,
                self._later,
            )
            self._wait_at_most(self._hello_seconds)
            self._worker.start()
        except DDSPSegmentationError as error:
            self._on_worker_end(error)
        self._tell_state()

    def submit(
        self,
        image: sitk.Image,
        settings: RunSettings,
        *,
        name: str,
        onResult: OnResult,
        onError: OnError,
        onProgress: OnProgress | None = None,
    ) -> str:
        """Ask for one segmentation and return at once with the request's id.

        Args:
            name: what error messages call the scan.
            onResult: called with the answer; its probability and uncertainty are read when first asked for, and its
                files go with it (see ``StoredSegmentation``).
            onError: called with an error of the family, ``Canceled`` among them.
            onProgress: called with phase and fraction.

        Raises:
            WorkerError: another request is under way.
            StorageError: the scan could not be written to the temporary folder.
        """
        if self._request is not None:
            raise WorkerError(_("Another segmentation is under way."), _("Wait until it is done, or cancel it."))
        request_id = secrets.token_hex(8)
        scan, output = self._folder / f"{request_id}.mha", self._folder / request_id
        line = encode_line(segment_request(request_id, scan, output, settings, name))
        request = _Request(request_id, scan, output, line, onProgress, onResult, onError)
        try:
            make_folder(self._folder)
            write_temporary(image, scan)
        except DDSPSegmentationError:
            request.remove_files()
            raise
        self._request = request
        if self._hello is not None:
            self._send()
        else:
            self._later(lambda: self._tell_starting(request))
            self.start()
        return request_id

    def cancel(self) -> None:
        """End the worker, and with it the request under way, which gets ``Canceled``; another worker starts."""
        if self._request is None:
            return
        self._end_worker()
        self._answer_error(Canceled())
        self.start()

    def stop(self, wait: bool = False) -> None:
        """End the worker for good; a request under way gets ``Canceled``. A later ``start`` is welcome.

        Args:
            wait: until the process is gone and everybody was told, a second at most; no callback comes afterwards.
        """
        self._end_worker()
        self._answer_error(Canceled())
        self._tell_state()
        if wait:
            for worker in list(self._ending):
                worker.waitForEnd(_END_MS)
            for _number in range(len(self._deliveries)):
                self._deliver_next()

    def segment(
        self,
        image: sitk.Image,
        settings: RunSettings = DEFAULTS,
        *,
        name: str = "volume",
        progress: OnProgress | None = None,
    ) -> Segmentation:
        """Segment and wait for it, for scripts: the signature of ``InProcessRunner.segment``.

        Views are drawn meanwhile; clicks and keys wait. Whatever ``progress`` raises ends the work and is raised.
        """
        import qt

        outcomes, raised = [], []

        def tell(phase: str, fraction: float) -> None:
            try:
                if progress is not None and not raised:
                    progress(phase, fraction)
            except BaseException as error:  # Qt would swallow it
                raised.append(error)
                self.cancel()

        self.submit(image, settings, name=name, onProgress=tell, onResult=outcomes.append, onError=outcomes.append)
        loop = qt.QEventLoop()
        try:
            while not outcomes:
                loop.processEvents(qt.QEventLoop.ExcludeUserInputEvents | qt.QEventLoop.WaitForMoreEvents)
        except BaseException:
            self.cancel()
            raise
        if raised:
            raise raised[0]
        if isinstance(outcomes[0], DDSPSegmentationError):
            raise outcomes[0]
        return outcomes[0]

    def _send(self) -> None:
        self._wait_at_most(None)
        self._worker.send(self._request.line)
        self._tell_state()

    def _on_message(self, message: dict) -> None:
        event = message.get("event")
        if self._hello is None:
            self._on_first_message(event, message)
        elif event == "log":
            self._log.write(f"{message.get('text')}\n".encode())
        elif self._request is None or message.get("id") != self._request.id:
            self._on_worker_end(error_of(message) if event == "error" and message.get("id") is None else garbled())
        elif event == "progress":
            self._on_progress(message)
        elif event == "result":
            self._on_result(message)
        elif event == "error":
            self._answer_error(error_of(message))
            self._rest()
        else:
            self._on_worker_end(garbled())

    def _on_first_message(self, event: str, message: dict) -> None:
        try:
            if event == "error":
                raise error_of(message)
            if event != "hello":
                raise garbled()
            check_hello(message)
        except DDSPSegmentationError as error:
            self._on_worker_end(error)
            return
        self._hello, self._startError = message, None
        self._worker.workerPid = message["pid"]
        if self._request is not None:
            self._send()
        else:
            self._rest()

    def _on_progress(self, message: dict) -> None:
        phase, fraction = message.get("phase"), message.get("fraction")
        if not isinstance(phase, str) or not isinstance(fraction, (int, float)):
            self._on_worker_end(garbled())
        elif self._request.onProgress is not None:
            self._request.onProgress(phase, float(fraction))

    def _on_result(self, message: dict) -> None:
        request = self._request
        try:
            segmentation = StoredSegmentation.load(message.get("segmentation"), request.output)
        except WorkerError as error:
            self._on_worker_end(error)
        except StorageError as error:
            self._answer_error(error)
            self._rest()
        else:
            self._request = None
            with suppress(OSError):
                request.scan.unlink()
            self._later(lambda: request.onResult(segmentation))
            self._rest()

    def _on_worker_end(self, error: DDSPSegmentationError) -> None:
        """The worker ended, never started, or is not to be trusted any more."""
        if self._hello is None:
            self._startError = error
        self._end_worker()
        self._answer_error(error)
        self._tell_state()

    def _on_worker_gone(self, worker: WorkerProcess) -> None:
        request = self._ending.pop(worker, None)
        if request is not None:
            request.remove_files()  # again: it may have been writing to the last

    def _end_worker(self) -> None:
        worker, self._worker, self._hello = self._worker, None, None
        self._wait_at_most(None)
        if worker is not None:
            self._ending[worker] = self._request
            worker.kill()

    def _answer_error(self, error: DDSPSegmentationError) -> None:
        request, self._request = self._request, None
        if request is not None:
            request.remove_files()
            self._later(lambda: request.onError(error))

    def _rest(self) -> None:
        self._wait_at_most(self._idle_seconds)
        self._tell_state()

    def _tell_starting(self, request: _Request) -> None:
        if request is self._request and self._hello is None and request.onProgress is not None:
            request.onProgress(_("Starting engine"), 0.0)

    def _tell_state(self) -> None:
        if self.state != self._toldState:
            self._toldState = self.state
            if self.onStateChanged is not None:
                self.onStateChanged()

    def _wait_at_most(self, seconds: float | None) -> None:
        """For hello, or for the next request; None ends the waiting."""
        self._timer.stop()
        if seconds is not None:
            self._timer.start(int(seconds * 1000))

    def _on_timeout(self) -> None:
        if self.state == "ready":
            self.stop()
        elif self.state == "starting":
            cause = _("The engine did not start within {seconds} seconds.")
            self._on_worker_end(
                WorkerError(
                    cause.format(seconds=f"{self._hello_seconds:g}"),
                    _("Try again; press Show Log under Advanced to see what it is waiting for."),
                )
            )

    def _later(self, tell: Callable[[], None]) -> None:
        """Call from the event loop: never from inside ``submit`` or a signal of the process."""
        self._deliveries.append(tell)
        self._delivery_timer.start(0)

    def _deliver_next(self) -> None:
        if self._deliveries:
            tell = self._deliveries.pop(0)
            if self._deliveries:
                self._delivery_timer.start(0)
            tell()


def _single_shot(method: Callable[[], None]):
    """A timer that calls a method; Qt would keep the method's object alive, so it is known weakly."""
    import qt

    timer = qt.QTimer()
    timer.setSingleShot(True)
    known = weakref.WeakMethod(method)
    timer.connect("timeout()", lambda: known() and known()())
    return timer

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
from .worker_process import WorkerProcess, append_to_log, make_private_folder, worker_command

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

    def removeFiles(self) -> None:
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
        idleSeconds: without a request for so long the worker ends, to give its memory back.
        helloSeconds: a worker that says nothing for so long is given up.

    Attributes:
        hello: what the running worker said about itself (see ``service.protocol``), None before that.
        onStateChanged: called without arguments after each change of ``state``, when it is not None.
        logPath: what the worker printed, at most a megabyte, and as much again in ``worker.log.1``.
    """

    def __init__(
        self,
        folder: Path | str,
        command: list[str] | None = None,
        idleSeconds: float = 600.0,
        helloSeconds: float = 120.0,
    ):
        self._folder = Path(folder)
        self._command = command
        self._idleSeconds, self._helloSeconds = idleSeconds, helloSeconds
        self.onStateChanged: Callable[[], None] | None = None
        self.logPath = self._folder / "worker.log"
        self._worker: WorkerProcess | None = None
        self._ending: dict[WorkerProcess, _Request | None] = {}
        self.hello: dict | None = None
        self._request: _Request | None = None
        self._deliveries: list[Callable[[], None]] = []
        self._timer = _single_shot(self._onTimeout)
        self._toldState = "off"

    @property
    def state(self) -> str:
        """``off``, ``starting`` (a request may be waiting), ``ready`` or ``busy``."""
        if self._worker is None:
            return "off"
        if self.hello is None:
            return "starting"
        return "ready" if self._request is None else "busy"

    @property
    def processId(self) -> int | None:
        """Of the worker once it said hello, before that of its launcher; None when none runs."""
        return self._worker.processId if self._worker is not None else None

    def start(self) -> None:
        """Start the worker in the background when none runs; a failure is told to the next request, and in the log."""
        if self._worker is not None:
            return
        try:
            self._worker = WorkerProcess(
                self._command or worker_command(),
                self._folder,
                self.logPath,
                self._onMessage,
                self._onWorkerEnd,
                self._onWorkerGone,
            )
            self._waitAtMost(self._helloSeconds)
            self._worker.start()
        except DDSPSegmentationError as error:
            self._onWorkerEnd(error)
        self._tellState()

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
        requestId = secrets.token_hex(8)
        scan, output = self._folder / f"{requestId}.mha", self._folder / requestId
        line = encode_line(segment_request(requestId, scan, output, settings, name))
        request = _Request(requestId, scan, output, line, onProgress, onResult, onError)
        try:
            make_private_folder(self._folder)
            write_temporary(image, scan)
        except DDSPSegmentationError:
            request.removeFiles()
            raise
        self._request = request
        if self.hello is not None:
            self._send()
        else:
            self._later(lambda: self._tellStarting(request))
            self.start()
        return requestId

    def cancel(self) -> None:
        """End the worker, and with it the request under way, which gets ``Canceled``; another worker starts."""
        if self._request is None:
            return
        self._endWorker()
        self._answerError(Canceled())
        self.start()

    def stop(self, wait: bool = False) -> None:
        """End the worker for good; a request under way gets ``Canceled``. A later ``start`` is welcome.

        Args:
            wait: until the process is gone and everybody was told, a second at most; no callback comes afterwards.
        """
        self._onWorkerEnd(Canceled())
        if wait:
            for worker in list(self._ending):
                worker.waitForEnd(_END_MS)
            for _number in range(len(self._deliveries)):
                self._deliverNext()

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
        self._waitAtMost(None)
        self._worker.send(self._request.line)
        self._tellState()

    def _onMessage(self, message: dict) -> None:
        event = message.get("event")
        if self.hello is None:
            self._onFirstMessage(event, message)
        elif event == "log":
            append_to_log(self.logPath, f"{message.get('text')}\n".encode())
        elif self._request is None or message.get("id") != self._request.id:
            self._onWorkerEnd(error_of(message) if event == "error" and message.get("id") is None else garbled())
        elif event == "progress":
            self._onProgress(message)
        elif event == "result":
            self._onResult(message)
        elif event == "error":
            self._answerError(error_of(message))
            self._rest()
        else:
            self._onWorkerEnd(garbled())

    def _onFirstMessage(self, event: str, message: dict) -> None:
        try:
            if event == "error":
                raise error_of(message)
            if event != "hello":
                raise garbled()
            check_hello(message)
        except DDSPSegmentationError as error:
            self._onWorkerEnd(error)
            return
        self.hello = message
        self._worker.workerPid = message["pid"]
        if self._request is not None:
            self._send()
        else:
            self._rest()

    def _onProgress(self, message: dict) -> None:
        phase, fraction = message.get("phase"), message.get("fraction")
        if not isinstance(phase, str) or not isinstance(fraction, (int, float)):
            self._onWorkerEnd(garbled())
        elif self._request.onProgress is not None:
            self._request.onProgress(phase, float(fraction))

    def _onResult(self, message: dict) -> None:
        request = self._request
        try:
            segmentation = StoredSegmentation.load(message.get("segmentation"), request.output)
        except WorkerError as error:
            self._onWorkerEnd(error)
        except StorageError as error:
            self._answerError(error)
            self._rest()
        else:
            self._request = None
            with suppress(OSError):
                request.scan.unlink()
            self._later(lambda: request.onResult(segmentation))
            self._rest()

    def _onWorkerEnd(self, error: DDSPSegmentationError) -> None:
        """The worker ended, never started, is not to be trusted any more, or is not needed."""
        self._endWorker()
        self._answerError(error)
        self._tellState()

    def _onWorkerGone(self, worker: WorkerProcess) -> None:
        request = self._ending.pop(worker, None)
        if request is not None:
            request.removeFiles()  # again: it may have been writing to the last

    def _endWorker(self) -> None:
        worker, self._worker, self.hello = self._worker, None, None
        self._waitAtMost(None)
        if worker is not None:
            self._ending[worker] = self._request
            worker.kill()

    def _answerError(self, error: DDSPSegmentationError) -> None:
        request, self._request = self._request, None
        if request is not None:
            request.removeFiles()
            self._later(lambda: request.onError(error))

    def _rest(self) -> None:
        self._waitAtMost(self._idleSeconds)
        self._tellState()

    def _tellStarting(self, request: _Request) -> None:
        if request is self._request and self.hello is None and request.onProgress is not None:
            request.onProgress(_("Starting engine"), 0.0)

    def _tellState(self) -> None:
        if self.state != self._toldState:
            self._toldState = self.state
            if self.onStateChanged is not None:
                self.onStateChanged()

    def _waitAtMost(self, seconds: float | None) -> None:
        """For hello, or for the next request; None ends the waiting."""
        self._timer.stop()
        if seconds is not None:
            self._timer.start(int(seconds * 1000))

    def _onTimeout(self) -> None:
        if self.state == "ready":
            self.stop()
        elif self.state == "starting":
            cause = _("The engine did not start within {seconds} seconds.")
            self._onWorkerEnd(
                WorkerError(
                    cause.format(seconds=f"{self._helloSeconds:g}"),
                    _("Try again; press Show Log under Advanced to see what it is waiting for."),
                )
            )

    def _later(self, tell: Callable[[], None]) -> None:
        """Call from the event loop: never from inside ``submit`` or a signal of the process."""
        import qt

        self._deliveries.append(tell)
        qt.QTimer.singleShot(0, self._deliverNext)

    def _deliverNext(self) -> None:
        if self._deliveries:
            self._deliveries.pop(0)()


def _single_shot(method: Callable[[], None]):
    """A timer that calls a method; Qt would keep the method's object alive, so it is known weakly."""
    import qt

    timer = qt.QTimer()
    timer.setSingleShot(True)
    known = weakref.WeakMethod(method)
    timer.connect("timeout()", lambda: known() and known()())
    return timer

"""The engine's own process: ``python -m DDSPSegmentationLib.service.worker``; what it says is in ``protocol``.

It keeps the last model loaded, does one request at a time, starts no process of its own, and ends at once when its
standard input closes, so that none is ever left behind.
"""

from __future__ import annotations

import faulthandler
import os
import queue
import shutil
import sys
import threading
import time
import traceback
from pathlib import Path

# Nothing here may import torch or ITK: what they print while they load would end up among the events.
from ..engine.errors import DDSPSegmentationError, StorageError, WorkerError
from ..engine.files import os_errors_as
from ..engine.run_settings import RunSettings
from .protocol import REQUEST_KEYS, decode_line, encode_line, error_message, hello_message

EXIT_CANNOT_START = 3
EXIT_NOBODY_LISTENS = 4
# Never 1: a launcher between this process and its client says 1 for a worker that was killed.
EXIT_FAILED = 70


class Events:
    """The way out: what descriptor 1 was at the start. Whatever prints from now on lands on stderr."""

    def __init__(self) -> None:
        self._descriptor = os.dup(1)
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def send(self, message: dict) -> None:
        data = encode_line(message).encode()
        with self._lock:
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
            except OSError:
                os._exit(EXIT_NOBODY_LISTENS)


class Worker:
    """Says hello, then answers requests; a second thread listens for them all the while."""

    def __init__(self, events: Events):
        self._events = events
        self._requests: queue.SimpleQueue[dict] = queue.SimpleQueue()
        self._busy = threading.Event()
        self._files: list[Path] = []  # scans and answers that nobody deletes when the client is gone

    def run(self) -> int:
        """Serve until standard input closes; returns an exit code only when the engine cannot be used at all."""
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            from .runner import InProcessRunner, load_torch

            hello = hello_message(os.getpid(), load_torch(), *_devices())
        except Exception as error:
            _print_details(error)
            self._events.send(error_message(error, None))
            return EXIT_CANNOT_START
        self._runner = InProcessRunner()
        self._events.send(hello)
        self._warm_up()
        while True:
            self._answer(self._requests.get())

    def _listen(self) -> None:
        """Take requests; ends the whole process when no more can come, whatever it is computing."""
        try:
            for line in sys.stdin.buffer:
                self._take(line)
        finally:
            # A client that ends its worker kills it first; one that is gone leaves patients' scans to us.
            for path in self._files:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
            os._exit(0)

    def _take(self, line: bytes) -> None:
        request_id = None
        try:
            request = decode_line(line)
            request_id = request.get("id")
            if request.get("request") != "segment" or not set(REQUEST_KEYS) <= set(request):
                raise WorkerError("The engine was asked for something that it does not know.", "Restart Slicer.")
            if self._busy.is_set():
                raise WorkerError("Another segmentation is under way.", "Wait until it is done, or cancel it.")
        except WorkerError as error:
            self._events.send(error_message(error, request_id))
            return
        paths = (Path(request["image"]), Path(request["output"]))
        self._files += [path for path in paths if path.stem == request_id]  # temporary ones alone are named like it
        self._busy.set()
        self._requests.put(request)

    def _warm_up(self) -> None:
        """Load the built-in model while nobody waits; a failure is told to whoever asks for that model."""
        if self._busy.is_set():
            return
        started = time.perf_counter()
        try:
            self._runner.load()
        except Exception as error:
            self._log(None, f"The built-in model was not loaded: {error}")
        else:
            self._log(None, f"The built-in model is loaded ({time.perf_counter() - started:.1f} s).")

    def _answer(self, request: dict) -> None:
        request_id, folder = request["id"], Path(request["output"])
        started = time.perf_counter()
        try:
            settings = RunSettings.from_dict(request["settings"])
            answered = self._segment(request, settings, folder, started)
            answer = {"event": "result", "id": request_id, "segmentation": answered}
            self._log(request_id, f"{settings.mode} segmentation done in {time.perf_counter() - started:.1f} s.")
        except Exception as error:
            shutil.rmtree(folder, ignore_errors=True)
            _print_details(error, request["name"])
            answer = error_message(error, request_id)
        self._busy.clear()  # before the answer, which the next request may follow at once
        self._events.send(answer)

    def _segment(self, request: dict, settings: RunSettings, folder: Path, started: float) -> dict:
        from .stored_segmentation import read_temporary, save_segmentation

        def progress(phase: str, fraction: float) -> None:
            seconds = time.perf_counter() - started
            told = {"phase": phase, "fraction": float(fraction), "seconds": seconds}
            self._events.send({"event": "progress", "id": request["id"], **told})

        image = read_temporary(Path(request["image"]))
        cause = f"The temporary folder '{folder.parent}' cannot be written to"
        with os_errors_as(StorageError, cause, "Check it and its disk, then try again."):
            folder.mkdir()
        segmentation = self._runner.segment(image, settings, name=request["name"], progress=progress)
        return save_segmentation(segmentation, folder)

    def _log(self, request_id: str | None, text: str) -> None:
        self._events.send({"event": "log", "id": request_id, "text": text})


def _devices() -> tuple[list[str], str]:
    """The devices that can be used, best first, and in words the one that ``auto`` takes."""
    import torch

    from ..engine.devices import choose_precision, usable_devices

    usable = usable_devices()
    names, best = [device.type for device in usable], usable[0]
    if best.type == "cuda":
        return names, torch.cuda.get_device_name(best)
    if best.type == "mps":
        return names, "Apple GPU"
    threads = torch.get_num_threads()
    return names, f"CPU, {choose_precision('auto', best)}, {threads} thread{'s' if threads > 1 else ''}"


def _print_details(error: Exception, name: str = "") -> None:
    """What happened, for the log file; the volume's name may be a patient's and stays out of it."""
    if isinstance(error, DDSPSegmentationError) and error.__cause__ is None:
        return  # all of it is in the message
    lines = traceback.format_exception(error)
    if name:
        lines = [line if line.startswith("  ") else line.replace(name, "(volume)") for line in lines]
    print("".join(lines), file=sys.stderr, flush=True)


def main() -> None:
    events = Events()
    faulthandler.enable()
    try:
        code = Worker(events).run()
    except BaseException:
        traceback.print_exc()
        code = EXIT_FAILED
    os._exit(code)  # nothing to tidy up, and the listening thread must not hold the process back


if __name__ == "__main__":
    main()

"""A process that does the scans of a batch one after the other: ``python -m DDSPSegmentationLib.service.case_worker``.

What crashes, hangs or eats all memory with a scan ends this process and not the batch: ``case_process`` then starts
another one. Requests and answers are lines of the worker's protocol (``protocol``): a request has ``name``, ``files``,
``dicom``, ``outputs``, ``settings`` and ``psa``; it is answered by any number of ``progress`` and one ``result`` or
``error``. It ends at once when its standard input closes.
"""

from __future__ import annotations

import faulthandler
import os
import queue
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

from .protocol import decode_line, encode_line, error_message


def main() -> None:
    for asked_to_end in (signal.SIGINT, signal.SIGTERM):  # that is for whoever started us, and ends us, too
        signal.signal(asked_to_end, signal.SIG_IGN)
    faulthandler.enable()
    _die_with_parent()
    with suppress(OSError):  # where memory runs out, it is this process that goes, not the batch
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    descriptor = os.dup(1)
    os.dup2(2, 1)  # whatever prints lands on stderr
    requests: queue.SimpleQueue[dict] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()

    def send(message: dict) -> None:
        data = encode_line(message).encode()
        while data:
            data = data[os.write(descriptor, data) :]

    from .runner import InProcessRunner, load_torch

    runner = InProcessRunner()
    try:
        load_torch()
    except Exception as error:
        send(error_message(error, None))
        os._exit(0)
    while True:
        send(_answer(requests.get(), runner, send))


def _die_with_parent() -> None:
    """On Linux the end of whoever started us reaches us in the middle of a reader's call, too."""
    if sys.platform == "linux":
        import ctypes

        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _listen(requests: queue.SimpleQueue) -> None:
    try:
        for line in sys.stdin.buffer:
            requests.put(decode_line(line))
    finally:
        os._exit(0)


def _answer(request: dict, runner, send) -> dict:
    from ..engine.run_settings import RunSettings
    from .batch_record import error_text, frames_of
    from .case_work import Outputs, do_case
    from .inputs import case_of_files
    from .mask_files import write_mask

    settings = RunSettings.from_dict(request["settings"])

    def tell(phase: str, fraction: float) -> None:
        send({"event": "progress", "phase": phase, "fraction": float(fraction)})

    def segment(name, image, mask_path):
        answer = runner.segment(image, settings, name=name, progress=tell)
        write_mask(answer.mask, mask_path)
        return answer

    try:
        case = case_of_files(request["name"], [Path(path) for path in request["files"]], request["dicom"])
        facts = do_case(case, Outputs.from_dict(request["outputs"]), segment, tell, request["psa"])
        return {"event": "result", "facts": facts}
    except Exception as error:
        told = error_message(error, None)
        return {**told, "text": error_text(error), "frames": frames_of(error), "errno": _errno_of(error)}


def _errno_of(error: BaseException | None) -> int | None:
    """Of the operating system's error that lies at the bottom of it; None without one."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__
    return None if error is None else error.errno


if __name__ == "__main__":
    main()

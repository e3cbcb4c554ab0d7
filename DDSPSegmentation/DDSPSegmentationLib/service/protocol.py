"""What the worker process and its client say to each other.

One JSON object a line, ASCII (so UTF-8 too), ended by a newline. Requests go to the worker's standard input; events
come back on what was its standard output when it started. Everything else that the worker prints is on stderr.
Images travel as uncompressed MetaImage files (see ``stored_segmentation``).

The worker's first event is ``hello``, or ``error`` with ``id`` null when it cannot work at all; then it ends.

========  ==================================================================================================
event     keys
========  ==================================================================================================
hello     protocol, package (version), folder (of the package), pid, python, torch, devices (names that can be
          used, best first), auto (the device that ``auto`` takes, in words)
progress  id, phase, fraction (0 to 1 of that phase), seconds (since the request was taken up)
log       id (or null), text: one line for the log file
result    id, segmentation: every field of ``Segmentation``; an image is a file name in the output folder
error     id (or null), type (class of the family), cause, next_step
========  ==================================================================================================

There is one request, ``segment``: id, image (path), name (what error messages call the scan), settings (see
``RunSettings``), output (a folder that does not exist yet; the worker makes it and, on failure, removes it). Each
request is answered by any number of ``progress`` and exactly one ``result`` or ``error``. One request at a time:
another one meanwhile is answered by ``error`` at once. When its standard input closes the worker ends at once, and
deletes the images and outputs that are named like their request's id: they are temporary, and nobody else will.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path

from .. import __version__
from ..engine import errors
from ..engine.errors import DDSPSegmentationError, WorkerError
from ..engine.run_settings import RunSettings

PROTOCOL_VERSION = 2
PACKAGE_FOLDER = str(Path(__file__).resolve().parents[1])
REQUEST_KEYS = ("id", "image", "name", "settings", "output")

_INSTALLATION = {"protocol": PROTOCOL_VERSION, "package": __version__, "folder": PACKAGE_FOLDER}
_SEE_LOG = "Segment again; if it happens again, press Show Log under Advanced and report it."
_FAMILY = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, DDSPSegmentationError)
}


def encode_line(message: dict) -> str:
    """One message as one line; what JSON cannot hold raises TypeError or ValueError."""
    return json.dumps(message, ensure_ascii=True, allow_nan=False, separators=(",", ":")) + "\n"


def decode_line(line: bytes | str) -> dict:
    """The message in a line.

    Raises:
        WorkerError: it is no JSON object.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise garbled()
    return message


def garbled() -> WorkerError:
    """The error for anything that does not follow the protocol."""
    return WorkerError("The engine sent something unreadable and was stopped.", _SEE_LOG)


def hello_message(pid: int, torch_version: str, devices: list[str], auto: str) -> dict:
    return {
        "event": "hello",
        **_INSTALLATION,
        "pid": pid,
        "python": platform.python_version(),
        "torch": torch_version,
        "devices": devices,
        "auto": auto,
    }


def segment_request(request_id: str, image: Path, output: Path, settings: RunSettings, name: str) -> dict:
    return {
        "request": "segment",
        "id": request_id,
        "image": str(image),
        "name": name,
        "settings": settings.to_dict(),
        "output": str(output),
    }


def check_hello(message: dict) -> None:
    """Make sure that the worker is of the same package as its client.

    Raises:
        WorkerError: another protocol, package version or folder, both named; or the event is incomplete.
    """
    for key, ours in _INSTALLATION.items():
        if message.get(key) != ours:
            words = "version" if key == "package" else key
            raise WorkerError(
                f"The engine is of another installation: {words} '{message.get(key)}' instead of '{ours}'.",
                "Keep one installation of DDSPSegmentation, then restart Slicer.",
            )
    pid, devices = message.get("pid"), message.get("devices")
    if type(pid) is not int or pid <= 1 or not isinstance(devices, list):
        raise garbled()


def error_message(error: BaseException, request_id: str | None) -> dict:
    """An error as an event; one from outside the family becomes one sentence without its details."""
    told = error if isinstance(error, DDSPSegmentationError) else _outside_the_family(error)
    kind = next((known.__name__ for known in type(told).__mro__ if _FAMILY.get(known.__name__) is known), "")
    return {"event": "error", "id": request_id, "type": kind, "cause": told.cause, "next_step": told.next_step}


def error_of(message: dict) -> DDSPSegmentationError:
    """The error that an event tells of, of the class that it had in the worker."""
    cause, next_step = message.get("cause"), message.get("next_step")
    if not isinstance(cause, str) or not isinstance(next_step, str):
        return garbled()
    return _FAMILY.get(str(message.get("type")), WorkerError)(cause, next_step)


def _outside_the_family(error: BaseException) -> DDSPSegmentationError:
    if errors.is_out_of_memory(error):
        return errors.not_enough_memory()
    return WorkerError(f"The engine failed unexpectedly ({type(error).__name__}).", _SEE_LOG)

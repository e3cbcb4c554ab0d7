"""Real and pretended worker processes, and waiting in Qt's event loop, for the tests of the worker."""

import contextlib
import os
import sys
import time
from pathlib import Path

import DDSPSegmentationLib

PACKAGE_ROOT = str(Path(DDSPSegmentationLib.__file__).parents[1])
WORKER = [sys.executable, "-m", "DDSPSegmentationLib.service.worker"]

# What a worker says that is perfectly well and never answers.
HELLO = """
import os, sys, time
from pathlib import Path
from DDSPSegmentationLib.service.protocol import decode_line, encode_line, hello_message
def say(**message):
    sys.stdout.write(encode_line(message)); sys.stdout.flush()
def listen():
    line = sys.stdin.readline()
    return decode_line(line) if line else os._exit(0)
hello = hello_message(os.getpid(), "2.5.0", ["cpu"], "CPU")
"""


def pretended_worker(body, hello=True):
    """Command of a process that speaks the protocol as ``body`` says; it has say(), listen() and hello."""
    return [sys.executable, "-c", HELLO + ("say(**hello)\n" if hello else "") + body]


# The real worker, but a scan named "slow" takes longer at each step.
SLOW_WORKER = [
    sys.executable,
    "-c",
    """
import time
from DDSPSegmentationLib.service import runner, worker
segment = runner.InProcessRunner.segment
def slow(self, image, settings, *, name, progress):
    def tell(phase, fraction):
        progress(phase, fraction)
        time.sleep(0.6 * (name == "slow"))
    return segment(self, image, settings, name=name, progress=tell)
runner.InProcessRunner.segment = slow
worker.main()
""",
]


def is_running(pid):
    """Whether a process computes; one that ended and waits to be noticed does not."""
    with contextlib.suppress(OSError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def own_time():
    """Seconds that pass for this thread, without those in which other programs had its processor."""
    with contextlib.suppress(OSError):  # other systems than Linux do not tell
        return time.monotonic() - int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    return time.monotonic()


def wait_until(condition, seconds=60.0, step=lambda: time.sleep(0.005)):
    """Whether the condition came true in time; ``step`` passes the time."""
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        step()
    return bool(met)

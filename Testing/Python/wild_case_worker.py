"""The process that does the scans of a batch, with a reader that does what a scan's name says: for test_case_process.

Started as ``python wild_case_worker.py -m MODULE``; all else is the product's own.
"""

import ctypes
import os
import signal
import sys
import time

from DDSPSegmentationLib.service import case_worker, inputs

read_image = inputs.read_image


def wild(path, **asked):
    """Read a scan, or end, hang or eat this process, really."""
    word = path.name.split("-")[0]
    if word == "segv":
        ctypes.string_at(0)
    elif word == "abort":
        os.abort()
    elif word == "fpe":
        signal.raise_signal(signal.SIGFPE)
    elif word == "exit":
        os._exit(7)
    elif word == "hang":
        while True:
            time.sleep(60)
    elif word == "killed":
        os.kill(os.getpid(), signal.SIGKILL)  # what the system does to the hungriest
    elif word == "eats":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
        eaten = []
        while True:
            eaten.append(bytearray(1 << 28))
    elif word == "fault":
        raise RuntimeError("nobody thought of this")
    elif word == "prints":
        print("ITK says something", flush=True)
        os.write(1, b"and so does C\n")
    return read_image(path, **asked)


if __name__ == "__main__":
    assert sys.argv[1:] == ["-m", case_worker.__name__]
    inputs.read_image = wild
    case_worker.main()

"""How long a click takes, how long the window is blocked meanwhile, and whether cancels and kills end cleanly.

    python Testing/Benchmarks/panel.py [--runs 5] [--cancels 10] [--kills 10] [--seed 0]

The panel runs in the stand-in window of the tests, with its real worker process, on the bundled scan and with the
settings that the extension ships with.
"""

import argparse
import itertools
import os
import random
import signal
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "DDSPSegmentation"), str(ROOT / "Testing" / "Python")]

BEAT_MS = 5


class Pulse:
    """A timer of the window; the longest pause between two beats is how long the window was blocked."""

    def __init__(self, qt):
        self._timer = qt.QTimer()
        self._timer.setInterval(BEAT_MS)
        self._timer.connect("timeout()", self._beat)
        self.reset()
        self._timer.start()

    def reset(self):
        self._last, self.longest = time.perf_counter(), 0.0

    def _beat(self):
        now = time.perf_counter()
        self.longest = max(self.longest, now - self._last - BEAT_MS / 1000)
        self._last = now


def click(person, pulse, wait_for):
    """Seconds from click to result, longest block until the result came, seconds to place it."""
    from DDSPSegmentationLib.scene.panel.panel import Panel

    placing, place, blocked = [], Panel._place, []

    def timed(panel, run, segmentation):
        blocked.append(pulse.longest)
        started = time.perf_counter()
        place(panel, run, segmentation)
        placing.append(time.perf_counter() - started)

    person.panel.segment._onDone = timed.__get__(person.panel)
    pulse.reset()
    started = time.perf_counter()
    person.start()
    assert wait_for(lambda: placing, 120), person.status
    return time.perf_counter() - started, blocked[0], placing[0]


def gone(pid):
    """Whether a process ended (one that nobody has reaped yet ended too)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cancels", type=int, default=10)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    moments = random.Random(asked.seed)

    from headless_host import start

    host = start()
    import numpy as np
    import slicer
    from panel_parts import MODULE_FILE, READY, Person, load_sample, wait_for
    from slicer_stand_in import closeModule, openModule, window

    from DDSPSegmentationLib.scene.shared_worker import shared_worker

    with window(host):
        import qt

        person = Person(openModule(MODULE_FILE))
        volume = load_sample()
        assert wait_for(lambda: person.ui.inputSelector.currentNode() is volume)
        pulse = Pulse(qt)
        seconds, blocked, placing = click(person, pulse, wait_for)
        print(f"first click, worker not started: {seconds:.1f} s, blocked {1000 * blocked:.0f} ms at most")
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(person.result, "Prostate", volume).copy()
        rows = [click(person, pulse, wait_for) for _ in range(asked.runs)]
        seconds, blocked, placing = (statistics.median(column) for column in zip(*rows, strict=True))
        print(
            f"worker warm, median of {asked.runs}: {seconds:.1f} s from click to contour; blocked at most "
            f"{1000 * max(row[1] for row in rows):.0f} ms until the result; placing it with its surface "
            f"{1000 * placing:.0f} ms (at most {1000 * max(row[2] for row in rows):.0f})"
        )
        typical = seconds
        person.panel.segment.doubleClick.now = itertools.count().__next__  # no two of these clicks are one
        for what, count in (("cancel", asked.cancels), ("kill -9", asked.kills)):
            slowest = 0.0
            for _number in range(count):
                assert wait_for(lambda: shared_worker().state == "ready", 60)
                before = slicer.mrmlScene.GetNumberOfNodes()
                person.start()
                until = time.monotonic() + moments.uniform(0, typical)
                wait_for(lambda: time.monotonic() >= until)  # noqa: B023
                if person.ui.segmentButton.text == READY:
                    continue  # it was done already
                pid = shared_worker().processId
                started = time.monotonic()
                if what == "cancel":
                    person.ui.segmentButton.click()
                else:
                    os.kill(pid, signal.SIGKILL)
                assert wait_for(lambda: person.ui.segmentButton.text == READY and gone(pid), 10), person.status  # noqa: B023
                slowest = max(slowest, time.monotonic() - started)
                assert slicer.mrmlScene.GetNumberOfNodes() == before
                assert wait_for(lambda: shared_worker().state in ("off", "ready"), 60)
                click(person, pulse, wait_for)
                now = slicer.util.arrayFromSegmentBinaryLabelmap(person.result, "Prostate", volume)
                assert np.array_equal(now, mask), "the next run differs"
            print(f"{what} at {count} random moments: ended cleanly within {slowest:.2f} s, every next run right")
        closeModule("DDSPSegmentation")


if __name__ == "__main__":
    main()

"""The second of two clicks so near to each other is meant as one with the first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

DOUBLE_CLICK_S = 0.5


class DoubleClick:
    """Watches the clicks on a button, or on several that are meant alike.

    Attributes:
        now: tells the time in seconds.
    """

    def __init__(self) -> None:
        self.now: Callable[[], float] = time.monotonic
        self._last = -math.inf

    def isSecond(self) -> bool:
        """Whether the click that has just come follows another one too soon."""
        before, self._last = self._last, self.now()
        return self._last - before < DOUBLE_CLICK_S

    def settle(self) -> None:
        """What a click began took its time: clicks that came meanwhile are worked off from now on."""
        self._last = self.now()

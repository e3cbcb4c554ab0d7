"""The lines that the self test prints: one a check, with the reason where it failed or could not be done."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator


class CheckLines:
    """Does checks one after another, whatever becomes of each, and prints ``ok``, ``FAIL`` or ``skip`` for it.

    Attributes:
        failures: titles of the checks that failed.
    """

    def __init__(self):
        self.failures: list[str] = []
        self._held: list[str] | None = None

    def run(self, title: str, check: Callable, lacking: str = ""):
        """Do one check.

        Args:
            check: raises where something is wrong.
            lacking: why it cannot be done here; it is not done then.

        Returns:
            What the check returned; ``None`` where it failed or was not done.
        """
        if lacking:
            self._say(f"skip {title}: {lacking}")
            return None
        try:
            result = check()
        except Exception as error:
            self.failures.append(title)
            reason = " ".join(str(error).split()) or type(error).__name__
            self._say(f"FAIL {title}: {reason}", traceback.format_exc())
            return None
        self._say(f"ok   {title}")
        return result

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Print nothing until the end: what a script prints is an entry in Slicer's error log, too."""
        self._held = []
        try:
            yield
        finally:
            held, self._held = self._held, None
            self._say(*held)

    def _say(self, *texts: str) -> None:
        if self._held is not None:
            self._held += texts
        else:
            for text in texts:
                print(text, flush=True)

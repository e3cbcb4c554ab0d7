"""Signals of the parts of Slicer that are no widgets: the application and its managers."""

from .python_qt import run_slot


class Signals:
    """connect(), disconnect() and raiseSignal() for the signatures that a class lists in ``signals``."""

    signals: tuple[str, ...] = ()

    def connect(self, signature, slot):
        self._checked(signature).append(slot)
        return True

    def disconnect(self, signature, slot):
        slots = self._checked(signature)
        if slot in slots:
            slots.remove(slot)
        return True

    def raiseSignal(self, signature, *values):
        """What the real object does by itself."""
        for slot in list(self._checked(signature)):
            run_slot(slot, values)

    def _checked(self, signature):
        if signature not in self.signals:
            raise AttributeError(f"No such signal {type(self).__name__}::{signature}")
        return self.__dict__.setdefault("_slots", {}).setdefault(signature, [])

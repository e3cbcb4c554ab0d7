"""PySide6 behaving as PythonQt: properties are attributes, signals connect by their signature."""

import functools
from types import ModuleType

from PySide6 import QtCore, QtGui, QtWidgets


class QtModule(ModuleType):
    """``import qt``: every class of Qt in one module, QObjects among them wrapped when first asked for."""

    def __getattr__(self, name):
        for part in (QtWidgets, QtGui, QtCore):
            if hasattr(part, name):
                return _wrapped(getattr(part, name))
        raise AttributeError(f"qt has no {name} here")


@functools.cache
def _wrapped(qt_class):
    if not (isinstance(qt_class, type) and issubclass(qt_class, QtCore.QObject)):
        return qt_class
    return type(qt_class.__name__, (_PythonQtMixin, qt_class), {})


def _has_property(thing, name):
    return QtCore.QObject.metaObject(thing).indexOfProperty(name) >= 0


def _connect(thing, signature, slot):
    """connect("clicked(bool)", slot): the slot gets as many values as the signature names."""
    name, parameters = signature.rstrip(")").split("(")
    count = len(parameters.split(",")) if parameters else 0
    # PySide6 counts a slot's parameters to choose what it sends, so the slot must name them.
    slots = (lambda: slot(), lambda first: slot(first), lambda first, second: slot(first, second))
    getattr(thing, name).connect(slots[count])


class _PythonQtMixin:
    def __getattribute__(self, name):
        if name == "connect":  # PySide6 looks this one up by itself, past any method of ours
            return functools.partial(_connect, self)
        if name.startswith("_") or not _has_property(self, name):
            return super().__getattribute__(name)
        value = QtCore.QObject.property(self, name)
        return f"<p>{value}</p>" if name == "toolTip" and value else value

    def __setattr__(self, name, value):
        if not name.startswith("_") and _has_property(self, name):
            QtCore.QObject.setProperty(self, name, value)
        else:
            super().__setattr__(name, value)

    def write(self, data):
        return super().write(data.encode() if isinstance(data, str) else data)

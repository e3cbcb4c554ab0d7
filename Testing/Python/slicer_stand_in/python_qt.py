"""PySide6 behaving as PythonQt: properties are attributes, signals connect by their signature.

Every class of QObjects that ``import qt`` hands out is derived from Qt's own; an object that Qt made by itself gets
its class when a method first returns it. What PythonQt refuses (a misspelled property, a signal that does not exist)
is refused here too, and louder. An exception in a slot is printed, as in Slicer, and ends nothing.
"""

import ctypes
import functools
import sys
import types
from types import ModuleType

import shiboken6
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

from . import dialogs

if sys.version_info < (3, 12):
    # PySide6 6.12 hands out None and True without counting, which only later Pythons forgive: a long session would end.
    for _constant in (None, True, False):
        ctypes.c_ssize_t.from_address(id(_constant)).value += 2**40


class QtModule(ModuleType):
    """``import qt``: every class of Qt in one module."""

    def __getattr__(self, name):
        for part in (QtWidgets, QtGui, QtCore, QtUiTools):
            if hasattr(part, name):
                found = getattr(part, name)
                return wrapped(found) if _is_object_class(found) else found
        raise AttributeError(f"qt has no {name} here")


def _is_object_class(thing):
    return isinstance(thing, type) and issubclass(thing, QtCore.QObject)


class _WrappedType(type(QtCore.QObject)):
    """isinstance(widget, qt.QWidget) holds for every widget, though wrapped classes are not derived from each other."""

    def __instancecheck__(cls, thing):
        own = cls.__dict__.get("qt_class")
        return isinstance(thing, own) if own else super().__instancecheck__(thing)


@functools.cache
def wrapped(qt_class):
    """The class of PythonQt for a class of PySide6."""
    members = {"qt_class": qt_class, **_ADDITIONS.get(qt_class.__name__, {})}
    return _WrappedType(qt_class.__name__, (PythonQtMixin, qt_class), members)


def dressed(thing):
    """A value as PythonQt hands it out: QObjects have their wrapped class, lists are tuples."""
    if isinstance(thing, list):
        return tuple(dressed(one) for one in thing)
    if isinstance(thing, QtCore.QObject) and type(thing).__module__.startswith("PySide6."):
        address, wrapped_class = shiboken6.getCppPointer(thing)[0], wrapped(type(thing))
        shiboken6.invalidate(thing)
        return shiboken6.wrapInstance(address, wrapped_class)
    return thing


def _plain(argument):
    """PySide6 looks for its own classes, so findChildren(qt.QWidget) hands it the one underneath."""
    return (
        argument.__dict__["qt_class"]
        if isinstance(argument, _WrappedType) and "qt_class" in argument.__dict__
        else argument
    )


def _call(method, *arguments, **named):
    return dressed(method(*map(_plain, arguments), **named))


def run_slot(slot, values):
    """Call a slot with as many of the signal's values as it can take."""
    code = getattr(getattr(slot, "__func__", slot), "__code__", None)
    if code is not None and not code.co_flags & 0x04:  # *args takes them all
        values = values[: code.co_argcount - hasattr(slot, "__func__")]
    try:
        slot(*(dressed(value) for value in values))
    except Exception as error:  # as in Slicer: the slot ends, the application goes on
        sys.excepthook(type(error), error, error.__traceback__)


class Signal:
    """A signal of one object: connect(), disconnect(), emit(); calling it emits it."""

    def __init__(self, sender, name, count=None):
        self._sender, self._name, self._count = sender, name, count

    def _bound(self):
        return QtCore.QObject.__getattribute__(self._sender, self._name)

    def connect(self, slot):
        # PySide6 counts a slot's parameters to choose what it sends, so the slot must name them.
        count = self._parameter_count() if self._count is None else self._count
        receive = (
            lambda: run_slot(slot, ()),
            lambda a: run_slot(slot, (a,)),
            lambda a, b: run_slot(slot, (a, b)),
            lambda a, b, c: run_slot(slot, (a, b, c)),
            lambda a, b, c, d: run_slot(slot, (a, b, c, d)),
        )[count]
        self._bound().connect(receive)
        self._sender.__dict__.setdefault("_slots", []).append((self._name, slot, receive))
        return True

    def disconnect(self, slot=None):
        slots = self._sender.__dict__.get("_slots", [])
        for entry in [entry for entry in slots if entry[0] == self._name and slot in (None, entry[1])]:
            self._bound().disconnect(entry[2])
            slots.remove(entry)
            if slot is not None:
                return True
        return slot is None

    def emit(self, *values):
        self._bound().emit(*values)

    __call__ = emit

    def _parameter_count(self):
        meta = type(self._sender).staticMetaObject
        methods = (meta.method(number) for number in range(meta.methodCount()))
        return max(method.parameterCount() for method in methods if bytes(method.name()).decode() == self._name)


def _signal_of(sender, signature):
    """connect("clicked(bool)", slot): the signal of that signature, or an error that says there is none."""
    name, _, parameters = signature.rstrip(") ").partition("(")
    count = len(parameters.split(",")) if parameters.strip() else 0
    own = getattr(type(sender), "signatures", {})
    if signature in own:
        return Signal(sender, own[signature], count)
    normalized = QtCore.QMetaObject.normalizedSignature(signature).data().decode()
    if type(sender).staticMetaObject.indexOfSignal(normalized) < 0:
        raise AttributeError(f"No such signal {type(sender).__name__}::{signature}")
    return Signal(sender, name, count)


@functools.cache
def _property_names(object_class):
    meta = object_class.staticMetaObject
    return frozenset(meta.property(number).name() for number in range(meta.propertyCount()))


def _has_property(thing, name):
    return name in _property_names(type(thing))


_being_read = []


def _read_property(thing, name):
    _being_read.append((id(thing), name))
    try:
        return dressed(QtCore.QObject.property(thing, name))
    finally:
        _being_read.pop()


def _is_virtual_call(thing, name):
    """Qt itself asks for a method such as sizeHint() that one of our classes may override."""
    return (id(thing), name) in _being_read or isinstance(getattr(type(thing), name, None), types.FunctionType)


class PythonQtMixin:
    """Manners of PythonQt for one class of Qt; classes of CTK and MRML are derived from it too.

    A class of ours lists in ``signatures`` which of its Signal members a C++ signature means.
    """

    signatures: dict[str, str] = {}

    def __getattribute__(self, name):
        if name == "connect":  # PySide6 looks these two up by itself, past any method of ours
            return lambda signal, slot: _signal_of(self, signal).connect(slot)
        if name == "disconnect":
            return lambda signal, slot=None: _signal_of(self, signal).disconnect(slot)
        if name.startswith("__"):
            return super().__getattribute__(name)
        if name == "name":
            return QtCore.QObject.objectName(self)
        if not name.startswith("_") and _has_property(self, name) and not _is_virtual_call(self, name):
            value = _read_property(self, name)
            return f"<p>{value}</p>" if name == "toolTip" and value and not value.startswith("<") else value
        value = super().__getattribute__(name)
        if isinstance(value, QtCore.SignalInstance):
            return Signal(self, name)
        return functools.partial(_call, value) if isinstance(value, types.BuiltinMethodType) else value

    def __getattr__(self, name):
        if not name.startswith("_"):
            value = QtCore.QObject.property(self, name)  # a dynamic property
            if value is not None:
                return value
            for child in QtCore.QObject.children(self):
                if QtCore.QObject.objectName(child) == name:
                    return dressed(child)
            written = name[3:4].lower() + name[4:]
            if name.startswith("set") and _has_property(self, written):
                return functools.partial(setattr, self, written)  # a setter of one of our own classes
        raise AttributeError(f"{type(self).__name__} has no attribute named '{name}'")

    def __setattr__(self, name, value):
        if name == "name":
            name = "objectName"
        if name.startswith("_"):
            super().__setattr__(name, value)
        elif _has_property(self, name):
            value = list(value) if isinstance(value, tuple) else value
            if value is None or not QtCore.QObject.setProperty(self, name, value):
                raise AttributeError(f"Property '{name}' of {type(self).__name__} does not accept {value!r}")
        elif QtCore.QObject.property(self, name) is not None:
            QtCore.QObject.setProperty(self, name, value)
        elif isinstance(value, QtCore.QObject) and QtCore.QObject.objectName(value) == name:
            pass  # PySide6's loader of .ui files names the children so; PythonQt finds them by their names
        elif type(self).__module__.startswith(__package__):
            raise AttributeError(f"'{name}' does not exist on {type(self).__name__}, and C++ objects take no new ones")
        else:
            super().__setattr__(name, value)

    def className(self):
        return type(self).staticMetaObject.className()


def _write(self, data):
    return QtCore.QIODevice.write(self, data.encode() if isinstance(data, str) else data)


_ADDITIONS = {
    "QProcess": {"write": _write},
    "QFile": {"write": _write},
    "QMessageBox": {
        "exec_": dialogs.answer_box,
        **dict.fromkeys(("question", "information", "warning", "critical"), staticmethod(dialogs.answer_static)),
    },
    "QInputDialog": {"getText": staticmethod(dialogs.answer_static)},
    "QFileDialog": dict.fromkeys(
        ("getOpenFileName", "getOpenFileNames", "getSaveFileName", "getExistingDirectory"),
        staticmethod(dialogs.answer_static),
    ),
}

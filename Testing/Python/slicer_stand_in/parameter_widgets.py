"""Which widgets can show which types of parameter, and how: the counterpart of Slicer's guiConnectors."""

import dataclasses
import enum
import typing

import slicer

from .parameter_storage import split_annotations
from .parameter_validators import Choice, Maximum, Minimum, WithinRange


@dataclasses.dataclass
class Decimals:
    value: int


@dataclasses.dataclass
class SingleStep:
    value: float


def connector_for(widget, hint):
    """Raises RuntimeError where Slicer has no connector between this widget and this type."""
    kind, annotations = split_annotations(hint)
    given = {type(one): one for one in annotations}
    class_name = type(widget).__name__
    if kind is bool and class_name in ("QCheckBox", "ctkCheckBox"):
        return Connector(widget, "checked", "stateChanged")
    if kind is bool and class_name == "QPushButton":
        widget.checkable = True
        return Connector(widget, "checked", "toggled")
    if class_name in ("QSlider", "ctkSliderWidget") and WithinRange not in given and not {Minimum, Maximum} <= {*given}:
        raise RuntimeError(f"Cannot have a connection to {class_name} where the number is unbounded.")
    if kind is int and class_name in ("QSlider", "QSpinBox"):
        _set_bounds(widget, given, -(2**31), 2**31 - 1)
        return Connector(widget, "value", "valueChanged")
    if kind is float and class_name in ("QDoubleSpinBox", "ctkSliderWidget", "ctkDoubleSpinBox"):
        _set_bounds(widget, given, float("-inf"), float("inf"))
        return Connector(widget, "value", "valueChanged")
    if class_name in ("QComboBox", "ctkComboBox"):
        if kind in (int, float, str, bool):
            if Choice not in given:
                raise RuntimeError("ComboBoxToStringableConnector requires the Choice annotation to be used.")
            return ChoiceConnector(widget, {choice: str(choice) for choice in given[Choice].choices})
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            label = getattr(kind, "label", lambda member: member.name)
            return ChoiceConnector(widget, {member: label(member) for member in kind})
    if kind is str and class_name == "QLineEdit":
        return Connector(widget, "text", "textChanged")
    if kind is str and class_name == "QLabel":
        return Connector(widget, "text", None)
    if kind is str and class_name == "QTextEdit":
        return Connector(widget, "plainText", "textChanged")
    if class_name == "qMRMLNodeComboBox" and _node_types(kind):
        return NodeConnector(widget, _node_types(kind))
    raise RuntimeError(f"Unable to create GUI connector from datatype '{hint}' to widget type '{type(widget)}'.")


def _set_bounds(widget, given, lowest, highest):
    if Decimals in given:
        widget.decimals = given[Decimals].value
    if SingleStep in given:
        widget.singleStep = given[SingleStep].value
    span = given.get(WithinRange)
    widget.minimum = span.minimum if span else given[Minimum].minimum if Minimum in given else lowest
    widget.maximum = span.maximum if span else given[Maximum].maximum if Maximum in given else highest


def _node_types(kind):
    """Class names of a node type or a union of them; empty for anything else."""
    choices = typing.get_args(kind) or (kind,)
    nodes = [one for one in choices if isinstance(one, type) and issubclass(one, slicer.vtkMRMLNode)]
    return [one().GetClassName() for one in nodes] if all(one in (*nodes, type(None)) for one in choices) else []


class Connector:
    """One property of a widget and the signal that tells of its change."""

    def __init__(self, widget, name, signal):
        self._widget, self._name, self._signal = widget, name, signal
        self._callback = None

    def read(self):
        return getattr(self._widget, self._name)

    def write(self, value):
        setattr(self._widget, self._name, value)

    def connect(self, callback):
        self._callback = callback
        if self._signal:
            getattr(self._widget, self._signal).connect(callback)

    def disconnect(self):
        if self._signal and self._callback:
            getattr(self._widget, self._signal).disconnect(self._callback)
            self._callback = None


class ChoiceConnector(Connector):
    """A combo box filled with the labels of the choices."""

    def __init__(self, widget, labels):
        super().__init__(widget, "currentIndex", "currentIndexChanged")
        self._choices = list(labels)
        chosen = widget.currentIndex
        widget.clear()
        widget.addItems(list(labels.values()))
        widget.currentIndex = max(chosen, 0)

    def read(self):
        return self._choices[super().read()]

    def write(self, value):
        super().write(self._choices.index(value))


class NodeConnector(Connector):
    def __init__(self, widget, node_types):
        super().__init__(widget, "currentNode", "currentNodeChanged")
        widget.nodeTypes = node_types

    def read(self):
        return self._widget.currentNode()

    def write(self, value):
        self._widget.setCurrentNode(value)

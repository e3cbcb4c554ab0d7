"""slicer.parameterNodeWrapper: typed attributes kept in a parameter node and shown in widgets, as in Slicer 5.8."""

import typing

import slicer
import vtk

from . import parameter_widgets
from .parameter_storage import split_annotations, storage_for
from .parameter_validators import (
    Choice,
    Default,
    Exclude,
    IsInstance,
    Maximum,
    Minimum,
    NotNone,
    Validator,
    WithinRange,
)
from .parameter_widgets import Decimals, SingleStep

__all__ = [
    "Choice",
    "Decimals",
    "Default",
    "Exclude",
    "IsInstance",
    "Maximum",
    "Minimum",
    "NotNone",
    "SingleStep",
    "SlicerParameterNamePropertyName",
    "Validator",
    "WithinRange",
    "isParameterNodeWrapper",
    "parameterNodeWrapper",
]

SlicerParameterNamePropertyName = "SlicerParameterName"


_connected = []


def forget_widgets():
    """At the end of the application: no node may reach for a widget that is gone."""
    for node, tag in _connected:
        node.RemoveObserver(tag)
    _connected.clear()


def parameterNodeWrapper(cls=None):
    """Turn each annotated name of a class into a parameter of the node that an instance is made with."""
    return parameterNodeWrapper if cls is None else _wrap(cls)


def isParameterNodeWrapper(thing):
    return getattr(thing, "_is_parameter_node_wrapper", False)


class _Parameter:
    """One parameter: where it is kept, what it is at first, and the type that was written for it."""

    def __init__(self, name, hint, default):
        self.name, self.hint = name, hint
        self.storage = storage_for(hint)
        given = [one for one in split_annotations(hint)[1] if isinstance(one, Default)]
        self._default = default or (given[0] if given else Default(self.storage.default))

    def write_default(self, node):
        if not self.storage.is_in(node, self.name):
            self.storage.write(node, self.name, self._default.value)

    def read(self, node):
        self.write_default(node)
        return self.storage.read(node, self.name)

    def as_property(self):
        return property(
            lambda wrapper: self.read(wrapper.parameterNode),
            lambda wrapper, value: self.storage.write(wrapper.parameterNode, self.name, value),
        )


def _wrap(cls):
    cls.allParameters = {
        name: _Parameter(name, hint, Default(getattr(cls, name)) if hasattr(cls, name) else None)
        for name, hint in typing.get_type_hints(cls, include_extras=True).items()
    }
    for name, parameter in cls.allParameters.items():
        setattr(cls, name, parameter.as_property())
    for name, member in vars(_Wrapper).items():
        if name == "__init__" or not name.startswith("__"):
            if name in cls.__dict__ and name != "__init__":
                raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
            setattr(cls, name, member)
    return cls


class _Wrapper:
    """What every wrapper class can do."""

    _is_parameter_node_wrapper = True

    def __init__(self, parameterNode):
        self.parameterNode = parameterNode
        self._connectors = []
        self._updating = False
        for parameter in self.allParameters.values():
            parameter.write_default(parameterNode)

    def getValue(self, name):
        return getattr(self, self._checked(name))

    def setValue(self, name, value):
        setattr(self, self._checked(name), value)

    @classmethod
    def dataType(cls, name):
        return cls.allParameters[cls._checked(name)].hint

    @classmethod
    def _checked(cls, name):
        if name not in cls.allParameters:
            raise ValueError(f"Cannot find a param with the given name: {name}")
        return name

    def StartModify(self):
        return self.parameterNode.StartModify()

    def EndModify(self, wasModified):
        return self.parameterNode.EndModify(wasModified)

    def AddObserver(self, event, callback, priority=0.0):
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag):
        return self.parameterNode.RemoveObserver(tag)

    def Modified(self):
        return self.parameterNode.Modified()

    # ---- widgets

    def connectGui(self, gui):
        """Connect every widget that carries a parameter's name; 5.8 returns no tag."""
        if getattr(gui, "isWidgetType", lambda: False)():
            import qt

            widgets = gui.findChildren(qt.QWidget)
        else:
            widgets = vars(gui).values()
        named = {widget.property(SlicerParameterNamePropertyName): widget for widget in widgets}
        self.connectParametersToGui({name: widget for name, widget in named.items() if name})

    def connectParametersToGui(self, mapping):
        connectors = {
            name: parameter_widgets.connector_for(widget, self.dataType(name)) for name, widget in mapping.items()
        }
        self._connectors.append(connectors)
        for name, connector in connectors.items():
            connector.write(self.getValue(name))
            connector.connect(self._on_widget_changed(name, connector))
        tag = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: self._update_widgets())
        _connected.append((self.parameterNode, tag))
        return len(self._connectors) - 1

    def _on_widget_changed(self, name, connector):
        def changed():
            if not self._updating:
                with slicer.util.NodeModify(self):
                    self.setValue(name, connector.read())

        return changed

    def _update_widgets(self):
        if self._updating:
            return
        self._updating = True
        try:
            with slicer.util.NodeModify(self):
                for connectors in self._connectors:
                    for name, connector in connectors.items():
                        connector.write(self.getValue(name))
        finally:
            self._updating = False

    def disconnectGui(self, tag):
        """Does nothing to what connectGui() connected, as in 5.8."""
        if tag is not None:
            for connector in self._connectors[tag].values():
                connector.disconnect()
            self._connectors[tag] = {}

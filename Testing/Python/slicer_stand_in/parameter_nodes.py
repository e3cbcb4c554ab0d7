"""slicer.parameterNodeWrapper as far as tests need it: typed attributes kept in a parameter node; no GUI."""

import enum
import json
import typing

import vtk


class WithinRange:
    """Annotation of a number that may not leave [minimum, maximum]."""

    def __init__(self, minimum, maximum):
        self.minimum, self.maximum = minimum, maximum

    def check(self, value):
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{value} is outside [{self.minimum}, {self.maximum}]")


def parameterNodeWrapper(cls):
    """Turn each annotated name of a class into a parameter of the node that an instance is made with."""

    def __init__(self, parameterNode):
        self.parameterNode = parameterNode

    members = {"__init__": __init__, "__doc__": cls.__doc__}
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        validators = [extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, WithinRange)]
        members[name] = _parameter(name, _plain_type(hint), getattr(cls, name, None), validators)
    return type(cls.__name__, (), members)


def _plain_type(hint):
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is typing.Union:
        (hint,) = (choice for choice in typing.get_args(hint) if choice is not type(None))
    return hint


def _parameter(name, kind, default, validators):
    if isinstance(kind, type) and issubclass(kind, vtk.vtkObject):
        return property(
            lambda self: self.parameterNode.GetNodeReference(name),
            lambda self, node: self.parameterNode.SetNodeReferenceID(name, node.GetID() if node else None),
        )
    is_list = typing.get_origin(kind) is list

    def read(self):
        if not self.parameterNode.HasParameter(name):
            return [] if is_list and default is None else default
        text = self.parameterNode.GetParameter(name)
        if is_list:
            return json.loads(text)
        if issubclass(kind, enum.Enum):
            return kind[text]
        return text == "True" if kind is bool else kind(text)

    def write(self, value):
        for validator in validators:
            validator.check(value)
        text = json.dumps(value) if is_list else value.name if isinstance(value, enum.Enum) else str(value)
        self.parameterNode.SetParameter(name, text)

    return property(read, write)

"""How values of each type are kept in a parameter node: under the same names and texts as Slicer keeps them."""

import collections.abc
import enum
import pathlib
import types
import typing

import slicer

from .parameter_validators import IsInstance, NotNone, Validator

NoneType = type(None)


def storage_for(hint):
    """The storage of an annotated or plain type, with the validators of its annotations."""
    kind, annotations = split_annotations(hint)
    validators = [
        one() if isinstance(one, type) else one
        for one in annotations
        if isinstance(one, Validator) or isinstance(one, type) and issubclass(one, Validator)
    ]
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return _Union([storage_for(choice) for choice in typing.get_args(kind)], validators)
    if kind is list or typing.get_origin(kind) is list:
        return _List(storage_for(typing.get_args(kind)[0]), validators)
    if typing.get_origin(kind) is tuple:
        return _Tuple([storage_for(part) for part in typing.get_args(kind)], validators)
    if kind is NoneType:
        return _Text(NoneType, lambda value: "True", lambda text: None, None, validators)
    if isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode):
        return _Node([IsInstance(kind), *validators])
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _Text(
            kind, lambda value: value.name, lambda text: kind[text], next(iter(kind)), [IsInstance(kind), *validators]
        )
    if kind is bool:
        return _Text(bool, str, lambda text: text == "True", False, [NotNone(), IsInstance(bool), *validators])
    if kind in (int, float, str) or kind in (pathlib.Path, pathlib.PurePath):
        allowed = (int, float) if kind is float else kind
        return _Text(kind, str, kind, kind(), [NotNone(), IsInstance(allowed), *validators])
    raise TypeError(f"Unable to create serializer for type: {kind}")


def split_annotations(hint):
    """(plain type, its annotations)."""
    if typing.get_origin(hint) is typing.Annotated:
        return typing.get_args(hint)[0], list(typing.get_args(hint)[1:])
    return hint, []


class _Storage:
    def __init__(self, default, validators):
        self.default, self._validators = default, validators

    def validate(self, value):
        for validator in self._validators:
            validator.validate(value)

    def is_in(self, node, name):
        return node.HasParameter(name)

    def write(self, node, name, value):
        self.validate(value)
        with slicer.util.NodeModify(node):
            self._write(node, name, value)

    def remove(self, node, name):
        node.UnsetParameter(name)


class _Text(_Storage):
    def __init__(self, kind, to_text, from_text, default, validators):
        super().__init__(default, validators)
        self.kind, self._to_text, self._from_text = kind, to_text, from_text

    def _write(self, node, name, value):
        node.SetParameter(name, self._to_text(value))

    def read(self, node, name):
        return self._from_text(node.GetParameter(name))


class _Node(_Storage):
    def __init__(self, validators):
        super().__init__(None, validators)

    def _write(self, node, name, value):
        node.SetParameter(name, "")
        node.SetNodeReferenceID(name, value.GetID() if value is not None else None)

    def read(self, node, name):
        return node.GetNodeReference(name)

    def remove(self, node, name):
        node.UnsetParameter(name)
        node.RemoveNodeReferenceIDs(name)


class _Union(_Storage):
    """Kept under name.0, name.1 ...: the number says which of the types it is."""

    def __init__(self, choices, validators):
        optional = len(choices) == 2 and isinstance(choices[1], _Text) and choices[1].kind is NoneType
        super().__init__(None if optional else choices[0].default, validators)
        self._choices = choices

    def is_in(self, node, name):
        return any(choice.is_in(node, f"{name}.{number}") for number, choice in enumerate(self._choices))

    def _write(self, node, name, value):
        number = self._choice_for(value)
        self.remove(node, name)
        self._choices[number].write(node, f"{name}.{number}", value)

    def _choice_for(self, value):
        refused = TypeError(f"Unable to write value {value!r} of type {type(value)}")
        for number, choice in enumerate(self._choices):
            kind = choice.kind if isinstance(choice, _Text) else None
            if (kind is NoneType) != (value is None) or isinstance(value, bool) and kind in (int, float):
                continue
            try:
                choice.validate(value)
                return number
            except (TypeError, ValueError) as error:
                refused = error
        raise refused

    def read(self, node, name):
        for number, choice in enumerate(self._choices):
            if choice.is_in(node, f"{name}.{number}"):
                return choice.read(node, f"{name}.{number}")
        raise KeyError(name)

    def remove(self, node, name):
        for number, choice in enumerate(self._choices):
            choice.remove(node, f"{name}.{number}")


class _Tuple(_Storage):
    def __init__(self, parts, validators):
        super().__init__(tuple(part.default for part in parts), validators)
        self._parts = parts

    def is_in(self, node, name):
        return self._parts[0].is_in(node, f"{name}.0")

    def _write(self, node, name, values):
        for number, (part, value) in enumerate(zip(self._parts, values, strict=True)):
            part.write(node, f"{name}.{number}", value)

    def read(self, node, name):
        return tuple(part.read(node, f"{name}.{number}") for number, part in enumerate(self._parts))

    def remove(self, node, name):
        for number, part in enumerate(self._parts):
            part.remove(node, f"{name}.{number}")


class _List(_Storage):
    def __init__(self, element, validators):
        super().__init__([], validators)
        self._element = element

    def is_in(self, node, name):
        return node.HasParameter(f"{name}.len")

    def _write(self, node, name, values):
        values = list(values)
        for value in values:
            self._element.validate(value)
        self.remove(node, name)
        for number, value in enumerate(values):
            self._element.write(node, f"{name}.{number}", value)
        node.SetParameter(f"{name}.len", str(len(values)))

    def read(self, node, name):
        count = int(node.GetParameter(f"{name}.len") or 0)
        values = [self._element.read(node, f"{name}.{number}") for number in range(count)]
        return ObservedList(values, lambda changed: self.write(node, name, changed))

    def remove(self, node, name):
        for number in range(int(node.GetParameter(f"{name}.len") or 0)):
            self._element.remove(node, f"{name}.{number}")
        node.UnsetParameter(f"{name}.len")


class ObservedList(collections.abc.MutableSequence):
    """A list that writes each change of itself into the parameter node."""

    def __init__(self, values, save):
        self._values, self._save = values, save

    def __eq__(self, other):
        return self._values == list(other)

    def __len__(self):
        return len(self._values)

    def __getitem__(self, index):
        return self._values[index]

    def _change(self, values):
        self._save(values)  # a value that is refused changes nothing
        self._values = values

    def __setitem__(self, index, value):
        changed = list(self._values)
        changed[index] = value
        self._change(changed)

    def __delitem__(self, index):
        changed = list(self._values)
        del changed[index]
        self._change(changed)

    def insert(self, index, value):
        self._change([*self._values[:index], value, *self._values[index:]])

    def extend(self, values):
        self._change([*self._values, *values])

    def clear(self):
        self._change([])

"""Attributes of the store's parts: frozen dataclasses, stored as JSON and checked where they are read."""

import reprlib
from dataclasses import MISSING, asdict, fields, is_dataclass
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

import numpy as np

T = TypeVar("T", bound="DataclassInstance")


def plain(options: "DataclassInstance") -> None:
    """Make Python's numbers of NumPy's in a frozen dataclass, as JSON needs them."""
    for field in fields(options):
        if isinstance(value := getattr(options, field.name), np.generic):
            object.__setattr__(options, field.name, value.item())


def to_stored(attributes: "DataclassInstance") -> dict[str, Any]:
    """The fields as JSON has them, without those that have their default."""
    values = asdict(attributes)
    usual = {f.name: f.default_factory() if f.default_factory is not MISSING else f.default for f in fields(attributes)}
    return {name: value for name, value in values.items() if usual[name] is MISSING or value != usual[name]}


def from_stored(kind: type[T], stored: object) -> T:
    """The inverse. Raises ValueError, in one line, if a field is missing or of another type; ignores unknown names."""
    return cast(T, _checked(kind, stored, "attributes"))


def _checked(kind: Any, value: Any, at: str) -> Any:
    """A JSON value as a dataclass, list, tuple, dict with string keys, plain type, or one of these or None."""
    origin, inner = get_origin(kind), get_args(kind)
    if is_dataclass(kind) and isinstance(value, dict):
        types = get_type_hints(kind)
        for field in fields(kind):
            if field.name not in value and field.default is field.default_factory is MISSING:
                raise ValueError(f"{at}.{field.name} is missing")
        return cast(Any, kind)(**{name: _checked(types[name], value[name], f"{at}.{name}") for name in types if name in value})
    if origin is UnionType:
        return None if value is None else _checked(inner[0], value, at)
    if origin is tuple and isinstance(value, list) and len(value) == len(inner):
        return tuple(_checked(one, each, f"{at}[{n}]") for n, (one, each) in enumerate(zip(inner, value, strict=True)))
    if origin is list and isinstance(value, list):
        return [_checked(inner[0], each, f"{at}[{n}]") for n, each in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {name: _checked(inner[1], each, f"{at}[{name!r}]") for name, each in value.items()}
    if kind is Any or type(value) is kind or (kind is float and type(value) is int):
        return value
    expected = kind if inner else kind.__name__
    raise ValueError(f"{at}: expected {expected}, found {reprlib.repr(value)}")

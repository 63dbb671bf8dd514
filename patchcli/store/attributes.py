"""Attributes of the store's parts: frozen dataclasses, checked where they are read."""

import json
from dataclasses import MISSING, asdict, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from pydantic import TypeAdapter

T = TypeVar("T", bound="DataclassInstance")


def to_stored(attributes: "DataclassInstance") -> dict[str, Any]:
    """The fields as JSON has them; those that have their default are left out."""
    values = asdict(attributes)
    usual = {f.name: f.default_factory() if f.default_factory is not MISSING else f.default for f in fields(attributes)}
    return {name: value for name, value in values.items() if usual[name] is MISSING or value != usual[name]}


def from_stored(kind: type[T], stored: dict[str, Any]) -> T:
    """The inverse; raises ValueError, in one line, where a field is missing or of another type."""
    from pydantic import ValidationError

    try:
        checked: T = _adapter(kind).validate_json(json.dumps(stored), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return checked


@lru_cache
def _adapter(kind: type[T]) -> "TypeAdapter[T]":
    from pydantic import TypeAdapter

    return TypeAdapter(kind)

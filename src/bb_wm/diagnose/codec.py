"""Frozen dataclasses as plain JSON and back: by their type hints, nothing is imported or run."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from bb_wm.errors import DataError

T = TypeVar("T")
_WORDS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def encode(value: Any) -> Any:
    """Plain JSON of a dataclass: NaN and infinities as the words "nan", "inf", "-inf"."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


def decode(cls: type[T], data: Any, where: str) -> T:
    """The dataclass that `encode` made plain; DataError names the field that does not fit."""
    if not isinstance(data, Mapping):
        raise DataError(where, expected="a JSON object", actual=type(data).__name__)
    hints = typing.get_type_hints(cls)
    names = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    if set(data) != names:
        odd = sorted(set(map(str, data)) ^ names)
        raise DataError(where, expected=f"the fields {sorted(names)}", actual=f"odd: {odd}")
    return cls(**{name: _decode(hints[name], data[name], f"{where}.{name}") for name in names})


def _decode(kind: Any, value: Any, where: str) -> Any:
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in inside:
            return None
        return _decode(next(one for one in inside if one is not type(None)), value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_decode(inside[0], one, f"{where}[{i}]") for i, one in enumerate(value))
    if origin is not None and isinstance(value, Mapping):
        return {str(key): _decode(inside[1], one, f"{where}.{key}") for key, one in value.items()}
    if isinstance(kind, type) and is_dataclass(kind):
        return decode(kind, value, where)
    if kind is float and isinstance(value, str) and value in _WORDS:
        return _WORDS[value]
    if kind is float and type(value) in (int, float):
        return float(value)
    if origin is typing.Literal and value in inside:
        return value
    if kind in (int, str, bool) and type(value) is kind:
        return value
    raise DataError(where, expected=getattr(kind, "__name__", str(kind)), actual=repr(value))

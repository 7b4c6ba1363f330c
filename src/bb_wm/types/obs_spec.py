"""What can be seen: observation spaces as plain data, without any network.

An `ObsSpec` is made from an int, a tuple, a dict of them or a Gymnasium Space.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bb_wm.errors import ConfigError, ResourceError
from bb_wm.types.spaces import flatten_keys, join_keys, positive_int, space_name

ObsKind = Literal["vector", "image", "discrete"]
MAX_VALUES = 64 * 1024 * 1024  # values in one observation; beyond it something is wrong
_SINGLE = "obs"


@dataclass(frozen=True, slots=True)
class ObsEntry:
    """One key of an observation: its shape, and for a discrete one the classes per variable."""

    key: str
    kind: ObsKind
    shape: tuple[int, ...]
    classes: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def channels_first(self) -> bool:
        return self.kind == "image" and self.shape[-1] not in (1, 3, 4)


@dataclass(frozen=True, slots=True)
class ObsSpec:
    """All keys of an observation, sorted by name; `single` when the outside passes a bare array."""

    entries: tuple[ObsEntry, ...]
    single: bool

    @classmethod
    def of(cls, shape: Any) -> ObsSpec:
        """From an int, a tuple, a (nested) dict of them, or a Gymnasium Space."""
        if isinstance(shape, ObsSpec):
            return shape
        if isinstance(shape, Mapping) or space_name(shape) in ("Dict", "Tuple"):
            entries = tuple(sorted(_obs_leaves("", shape), key=lambda entry: entry.key))
            if not entries:
                raise ConfigError(
                    "obs_shape", expected="at least one key", actual="an empty mapping"
                )
            spec = cls(entries, single=False)
        else:
            spec = cls((_obs_entry(_SINGLE, shape),), single=True)
        values = sum(entry.size for entry in spec.entries)
        if values > MAX_VALUES:
            raise ResourceError(
                "obs_shape",
                expected=f"at most {MAX_VALUES} values ({MAX_VALUES * 4} bytes)",
                actual=f"{values} values ({values * 4} bytes)",
                hint="crop, pool or featurise the observation first.",
            )
        return spec

    def keyed(self, obs: Any) -> dict[str, Any]:
        """The outside's observation as {key: value}; nested dicts and tuples are flattened."""
        if self.single:
            if isinstance(obs, Mapping) and set(obs) == {_SINGLE}:
                return {_SINGLE: obs[_SINGLE]}
            return {_SINGLE: obs}
        flat: dict[str, Any] = {}
        flatten_keys("", obs, flat)
        return flat

    def to_json(self) -> dict[str, Any]:
        return {
            "single": self.single,
            "entries": [
                {"key": e.key, "kind": e.kind, "shape": list(e.shape), "classes": list(e.classes)}
                for e in self.entries
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ObsSpec:
        entries = tuple(
            ObsEntry(e["key"], e["kind"], tuple(e["shape"]), tuple(e["classes"]))
            for e in data["entries"]
        )
        return cls(entries, bool(data["single"]))


def _obs_leaves(prefix: str, shape: Any) -> list[ObsEntry]:
    name = space_name(shape)
    if name == "Dict":
        shape = shape.spaces
    elif name == "Tuple":
        shape = {str(i): space for i, space in enumerate(shape.spaces)}
    if isinstance(shape, Mapping):
        leaves: list[ObsEntry] = []
        for key, value in shape.items():
            if not isinstance(key, str) or not key:
                raise ConfigError(
                    "obs_shape", expected="keys that are non-empty strings", actual=repr(key)
                )
            leaves += _obs_leaves(join_keys(prefix, key), value)
        return leaves
    return [_obs_entry(prefix, shape)]


def _obs_entry(key: str, shape: Any) -> ObsEntry:
    field = "obs_shape" if key == _SINGLE else f"obs_shape[{key!r}]"
    name = space_name(shape)
    if name == "Box":
        if shape.dtype == np.uint8 and len(shape.shape) == 3:
            return _image_entry(field, key, tuple(shape.shape))
        return ObsEntry(key, "vector", _shape_tuple(field, tuple(shape.shape) or (1,)))
    if name == "Discrete":
        return ObsEntry(key, "discrete", (1,), (positive_int(field, shape.n),))
    if name == "MultiDiscrete":
        classes = tuple(positive_int(field, n) for n in np.asarray(shape.nvec).ravel())
        return ObsEntry(key, "discrete", (len(classes),), classes)
    if name == "MultiBinary":
        count = math.prod(np.atleast_1d(np.asarray(shape.n)).tolist())
        return ObsEntry(key, "discrete", (int(count),), (2,) * int(count))
    if name:
        raise ConfigError(
            field,
            expected="Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple",
            actual=f"Gymnasium {name}",
            hint="turn it into numbers in a wrapper first, for text a hashing featuriser.",
        )
    if isinstance(shape, tuple | list):
        if len(shape) == 3 and (shape[-1] in (1, 3, 4) or shape[0] in (1, 3, 4)):
            return _image_entry(field, key, tuple(shape))
        return ObsEntry(key, "vector", _shape_tuple(field, tuple(shape)))
    return ObsEntry(key, "vector", (positive_int(field, shape),))


def _shape_tuple(field: str, shape: tuple[Any, ...]) -> tuple[int, ...]:
    if not shape:
        raise ConfigError(field, expected="at least one dimension", actual="()")
    return tuple(positive_int(field, size) for size in shape)


def _image_entry(field: str, key: str, shape: tuple[Any, ...]) -> ObsEntry:
    sizes = _shape_tuple(field, shape)
    entry = ObsEntry(key, "image", sizes)
    sides = sizes[1:] if entry.channels_first else sizes[:2]
    if min(sides) < 8:
        return ObsEntry(key, "vector", sizes)
    return entry

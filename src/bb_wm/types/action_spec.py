"""What can be done: action spaces as plain data, and the one translation into flat vectors.

An `ActionSpec` is made from an int (a continuous vector) or a Gymnasium Space. It is the one place
where the outside's actions become the flat vector used inside, and back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bb_wm.errors import ActionError, ConfigError, InputTypeError
from bb_wm.types.spaces import flatten_keys, join_keys, positive_int, space_name


@dataclass(frozen=True, slots=True)
class ActionPart:
    """One part of the flat action: `size` numbers in [low, high], or a one-hot of `size` classes.

    `shape` is the outside's own shape of a box.
    """

    key: str
    kind: Literal["box", "discrete"]
    size: int
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ActionSpec:
    """The action space, and the one translation between the outside's actions and flat vectors.

    A flat action [*batch, A] holds box parts in the outside's own units and discrete parts as
    one-hots. `form` says what the outside passes: an array, one index, several indices, a mapping.
    """

    parts: tuple[ActionPart, ...]
    form: Literal["array", "index", "indices", "mapping"]

    @classmethod
    def of(cls, action: Any) -> ActionSpec:
        """From an int (continuous, unbounded) or a Gymnasium Space, Dict and Tuple included."""
        if isinstance(action, ActionSpec):
            return action
        name = space_name(action)
        if name in ("Dict", "Tuple") or isinstance(action, Mapping):
            parts = tuple(sorted(_action_leaves("", action), key=lambda part: part.key))
            if not parts:
                raise ConfigError(
                    "action_dim", expected="at least one action", actual="an empty space"
                )
            return cls(parts, "mapping")
        parts = tuple(_action_parts("action", action))
        form: Literal["array", "index", "indices"] = "array"
        if name == "Discrete":
            form = "index"
        elif name in ("MultiDiscrete", "MultiBinary"):
            form = "indices"
        return cls(parts, form)

    @property
    def size(self) -> int:
        """A, the length of the flat action."""
        return sum(part.size for part in self.parts)

    def slices(self) -> list[tuple[ActionPart, slice]]:
        """Every part with its place in the flat action."""
        places, start = [], 0
        for part in self.parts:
            places.append((part, slice(start, start + part.size)))
            start += part.size
        return places

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """low [A] and high [A] of a flat action; 0 and 1 for one-hots, infinite if unbounded."""
        low: list[float] = []
        high: list[float] = []
        for part in self.parts:
            low += list(part.low) if part.kind == "box" else [0.0] * part.size
            high += list(part.high) if part.kind == "box" else [1.0] * part.size
        return np.asarray(low, np.float32), np.asarray(high, np.float32)

    def flatten(self, action: Any) -> np.ndarray:
        """The outside's action(s) -> flat float32 [*batch, A]. Raises ActionError out of range."""
        if self.form == "mapping":
            leaves: dict[str, Any] = {}
            flatten_keys("", action, leaves)
            columns: list[np.ndarray] = []
            for key in dict.fromkeys(part.key for part in self.parts):
                if key not in leaves:
                    raise ActionError(
                        "action", expected=f"a key {key!r}", actual=f"keys {sorted(leaves)}"
                    )
                mine = [part for part in self.parts if part.key == key]
                columns.append(_flatten_parts(mine, leaves[key]))
            return np.concatenate(columns, axis=-1)
        return _flatten_parts(list(self.parts), action, whole=self.form == "index")

    def unflatten(self, flat: np.ndarray) -> Any:
        """One flat action [A] -> what `env.step` wants (bounds kept, one-hots to indices)."""
        values: dict[str, list[Any]] = {}
        for part, place in self.slices():
            piece = np.asarray(flat[place], np.float32)
            if part.kind == "discrete":
                values.setdefault(part.key, []).append(int(np.argmax(piece)))
            else:
                inside = np.clip(piece, part.low, part.high).astype(np.float32)
                values.setdefault(part.key, []).append(inside.reshape(part.shape))
        if self.form == "index":
            return values["action"][0]
        if self.form == "indices":
            return np.asarray(values["action"], np.int64)
        if self.form == "array":
            return values["action"][0]
        return {key: _join_values(pieces) for key, pieces in values.items()}

    def sample(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """`count` uniform random flat actions [count, A]; normal from the bound where unbounded."""
        columns = []
        for part in self.parts:
            if part.kind == "discrete":
                choice = generator.integers(part.size, size=count)
                columns.append(np.eye(part.size, dtype=np.float32)[choice])
                continue
            low, high = np.asarray(part.low), np.asarray(part.high)
            bounded = np.isfinite(low) & np.isfinite(high)
            flat = generator.uniform(
                np.where(bounded, low, 0), np.where(bounded, high, 1), (count, part.size)
            )
            free = generator.standard_normal((count, part.size))
            free = np.where(np.isfinite(low), low + np.abs(free), free)
            free = np.where(np.isfinite(high), high - np.abs(free), free)
            columns.append(np.where(bounded, flat, free).astype(np.float32))
        return np.concatenate(columns, axis=-1)

    def to_json(self) -> dict[str, Any]:
        def bound(values: tuple[float, ...]) -> list[float | None]:
            return [value if math.isfinite(value) else None for value in values]

        return {
            "form": self.form,
            "parts": [
                {
                    "key": p.key,
                    "kind": p.kind,
                    "size": p.size,
                    "low": bound(p.low),
                    "high": bound(p.high),
                    "shape": list(p.shape),
                }
                for p in self.parts
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ActionSpec:
        def bound(values: list[float | None], missing: float) -> tuple[float, ...]:
            return tuple(missing if value is None else float(value) for value in values)

        parts = tuple(
            ActionPart(
                p["key"],
                p["kind"],
                int(p["size"]),
                bound(p["low"], -math.inf),
                bound(p["high"], math.inf),
                tuple(p["shape"]),
            )
            for p in data["parts"]
        )
        return cls(parts, data["form"])


def _join_values(pieces: list[Any]) -> Any:
    if len(pieces) == 1:
        return pieces[0]
    return np.asarray(pieces, np.int64)


def _action_leaves(prefix: str, action: Any) -> list[ActionPart]:
    name = space_name(action)
    if name == "Dict":
        action = action.spaces
    elif name == "Tuple":
        action = {str(i): space for i, space in enumerate(action.spaces)}
    if isinstance(action, Mapping):
        leaves: list[ActionPart] = []
        for key, value in action.items():
            leaves += _action_leaves(join_keys(prefix, str(key)), value)
        return leaves
    return _action_parts(prefix, action)


def _action_parts(key: str, action: Any) -> list[ActionPart]:
    name = space_name(action)
    field = "action_dim" if key == "action" else f"action_dim[{key!r}]"
    if name == "Box":
        low = np.asarray(action.low, np.float32).ravel()
        high = np.asarray(action.high, np.float32).ravel()
        if low.size == 0:
            raise ConfigError(field, expected="at least one number", actual="an empty Box")
        shape = tuple(int(side) for side in action.shape) or (1,)
        return [ActionPart(key, "box", low.size, tuple(low.tolist()), tuple(high.tolist()), shape)]
    if name == "Discrete":
        if int(action.start) != 0:
            raise ConfigError(
                field, expected="Discrete starting at 0", actual=f"start={action.start}"
            )
        return [ActionPart(key, "discrete", positive_int(field, action.n))]
    if name in ("MultiDiscrete", "MultiBinary"):
        if name == "MultiDiscrete":
            counts = np.asarray(action.nvec).ravel().tolist()
        else:
            counts = [2] * math.prod(np.atleast_1d(np.asarray(action.n)).tolist())
        return [ActionPart(key, "discrete", positive_int(field, n)) for n in counts]
    if name:
        raise ConfigError(
            field,
            expected="Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple",
            actual=f"Gymnasium {name}",
        )
    if isinstance(action, bool) or not isinstance(action, int | np.integer):
        raise ConfigError(
            field,
            expected="a positive int or a Gymnasium Space",
            actual=f"{type(action).__name__} {action!r}",
            hint="for choices pass gymnasium.spaces.Discrete(n).",
        )
    size = positive_int(field, action)
    return [ActionPart(key, "box", size, (-math.inf,) * size, (math.inf,) * size, (size,))]


def _flatten_parts(parts: list[ActionPart], action: Any, *, whole: bool = False) -> np.ndarray:
    """Indices or arrays of one key -> flat [*batch, sum of sizes]."""
    if action is None or isinstance(action, str | bytes):
        raise InputTypeError("action", expected="numbers", actual=type(action).__name__)
    array = np.asarray(action)
    width = sum(part.size for part in parts)
    if parts[0].kind == "box":
        return _flatten_box(parts[0], array)
    if array.dtype.kind == "f" and array.ndim and array.shape[-1] == width:
        return _check_one_hots(parts, array)
    if array.dtype.kind not in "iu":
        raise ActionError("action", expected="integer indices", actual=f"dtype {array.dtype}")
    if whole or (len(parts) == 1 and (array.ndim == 0 or array.shape[-1] != 1)):
        array = array[..., None]
    if array.shape[-1:] != (len(parts),):
        raise ActionError(
            "action", expected=f"{len(parts)} indices in the last axis", actual=list(array.shape)
        )
    columns = []
    for position, part in enumerate(parts):
        index = array[..., position]
        if index.size and (int(index.min()) < 0 or int(index.max()) >= part.size):
            raise ActionError(
                "action",
                expected=f"indices in 0..{part.size - 1}",
                actual=f"{int(index.min())}..{int(index.max())}",
            )
        columns.append(np.eye(part.size, dtype=np.float32)[index])
    return np.concatenate(columns, axis=-1)


def _flatten_box(part: ActionPart, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        raise ActionError("action", expected="numbers", actual=f"dtype {array.dtype}")
    if part.size == 1 and array.ndim == 0:
        array = array[None]
    if len(part.shape) > 1 and array.shape[-len(part.shape) :] == part.shape:
        array = array.reshape(*array.shape[: -len(part.shape)], part.size)
    if array.shape[-1:] != (part.size,):
        raise ActionError(
            "action", expected=f"{part.size} numbers in the last axis", actual=list(array.shape)
        )
    flat = array.astype(np.float32)
    check_box(part, flat)
    return flat


def check_box(part: ActionPart, flat: np.ndarray) -> None:
    """Raise ActionError when a number is not finite or outside the box by more than rounding."""
    low, high = np.asarray(part.low, np.float32), np.asarray(part.high, np.float32)
    slack = 1e-4 * np.where(np.isfinite(high - low), np.maximum(high - low, 1.0), 1.0)
    bad = ~np.isfinite(flat) | (flat < low - slack) | (flat > high + slack)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ActionError(
            "action",
            expected=f"finite numbers within [{low[where[-1]]:g}, {high[where[-1]]:g}]",
            actual=f"{float(flat[where]):g} at {list(where)} ({int(bad.sum())} such)",
        )


def _check_one_hots(parts: list[ActionPart], array: np.ndarray) -> np.ndarray:
    flat = array.astype(np.float32)
    start = 0
    for part in parts:
        piece = flat[..., start : start + part.size]
        start += part.size
        total = piece.sum(-1)
        good = ((piece == 0) | (piece == 1)).all(-1) & ((total == 1) | (total == 0))
        if not good.all():
            where = [int(i) for i in np.argwhere(~good)[0]]
            raise ActionError(
                "action",
                expected="one-hots (or all zero: no action was done)",
                actual=f"a row that is neither, at {where}",
            )
    return flat

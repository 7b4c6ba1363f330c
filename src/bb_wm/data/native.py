"""Between the flat actions used inside and what one particular `env.step` wants.

`ActionSpec` forgets the shape and dtype of a Box and the nesting of a Dict; a Gymnasium space
remembers them. Masks come in as many forms as spaces do and leave as one bool per flat number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bb_wm.errors import ActionError
from bb_wm.types import ActionSpec


def native_action(spec: ActionSpec, space: Any, flat: np.ndarray) -> Any:
    """A flat action [A] as the Gymnasium `space` wants it: its nesting, shapes and dtypes."""
    return _shaped(space, spec.unflatten(flat), "")


def _shaped(space: Any, value: Any, prefix: str) -> Any:
    kind = type(space).__name__
    if hasattr(space, "spaces"):
        inner = space.spaces
        pairs = inner.items() if isinstance(inner, Mapping) else enumerate(inner)
        leaves = [
            (key, _shaped(child, value, f"{prefix}/{key}" if prefix else str(key)))
            for key, child in pairs
        ]
        return dict(leaves) if isinstance(inner, Mapping) else tuple(leaf for _, leaf in leaves)
    if isinstance(value, Mapping):
        value = value[prefix]
    if kind == "Discrete":
        return int(np.asarray(value).reshape(()))
    return np.asarray(value).astype(space.dtype).reshape(space.shape)


def flat_mask(spec: ActionSpec, mask: Any) -> np.ndarray | None:
    """An environment's action mask -> [A] bool, True where available; boxes are always available.

    `mask` is Gymnasium's: one array per discrete part in the order of the spec (an array, a tuple
    of them, a dict), or their concatenation, or already [A]. Raises ActionError when nothing of a
    part is available or the sizes differ.
    """
    if mask is None:
        return None
    parts = [part for part in spec.parts if part.kind == "discrete"]
    given = np.concatenate([np.asarray(piece).ravel() for piece in _leaves(mask)] or [np.zeros(0)])
    total = sum(part.size for part in parts)
    if given.size not in (total, spec.size):
        raise ActionError(
            "action_mask", expected=f"{total} or {spec.size} flags", actual=given.size
        )
    full = np.ones(spec.size, bool)
    start = 0
    for part, place in spec.slices():
        if given.size == spec.size:
            full[place] = given[place].astype(bool)
        elif part.kind == "discrete":
            full[place] = given[start : start + part.size].astype(bool)
            start += part.size
        if part.kind == "discrete" and not full[place].any():
            raise ActionError(
                f"action_mask[{part.key!r}]", expected="one available action", actual="none"
            )
    return full


def _leaves(mask: Any) -> list[Any]:
    if isinstance(mask, Mapping):
        return [leaf for key in sorted(mask) for leaf in _leaves(mask[key])]
    if isinstance(mask, tuple | list):
        if all(np.ndim(item) == 0 for item in mask) and not any(
            isinstance(item, Mapping) for item in mask
        ):
            return [np.asarray(mask)]
        return [leaf for item in mask for leaf in _leaves(item)]
    return [mask]


def sample_action(
    spec: ActionSpec, generator: np.random.Generator, mask: np.ndarray | None = None
) -> np.ndarray:
    """One uniform random flat action [A], among the available ones; `generator` is ours."""
    flat: np.ndarray = spec.sample(generator, 1)[0]
    if mask is None:
        return flat
    for part, place in spec.slices():
        if part.kind == "discrete":
            available = np.flatnonzero(mask[place])
            choice = int(available[generator.integers(available.size)])
            flat[place] = np.eye(part.size, dtype=np.float32)[choice]
    return flat

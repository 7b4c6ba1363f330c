"""What observation and action specs share: reading Gymnasium spaces and nested keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bb_wm.errors import ConfigError


def space_name(space: Any) -> str:
    """The class name of a Gymnasium space, without importing gymnasium; "" for anything else."""
    for base in type(space).__mro__:
        if base.__module__.startswith("gymnasium.spaces"):
            return base.__name__
    return ""


def join_keys(prefix: str, key: str) -> str:
    """A nested key as prefix/key; the key alone where there is no prefix."""
    return f"{prefix}/{key}" if prefix else key


def flatten_keys(prefix: str, obs: Any, into: dict[str, Any]) -> None:
    """Put the leaves of a nested observation into `into`, by joined keys."""
    if isinstance(obs, Mapping):
        for key, value in obs.items():
            flatten_keys(join_keys(prefix, str(key)), value, into)
    elif isinstance(obs, tuple):
        for index, value in enumerate(obs):
            flatten_keys(join_keys(prefix, str(index)), value, into)
    else:
        into[prefix] = obs


def positive_int(field: str, value: Any) -> int:
    """`value` as an int above 0. Raises ConfigError naming `field`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ConfigError(
            field,
            expected="a positive int, a tuple of them, a dict, or a Gymnasium Space",
            actual=f"{type(value).__name__} {value!r}",
        )
    if value < 1:
        raise ConfigError(field, expected="positive ints", actual=value)
    return int(value)

"""How much is believable, and how a broken number is reported; no torch."""

from __future__ import annotations

from typing import Final

import numpy as np

from bb_wm.errors import BatchError, BBWMError, RangeError

MAX_ABS: Final = 1e6  # a finite number beyond it is a fault of the data, not a quantity to learn
MAX_BATCH_BYTES: Final = 2 << 30
MAX_EPISODE_BYTES: Final = 1 << 30

# Numbers that float32 holds exactly are taken for vector keys; nothing else is cast.
EXACT_IN_FLOAT32: Final = ("bool", "uint8", "int8", "uint16", "int16")


def number_error(field: str, array: np.ndarray, *, low: float = -MAX_ABS) -> BBWMError:
    """The error for NaN, Inf, or numbers outside [low, 1e6]: how many, and where the first is."""
    for broken, name in ((np.isnan(array), "NaN"), (np.isinf(array), "Inf")):
        if broken.any():
            return BatchError(
                field,
                expected="finite numbers",
                actual=f"{int(broken.sum())} {name}, first at {_first(broken)}",
                hint="find where the data broke; nothing is replaced silently.",
            )
    broken = (array < low) | (array > MAX_ABS)
    negative = low == 0 and bool((array < 0).any())
    return RangeError(
        field,
        expected="risk >= 0, larger is worse" if negative else f"numbers within ±{MAX_ABS:g}",
        actual=f"{int(broken.sum())} outside, first {array[tuple(_first(broken))]:g} "
        f"at {_first(broken)}",
        hint="negate it: more is more dangerous." if negative else "rescale, or drop these rows.",
    )


def index_error(field: str, array: np.ndarray, classes: tuple[int, ...]) -> RangeError:
    """The error for discrete observations outside their classes."""
    broken = (array < 0) | (array >= np.asarray(classes))
    place = _first(broken)
    return RangeError(
        field,
        expected=f"indices in 0..{classes[place[-1]] - 1}",
        actual=f"{int(broken.sum())} outside, first {int(array[tuple(place)])} at {place}",
    )


def _first(broken: np.ndarray) -> list[int]:
    return [int(i) for i in np.argwhere(broken)[0]]

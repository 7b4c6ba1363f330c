"""The errors a caller can meet, as a tree. Every one names field, expected, actual and a hint.

BBWMError
├── ConfigError       (ValueError)    a setting or a constructor argument
│   └── HorizonError  (ValueError)    a horizon longer than was validated for this model
├── BatchError        (ValueError)    training rows of the wrong shape or content
│   ├── EpisodeError  (ValueError)    rows that contradict each other in time
│   ├── ActionError   (ValueError)    an action outside its space
│   └── RangeError    (ValueError)    a finite number that is absurd or of the wrong sign
├── DtypeError        (TypeError)     the right shape, the wrong kind of number
├── InputTypeError    (TypeError)     a Python type that is not accepted here
├── LatentError       (ValueError)    a latent of another model, or a broken one
├── PolicyError       (ValueError)    a policy's answer cannot be used; carries the step
├── DeviceError       (ValueError)    an unknown or absent device, or tensors on two devices
├── DataError         (ValueError)    stored rows that cannot be believed
│   ├── AlignmentError(ValueError)    rows shifted against their actions
│   └── PathError     (ValueError)    a name or path that is refused
├── CheckpointError   (ValueError)    a checkpoint that is damaged or of another model
│   └── VersionError  (ValueError)    written by a version this one cannot read
├── SaveError         (OSError)       nothing was written; what was there before is intact
├── LockError         (OSError)       another process writes to this run
├── ResourceError     (MemoryError)   more memory asked for than is allowed
└── MissingExtraError (ImportError)   an optional package is absent; carries the install line
"""

from __future__ import annotations

from typing import Final

_MESSAGE_LIMIT: Final = 400


def _short(value: object, limit: int) -> str:
    text = str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


class BBWMError(Exception):
    """Base of all errors of this library.

    `field` is what was wrong, `expected` and `actual` say how, `hint` says what to do. The message
    holds all four in at most 400 characters and never prints a tensor.
    """

    def __init__(self, field: str, *, expected: object, actual: object, hint: str = "") -> None:
        self.field = field
        self.expected = _short(expected, 120)
        self.actual = _short(actual, 120)
        self.hint = _short(hint, 130)
        message = f"{_short(field, 60)} must be {self.expected}; got {self.actual}."
        if self.hint:
            message += f" Hint: {self.hint}"
        super().__init__(_short(message, _MESSAGE_LIMIT))


class ConfigError(BBWMError, ValueError):
    """A setting or constructor argument cannot be used."""


class HorizonError(ConfigError):
    """The horizon is longer than was validated for this model."""


class BatchError(BBWMError, ValueError):
    """Training rows have the wrong shape or content."""


class EpisodeError(BatchError):
    """Rows contradict each other in time."""


class ActionError(BatchError):
    """An action lies outside its space."""


class RangeError(BatchError):
    """A finite number is absurd or has the wrong sign."""


class DtypeError(BBWMError, TypeError):
    """The wrong kind of number; nothing is cast silently."""


class InputTypeError(BBWMError, TypeError):
    """A Python type that is not accepted here."""


class LatentError(BBWMError, ValueError):
    """A latent of another model, or one with broken numbers."""


class PolicyError(BBWMError, ValueError):
    """A policy's answer cannot be used; `step` says when."""

    def __init__(
        self, field: str, *, expected: object, actual: object, hint: str = "", step: int = -1
    ) -> None:
        self.step = step
        super().__init__(field, expected=expected, actual=actual, hint=hint)


class DeviceError(BBWMError, ValueError):
    """An unknown or absent device, or tensors on two devices."""


class DataError(BBWMError, ValueError):
    """Stored rows cannot be believed."""


class AlignmentError(DataError):
    """Rows are shifted against their actions."""


class PathError(DataError):
    """A name or path is refused."""


class CheckpointError(BBWMError, ValueError):
    """A checkpoint is damaged or belongs to another model."""


class VersionError(CheckpointError):
    """Written by a version this one cannot read."""


class SaveError(BBWMError, OSError):
    """Nothing was written; what was there before is intact."""


class LockError(BBWMError, OSError):
    """Another process writes to this run."""


class ResourceError(BBWMError, MemoryError):
    """More memory is asked for than is allowed; nothing was allocated."""


class MissingExtraError(BBWMError, ImportError):
    """An optional package is absent; the hint holds the install line."""

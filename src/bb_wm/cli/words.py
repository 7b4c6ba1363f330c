"""From words to a frozen dataclass: tyro, with our examples and our way to say what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import tyro

from bb_wm.errors import ConfigError

T = TypeVar("T")

# The default's own type decides between GRU and Transformer: a preset chooses, flags adjust.
_WAY = (
    tyro.conf.AvoidSubcommands,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.SuppressFixed,
    tyro.conf.HelptextFromCommentsOff,
)


def parse_words(
    kind: type[T], words: Sequence[str], *, command: str, examples: str, default: T | None = None
) -> T:
    """The `kind` that `words` spell.

    Prints help, or what is wrong with the words, and exits (0 or 2). A value that a settings class
    refuses raises its ConfigError, with the flag as it was typed for its field.
    """
    about = f"{(kind.__doc__ or '').strip()}\n\n{examples.strip()}"
    try:
        spelt = tyro.cli(
            kind, args=list(words), prog=command, description=about, default=default, config=_WAY
        )
    except ConfigError as error:
        raise type(error)(
            _flag(error.field, words),
            expected=error.expected,
            actual=error.actual,
            hint=error.hint,
        ) from error
    assert spelt is not None  # for mypy: a default of None means there is none
    return spelt


def _flag(field: str, words: Sequence[str]) -> str:
    """The flag among `words` that sets `field`, or the field itself."""
    for word in words:
        name = word.split("=")[0]
        spoken = name.lstrip("-").replace("-", "_")
        if name.startswith("--") and (spoken == field or spoken.endswith(f".{field}")):
            return name
    return field

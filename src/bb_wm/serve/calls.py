"""What passes between an agent and its tools: a call, what the server says of it, its answer.

All of it was written by others: arguments, results, names and hints are data here, never read as
instructions, and never repeated to anyone but as printable ASCII.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_DEPTH = 16  # deeper JSON is not looked into
MAX_NODES = 4096  # values looked at in one call


@dataclass(frozen=True, slots=True)
class Hints:
    """A tool's own word on what it does (MCP's annotations); None where it says nothing.

    Hints are untrusted. They raise risk, never lower it, and never reach the model.
    """

    read_only: bool | None = None
    destructive: bool | None = None

    @property
    def may_destroy(self) -> bool:
        """As MCP reads them: what is not declared harmless may destroy; a contradiction too."""
        if self.destructive is not None:
            return self.destructive
        return self.read_only is not True


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call as the agent proposes it. `server` tells tools of one name apart."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    hints: Hints = field(default_factory=Hints)
    server: str = ""

    @property
    def shown(self) -> str:
        """The tool's name as it may be printed."""
        return printable(self.name)

    def same(self, other: ToolCall) -> bool:
        """Whether it is the same tool with the same arguments."""
        mine, theirs = (canonical([c.server, c.name, c.arguments]) for c in (self, other))
        return mine is not None and mine == theirs


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: texts in order, parts by kind, whether it is an error, seconds it took.

    `refused` says that the call was not made. `raw` is the framework's own object, passed on
    untouched.
    """

    texts: tuple[str, ...] = ()
    kinds: Mapping[str, int] = field(default_factory=dict)
    error: bool = False
    seconds: float = 0.0
    refused: bool = False
    raw: Any = None

    @classmethod
    def of_value(cls, value: Any, seconds: float, *, error: bool = False) -> Answer:
        """An answer that is one Python value, as agent frameworks give it."""
        if isinstance(value, str):
            return cls((value,), {"text": 1}, error, seconds, raw=value)
        text = canonical(value)
        kind = {"structured": 1} if value is not None else {}
        return cls(() if text is None else (text,), kind, error, seconds, raw=value)


def printable(text: object, limit: int = 80) -> str:
    """Text of others as harmless ASCII: quotes, controls and the rest become escapes."""
    raw = text if isinstance(text, str) else str(text)
    shown = json.dumps(raw[:limit])[1:-1].replace("<", "\\u003c").replace(">", "\\u003e")
    shown = shown.replace("`", "\\u0060").replace("'", "\\u0027").replace("\x7f", "\\u007f")
    return shown[:limit] + ("..." if len(shown) > limit or len(raw) > limit else "")


def canonical(value: Any) -> str | None:
    """One text per JSON value, whatever the order of its keys; None where there is none.

    What is not JSON counts by its type. Never raises.
    """
    try:
        return json.dumps(value, sort_keys=True, default=lambda x: f"<{type(x).__name__}>")
    except (TypeError, ValueError, RecursionError, OverflowError, MemoryError):
        return None


def as_float(value: object) -> float:
    """An int or float as a finite-or-infinite float; NaN for the rest."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf

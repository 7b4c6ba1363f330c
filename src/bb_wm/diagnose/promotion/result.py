"""The verdict of a promotion, with every number and reason it was made from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from bb_wm.diagnose.evaluation import number
from bb_wm.diagnose.tables import Table


class Outcome(StrEnum):
    """What may happen to the new model."""

    PROMOTE = "PROMOTE"
    BLOCK = "BLOCK"
    REFUSE = "REFUSE"


@dataclass(frozen=True, slots=True)
class Check:
    """One condition. `outcome` is what its breach means: BLOCK (worse, or not shown to be no worse)
    or REFUSE (the data cannot tell). `value` must be at most `limit`, or at least, if `at_least`.
    """

    code: str
    what: str
    value: float
    limit: float
    outcome: Outcome
    at_least: bool = False

    @property
    def passed(self) -> bool:
        """False for a NaN too."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def sentence(self) -> str:
        relation = "at least" if self.at_least else "at most"
        return f"{self.what} is {_shown(self.value)}; it must be {relation} {_shown(self.limit)}"


@dataclass(frozen=True, slots=True)
class Promotion:
    """May the new model replace the old one? Risks are calibrated V_s to go; larger is worse.

    outcome   PROMOTE if every check passed; REFUSE if the data cannot tell; else BLOCK
    checks    every condition, in the order they are reported
    numbers   what else was measured, by name
    settings  rule, planner and utility: the verdict holds for these
    tables    the calibration of the old and the new head, fitted on all held-out episodes, as JSON
    """

    outcome: Outcome
    checks: tuple[Check, ...]
    numbers: Mapping[str, float]
    settings: Mapping[str, Any]
    tables: tuple[Mapping[str, Any], ...] = field(default=())

    @property
    def failed(self) -> tuple[Check, ...]:
        """The conditions behind a verdict that is not PROMOTE."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def reason(self) -> str:
        """One sentence."""
        if self.outcome is Outcome.PROMOTE:
            return "PROMOTE: risk does not rise, and the data would have shown it."
        deciding = [check for check in self.failed if check.outcome is self.outcome]
        first = deciding[0].sentence
        more = f" (and {len(deciding) - 1} more)" if len(deciding) > 1 else ""
        why = "blocked" if self.outcome is Outcome.BLOCK else "the data cannot tell"
        return f"{self.outcome.value}: {why}; {first[:1].lower()}{first[1:]}{more}."

    def tables_of_numbers(self) -> list[Table]:
        """The checks, and what was measured beside them."""
        checks = tuple(
            (
                check.what,
                _shown(check.value),
                f"{'>=' if check.at_least else '<='} {_shown(check.limit)}",
                "ok" if check.passed else check.outcome.value,
            )
            for check in self.checks
        )
        beside = tuple((name.replace("_", " "), _shown(x)) for name, x in self.numbers.items())
        tables = [
            Table("Conditions (V_s to go, calibrated)", ("", "value", "must be", ""), checks),
            Table("Beside them", ("", ""), beside),
        ]
        return [table for table in tables if table.rows]

    @property
    def text(self) -> str:
        """The verdict and all tables, for a terminal or a log."""
        tables = self.tables_of_numbers()
        return "\n\n".join([self.reason, *(table.text() for table in tables)])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; NaN as null, infinities as text."""
        return {
            "verdict": self.outcome.value,
            "reason": self.reason,
            "checks": [
                {
                    "code": check.code,
                    "what": check.what,
                    "value": plain(check.value),
                    "limit": plain(check.limit),
                    "at_least": check.at_least,
                    "breach": check.outcome.value,
                    "passed": check.passed,
                }
                for check in self.checks
            ],
            "numbers": {name: plain(value) for name, value in self.numbers.items()},
            "settings": dict(self.settings),
            "calibration": [dict(table) for table in self.tables],
        }


def _shown(value: float) -> str:
    """Counts as they are, other numbers to three digits."""
    whole = math.isfinite(value) and value == int(value) and abs(value) < 1e6
    return str(int(value)) if whole else number(value)


def plain(value: Any) -> Any:
    """Settings and numbers as plain JSON: dataclasses by name and fields, functions by name."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        named = {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
        return {"kind": type(value).__name__, **named}
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value))}"

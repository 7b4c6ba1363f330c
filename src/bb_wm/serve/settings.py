"""What a guard does, and how it judges."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from bb_wm.decide.gate import Gate
from bb_wm.errors import ConfigError
from bb_wm.serve.asking import PERSON, LookUp


class Mode(StrEnum):
    """What the guard does with its decisions."""

    RECORD = "record"
    SHADOW = "shadow"
    ENFORCE = "enforce"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSettings:
    """How calls are judged.

    gate      limit on V_s of the next row, age of the belief; min_gain -1 lets calls through that
              are harmless and merely useless
    deadline  seconds a decision may take; later it is HOLD
    patience  seconds a call of enforce waits for a model that is still being loaded, then HOLD; and
              any call for a look-up in an event loop
    look_ups  harmless calls that may be made first for what they reveal
    look_first  record and shadow make one of them, by lot, before this share of the calls that may
              destroy by their hints or whose tool did harm, so that there is something to learn
              from; enforce makes them where they are worth it
    person    the price of asking a person, in utility (a call is worth about 1); None: never ask
    """

    gate: Gate = field(default_factory=lambda: Gate(limit=0.2, max_age=3600.0, min_gain=-1.0))
    deadline: float = 1.0
    patience: float = 60.0
    look_ups: tuple[LookUp, ...] = ()
    look_first: float = 1.0
    person: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.deadline <= 60:
            raise ConfigError(
                "GuardSettings.deadline", expected="seconds in (0, 60]", actual=self.deadline
            )
        if not 0 <= self.patience <= 3600:
            raise ConfigError(
                "GuardSettings.patience", expected="seconds in [0, 3600]", actual=self.patience
            )
        if not 0 <= self.look_first <= 1:
            raise ConfigError(
                "GuardSettings.look_first", expected="a share in [0, 1]", actual=self.look_first
            )
        names = [look.name for look in self.look_ups]
        if len(set(names)) != len(names) or PERSON in names:
            raise ConfigError(
                "GuardSettings.look_ups", expected="tools of different names", actual=names
            )

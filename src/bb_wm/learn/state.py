"""Where a training run stands, beside the tensors: counts that a checkpoint carries as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

from bb_wm.errors import CheckpointError

RECENT: Final = 1_000
"""Over how many batches the share of refused ones is watched."""

WATCHING: Final = frozenset({"best", "best_update", "evaluated", "metric_lines", "window"})
"""What depends on how closely training is watched, and decides nothing that is learnt."""


@dataclass(slots=True)
class TrainState:
    """Changed by the trainer only; equal in every run of the same seed at the same update."""

    update: int = 0
    """Model updates done, the skipped ones included."""
    policy_updates: int = 0
    episodes: int = 0
    rows: int = 0
    rows_goal: int = 0
    """Collecting goes on until `rows` reaches it: the present turn's end."""
    first_turn_rows: int = 0
    """What the first turn brought; the rows after it are paid in updates."""
    allowed: int = 0
    """Updates that the rows collected so far pay for."""
    exhausted: bool = False
    """The source has no more episodes."""
    batches: int = 0
    bad_batches: int = 0
    recent_bad: list[int] = field(default_factory=list)
    """Numbers of the refused ones among the last `RECENT` batches."""
    skipped: int = 0
    skipped_in_a_row: int = 0
    best: float | None = None
    best_update: int = -1
    evaluated: int = -1
    """The update after which the held-out episodes were last judged."""
    metric_lines: int = 0
    window: dict[str, list[float]] = field(default_factory=dict)
    """Per number the [sum, count] since the last line of the log."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> TrainState:
        """The inverse of `to_json`. Raises CheckpointError on other names or kinds."""
        fresh = cls()
        if not isinstance(data, Mapping) or set(data) != {f.name for f in fields(cls)}:
            raise CheckpointError("state", expected=sorted(asdict(fresh)), actual=str(data)[:80])
        for name, value in data.items():
            kinds: tuple[type, ...] = (type(getattr(fresh, name)),)
            if name == "best":
                kinds = (float, type(None))
            if type(value) not in kinds:
                raise CheckpointError(f"state.{name}", expected=kinds, actual=repr(value))
        return cls(**data)

    def count_bad(self, bad: bool) -> int:
        """Note one more batch; how many of the last `RECENT` were refused."""
        self.batches += 1
        if bad:
            self.bad_batches += 1
            self.recent_bad.append(self.batches)
        while self.recent_bad and self.recent_bad[0] <= self.batches - RECENT:
            self.recent_bad.pop(0)
        return len(self.recent_bad)

    def add(self, numbers: Mapping[str, float]) -> None:
        """Take one update's numbers into the window; those that are not finite only by absence."""
        for name, value in numbers.items():
            if math.isfinite(value):
                total = self.window.setdefault(name, [0.0, 0])
                total[0] += float(value)
                total[1] += 1

    def take_means(self) -> dict[str, float]:
        """The window's means, sorted by name; the window is empty again."""
        means = {name: total / count for name, (total, count) in sorted(self.window.items())}
        self.window = {}
        return means

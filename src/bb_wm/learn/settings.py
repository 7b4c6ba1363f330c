"""How a model is trained: one frozen dataclass, checked when made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal

from bb_wm.errors import ConfigError

FREE: Final = frozenset(
    {
        "updates",
        "log_every",
        "evaluate_every",
        "checkpoint_every",
        "keep",
        "best_metric",
        "on_save_error",
    }
)
"""Settings a resumed run may change: they say how long and how closely watched, never how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How much to collect, how often to update, and when to look.

    `rows` is the budget of collected training rows, `heldout_rows` of those only ever judged on.
    `interleave` is 0 for rows first, then updates; or k: after every k rows follow
    k * `update_ratio` updates (1 model update per policy step, section 5 of the specification),
    starting once `first_rows` are there, until `updates` are done. `batch_size` sequences of
    `length` rows make one update. `probe` asks the alignment probe before the first update.
    `best_metric` names the evaluation's number that is to become small; the checkpoint with the
    smallest is kept as 'best'.
    """

    rows: int = 20_000
    """Training rows to collect."""
    heldout_rows: int = 4_000
    """Rows more that are only ever judged on."""
    updates: int = 1_500
    """Model updates in all."""
    batch_size: int = 16
    """Sequences per update."""
    length: int = 32
    """Rows per sequence."""
    seed: int = 0
    """The run's chance: the same seed is the same run."""
    interleave: int = 0
    """0: collect first, then update; k: update after every k rows."""
    update_ratio: float = 1.0
    """Updates per collected row when interleaving."""
    first_rows: int = 1_000
    """Rows before the first update when interleaving."""
    log_every: int = 50
    """Updates between lines of metrics.jsonl."""
    evaluate_every: int = 500
    """Updates between looks at the held-out rows; 0: only at the end."""
    checkpoint_every: int = 500
    """Updates between checkpoints."""
    keep: int = 3
    """Checkpoints kept."""
    best_metric: str = "nrmse_10"
    """The held-out number that is to become small; its best is kept."""
    probe: bool = True
    """Ask the alignment probe before the first update (--no-probe: do not)."""
    bad_batch_limit: float = 0.05
    """Share of refused batches at which training halts."""
    skip_limit: int = 10
    """Updates in a row with numbers not finite at which training halts."""
    on_save_error: Literal["continue", "halt"] = "continue"
    """What a full disk means for training."""

    def __post_init__(self) -> None:
        least = dict.fromkeys(("rows", "updates", "batch_size", "log_every", "keep"), 1)
        least |= dict.fromkeys(("heldout_rows", "seed", "interleave", "evaluate_every"), 0)
        least |= {"checkpoint_every": 1, "first_rows": 1, "length": 2, "skip_limit": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value < 1 << 63:
                raise ConfigError(name, expected=f"an int of at least {low}", actual=repr(value))
        _check_number("update_ratio", self.update_ratio, 0.0, math.inf)
        _check_number("bad_batch_limit", self.bad_batch_limit, 0.0, 1.0)
        if type(self.probe) is not bool:
            raise ConfigError("probe", expected="True or False", actual=repr(self.probe))
        if type(self.best_metric) is not str:
            raise ConfigError("best_metric", expected="a name", actual=repr(self.best_metric))
        if self.on_save_error not in ("continue", "halt"):
            raise ConfigError(
                "on_save_error", expected="'continue' or 'halt'", actual=repr(self.on_save_error)
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrainSettings:
        """The inverse of `to_json`. Raises ConfigError on a name that is not a setting."""
        known = {field.name for field in fields(cls)}
        strange = sorted(set(data) - known)
        if strange:
            raise ConfigError("settings", expected=f"names among {sorted(known)}", actual=strange)
        return cls(**data)

    def check_resumes(self, before: TrainSettings) -> None:
        """Raise ConfigError unless these settings continue a run begun with `before`."""
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(before, field.name)
            if field.name not in FREE and mine != theirs:
                raise ConfigError(
                    field.name,
                    expected=f"{theirs!r}, as the run began",
                    actual=repr(mine),
                    hint="resume with the run's own setting, or begin a new run.",
                )


def _check_number(name: str, value: object, low: float, high: float) -> None:
    good = type(value) in (int, float) and math.isfinite(value) and low < value <= high  # type: ignore[arg-type, operator]
    if not good:
        raise ConfigError(
            name, expected=f"a finite number above {low:g}, up to {high:g}", actual=repr(value)
        )

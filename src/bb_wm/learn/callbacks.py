"""What a training run tells those who watch; watching never changes what is learnt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bb_wm.errors import SaveError
from bb_wm.learn.settings import TrainSettings


@dataclass(frozen=True, slots=True)
class Record:
    """One line of metrics.jsonl: the same numbers in every run of the same seed.

    `kind` is "train" (means over the updates since the last such line) or "evaluate".
    """

    kind: Literal["train", "evaluate"]
    update: int
    rows: int
    episodes: int
    numbers: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        head = {"kind": self.kind, "update": self.update}
        return head | {"rows": self.rows, "episodes": self.episodes, **self.numbers}


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a call of `Trainer.train` ended. `exit_code` is 0, 130 / 143 when interrupted, 1 when
    halted; `digest` is the SHA-256 of the model's whole state; `skipped` counts updates whose
    numbers were not finite, `bad_batches` those refused at the door."""

    reason: Literal["finished", "paused", "interrupted", "halted"]
    report: str
    exit_code: int
    updates: int
    rows: int
    episodes: int
    skipped: int
    bad_batches: int
    failed_saves: int
    digest: str
    best: float | None = None
    seconds: float = 0.0
    notes: tuple[str, ...] = field(default=())


class Callback:
    """Override what you want to see. In one update the order is: `updated`, `logged`, `evaluated`,
    `saved` (or `save_failed`); around them `started`, `collected`, `noticed`, `ended`."""

    def started(self, folder: Path, settings: TrainSettings, update: int) -> None:
        """Training begins at `update`, 0 or where the checkpoint left it."""

    def collected(self, rows: int, episodes: int, heldout: bool) -> None:
        """An episode is stored; `rows` and `episodes` count what this part now holds."""

    def updated(self, update: int, loss: float, metrics: Mapping[str, float]) -> None:
        """Update number `update` is done."""

    def logged(self, record: Record) -> None:
        """A line of means over the last updates."""

    def evaluated(self, record: Record) -> None:
        """The held-out episodes were judged."""

    def saved(self, update: int, path: Path) -> None:
        """A checkpoint is on disk."""

    def save_failed(self, update: int, error: SaveError) -> None:
        """A checkpoint could not be written; the ones before are intact."""

    def noticed(self, note: str) -> None:
        """Something a person should know: damage found, a batch refused, a signal received."""

    def ended(self, result: TrainResult) -> None:
        """The last call."""

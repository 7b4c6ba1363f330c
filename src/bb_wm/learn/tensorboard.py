"""Training as TensorBoard curves, grouped as the specification's diagnostics are."""

from __future__ import annotations

import math
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bb_wm.errors import MissingExtraError
from bb_wm.learn.callbacks import Callback, Record
from bb_wm.learn.settings import TrainSettings

if TYPE_CHECKING:
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

GROUPS: Final = (
    ("smells", ("smell",)),
    ("1_reconstruction", ("reconstruction", "nll", "observation")),
    ("2_kl", ("kl", "entropy", "posterior", "prior")),
    ("3_rollout_error", ("rollout", "nrmse", "shortcut", "open_loop", "persistence")),
    ("4_evsi", ("evsi",)),
    ("5_risk", ("safety", "risk")),
    ("reward", ("reward", "return")),
    ("continuation", ("continu", "terminat")),
    ("optimiser", ("gradient", "learning_rate", "skipped", "clip")),
)
"""A number belongs to the first group one of whose words is in its name; else to 'loss'. The
numbered ones are the five diagnostics of section 6 of the specification, in its order."""

Lines = Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]
"""name -> series -> (step, value): series of one name are laid over each other."""


def curve_name(number: str, kind: str) -> str:
    """Where a number is drawn: ("kl", "train") -> "2_kl/kl", held-out numbers marked as such."""
    lowered = number.lower()
    fitting = (group for group, words in GROUPS if any(word in lowered for word in words))
    group = next(fitting, "loss")
    leaf = number.replace("/", "_")
    return f"{group}/{leaf}" if kind == "train" else f"{group}/heldout_{leaf}"


def draw_lines(folder: Path, lines: Lines) -> None:
    """Write `lines` into `folder` in place of what was drawn there before, each series as a run of
    its own, so that TensorBoard draws those of one name into one chart. What is not finite is left
    out. Raises MissingExtraError without the package."""
    _require()
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    shutil.rmtree(folder, ignore_errors=True)
    for series in sorted({name for line in lines.values() for name in line}):
        writer = EventFileWriter(str(folder / re.sub(r"[^\w.-]+", "_", series).strip("_")))
        for name, line in lines.items():
            for step, number in line.get(series, ()):
                if math.isfinite(number):
                    value = Summary.Value(tag=curve_name(name, "evaluate"), simple_value=number)
                    shown = Summary(value=[value])
                    writer.add_event(Event(wall_time=time.time(), step=step, summary=shown))
        writer.close()


def _require() -> None:
    try:
        import tensorboard.summary.writer.event_file_writer  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "tensorboard",
            expected="the package tensorboard",
            actual="none",
            hint="pip install 'bb-wm[tensorboard]', or go on without curves.",
        ) from error


class TensorBoard(Callback):
    """Writes `tensorboard/` in the run folder; curves cut at the checkpoint when resumed.

    Raises MissingExtraError when made without the package; `TensorBoard.if_installed()` gives None.
    """

    def __init__(self) -> None:
        _require()
        self._writer: EventFileWriter | None = None
        self._mark = (time.monotonic(), 0)

    @classmethod
    def if_installed(cls) -> TensorBoard | None:
        try:
            return cls()
        except MissingExtraError:
            return None

    def started(self, folder: Path, settings: TrainSettings, update: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(folder / "tensorboard"))
        self._mark = (time.monotonic(), update)
        if update:  # curves drawn after the checkpoint are taken back
            again = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time.time(), step=update + 1, session_log=again))

    def logged(self, record: Record) -> None:
        now = time.monotonic()
        elapsed, done = now - self._mark[0], record.update - self._mark[1]
        speed = {"speed/updates_per_second": done / elapsed} if elapsed > 0 else {}
        self._mark = (now, record.update)
        self._draw(record, speed | {"speed/rows_collected": float(record.rows)})

    def evaluated(self, record: Record) -> None:
        self._draw(record, {})

    def ended(self, result: object) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _draw(self, record: Record, extra: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        if self._writer is None:
            return
        curves = {curve_name(name, record.kind): value for name, value in record.numbers.items()}
        values = [
            Summary.Value(tag=tag, simple_value=value) for tag, value in {**curves, **extra}.items()
        ]
        event = Event(wall_time=time.time(), step=record.update, summary=Summary(value=values))
        self._writer.add_event(event)

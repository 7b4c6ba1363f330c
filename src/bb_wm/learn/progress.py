"""Training told to a person: bars in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from bb_wm.errors import SaveError
from bb_wm.learn.callbacks import Callback, Record, TrainResult
from bb_wm.learn.settings import TrainSettings

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PLAIN_WORDS: Final[Mapping[str, str]] = {
    "loss": "loss",
    "reconstruction": "reconstruction",
    "kl_raw": "surprise (KL)",
    "reward": "reward error",
    "safety": "risk error",
    "rollout": "rollout",
    "shortcut": "shortcut",
    "gradient_norm": "gradient",
}
"""The numbers shown, in this order, and what they are called; the log holds all of them."""


def in_words(numbers: Mapping[str, float]) -> str:
    """The main losses in plain words: "loss 3.21, surprise (KL) 0.84"."""
    said = [f"{word} {numbers[key]:.3g}" for key, word in PLAIN_WORDS.items() if key in numbers]
    return ", ".join(said)


def in_time(seconds: float) -> str:
    """Seconds as a person says them: "12 s", "3 min 05 s", "2 h 10 min"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Speed:
    """Events per second over the last `window` seconds, from (time, count) marks."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, window: float = 20.0) -> None:
        self._clock = clock
        self._window = window
        self._marks: deque[tuple[float, int]] = deque()

    def mark(self, count: int) -> None:
        now = self._clock()
        if self._marks and now - self._marks[-1][0] < 0.05 and len(self._marks) > 1:
            self._marks.pop()
        self._marks.append((now, count))
        while len(self._marks) > 2 and now - self._marks[0][0] > self._window:
            self._marks.popleft()

    @property
    def per_second(self) -> float:
        if len(self._marks) < 2:
            return 0.0
        (first, low), (last, high) = self._marks[0], self._marks[-1]
        return (high - low) / (last - first) if last > first else 0.0


class ProgressDisplay(Callback):
    """Shows rows collected, updates, speed, time left and the losses; writes to standard error.

    In a terminal two live bars (rich); elsewhere, or without rich, one line every `every` seconds.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        every: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._every = every
        self._clock = clock
        self._last_line = -float("inf")
        self._row_speeds = (Speed(clock), Speed(clock))
        self._update_speed = Speed(clock)
        self._losses = ""
        self._settings = TrainSettings()
        self._progress: Progress | None = None
        self._bars: dict[str, TaskID] = {}

    def started(self, folder: Path, settings: TrainSettings, update: int) -> None:
        self._settings = settings
        verb = f"Going on from update {update}" if update else "Training"
        self._say(f"{verb} in {folder}")
        if self._stream.isatty():
            self._open_bars(settings, update)

    def collected(self, rows: int, episodes: int, heldout: bool) -> None:
        goal = self._settings.heldout_rows if heldout else self._settings.rows
        name = "held-out rows" if heldout else "rows"
        speed = self._row_speeds[heldout]
        speed.mark(rows)
        self._show(name, rows, goal, speed, f"{episodes} episodes")

    def updated(self, update: int, loss: float, metrics: Mapping[str, float]) -> None:
        self._update_speed.mark(update)
        self._show("updates", update, self._settings.updates, self._update_speed, self._losses)

    def logged(self, record: Record) -> None:
        self._losses = in_words(record.numbers)

    def evaluated(self, record: Record) -> None:
        numbers = ", ".join(f"{name} {value:.3g}" for name, value in record.numbers.items())
        self._say(f"Held out, at update {record.update}: {numbers}")

    def save_failed(self, update: int, error: SaveError) -> None:
        self._say(f"Checkpoint at update {update} not written: {error}")

    def noticed(self, note: str) -> None:
        self._say(f"Note: {note}")

    def ended(self, result: TrainResult) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        done = f"{result.updates} updates on {result.rows} rows"
        self._say(f"{result.report} ({done}, {in_time(result.seconds)})")

    def _open_bars(self, settings: TrainSettings, update: int) -> None:
        try:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        except ImportError:
            return
        columns = (
            TextColumn("{task.description:>13}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[said]}"),
        )
        self._progress = Progress(*columns, console=Console(file=self._stream))
        goals = {"held-out rows": settings.heldout_rows, "rows": settings.rows}
        for name, goal in {**goals, "updates": settings.updates}.items():
            done = update if name == "updates" else 0
            self._bars[name] = self._progress.add_task(
                name, total=goal, completed=done, speed="", said=""
            )
        self._progress.start()

    def _show(self, name: str, done: int, goal: int, speed: Speed, said: str) -> None:
        if self._progress is not None:
            fields: dict[str, Any] = {"speed": _pace(done, goal, speed), "said": said}
            self._progress.update(self._bars[name], completed=min(done, goal), **fields)
            return
        now = self._clock()
        if now - self._last_line >= self._every:
            self._last_line = now
            line = f"{name} {done} of {goal}, {_pace(done, goal, speed)}"
            self._say(f"{line}, {said}" if said else line)

    def _say(self, line: str) -> None:
        if self._progress is not None:
            self._progress.console.print(line, markup=False, highlight=False)
            return
        with contextlib.suppress(OSError):  # nobody reads any more: training goes on
            print(line, file=self._stream, flush=True)


def _pace(done: int, goal: int, speed: Speed) -> str:
    rate = speed.per_second
    if rate <= 0:
        return "starting"
    return f"{rate:.3g} a second, {in_time((goal - done) / rate)} left"

"""What training spends beside `WorldModel.update`, at the command line's default settings.

    python -m benchmarks overhead
    python -m benchmarks overhead --world CartPole-v1 --updates 500

One training run of `bb_wm.learn.Trainer` on rows collected from the world, with the display that
`bb-wm train` has, timed inside its process from the first update to the end: every second belongs
to the innermost part it was spent in. Overhead is what goes with every update (sampling, the lines
of the log, the loop with its callbacks), as a share of it and the updates together; judging and
checkpoints come every 500 updates and are told apart. JSON goes to bench-out/overhead.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bb_wm.cli.learning import held_out_numbers
from bb_wm.diagnose.tables import Table
from bb_wm.learn import ProgressDisplay, Run, Trainer, TrainSettings, WorldSource
from bb_wm.rssm import WorldModel
from bb_wm.worlds.catalogue import make_world
from benchmarks.results import Job, Results, say
from benchmarks.speed_envs import ROOT

BAR = 0.05
AROUND = ("sampling", "logging", "loop")


class Clock:
    """Seconds [processor, wall] by part; a part inside another is taken off the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, np.ndarray] = {}
        self._stack = ["before"]
        self._last = self._now()

    @staticmethod
    def _now() -> np.ndarray:
        return np.array([time.process_time(), time.perf_counter()])

    def turn(self) -> None:
        """All since the last turn goes to the part that is on."""
        now = self._now()
        part = self._stack[-1]
        self.seconds[part] = self.seconds.get(part, np.zeros(2)) + now - self._last
        self._last = now

    def only(self, part: str) -> None:
        """From here on, outside of all timed calls, it is this part."""
        self.turn()
        self._stack[0] = part

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def inside(*args: Any, **kwargs: Any) -> Any:
            self.turn()
            self._stack.append(part)
            try:
                return call(*args, **kwargs)
            finally:
                self.turn()
                self._stack.pop()

        return inside


def watched(trainer: Trainer, clock: Clock) -> None:
    """Times the trainer's parts from here on; "loop" is what no other part is."""
    model, library = trainer.model, trainer._library
    sample = clock.timed("sampling", library.sample)

    def first() -> Any:
        clock.only("loop")
        library.sample = sample  # type: ignore[method-assign]
        return sample()

    for owner, name, part in (
        (model, "update", "update"),
        (trainer, "_log", "logging"),
        (trainer, "_judge", "judging"),
        (trainer, "_save", "checkpoints"),
    ):
        setattr(owner, name, clock.timed(part, getattr(owner, name)))
    library.sample = first  # type: ignore[method-assign]


def measure(world: str, settings: TrainSettings) -> dict[str, Any]:
    """Seconds [processor, wall] by part of one training run in a temporary folder."""
    maker, about = make_world(world)
    env = maker()
    model = WorldModel(env.observation_space, env.action_space)
    source = WorldSource(env, seed=settings.seed, risk=about.risk)
    clock = Clock()
    with tempfile.TemporaryDirectory() as place:
        run = Run.create(
            Path(place) / "run", world={"id": world}, config=model.describe(), settings=settings
        )
        display = ProgressDisplay(io.StringIO())
        trainer = Trainer(run, model, source, evaluate=held_out_numbers, callbacks=[display])
        watched(trainer, clock)
        result = trainer.train()
        clock.turn()
    env.close()
    if result.reason != "finished":
        raise SystemExit(f"not measured: {result.report}")
    seconds = {part: list(map(float, spent)) for part, spent in clock.seconds.items()}
    seconds.pop("before")
    return {"seconds": seconds, "updates": result.updates, "digest": result.digest}


def share(seconds: Mapping[str, Sequence[float]], clock: int) -> float:
    """Overhead around updates, of it and the updates; clock 0 is the processor's, 1 the wall's."""
    around = sum(seconds[part][clock] for part in AROUND)
    return around / (around + seconds["update"][clock])


def table(world: str, result: Mapping[str, Any]) -> Table:
    seconds, updates = result["seconds"], result["updates"]
    rows = []
    for part, spent in seconds.items():
        each = (f"{1e3 * s / updates:.3f}" for s in spent)
        rows.append((part, *(f"{s:.2f}" for s in spent), *each))
    shares = [f"{share(seconds, clock):.1%}" for clock in (0, 1)]
    rows.append((f"overhead (bar {BAR:.0%})", *shares, "", ""))
    header = ("", "CPU s", "wall s", "CPU ms per update", "wall ms")
    return Table(f"{world}, {updates} updates", header, tuple(rows))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--world", default="Pendulum-v1")
    parser.add_argument("--updates", type=int, default=TrainSettings().updates)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "bench-out" / "overhead")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    settings = TrainSettings(updates=options.updates, seed=options.seed)
    result = measure(options.world, settings)
    job = Job("overhead", options.world, "default", options.seed)
    Results(options.out).write(job, settings.to_json(), result)
    say(table(options.world, result).text())
    return 0

"""How our cost grows with horizon, candidates, batch, rows and the core's size.

    python -m benchmarks scale
    python -m benchmarks scale --axes batch,rows --rounds 9

One thread, CPU time, freed memory kept as `bb-wm` keeps it. The values of an axis take turns, so
that a busy machine slows all alike; the slope is that of log cost on log value by least squares.
JSON goes to bench-out/speed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bb_wm.cli.process import prepare_process
from bb_wm.config import GRU, WorldModelConfig
from bb_wm.decide import RandomShooting
from bb_wm.rssm import WorldModel
from benchmarks.peers_speed import line
from benchmarks.results import Job, Results, say
from benchmarks.speed_envs import ROOT

BAR = 1.05


@dataclass(frozen=True, slots=True)
class Case:
    """What is timed; every axis changes one of these."""

    task: str = "update"
    horizon: int = 12
    candidates: int = 256
    batch: int = 64
    rows: int = 32
    size: int = 128

    def prepare(self) -> Callable[[], object]:
        config = WorldModelConfig(core=GRU(self.size), max_horizon=1000, budget=None)
        model = WorldModel(line.OBS, line.ACTION, config)
        if self.task == "update":
            shape = line.Shape(self.size, self.batch, self.rows)
            rows = line.rows(shape)
            data = rows | {"safety": np.abs(rows["reward"])}
            return lambda: model.update(data)
        start = model.encode(np.ones(line.OBS, np.float32))
        planner = RandomShooting(horizon=self.horizon, candidates=self.candidates, samples=0)
        return lambda: planner.plan(model, start)


# Axis -> what else is as it is, its values, the bar. The core's own products grow with its square.
AXES: dict[str, tuple[Case, tuple[int, ...], float | None]] = {
    "horizon": (Case("plan"), (8, 16, 32, 64), BAR),
    "candidates": (Case("plan"), (256, 512, 1024, 2048), BAR),
    "batch": (Case(), (32, 64, 128, 256), BAR),
    "rows": (Case(batch=16), (16, 32, 64, 128), BAR),
    "size": (Case(batch=16), (64, 128, 256, 512), None),
}


def slope(values: Sequence[float], costs: Sequence[float]) -> float:
    """Of log cost on log value, by least squares."""
    return float(np.polyfit(np.log(values), np.log(costs), 1)[0])


def measure(axis: str, rounds: int) -> dict[str, Any]:
    """Median CPU seconds at every value of an axis, and the slope."""
    base, values, bar = AXES[axis]
    changes: list[dict[str, Any]] = [{axis: value} for value in values]
    runs = {change[axis]: replace(base, **change).prepare() for change in changes}
    times: dict[int, list[float]] = {value: [] for value in values}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for value, run in runs.items():
            began = time.process_time()
            run()
            times[value].append(time.process_time() - began)
    middle = {value: float(np.median(times[value])) for value in values}
    found = slope(list(middle), list(middle.values()))
    seconds = [[k, v] for k, v in middle.items()]
    return {"task": base.task, "seconds": seconds, "slope": found, "bar": bar}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=list(AXES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=ROOT / "bench-out" / "speed")
    options = parser.parse_args(arguments)
    prepare_process()
    torch.set_num_threads(1)
    axes = {}
    for axis in options.axes:
        axes[axis] = measure(axis, options.rounds)
        say(f"{axis:<12}{axes[axis]['slope']:.2f}   {axes[axis]['seconds']}")
    results = Results(options.out)
    results.write(Job("scale", "cost", "default", 0), {"rounds": options.rounds}, {"axes": axes})
    from benchmarks import speed_table

    say(speed_table.growth([r for r in results.all() if r["part"] == "scale"]))
    return 0

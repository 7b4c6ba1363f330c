"""The line every worker speaks, and the shapes and rows it is asked for.

A worker reads `shape task repeats` and answers JSON: the CPU and wall seconds of each repeat, and
what the first call cost. Standard library and NumPy only: it runs in the peers' environments.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_BORN = time.perf_counter()

OBS, ACTION = 24, 6
STARTS, ROWS = 1024, 15  # S2: imagined starts and rows after each
CANDIDATES, AHEAD = 64, 12  # S3: one decision
ANSWERS, OPTIONS = 64, 8  # S4: answers imagined, candidates judged after each
TASKS = ("update", "imagine", "decide", "evsi")


@dataclass(frozen=True)
class Shape:
    """A model and its update's batch: z is `groups` x `classes`, perceptrons are 2 x `units`."""

    size: int
    batch: int
    rows: int
    units: int = 256
    groups: int = 32
    classes: int = 32

    @property
    def latent(self) -> int:
        return self.groups * self.classes


SHAPES = {
    "wide": Shape(256, 256, 16),
    "long": Shape(256, 16, 64),
    "wide-512": Shape(512, 256, 16),
    "long-512": Shape(512, 16, 64),
    "tiny": Shape(16, 4, 5, units=16, groups=4, classes=4),  # for tests of the worker
}


def rows(shape: Shape, seed: int = 0) -> dict[str, np.ndarray]:
    """Noise in the shape of one batch [B, T]: only the arithmetic is measured."""
    generator = np.random.default_rng(seed)
    size = (shape.batch, shape.rows)
    first = np.zeros(size, bool)
    first[:, 0] = True
    return {
        "obs": generator.standard_normal((*size, OBS)).astype(np.float32),
        "action": generator.uniform(-1, 1, (*size, ACTION)).astype(np.float32),
        "reward": generator.standard_normal(size).astype(np.float32),
        "terminated": np.zeros(size, bool),
        "is_first": first,
    }


def serve(build: Callable[[Shape], Any]) -> None:
    """Answer the lines of standard input until it closes.

    `build(shape)` gives an object with the tasks it knows as methods without arguments, and
    `parameters`. What it prints goes to standard error. An error is answered, not raised.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = _Worker(build, time.perf_counter() - _BORN)
    for line in sys.stdin:
        try:
            found = worker.answer(*line.split())
        except Exception as error:
            text = " ".join(str(error).split())
            found = {"error": f"{type(error).__name__}: {text[:300]}"}
        print(json.dumps(found), file=answers, flush=True)


class _Worker:
    def __init__(self, build: Callable[[Shape], Any], imports: float) -> None:
        self.build, self.imports = build, imports
        self.base = _resident()
        self.shape, self.model, self.built = "", None, 0.0
        self.first: dict[str, float] = {}

    def answer(self, name: str, task: str, repeats: str) -> dict[str, Any]:
        if name != self.shape:
            self.shape, self.model, self.first = name, None, {}
            began = time.perf_counter()
            self.model = self.build(SHAPES[name])
            self.built = time.perf_counter() - began
        run = getattr(self.model, task, None)
        if run is None:
            return {"absent": True}
        if task not in self.first:
            began = time.perf_counter()
            run()
            self.first[task] = self.imports + self.built + time.perf_counter() - began
            run()
            _forget_peak()
        seconds = []
        for _ in range(int(repeats)):
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            seconds.append((time.process_time() - cpu, time.perf_counter() - wall))
        return {
            "seconds": seconds,
            "first": self.first[task],
            "parameters": getattr(self.model, "parameters", 0),
            "base_mib": self.base,
            "peak_mib": _peak(),
        }


def _status(field: str) -> float | None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
    return None


def _resident() -> float:
    """Resident memory now, MiB."""
    found = _status("VmRSS")
    return _most() if found is None else found


def _most() -> float:
    unit = 2**20 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _peak() -> float:
    """Most resident memory since `_forget_peak`, MiB; since ever where the system cannot forget."""
    found = _status("VmHWM")
    return _most() if found is None else found


def _forget_peak() -> None:
    """What building and compiling needed is no part of what an update needs."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")

"""Results on disk: one JSON per job, claimed by a lock so that several processes share the work."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

import bb_wm
from bb_wm import durable

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_S = TypeVar("_S", bound="DataclassInstance")


@dataclass(frozen=True, slots=True)
class Job:
    """One measurement: a part of the benchmark, its world, the preset and the seed."""

    part: str
    world: str
    preset: str
    seed: int

    @property
    def name(self) -> str:
        world = re.sub(r"[^A-Za-z0-9_.-]", "_", self.world)
        return f"{self.part}-{world}-{self.preset}-s{self.seed}"

    @property
    def label(self) -> str:
        return f"{self.world} {self.preset} seed {self.seed}"


class Results:
    """A folder of JSON results. A result counts only if it was made with the same settings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, job: Job) -> Path:
        return self.folder / f"{job.name}.json"

    def done(self, job: Job, settings: Mapping[str, Any]) -> bool:
        """Whether the job's result is there, made with these settings."""
        return self.read(job, settings) is not None

    def read(self, job: Job, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """The job's result if it is there, made with these settings."""
        found = _read(self.path(job))
        return found if found is not None and found.get("settings") == dict(settings) else None

    def write(self, job: Job, settings: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """The result with what it was made of, atomically."""
        data = {
            "part": job.part,
            "world": job.world,
            "preset": job.preset,
            "seed": job.seed,
            "settings": dict(settings),
            "software": software(),
            **result,
        }
        text = json.dumps(data, indent=1, allow_nan=False, sort_keys=True)
        durable.write_file(self.path(job), text.encode() + b"\n")

    def all(self) -> Iterator[dict[str, Any]]:
        """Every result, by file name."""
        for path in sorted(self.folder.glob("*.json")):
            found = _read(path)
            if found is not None:
                yield found

    @contextmanager
    def claim(self, job: Job) -> Iterator[bool]:
        """True while the job is ours; the lock goes with the process that holds it."""
        place = self.folder / "locks"
        place.mkdir(exist_ok=True)
        with open(place / f"{job.name}.lock", "w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True


def work(
    jobs: list[Job],
    results: Results,
    settings: Mapping[str, Any],
    run: Callable[[Job], Mapping[str, Any]],
) -> int:
    """Do what is not done and not being done by others; how many jobs failed."""
    failed = 0
    for number, job in enumerate(jobs, start=1):
        if results.done(job, settings):
            continue
        with results.claim(job) as ours:
            if not ours or results.done(job, settings):
                continue
            say(f"[{number}/{len(jobs)}] {job.label}: begins")
            try:
                results.write(job, settings, run(job))
            except Exception as error:
                failed += 1
                say(f"[{number}/{len(jobs)}] {job.label}: FAILED, {type(error).__name__}: {error}")
                if os.environ.get("BENCHMARK_RAISE"):
                    raise
    return failed


def add_settings(parser: argparse.ArgumentParser, defaults: DataclassInstance) -> None:
    """An option for every setting, of the type that its default has."""
    for field in fields(defaults):
        value = getattr(defaults, field.name)
        parser.add_argument(f"--{field.name}", type=type(value), default=value)


def chosen_settings(options: argparse.Namespace, defaults: _S) -> _S:
    """The settings that `add_settings` made options of."""
    return replace(defaults, **{f.name: getattr(options, f.name) for f in fields(defaults)})


def say(text: str) -> None:
    print(text, flush=True)


def software() -> dict[str, Any]:
    """What the result was measured with; no names of hosts or folders."""
    return {
        "bb_wm": bb_wm.__version__,
        "commit": _commit(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
    }


def _commit() -> str:
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return None
    return found if isinstance(found, dict) else None

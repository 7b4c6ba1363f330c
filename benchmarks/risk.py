"""Calibrated risk: is it right, does its bound hold, does the monitor keep its promise?

    python -m benchmarks.risk theory                   known laws, no model; minutes
    python -m benchmarks.risk worlds                   HazardChain, Hopper-v5, CartPole-v1: trains
    python -m benchmarks.risk worlds --worlds HazardChain --seeds 0 --updates 1000
    python -m benchmarks.risk report                   print the tables again

Started again, a command goes on where it stopped. Results are JSON in --out; `python -m benchmarks
report --out bench-out/risk` writes them to docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bb_wm.diagnose.calibration import Claims, DriftMonitor
from benchmarks import risk_table
from benchmarks.results import Job, Results, say, work
from benchmarks.risk_worlds import Settings, draws_of, measure

ROOT = Path(__file__).resolve().parents[1]
WORLDS = ("HazardChain", "Hopper-v5", "CartPole-v1")


# --- known laws -----------------------------------------------------------------------------------


def theory(job: Job, settings: Settings) -> Mapping[str, Any]:
    """Bounds on plans whose risk is known, and the drift monitor on scores whose law is known."""
    random = np.random.default_rng(job.seed)
    worst = {c: _known_plans(random, 20_000, choose=c) for c in (False, True)}
    ways = {
        "random plans": (False, False),
        "least of candidates": (True, True),
        "fitted on random, used on least": (False, True),
    }
    bounds = {
        name: draws_of(worst[a], worst[b], settings, same=a == b, seed=job.seed)
        for name, (a, b) in ways.items()
    }
    return {"bounds": bounds, "drift": _drift(random)}


def _known_plans(random: np.random.Generator, count: int, *, choose: bool) -> np.ndarray:
    """Worst excess per episode of 10 plans; V_s ~ U(0, 1) is estimated with an error of sd 0.3."""
    truth = random.uniform(0, 1, (count, 10, 16))
    seen = truth + 0.3 * random.standard_normal(truth.shape)
    pick = seen.argmin(-1) if choose else np.zeros((count, 10), int)
    estimate, happened = (np.take_along_axis(x, pick[..., None], -1).ravel() for x in (seen, truth))
    ones, episode = np.ones(count * 10), np.repeat(np.arange(count), 10)
    return Claims(estimate, ones, happened, episode).worst_excess()[1]


def _drift(random: np.random.Generator, streams: int = 200) -> dict[str, Any]:
    """False alarms at alpha 0.05 within 1,000 scores; the wait for a shift of 1 sd at 1e-4."""
    alarms, waits = 0, []
    for seed in range(streams):
        monitor = DriftMonitor.fit(random.standard_normal(300), alpha=0.05, seed=seed)
        alarms += any(monitor.update(x) for x in random.standard_normal(1000))
        monitor = DriftMonitor.fit(random.standard_normal(300), alpha=1e-4, seed=seed)
        for x in random.standard_normal(200):
            monitor.update(x)
        found = [n for n, x in enumerate(1 + random.standard_normal(400), 1) if monitor.update(x)]
        waits.append(found[0] if found else 401)
    return {
        "streams": streams,
        "false_alarms": alarms,
        "wait_median": float(np.median(waits)),
        "wait_most": max(waits),
        "found_within_200": sum(w <= 200 for w in waits),
    }


# --- command --------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.risk",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=["theory", "worlds", "report"])
    parser.add_argument("--out", type=Path, default=ROOT / "bench-out" / "risk")
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    for field in fields(Settings):
        kind = float if field.name == "alpha" else int
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=None)
    options = parser.parse_args()
    given = {f.name: getattr(options, f.name) for f in fields(Settings)}
    settings = replace(Settings(), **{k: v for k, v in given.items() if v is not None})
    torch.set_num_threads(1)
    results = Results(options.out)
    failed = 0
    if options.what == "theory":
        jobs = [Job(risk_table.PART, "known law", "none", seed) for seed in options.seeds]
        failed = work(jobs, results, settings.to_json(), lambda job: theory(job, settings))
    elif options.what == "worlds":
        jobs = [
            Job(risk_table.PART, world, "default", seed)
            for seed in options.seeds
            for world in options.worlds
        ]
        models = options.out / "models"
        failed = work(jobs, results, settings.to_json(), lambda job: measure(job, settings, models))
    for table in risk_table.tables(list(results.all())):
        print(table.text(), end="\n\n", flush=True)
    if failed:
        say(f"{failed} jobs failed")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())

"""Calibrated risk: is it right, does its bound hold, does the monitor keep its promise?

    python -m benchmarks.risk theory                   known laws, no model; minutes
    python -m benchmarks.risk worlds                   HazardChain, Hopper-v5, CartPole-v1: trains
    python -m benchmarks.risk worlds --worlds HazardChain --seeds 0 --updates 1000
    python -m benchmarks.risk report                   print the tables again

Started again, a command goes on where it stopped. Results are JSON in --out.
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
from bb_wm.diagnose.calibration.binomial import clopper_pearson
from bb_wm.diagnose.tables import Table
from benchmarks.results import Job, Results, say, work
from benchmarks.risk_worlds import HORIZONS, K, Settings, draws_of, measure

ROOT = Path(__file__).resolve().parents[1]
WORLDS = ("HazardChain", "Hopper-v5", "CartPole-v1")
BARS = {"auroc": 0.92, "ece": 0.03, "recall": 0.8, "draws": 0.95}


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
        "false_alarm_interval": list(clopper_pearson(alarms, streams)),
        "wait_median": float(np.median(waits)),
        "wait_most": max(waits),
        "found_within_200": sum(w <= 200 for w in waits),
    }


# --- tables ---------------------------------------------------------------------------------------


def report(results: Results) -> None:
    """Every result as tables on the screen."""
    found = [one for one in results.all() if one["part"] in ("theory", "worlds")]
    known = [one for one in found if one["part"] == "theory"]
    worlds = [one for one in found if one["part"] == "worlds"]
    tables = [_forecast_table(worlds)] if worlds else []
    tables += [_bound_table(found)] if found else []
    tables += [_drift_table(known)] if known else []
    tables += [_strange_table(worlds)] if worlds else []
    for table in tables:
        print(table.text(), end="\n\n", flush=True)


def _forecast_table(results: list[dict[str, Any]]) -> Table:
    rows = []
    for one in results:
        for k in map(str, HORIZONS):
            told = one["forecasts"][k]
            cells = [_cell(told[n]) for n in ("auroc", "ece_raw", "ece", "recall")]
            label = (f"{one['world']} s{one['seed']}", f"{one['settings']['updates']}", k)
            rows.append((*label, f"{told['events']}/{told['decisions']}", *cells))
            if "exact" in told:
                best = [_cell(told["exact"][n]) for n in ("auroc", "ece_raw", "ece", "recall")]
                rows.append((f"{one['world']} known law", "", k, "", *best))
    header = ("world", "updates", "k", "events", "AUROC", "ECE raw", "ECE", "recall at 1 %")
    bars = f"bars at k={K}: AUROC >= {BARS['auroc']}, ECE <= {BARS['ece']}"
    return Table(f"Risk within k rows ({bars}, recall >= {BARS['recall']})", header, tuple(rows))


def _bound_table(results: list[dict[str, Any]]) -> Table:
    rows = []
    for one in results:
        for way, told in one["bounds"].items():
            low, high = told["interval"]
            kept = told["draws_kept"] / told["draws"]
            rows.append(
                (
                    f"{one['world']} s{one['seed']}",
                    way,
                    f"{kept:.1%} ({low:.1%} to {high:.1%})",
                    f"{told['miss_rate']:.2%}",
                    _cell(told["margin"]),
                )
            )
    header = ("world", "plans", "draws that keep alpha", "mean miss rate", "margin")
    title = f"Conformal bound per episode, alpha 0.05 (bar: kept in >= {BARS['draws']:.0%})"
    return Table(title, header, tuple(rows))


def _drift_table(results: list[dict[str, Any]]) -> Table:
    rows = []
    for one in results:
        told = one["drift"]
        low, high = told["false_alarm_interval"]
        share = told["false_alarms"] / told["streams"]
        rows.append(
            (
                f"seed {one['seed']}",
                f"{share:.1%} ({low:.1%} to {high:.1%})",
                f"{told['wait_median']:.0f}",
                f"{told['wait_most']}",
                f"{told['found_within_200']}/{told['streams']}",
            )
        )
    header = ("", "false alarms at 0.05", "median wait", "longest", "found within 200")
    return Table("Drift: 1,000 quiet scores; then a shift of 1 sd at 1e-4", header, tuple(rows))


def _strange_table(results: list[dict[str, Any]]) -> Table:
    rows = []
    for one in results:
        told = one["strangeness"]
        rows.append((f"{one['world']} s{one['seed']}", "usual", "", f"{told['held']:.1%}"))
        for name, value in told.items():
            if isinstance(value, dict):
                rows.append(("", name, _cell(value["auroc"]), f"{value['held']:.1%}"))
    header = ("world", "rows", "AUROC", "held at max_ood 2")
    return Table("Strangeness of single rows, before acting", header, tuple(rows))


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


# --- command --------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
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
        jobs = [Job("theory", "known law", "none", seed) for seed in options.seeds]
        failed = work(jobs, results, settings.to_json(), lambda job: theory(job, settings))
    elif options.what == "worlds":
        jobs = [
            Job("worlds", world, "default", seed)
            for seed in options.seeds
            for world in options.worlds
        ]
        models = options.out / "models"
        failed = work(jobs, results, settings.to_json(), lambda job: measure(job, settings, models))
    report(results)
    if failed:
        say(f"{failed} jobs failed")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())

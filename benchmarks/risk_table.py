"""The tables of `python -m benchmarks.risk`, means over seeds with the smallest and the largest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bb_wm.diagnose.tables import Table
from benchmarks.report import _of, _spread
from benchmarks.risk_worlds import HORIZONS, K, Settings

Found = list[dict[str, Any]]
PART = "risk"
BARS = {"auroc": 0.92, "ece": 0.03, "recall": 0.8, "draws": 0.95, "strange": 0.95}
_MEASURES = ("auroc", "ece_raw", "ece", "recall")


def page(found: Found) -> str:
    """The tables of results of one setting, as Markdown."""
    settings = Settings(**found[0]["settings"])
    seeds = ", ".join(str(s) for s in sorted({r["seed"] for r in found}))
    commits = ", ".join(sorted({r["software"]["commit"] for r in found}))
    how = (
        f"{settings.rows:,} rows of random actions, {settings.updates:,} updates; calibrated on "
        f"{settings.calibrating} episodes and judged on {settings.judging} others; seeds {seeds}; "
        f"commit {commits}."
    )
    return "\n\n".join([how, *(table.markdown() for table in tables(found))])


def tables(found: Found) -> list[Table]:
    """Everything there is to say about these results."""
    known = [one for one in found if "drift" in one]
    learnt = [one for one in found if "forecasts" in one]
    made = [_forecasts(learnt)] if learnt else []
    made += [_bounds([*known, *learnt])] if found else []
    made += [_drift(known)] if known else []
    made += [_strangeness(learnt)] if learnt else []
    return made


def _forecasts(found: Found) -> Table:
    rows = []
    for world in _worlds(found):
        for k in map(str, HORIZONS):
            told = [one["forecasts"][k] for one in _of(found, world=world)]
            events = f"{sum(t['events'] for t in told)}/{sum(t['decisions'] for t in told)}"
            rows.append((world, k, events, *(_over(told, name) for name in _MEASURES)))
            if "exact" in told[0]:
                best = [one["exact"] for one in told]
                rows.append((f"{world}, known law", k, "", *(_over(best, n) for n in _MEASURES)))
    header = ("world", "k", "events", "AUROC", "ECE raw", "ECE", "recall at 1 % false alarms")
    bars = f"AUROC >= {BARS['auroc']}, ECE <= {BARS['ece']}, recall >= {BARS['recall']}"
    return Table(f"A hazard within k rows (bars at k={K}: {bars})", header, tuple(rows))


def _bounds(found: Found) -> Table:
    rows = []
    for world in _worlds(found):
        runs = [one["bounds"] for one in _of(found, world=world)]
        for way in runs[0]:
            told = [run[way] for run in runs]
            kept = _spread([one["draws_kept"] / one["draws"] for one in told])
            rows.append((world, way, kept, _over(told, "miss_rate"), _over(told, "margin")))
    header = ("world", "plans", "share of draws that keep alpha", "mean miss rate", "margin")
    title = f"Conformal bound per episode, alpha 0.05 (bar: kept in {BARS['draws']:.0%} of draws)"
    return Table(title, header, tuple(rows))


def _drift(found: Found) -> Table:
    told = [one["drift"] for one in found]
    shares = [one["false_alarms"] / one["streams"] for one in told]
    within = [one["found_within_200"] / one["streams"] for one in told]
    waits = (_over(told, "wait_median"), str(max(one["wait_most"] for one in told)))
    header = ("false alarms at 0.05", "median wait", "longest", "found within 200")
    row = (_spread(shares), *waits, _spread(within))
    return Table("Drift: 1,000 quiet scores; then a shift of 1 sd at 1e-4", header, (row,))


def _strangeness(found: Found) -> Table:
    worlds = _worlds(found)
    runs = {world: [one["strangeness"] for one in _of(found, world=world)] for world in worlds}
    shifts = dict.fromkeys(
        name for told in runs.values() for name, value in told[0].items() if isinstance(value, dict)
    )
    rows = [
        (shift, *(_over([t[shift] for t in runs[w] if shift in t], "auroc") for w in worlds))
        for shift in shifts
    ]
    usual = ("usual rows held at max_ood 2", *(_over(runs[world], "held") for world in worlds))
    title = f"Strangeness of single rows before acting, AUROC (bar: {BARS['strange']})"
    return Table(title, ("shift", *worlds), (*rows, usual))


def _worlds(found: Found) -> list[str]:
    return list(dict.fromkeys(one["world"] for one in found))


def _over(told: Sequence[dict[str, Any]], name: str) -> str:
    """Over those that have the number; a dash where none has."""
    numbers = [one[name] for one in told if one[name] is not None]
    return _spread(numbers) if numbers else "-"

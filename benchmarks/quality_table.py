"""The tables of `python -m benchmarks quality`, from its JSON results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bb_wm.diagnose.evaluation import Evaluation, number
from bb_wm.diagnose.tables import Table
from benchmarks import quality_spread
from benchmarks.report import _mean, _of, _spread

Found = list[dict[str, Any]]
OURS = "ours"
STEPS = (1, 5, 10)
RIVALS = {
    "ensemble": "delta-MLP ensemble",
    "rssm": "DreamerV3-loss RSSM",
    "gru": "GRU",
    "tdmpc": "TD-MPC2 latent",
}
_OPEN = (
    "Bars: geometric mean at most 1.25 of the ensemble and 0.5 of the RSSM; in no world above 1.5 "
    "of the best peer."
)
_HIDDEN = "Bars: geometric mean at most 1.05 of the GRU and 0.8 of the RSSM."
EXACT = "exact"  # no rival: nobody can be better
_ORDER = (OURS, EXACT, "persistence", "ridge", *RIVALS)


def page(found: Found, rules: Mapping[str, Any]) -> str:
    """Everything there is to say about results of one set of rules, as Markdown."""
    judged = [r for r in found if "evaluation" in r]
    open_worlds = [r for r in judged if "@" not in r["world"]]
    hidden = [r for r in judged if "@" in r["world"]]
    parts = [f"# {_title(judged)}", _how(found, rules)]
    for title, group, bars in (
        ("All is seen", open_worlds, _OPEN),
        ("Columns hidden, noise of 5 % of each deviation on every row", hidden, _HIDDEN),
    ):
        if group:
            parts += [f"## {title}", *_section(group, bars)]
    parts += _kalman([r for r in found if "kalman" in r])
    return "\n\n".join(parts) + "\n"


def _how(found: Found, rules: Mapping[str, Any]) -> str:
    if not found:
        return "No results."
    commits = sorted({r["software"]["commit"] for r in found})
    seeds = ", ".join(str(s) for s in sorted({r["seed"] for r in found}))
    return (
        f"{rules['rows']:,} rows of uniformly random actions, {rules['updates']:,} updates of "
        f"{rules['sequences']} sequences of {rules['length']} rows (the ensemble: as many rows for "
        f"each member), judged on {rules['heldout_rows']:,} other rows, at most "
        f"{rules['windows']:,} windows; seeds {seeds}; one thread; commit {', '.join(commits)}. "
        f"Mean [smallest, largest] over seeds. Ours has one setting{_rates(found, rules)}. Times "
        "are of one training."
    )


def _title(found: Found) -> str:
    """What was compared: a table with the peers at one rate is another than one at their best."""
    if not _peers(found):
        return "Prediction of ours alone"
    return f"Prediction against the peers{', each at its best rate' if _searched(found) else ''}"


def _peers(found: Found) -> bool:
    return any(r["preset"] != OURS for r in found)


def _searched(found: Found) -> Found:
    """Those whose learning rate was chosen among several."""
    return [r for r in found if len(r["settings"].get("rates", ())) > 1]


def _rates(found: Found, rules: Mapping[str, Any]) -> str:
    """How the peers' learning rates were chosen; nothing where there are no peers."""
    rated = [r for r in found if r["settings"].get("rates")]
    if not rated:
        return ""
    searched = _searched(rated) or rated
    groups = sorted({tuple(r["settings"]["rates"]) for r in searched})
    told = "; ".join(", ".join(f"{x:g}" for x in group) for group in groups)
    where = f", by seed {min(r['seed'] for r in searched)} for all"
    more = f"{rules['validation_rows']:,} more rows{where if len(searched) < len(rated) else ''}"
    return f"; the peers the best of the learning rates {told} on {more}"


def _section(found: Found, bars: str) -> Iterable[str]:
    yield _errors(found).markdown()
    notes = {r["world"]: _evaluation(r).note for r in found if _evaluation(r).note}
    if notes:
        yield " ".join(f"{world}: {note}." for world, note in notes.items())
    if _peers(found) and any(r["preset"] == OURS for r in found):
        yield _ratios(found).markdown()
        yield bars
    if any(r.get("calibration") for r in found):
        yield _calibration(found).markdown()


def _errors(found: Found) -> Table:
    rows = []
    for world in _worlds(found):
        for model in _models(_of(found, world=world)):
            runs = _of(found, world=world, preset=model)
            cost = [
                _spread([r["wall_seconds"] for r in runs]),
                _spread([r["cpu_seconds"] for r in runs]),
                _spread([r["parameters"] / 1e3 for r in runs if "parameters" in r]),
                ", ".join(sorted({f"{r['rate']:g}" for r in runs if "rate" in r})),
            ]
            for i, (name, curves) in enumerate(_curves(runs).items()):
                cells = [_spread([c[k - 1] for c in curves if k <= len(c)]) for k in STEPS]
                rows.append((world, name, *cells, *(cost if i == 0 else [""] * 4)))
    header = ("world", "model", *(f"k={k}" for k in STEPS))
    return Table(
        "NRMSE (0 perfect, 1 predicts the mean)",
        (*header, "wall s", "processor s", "parameters, thousands", "rate"),
        tuple(rows),
    )


def _curves(runs: Found) -> dict[str, list[tuple[float, ...]]]:
    """Error by step of every path of these runs of one model, by the path's name."""
    curves: dict[str, list[tuple[float, ...]]] = {}
    for run in runs:
        for path in _evaluation(run).paths:
            name = f"ours, {path.name}" if run["preset"] == OURS else path.name
            curves.setdefault(name, []).append(path.nrmse)
    return curves


def _ratios(found: Found) -> Table:
    """Ours over a rival at the headline horizon, seed by seed, and geometric means over worlds."""
    rivals = [m for m in _models(found) if m not in (OURS, EXACT)]
    shown = [m for m in RIVALS if m in rivals]
    columns: dict[str, dict[str, list[dict[int, float]]]] = {}
    rows = []
    for world in _worlds(_of(found, preset=OURS)):
        mine = _of(found, world=world)
        errors = {m: _headline(_of(mine, preset=m)) for m in rivals}
        errors = {m: by_seed for m, by_seed in errors.items() if by_seed}
        best = min(errors, key=lambda m: _mean(list(errors[m].values())), default=None)
        for path in _paths(mine):
            ours = _headline(_of(mine, preset=OURS), path)
            against = {m: _divide(ours, errors.get(m, {})) for m in shown}
            against["best"] = _divide(ours, errors.get(best or "", {}))
            for name, ratio in against.items():
                columns.setdefault(path, {}).setdefault(name, []).append(ratio)
            cells = [_spread(list(against[m].values())) for m in (*shown, "best")]
            rows.append((world, path, *cells, best or "-"))
    for path, by_rival in columns.items():
        cells = [_geometric(by_rival[m]) for m in (*shown, "best")]
        rows.append(("**geometric mean**", path, *cells, ""))
        worst = [
            number(max((_mean(list(r.values())) for r in by_rival[m] if r), default=math.nan))
            for m in (*shown, "best")
        ]
        rows.append(("worst world", path, *worst, ""))
    header = ("world", "path of ours", *(f"/ {RIVALS[m]}" for m in shown), "/ best peer", "best")
    return Table("Ours / rival, NRMSE at k=10 (below 1: ours is better)", header, tuple(rows))


def _geometric(ratios: list[dict[int, float]]) -> str:
    """Over worlds, for every seed that has them all; mean [smallest, largest] of seeds."""
    ratios = [r for r in ratios if r]
    seeds = set.intersection(*(set(r) for r in ratios)) if ratios else set()
    return _spread([math.exp(_mean([math.log(r[seed]) for r in ratios])) for seed in sorted(seeds)])


def _headline(runs: Found, path: str | None = None) -> dict[int, float]:
    """Error at the headline horizon by seed, of the path or the only one there is."""
    found = {}
    for run in runs:
        evaluation = _evaluation(run)
        chosen = evaluation.paths[0] if path is None else evaluation.path(path)
        found[run["seed"]] = chosen.nrmse[evaluation.headline - 1]
    return found


def _divide(ours: Mapping[int, float], rival: Mapping[int, float]) -> dict[int, float]:
    return {seed: ours[seed] / rival[seed] for seed in sorted(set(ours) & set(rival))}


def _paths(found: Found) -> list[str]:
    runs = _of(found, preset=OURS)
    return [path.name for path in _evaluation(runs[0]).paths] if runs else []


def _calibration(found: Found) -> Table:
    rows = []
    for world in _worlds(found):
        for model in _models(_of(found, world=world)):
            runs = _of(found, world=world, preset=model)
            for key, label in (
                ("calibration", ""),
                ("calibration_as_learnt", ", as learnt"),
            ):
                spreads = [r[key] for r in runs if r.get(key)]
                if spreads:
                    rows.append((world, model + label, *_spread_cells(spreads)))
    header = (
        *("world", "model"),
        *(f"inside, k={k}" for k in STEPS),
        *(f"CRPS, k={k}" for k in STEPS),
    )
    title = (
        f"{quality_spread.SAMPLES} sampled rollouts: share of truths between the smallest and the "
        f"largest (calibrated: {quality_spread.NOMINAL:.3f}; bar 0.85 to 0.95), and CRPS in "
        "deviations (smaller is better)"
    )
    return Table(title, header, tuple(rows))


def _spread_cells(spreads: list[dict[str, Any]]) -> list[str]:
    cells = []
    for name in ("coverage", "crps"):
        for k in STEPS:
            cells.append(_spread([s[str(k)][name] for s in spreads if str(k) in s]))
    return cells


def _kalman(found: Found) -> list[str]:
    if not found:
        return []
    rows = []
    for path in ("mode", "shortcut"):
        curves = [r["kalman"][f"ratio_{path}"] for r in found]
        worst = max(_mean([c[k] for c in curves]) for k in range(len(curves[0])))
        cells = [_spread([c[k - 1] for c in curves]) for k in (1, 2, 5, 10)]
        rows.append((path, *cells, number(worst), "met" if worst <= 1.1 else "missed"))
    header = ("path", "k=1", "k=2", "k=5", "k=10", "worst mean", "bar")
    title = "k-step MSE / the exact Kalman predictor's (bar: 1.10 at every k up to 10)"
    wide = [r["kalman"]["spread_over_exact"] for r in found]
    told = (
        f"Belief about the next row, -log p against the exact entropy: as if {_spread(wide)} "
        "of the deviation too wide (bar: .15)."
    )
    return ["## KalmanWorld", Table(title, header, tuple(rows)).markdown(), told]


def _evaluation(result: Mapping[str, Any]) -> Evaluation:
    return Evaluation.from_json(result["evaluation"])


def _worlds(found: Found) -> list[str]:
    return list(dict.fromkeys(r["world"] for r in found))


def _models(found: Found) -> list[str]:
    return sorted({r["preset"] for r in found}, key=_rank(_ORDER))


def _rank(known: Sequence[str]) -> Callable[[str], tuple[int, str]]:
    return lambda name: (known.index(name) if name in known else len(known), name)

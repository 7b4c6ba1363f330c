"""docs/benchmarks.md, written from the JSON results and never by hand."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bb_wm import durable
from bb_wm.diagnose.evaluation import Evaluation, PathScores, number
from bb_wm.diagnose.tables import Table
from benchmarks import exact_worlds, real_worlds, trust
from benchmarks.results import Results, say
from benchmarks.training import PRESETS

Found = list[dict[str, Any]]
# The bar is half of persistence and below ridge ARX, on the mean of seeds; where the world is
# nearly linear under random actions nothing beats a linear model, and the bar is a number.
NEARLY_LINEAR = {"CartPole-v1": 0.05}
_HEAD = """# Benchmarks

Written by `python -m benchmarks report` from the JSON results of `python -m benchmarks quality`,
`worlds`, `exact`, `speed`, `scale` and `import-time`, `python -m benchmarks.long_rollouts`,
`.pixels` and `.risk`; not edited by hand. Every number is a mean over seeds with the smallest and
the largest in brackets, but for speed. One set of hyper-parameters serves every world.
"""


_PER_MODEL = ("config", "rates")  # settings that ours and the peers have of their own


def _quality(found: Found) -> list[str]:
    from benchmarks import quality_table

    page = quality_table.page(found, found[0]["settings"])
    return ["#" + page.replace("\n## ", "\n### ")]


def _long(found: Found) -> list[str]:
    from benchmarks import long_rollouts

    return ["## A hundred steps on dm_control", long_rollouts.page(found)]


def _pixels(found: Found) -> list[str]:
    from benchmarks import pixels

    return ["## Pixels", pixels.page(found)]


def _risk(found: Found) -> list[str]:
    from benchmarks import risk_table

    return ["## Calibrated risk and strangeness", risk_table.page(found)]


def _speed(found: Found) -> list[str]:
    from benchmarks import speed_table

    threads = found[0]["settings"]["threads"]
    return [f"## Speed beside the peers, {threads} thread(s)", speed_table.page(found)]


def _scale(found: Found) -> list[str]:
    from benchmarks import speed_table

    return ["## Growth of cost", speed_table.growth(found)]


_OTHERS = {
    "quality": _quality,
    "long": _long,
    "pixels": _pixels,
    "risk": _risk,
    "speed": _speed,
    "scale": _scale,
}


def write(folders: Sequence[Results], page: Path, *, keep: bool = False) -> int:
    """Write the page from the results of all folders; 1 when there is nothing to write about.

    With `keep` the page's sections of which there are no results stay as they are, with the commits
    and seeds that stand in them.
    """
    found = [result for results in folders for result in results.all()]
    sections = [_HEAD]
    worlds = [r for r in found if r["part"] == "worlds"]
    exact = [r for r in found if r["part"] == "exact"]
    imports = [r for r in found if r["part"] == "import-time"]
    for part, tell in _OTHERS.items():
        for group in _by_settings([r for r in found if r["part"] == part], *_PER_MODEL):
            sections += tell(group)
    for group in _by_settings(worlds):
        sections += _real(group)
    for group in _by_settings(exact):
        sections += _exact(group)
    for result in imports:
        sections += _imports(result)
    if len(sections) == 1:
        say(f"no results in {', '.join(str(results.folder) for results in folders)}")
        return 1
    text = "\n\n".join(s.strip() for s in sections)
    if keep and page.exists():
        text = _merged(page.read_text(encoding="utf-8"), text)
    page.parent.mkdir(parents=True, exist_ok=True)
    durable.write_file(page, (text.strip() + "\n").encode())
    say(f"wrote {page}")
    return 0


def _merged(old: str, new: str) -> str:
    """The old page with its sections replaced by the new page's of the same title; what it did not
    have stands first."""
    (_, *kept), (head, *made) = (
        re.split(r"(?m)^(?=## )", text.strip() + "\n\n") for text in (old, new)
    )
    old_ones, new_ones = ({one.splitlines()[0]: one for one in part} for part in (kept, made))
    first = [one for title, one in new_ones.items() if title not in old_ones]
    return head + "".join(first + [new_ones.get(title, one) for title, one in old_ones.items()])


def _by_settings(found: Found, *without: str) -> list[Found]:
    """Results made with the same settings together, but for those left out, the group of most
    results first."""
    groups: dict[str, Found] = {}
    for result in found:
        same = {k: v for k, v in result["settings"].items() if k not in without}
        groups.setdefault(repr(sorted(same.items())), []).append(result)
    return sorted(groups.values(), key=len, reverse=True)


def _how(found: Found) -> str:
    settings, seeds = found[0]["settings"], sorted({r["seed"] for r in found})
    machines = sorted({r["software"]["machine"] for r in found})
    commits = sorted({r["software"]["commit"] for r in found})
    return (
        f"{settings['rows']:,} rows of uniformly random actions, {settings['updates']:,} updates "
        f"of {settings['batch_size']} sequences of {settings['length']} rows, seeds "
        f"{', '.join(map(str, seeds))}, one thread ({'; '.join(machines)}), torch "
        f"{found[0]['software']['torch']}, commit {', '.join(commits)}."
    )


# --- real worlds ----------------------------------------------------------------------------------


def _real(found: Found) -> list[str]:
    sections = [
        f"## Real worlds, open loop, {found[0]['settings']['updates']:,} updates",
        _how(found) + " NRMSE_k = sqrt(mean_d MSE_{k,d} / Var_d) on held-out episodes after real "
        "context rows, then only the real actions; 0 is perfect, 1 predicts the mean.",
    ]
    worlds = sorted({r["world"] for r in found}, key=_order(real_worlds.WORLDS))
    summary = [row for world in worlds for row in _headline(world, _of(found, world=world))]
    header = (
        *("world", "preset", "mode", "shortcut", "persistence", "ridge ARX"),
        *("mode / persistence", "mode / ARX", "bar, mode", "bar, shortcut"),
    )
    k = _evaluation(found[0]).headline
    sections.append(
        "Bar: NRMSE at most half of persistence and below ridge ARX, mean of seeds; CartPole-v1, "
        "nearly linear under random actions, below 0.05."
    )
    sections.append(Table(f"At the headline horizon (k={k})", header, tuple(summary)).markdown())
    sections.append(_shortcut(found, worlds).markdown())
    if judged := [r for r in found if "trust" in r and r["preset"] == "default"]:
        sections.append(trust.table(judged).markdown())
    for world in worlds:
        mine = _of(found, world=world)
        sections += [f"### {world}", _world_table(mine).markdown(), _world_note(mine)]
    sections.append(_cost(found, worlds).markdown())
    return sections


def _headline(world: str, found: Found) -> Iterable[tuple[str, ...]]:
    for preset in _presets(found):
        runs = [_evaluation(r) for r in _of(found, preset=preset)]
        names = ("mode", "shortcut", "persistence", "ridge")
        errors = [[_error(e, name, e.headline) for e in runs] for name in names]
        model, shortcut, persistence, linear = errors
        to_persistence = [m / r for m, r in zip(model, persistence, strict=True)]
        to_linear = [m / r for m, r in zip(model, linear, strict=True)]
        verdicts = []
        for path in (model, shortcut):
            ceiling = min(0.5 * _mean(persistence), _mean(linear))
            met = _mean(path) < NEARLY_LINEAR.get(world, ceiling)
            verdicts.append("met" if met else "missed")
        cells = map(_spread, (*errors, to_persistence, to_linear))
        yield (world, preset, *cells, *verdicts)


def _shortcut(found: Found, worlds: list[str]) -> Table:
    """Shortcut error over latent error at short horizons; below 1 the shortcut is better."""
    rows = []
    for world in worlds:
        for preset in _presets(_of(found, world=world)):
            runs = [_evaluation(r) for r in _of(found, world=world, preset=preset)]
            cells = []
            for k in (1, 2, 3, 5, 10):
                pairs = [e for e in runs if k <= len(e.counts)]
                ratio = [e.nrmse("shortcut", k) / e.nrmse("mode", k) for e in pairs]
                cells.append(_spread(ratio))
            rows.append((world, preset, *cells))
    header = ("world", "preset", "k=1", "k=2", "k=3", "k=5", "k=10")
    return Table(
        "Shortcut error / latent error (below 1: the shortcut is better)", header, tuple(rows)
    )


def _world_table(found: Found) -> Table:
    k = _evaluation(found[0]).headline
    shared = set.intersection(*(set(_evaluation(r).horizons) for r in found))
    horizons = sorted(shared)

    def row(label: str, name: str, runs: list[Evaluation]) -> tuple[str, ...]:
        cells = [_spread([_error(e, name, h) for e in runs]) for h in horizons]
        reward = [_path(e, name).reward_nrmse[e.headline - 1] for e in runs]
        return (label, *cells, _spread(reward))

    rows = []
    for preset in _presets(found):
        runs = [_evaluation(r) for r in _of(found, preset=preset)]
        rows += [row(f"{preset}, {p.name}", p.name, runs) for p in runs[0].paths if p.is_model]
    one = _one_per_seed(found)
    if one:
        rivals = [p.name for p in one[0].paths if not p.is_model]
        rows += [row(name, name.split(" ")[0], one) for name in rivals]
    header = ("", *(f"k={h}" for h in horizons), f"reward k={k}")
    return Table("NRMSE", header, tuple(rows))


def _world_note(found: Found) -> str:
    runs = _one_per_seed(found) or [_evaluation(found[0])]
    first = runs[0]
    parts = [f"Context {first.context} rows"]
    if first.note:
        parts.append(first.note)
    if any(not math.isnan(e.kl) for e in runs):
        parts.append(
            f"raw KL {_spread([e.kl for e in runs])} nats per row, reconstruction NRMSE "
            f"{_spread([e.reconstruction for e in runs])} ({_presets(found)[0]})"
        )
    scored = [e.path("mode").risk for e in runs if any(p.name == "mode" for p in e.paths)]
    k = first.headline
    ranks = [r.auroc[k - 1] for r in scored if r is not None and not math.isnan(r.auroc[k - 1])]
    if ranks:
        parts.append(f"AUROC of risk within {k}: {_spread(ranks)}")
    return "; ".join(parts) + "."


def _cost(found: Found, worlds: list[str]) -> Table:
    presets = _presets(found)
    rows = [
        (world, *(_seconds(_of(found, world=world, preset=preset)) for preset in presets))
        for world in worlds
    ]
    sizes = tuple(
        _spread([r["parameters"] / 1e3 for r in _of(found, preset=preset)]) for preset in presets
    )
    table = [*rows, ("parameters, thousands", *sizes)]
    return Table("Wall time of training (seconds, one thread)", ("", *presets), tuple(table))


def _seconds(found: Found) -> str:
    return _spread([r["train_seconds"] for r in found])


# --- exact worlds ---------------------------------------------------------------------------------


def _exact(found: Found) -> list[str]:
    updates = found[0]["settings"]["updates"]
    sections = [f"## Worlds with known answers, {updates:,} updates", _how(found)]
    kalman, echo, line = (_of(found, world=world) for world in exact_worlds.WORLDS)
    if kalman:
        title = "KalmanWorld: k-step MSE / the exact Kalman predictor's (bar: 1.15 at every k)"
        sections.append(_per_step(kalman, "ratio", title, bar=1.15).markdown())
    if line:
        title = "LineWorld: rollout RMSE in data units (bar: 0.001 at every k)"
        sections.append(_per_step(line, "rmse", title, bar=1e-3).markdown())
    if echo:
        title = "EchoWorld: NRMSE of obs[t+1] = action[t] (1 where actions are off by a row)"
        sections.append(_per_step(echo, "nrmse", title).markdown())
        rows = tuple(echo[0]["probe"].items())
        title = "Alignment probe on EchoWorld's rows with actions moved k rows later"
        sections.append(Table(title, ("k", "verdict"), rows).markdown())
    return sections


def _per_step(found: Found, measure: str, title: str, *, bar: float | None = None) -> Table:
    steps = [k for k in (1, 2, 3, 5, 7, 10) if k <= exact_worlds.REACH]
    rows = []
    for preset in _presets(found):
        runs = _of(found, preset=preset)
        for mode in exact_worlds.MODES:
            curves = [r[f"{measure}_{mode}"] for r in runs]
            worst = max(_mean([c[k] for c in curves]) for k in range(len(curves[0])))
            cells = [_spread([curve[k - 1] for curve in curves]) for k in steps]
            verdict = [] if bar is None else ["met" if worst <= bar else "missed"]
            rows.append((f"{preset}, {mode}", *cells, number(worst), *verdict))
    last = ("worst mean",) if bar is None else ("worst mean", "bar")
    return Table(title, ("", *(f"k={k}" for k in steps), *last), tuple(rows))


def _imports(result: dict[str, Any]) -> list[str]:
    rows = tuple((name, f"{value:.3f} s") for name, value in result["seconds"].items())
    title = (
        f"Fresh processes, median of 5 (the bar for what is added to torch is {result['bar']} s)"
    )
    return ["## Import time", Table(title, ("", "seconds"), rows).markdown()]


# --- common ---------------------------------------------------------------------------------------


def _evaluation(result: dict[str, Any]) -> Evaluation:
    return Evaluation.from_json(result["evaluation"])


def _of(found: Found, **wanted: Any) -> Found:
    return [r for r in found if all(r[key] == value for key, value in wanted.items())]


def _presets(found: Found) -> list[str]:
    return sorted({r["preset"] for r in found}, key=_order(tuple(PRESETS)))


def _one_per_seed(found: Found) -> list[Evaluation]:
    """One model's evaluation per seed, for what does not depend on the preset."""
    return [_evaluation(r) for r in _of(found, preset=_presets(found)[0])] if found else []


def _path(evaluation: Evaluation, start: str) -> PathScores:
    """The first path whose name begins so: ridge ARX is named after the lags it could have."""
    return next(path for path in evaluation.paths if path.name.startswith(start))


def _error(evaluation: Evaluation, start: str, k: int) -> float:
    return _path(evaluation, start).nrmse[k - 1]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _order(known: Sequence[str]) -> Callable[[str], tuple[int, str]]:
    return lambda name: (known.index(name) if name in known else len(known), name)


def _spread(values: Sequence[float]) -> str:
    """Mean [smallest, largest] over seeds."""
    if not values:
        return "-"
    if len(values) == 1:
        return number(values[0])
    mean = sum(values) / len(values)
    return f"{number(mean)} [{number(min(values))}, {number(max(values))}]"

"""A gate in front of robots and plants, beside none, and the model behind it.

    python -m benchmarks.domains run                      every world, seed 0; an hour
    python -m benchmarks.domains run --worlds CSTR --seeds 0 1 2
    python -m benchmarks.domains report                   print the tables again

Per world: an agent that earns something and is careless about the risk is recorded, mixed with
random actions and with the fallback; the default model learns from it; its open-loop error and its
forecast of risk are judged on held-out episodes; the bound is made from others; and the same agent
then works on the same seeds without a gate and through one. Nothing but the table DOMAINS differs
from world to world. Started again, a command goes on where it stopped. One thread.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from examples.gate_a_plant import COOL, Controller
from examples.gate_a_robot import (
    HELD_OUT,
    HORIZON,
    Fallback,
    Played,
    Swimmer,
    Timed,
    falling,
    gated,
    play,
    promise,
    record,
)

from bb_wm.diagnose import evaluate
from bb_wm.diagnose.evaluation import Evaluation, number
from bb_wm.diagnose.tables import Table
from bb_wm.errors import CheckpointError
from bb_wm.rssm import WorldModel
from bb_wm.worlds.catalogue import make_world
from benchmarks import training
from benchmarks.domain_agents import Reacher, Reluctance, no_current
from benchmarks.results import Job, Results, add_settings, chosen_settings, say, work

ROOT = Path(__file__).resolve().parents[1]
WITHIN = 5  # rows of the risk forecast that is judged
BARS = {"auroc": 0.9, "fewer": 0.8, "kept": 0.9}


@dataclass(frozen=True, slots=True)
class Domain:
    """All that is a world's own.

    fallback  in the environment's own form, or a function of the observation
    rows      of an episode
    about     the agent, the fallback, and how far over the limit V_s is 1
    """

    agent: Any
    fallback: Fallback
    rows: int
    about: str


DOMAINS: dict[str, Domain] = {
    "Swimmer-v5": Domain(
        Swimmer(),
        [0.0, 0.0],
        200,
        "travelling wave, now and then too vigorous; no torque; 0.35 rad/s",
    ),
    "dm_control/reacher-easy-v0": Domain(
        Reacher(),
        [0.0, 0.0],
        100,
        "reaches for the target, now and then with all its strength; no torque; 0.35 rad/s",
    ),
    "CSTR": Domain(Controller(), COOL, 100, "PI control tuned too hot; coolant of 295 K; 1 K"),
    "Cont-CC-SynRM-v0": Domain(
        Reluctance(),
        no_current,
        200,
        "current control, now and then asking for 2.2 times the current; no current; a tenth of "
        "the way from the nominal current to where the drive trips",
    ),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """The same for every world."""

    rows: int = 20_000
    updates: int = 2_000
    judging: int = 40  # recorded episodes that judge the model
    calibrating: int = 130  # recorded episodes that the bound is made of
    windows: int = 500
    episodes: int = 50  # played in each of the three ways
    limit: float = 0.1  # of the gate: V_s to go over HORIZON rows, as `Beyond` counts it

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(job: Job, settings: Settings, out: Path) -> Mapping[str, Any]:
    """One world and seed: train, judge, calibrate, play."""
    domain = DOMAINS[job.world]
    limit = settings.limit
    model, learnt = _model(job, settings, out / "models")
    common = (job.world, domain.agent, domain.fallback, domain.rows)
    _, judging = record(*common, job.seed + HELD_OUT, episodes=settings.judging)
    _, calibrating = record(*common, job.seed + 2 * HELD_OUT, episodes=settings.calibrating)
    judged = evaluate(
        model,
        judging,
        training=learnt.pop("seen"),
        context=10,
        horizons=(1, WITHIN, 10),
        windows=settings.windows,
        seed=job.seed,
    )
    say(f"  {job.label}: {judged.verdict()}")
    bound = promise(model, calibrating, domain.fallback, limit, job.seed)
    for line in bound.findings:
        say(f"  {job.label}: {line}")
    least = bound.bounds[HORIZON].margin() * bound.floor
    episodes = sum(bound.bounds[HORIZON].counts.values())
    say(f"  {job.label}: bound = estimate + {least:.3g} or more, from {episodes} episodes")
    ledgers = out / "ledgers"
    ledgers.mkdir(parents=True, exist_ok=True)
    columns = playing(job, domain, model, bound, limit, settings.episodes, ledgers)
    return {
        **learnt,
        **_judged(judged),
        "findings": list(bound.findings),
        "bound": {"above": _plain(least), "episodes": episodes},
        "columns": {name: _columns(played) for name, played in columns.items()},
        **compared(columns["ungated"], columns["gated"]),
    }


def playing(
    job: Job,
    domain: Domain,
    model: WorldModel,
    bound: Any,
    limit: float,
    episodes: int,
    ledgers: Path,
) -> dict[str, Played]:
    """Ungated, gated and the fallback alone, on the same seeds."""
    maker, world = make_world(job.world)
    env = Timed(maker())
    file = ledgers / f"{job.name}-{time.time_ns()}.ledger"
    behind = gated(env, model, domain.fallback, bound, limit, file, world.risk)
    columns = {}
    try:
        for name, machine, agent in (
            ("ungated", env, domain.agent),
            ("gated", behind, domain.agent),
            ("fallback alone", env, Still(domain.fallback)),
        ):
            began = time.perf_counter()
            seed = 500_000 + 1_000 * job.seed
            columns[name] = play(machine, agent, episodes, domain.rows, world.risk, seed=seed)
            say(f"  {job.label}: {name} in {time.perf_counter() - began:.0f} s")
    finally:
        env.close()
    return columns


@dataclass(frozen=True, slots=True)
class Still:
    """The fallback and nothing else."""

    fallback: Fallback

    def begin(self, generator: np.random.Generator) -> Any:
        return falling(self.fallback)


def _model(job: Job, settings: Settings, models: Path) -> tuple[WorldModel, dict[str, Any]]:
    """Trained, or found where an earlier start of the same job left it; and what it learnt from."""
    domain = DOMAINS[job.world]
    common = (job.world, domain.agent, domain.fallback, domain.rows)
    store, seen = record(*common, job.seed, rows=settings.rows)
    rates = {
        "episodes": len(seen),
        "risky_rows": float(np.mean(np.concatenate([e.safety[1:] for e in seen]) > 0)),
    }
    say(f"  {job.label}: {len(seen)} episodes, {rates['risky_rows']:.1%} of rows over the limit")
    place = models / f"{job.name}-r{settings.rows}-u{settings.updates}"
    kept = place.with_suffix(".seconds")
    try:
        return WorldModel.load(place), {"seen": seen, **rates, "train_seconds": _kept(kept)}
    except CheckpointError:
        pass
    model, result = training.train(
        training.PRESETS["default"](job.seed),
        store.obs_spec,
        store.action_spec,
        seen,
        training.Settings(updates=settings.updates),
        seed=job.seed,
        label=job.label,
    )
    models.mkdir(parents=True, exist_ok=True)
    model.save(place)
    kept.write_text(str(result["train_seconds"]))
    return model, {"seen": seen, **rates, "train_seconds": result["train_seconds"]}


def _kept(path: Path) -> float | None:
    return float(path.read_text()) if path.exists() else None


# --- figures --------------------------------------------------------------------------------------


def _judged(judged: Evaluation) -> dict[str, Any]:
    """NRMSE_10 and AUROC within WITHIN rows of every path."""
    return {
        "nrmse": {path.name: _plain(path.nrmse[9]) for path in judged.paths},
        "auroc": {
            path.name: _plain(path.risk.auroc[WITHIN - 1])
            for path in judged.paths
            if path.risk is not None and path.risk.auroc
        },
        "event_rate": _plain(judged.event_rate[WITHIN - 1]),
        "windows": judged.windows,
    }


def _columns(played: Played) -> dict[str, Any]:
    found = asdict(played)
    seconds = found.pop("seconds")
    found["decision_ms"] = 1e3 * float(np.median(seconds)) if seconds else None
    return found


def compared(free: Played, held: Played, seed: int = 0) -> dict[str, Any]:
    """What the gate avoided and kept, with 95 % intervals over episodes (paired bootstrap).

    fewer  share of rows over the limit, of times it was crossed, of episodes and of risk avoided
    kept   1 + (gated - ungated) / |ungated|, of mean returns: the same share for returns >= 0, and
           above 1 where the gate earns more
    """
    draws = np.random.default_rng(seed).integers(0, len(free.rows), (2_000, len(free.rows)))
    parts = ("unsafe", "events", "harm")
    sums = {n: [np.asarray(getattr(p, n), float) for p in (free, held)] for n in parts}
    sums["episodes"] = [np.asarray(p.unsafe, float) > 0 for p in (free, held)]
    fewer = {name: _interval(_less, *pair, draws) for name, pair in sums.items()}
    pair = [np.asarray(p.returns, float) for p in (free, held)]
    return {"fewer": fewer, "kept": _interval(_share, *pair, draws)}


def _less(free: np.ndarray, held: np.ndarray) -> float:
    return 1.0 - held.sum() / free.sum() if free.sum() else math.nan


def _share(free: np.ndarray, held: np.ndarray) -> float:
    return 1.0 + (held.mean() - free.mean()) / abs(free.mean()) if free.mean() else math.nan


def _interval(what: Any, free: np.ndarray, held: np.ndarray, draws: np.ndarray) -> list[Any]:
    """[value, low, high]."""
    spread = [what(free[draw], held[draw]) for draw in draws]
    values = [what(free, held), *np.nanpercentile(spread, [2.5, 97.5])]
    return [_plain(value) for value in values]


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


# --- tables ---------------------------------------------------------------------------------------


def report(found: Sequence[Mapping[str, Any]]) -> str:
    """Both bars as tables, one row per world and seed."""
    models = Table(
        f"The model: NRMSE_10, and AUROC of risk within {WITHIN} rows, on held-out episodes",
        (
            "",
            "seed",
            "latent",
            "shortcut",
            "persist.",
            "ridge",
            "AUROC latent",
            "shortcut",
            "bar 1",
        ),
        tuple(_model_row(one) for one in found),
    )
    gates = Table(
        "The gate: the same seeds and agent with and without it",
        ("", "seed", "episodes", "rows over", "crossings", "episodes over", "return", "alone",
         "held", "ms", "fewer rows, crossings", "kept", "bar 2"),
        tuple(_gate_row(one) for one in found),
    )  # fmt: skip
    return "\n\n".join(table.text() for table in (models, gates))


def _model_row(one: Mapping[str, Any]) -> tuple[str, ...]:
    nrmse, auroc = one["nrmse"], one["auroc"]
    ridge = next(value for name, value in nrmse.items() if name.startswith("ridge"))
    baselines = [value for value in (nrmse["persistence"], ridge) if value is not None]
    paths = [name for name in nrmse if name in auroc]
    met = all(
        nrmse[name] < min(baselines) and (auroc[name] or 0.0) >= BARS["auroc"] for name in paths
    )
    errors = [number(nrmse[name]) for name in paths]
    ranks = [number(auroc[name] or math.nan) for name in paths]
    plain = [number(value) for value in (nrmse["persistence"], ridge)]
    return (one["world"], str(one["seed"]), *errors, *plain, *ranks, "met" if met else "NOT met")


def _gate_row(one: Mapping[str, Any]) -> tuple[str, ...]:
    free, held, still = (one["columns"][k] for k in ("ungated", "gated", "fallback alone"))
    fewer, kept = one["fewer"], one["kept"]

    def sums(name: str) -> str:
        return f"{sum(free[name])} -> {sum(held[name])}"

    worst = min(fewer[name][0] or 0.0 for name in ("unsafe", "events"))
    met = worst >= BARS["fewer"] and (kept[0] or 0.0) >= BARS["kept"]
    return (
        one["world"],
        str(one["seed"]),
        str(len(free["rows"])),
        sums("unsafe"),
        sums("events"),
        f"{np.count_nonzero(free['unsafe'])} -> {np.count_nonzero(held['unsafe'])}",
        f"{np.mean(free['returns']):.4g} -> {np.mean(held['returns']):.4g}",
        f"{np.mean(still['returns']):.4g}",
        f"{sum(held['held']) / sum(held['rows']):.1%}",
        f"{held['decision_ms']:.1f}",
        f"{fewer['unsafe'][0] or 0:.0%}, {fewer['events'][0] or 0:.0%}",
        f"{kept[0]:.0%} ({kept[1]:.0%} to {kept[2]:.0%})",
        "met" if met else "NOT met",
    )


def main() -> int:
    options = _parser().parse_args()
    results = Results(options.out)
    failed = 0
    if options.command == "run":
        torch.set_num_threads(1)
        settings = chosen_settings(options, Settings())
        jobs = [
            Job("domains", world, "default", seed)
            for seed in options.seeds
            for world in options.worlds
        ]
        failed = work(
            jobs, results, settings.to_json(), lambda job: measure(job, settings, options.out)
        )
    found = [one for one in results.all() if one["part"] == "domains"]
    if found:
        say(report(found))
    return 1 if failed or not found else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.domains",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure what is not measured yet")
    run.add_argument("--worlds", nargs="+", default=list(DOMAINS), choices=list(DOMAINS))
    run.add_argument("--seeds", nargs="+", type=int, default=[0])
    add_settings(run, Settings())
    for command in (run, commands.add_parser("report", help="print the tables")):
        command.add_argument("--out", type=Path, default=ROOT / "bench-out" / "domains")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())

"""Planning through a model: with the known equations, and under a limit on risk.

    python benchmarks/planning.py oracle            # CartPole-v1 and Pendulum-v1, known equations
    python benchmarks/planning.py hazard            # a point mass among hazards of known cost
    python benchmarks/planning.py learned CartPole-v1    # a model learnt from few rows
    python benchmarks/planning.py speed     # one plan of 256 candidates x 10 rows x 4 rounds

The playing is bb_wm.decide.control.play: any Dynamics, any encode(obs, previous, action) -> Latent.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from bb_wm.config import WorldModelConfig
from bb_wm.data import EpisodeStore
from bb_wm.decide.control import PlanningPolicy, Played, play
from bb_wm.decide.planners import CEM, MPPI, Planner, RandomShooting
from bb_wm.imagine.risk import CVaR
from bb_wm.imagine.utility import Limit, Utility
from bb_wm.learn import ProgressDisplay, Run, Trainer, TrainSettings, WorldSource
from bb_wm.learn.critic import Critic
from bb_wm.learn.run import is_run
from bb_wm.rssm import WorldModel
from bb_wm.testing.classic_control import CartPoleOracle, PendulumOracle
from bb_wm.testing.point_hazard import PointHazardEnv, PointHazardOracle
from bb_wm.types import ActionSpec

BARS = {"CartPole-v1": 475.0, "Pendulum-v1": -200.0}
PLANNERS: dict[str, dict[str, Planner]] = {
    # A cart near the edge with the wrong speed is lost a second before it falls: 50 rows.
    "CartPole-v1": {
        "RandomShooting": RandomShooting(horizon=50, candidates=256, colour=0.5, samples=0),
        "CEM": CEM(horizon=50, candidates=96, elites=24, rounds=3, samples=0),
        "MPPI": MPPI(horizon=50, candidates=64, rounds=2, samples=0),
    },
    "Pendulum-v1": {
        "RandomShooting": RandomShooting(horizon=15, candidates=512, colour=1.0, samples=0),
        "CEM": CEM(horizon=15, candidates=128, elites=16, rounds=4, colour=1.0, samples=0),
        "MPPI": MPPI(horizon=15, candidates=128, rounds=4, colour=1.0, samples=0),
    },
}


def make(world: str, episodes: int) -> list[gymnasium.Env[Any, Any]]:
    return [gymnasium.make(world) for _ in range(episodes)]


def oracle(episodes: int, seeds: int) -> list[dict[str, Any]]:
    """The planners on the known equations of the two classic worlds."""
    rows: list[dict[str, Any]] = []
    for world, model in (("CartPole-v1", CartPoleOracle()), ("Pendulum-v1", PendulumOracle())):
        for name, planner in PLANNERS[world].items():
            scores = [
                play(make(world, episodes), model, model.encode, planner, Utility(), seed=seed)
                for seed in range(seeds)
            ]
            rows.append(_row(world, name, scores) | {"bar": BARS[world]})
            print_rows(rows[-1:], header=len(rows) == 1)
    return rows


def hazard(episodes: int, seeds: int) -> list[dict[str, Any]]:
    """One planner without and with a limit on risk; the same episodes, the same luck."""
    model = PointHazardOracle()
    planner = CEM(horizon=15, candidates=96, elites=12, rounds=3, samples=6, colour=1.0)
    arms = {
        "no limit": Utility(),
        "limit": Utility(limit=Limit(0.0), risk=CVaR(0.2)),
        "priced": Utility(risk_weight=5.0),
    }
    rows: list[dict[str, Any]] = []
    for name, utility in arms.items():
        scores = [
            play(
                [PointHazardEnv() for _ in range(episodes)],
                model,
                model.encode,
                planner,
                utility,
                seed=seed,
            )
            for seed in range(seeds)
        ]
        row = _row("PointHazard", name, scores)
        free = rows[0] if rows else row
        row["return_ratio"] = row["return"] / free["return"]
        row["risk_ratio"] = row["risk"] / free["risk"]
        rows.append(row)
        print_rows([row], header=len(rows) == 1)
    return rows


LEARNED: dict[str, dict[str, Any]] = {
    # Rows in all; random actions first, then the planner's own. Random actions never reach the end
    # of CartPole's track, so most of its rows must be planned; Pendulum's random rows say it all.
    "CartPole-v1": {
        "rows": 10_000,
        "first_rows": 1_000,
        "interleave": 500,
        "update_ratio": 0.5,
        "updates": 4_500,
    },
    "Pendulum-v1": {"rows": 5_000, "first_rows": 5_000, "updates": 2_000},
}
COLLECTING: dict[str, Planner] = {
    # Short-sighted on purpose: a cart that balances and drifts off shows where the track ends.
    "CartPole-v1": MPPI(horizon=15, candidates=32, rounds=1, samples=0),
    "Pendulum-v1": CEM(horizon=15, candidates=64, elites=8, rounds=2, colour=1.0, samples=0),
}
ORACLE = {
    "CartPole-v1": PLANNERS["CartPole-v1"]["MPPI"],
    "Pendulum-v1": PLANNERS["Pendulum-v1"]["CEM"],
}
# Through a learned model a plan may be too long: errors of its far rows are what it optimises.
PLAYING: dict[str, Planner] = {
    "CartPole-v1": MPPI(horizon=15, candidates=64, rounds=2, samples=0),
    "Pendulum-v1": PLANNERS["Pendulum-v1"]["CEM"],
}


def learned(world: str, folder: Path, episodes: int, seeds: list[int]) -> list[dict[str, Any]]:
    """A model learnt from few rows, then planned with; the known equations beside it."""
    oracles = {"CartPole-v1": CartPoleOracle(), "Pendulum-v1": PendulumOracle()}
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        began = time.process_time()
        model, critic = learn(world, folder / f"{world}-s{seed}", seed)
        minutes = (time.process_time() - began) / 60  # of one processor
        oracle = oracles[world]
        arms = {"learned": (model, model.encode), "known equations": (oracle, oracle.encode)}
        for name, (dynamics, encode) in arms.items():
            played = play(
                make(world, episodes),
                dynamics,
                encode,
                PLAYING[world] if name == "learned" else ORACLE[world],
                Utility(terminal=critic) if name == "learned" else Utility(),
                seed=1000 + seed,
            )
            row = _row(world, f"{name}, seed {seed}", [played]) | {"bar": BARS[world]}
            row |= {"minutes": minutes if name == "learned" else 0.0, "seed": seed, "name": name}
            rows.append(row)
            print_rows(rows[-1:], header=len(rows) == 1)
    return rows


def learn(world: str, folder: Path, seed: int) -> tuple[WorldModel, Critic | None]:
    """The default model learnt as LEARNED says; a run folder there is gone on with. Where most rows
    are the planner's own also a critic of them: one of random play would mislead a planner."""
    env = gymnasium.make(world)
    spec = ActionSpec.of(env.action_space)
    model = WorldModel(env.observation_space, env.action_space, WorldModelConfig(seed=seed))
    policy = PlanningPolicy(
        model,
        model.encode,
        COLLECTING[world],
        spec,
        explore=0.1,
        ready=lambda: model.updates > 0,
    )
    settings = TrainSettings(seed=seed, heldout_rows=0, **LEARNED[world])
    described = model.describe()
    run = (
        Run.open(folder)
        if is_run(folder)
        else Run.create(folder, world={"name": world}, config=described, settings=settings)
    )
    source = WorldSource(env, seed=seed, policy=policy)
    trainer = Trainer(run, model, source, settings, callbacks=[ProgressDisplay()])
    trainer.train()
    if settings.first_rows == settings.rows:
        return model, None
    with EpisodeStore(run.episodes, mode="r") as store:
        return model, Critic.fit(model, list(store))


def speed() -> list[dict[str, Any]]:
    """Milliseconds of one plan, 256 candidates x 10 rows x 4 rounds, with the default model."""
    model = WorldModel(obs_shape=(24,), action_dim=6)
    latent = model.encode(np.zeros((1, 24), np.float32))
    planner = CEM(horizon=10, candidates=256, rounds=4, samples=0)
    spec = ActionSpec.of(gymnasium.spaces.Box(-1, 1, (6,), np.float32))
    times = []
    for _ in range(12):
        begun = time.perf_counter()
        planner.plan(model, latent, action_spec=spec)
        times.append(1000 * (time.perf_counter() - begun))
    row = {"world": "default model", "arm": "CEM 256 x 10 x 4", "ms": statistics.median(times[2:])}
    print(f"{row['arm']}: {row['ms']:.0f} ms (median of 10, {torch.get_num_threads()} threads)")
    return [row]


def _row(world: str, arm: str, scores: list[Played]) -> dict[str, Any]:
    means = [statistics.mean(score.returns) for score in scores]
    return {
        "world": world,
        "arm": arm,
        "return": statistics.mean(means),
        "worst_seed": min(means),
        "risk": statistics.mean(statistics.mean(score.risks) for score in scores),
        "ms_per_plan": 1000 * statistics.mean(score.seconds_per_plan for score in scores),
        "episodes": sum(len(score.returns) for score in scores),
    }


def print_rows(rows: list[dict[str, Any]], *, header: bool) -> None:
    """A table that grows line by line."""
    extra = [key for key in ("bar", "minutes", "return_ratio", "risk_ratio") if key in rows[0]]
    columns = ["world", "arm", "return", "worst_seed", "risk", "ms_per_plan", *extra]
    if header:
        print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        cells = [v if isinstance(v, str) else f"{v:.3g}" for v in (row[c] for c in columns)]
        print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["oracle", "hazard", "learned", "speed"])
    parser.add_argument("world", nargs="?", default="CartPole-v1", help="for learned")
    parser.add_argument("--only", type=int, nargs="+", help="seeds, for learned")
    parser.add_argument("--runs", type=Path, default=Path("runs/planning"), help="run folders")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the rows here too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "oracle":
        rows = oracle(options.episodes, options.seeds)
    elif options.what == "hazard":
        rows = hazard(options.episodes, options.seeds)
    elif options.what == "speed":
        rows = speed()
    else:
        seeds = options.only or list(range(options.seeds))
        rows = learned(options.world, options.runs, options.episodes, seeds)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

"""A swimming robot whose gait is now and then too vigorous, and a gate that keeps its joints slow.

    python -m examples.gate_a_robot OUT                             everything; some minutes
    python -m examples.gate_a_robot OUT --rows 3000 --updates 100 --episodes 3    a quick look
    python -m examples.gate_a_robot OUT --episodes 50               what OUT holds is used again

MuJoCo's Swimmer-v5. It swims by a wave of its joint angles; in bad stretches the wave is too fast
and its joints exceed their speed limit. It is watched (record); a model learns what an action leads
to (train); on the same seeds the robot then swims without a gate and through one (enforce), where
what is not allowed is replaced by no torque at all. What is printed: consequences avoided, and what
that cost. Needs: pip install "bb_wm[mujoco]"
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from bb_wm import WorldModel, WorldModelConfig
from bb_wm.data import EpisodeStore, SequenceSampler
from bb_wm.data.collecting import collect
from bb_wm.decide import Gate, Ledger
from bb_wm.diagnose.calibration import (
    Claims,
    RiskCalibration,
    calibrate,
    claims_of,
    foresee_episodes,
)
from bb_wm.serve.gated_env import GatedEnv
from bb_wm.serve.model_evidence import ModelEvidence
from bb_wm.types import ActionSpec, Episode, ObsSpec
from bb_wm.worlds.catalogue import make_world

HORIZON = 10  # rows that are imagined before every action
HELD_OUT = 1_000_003  # added to a seed: what the bound is made from is never learnt from
Act = Callable[[Any], Any]
Fallback = Sequence[float] | Act  # an action, or what to do about an observation


def falling(fallback: Fallback, dtype: Any = np.float32) -> Act:
    """The fallback as a function of the observation."""
    if callable(fallback):
        return lambda obs: np.asarray(fallback(obs), dtype)
    safe = np.asarray(fallback, dtype)
    return lambda obs: safe


@dataclass(frozen=True, slots=True)
class Swimmer:
    """A policy: joint angles follow a travelling wave; in bad stretches it is wide and fast.

    careless  chance per row that a bad stretch of 10 to 30 rows begins
    """

    careless: float = 0.008

    def begin(self, generator: np.random.Generator) -> Act:
        """obs -> torques [2] of one episode."""
        phase, bad = 0.0, 0

        def act(obs: Any) -> np.ndarray:
            nonlocal phase, bad
            begins, length = generator.random(2)
            if bad == 0 and begins < self.careless:
                bad = 10 + int(20 * length)
            wide, fast, stiff = (0.9, 0.3, 3.0) if bad else (0.6, 0.1, 1.5)
            bad, phase = max(bad - 1, 0), phase + fast
            wanted = wide * np.sin(phase + np.array([0.0, -1.0]))
            return np.clip(stiff * (wanted - obs[1:3]), -1.0, 1.0).astype(np.float32)

        return act


@dataclass(frozen=True, slots=True)
class Beyond:
    """A risk for gates: how far beyond the limit in tenths of the world's own unit, at most 1.

    For a gate far over the limit is no worse than over it; a model that spends its exactness on
    catastrophes knows little about the limit itself.
    """

    risk: Any
    whole: float = 0.1

    def __call__(self, *row: Any) -> float:
        return min(float(self.risk(*row)) / self.whole, 1.0)


@dataclass(frozen=True)
class Watched:
    """A policy to record: stretches of the agent, of anything at all, and of the fallback.

    Without the last two the model would never have seen what a gate does when it holds, nor what
    comes after it.
    """

    agent: Any
    fallback: Act
    space: gymnasium.spaces.Box
    anything: float = 0.15  # shares of stretches
    falling_back: float = 0.25
    longest: int = 25  # rows of a stretch

    def begin(self, generator: np.random.Generator) -> Act:
        """obs -> action of one episode."""
        own, left, kind = self.agent.begin(generator), 0, 0.0

        def act(obs: Any) -> np.ndarray:
            nonlocal left, kind
            if left == 0:
                left, kind = int(generator.integers(1, self.longest + 1)), generator.random()
            left -= 1
            proposed = own(obs)
            if kind < self.falling_back:
                return self.fallback(obs)
            if kind < self.falling_back + self.anything:
                low, high = self.space.low, self.space.high
                return generator.uniform(low, high).astype(self.space.dtype)
            return np.asarray(proposed, self.space.dtype)

        return act


def record(
    name: str, agent: Any, fallback: Fallback, length: int, seed: int, **how_many: int
) -> tuple[EpisodeStore, list[Episode]]:
    """Watch the agent for `rows=` or `episodes=` of at most `length` rows."""
    maker, world = make_world(name)
    env = maker()
    try:
        safe = falling(fallback, env.action_space.dtype)
        store = EpisodeStore(
            None, ObsSpec.of(env.observation_space), ActionSpec.of(env.action_space)
        )
        seen = collect(
            env,
            policy=Watched(agent, safe, env.action_space),
            seed=seed,
            risk=Beyond(world.risk),
            max_episode_rows=length + 1,
            **how_many,
        )
    finally:
        env.close()
    store.append(seen)
    return store, seen


def train(store: EpisodeStore, updates: int, seed: int = 0) -> WorldModel:
    """The default model."""
    model = WorldModel(store.obs_spec, store.action_spec, WorldModelConfig(seed=seed))
    sampler = SequenceSampler(store, batch_size=16, length=32, seed=seed)
    started = time.process_time()
    for update in range(1, updates + 1):
        loss, _ = model.update(sampler.sample())
        if update % 100 == 0:
            used = time.process_time() - started
            print(f"  update {update}: loss {loss:.3f}, {used:.0f} s", flush=True)
    return model


def as_asked(action: np.ndarray, safe: np.ndarray) -> np.ndarray:
    """In which rows [L - 1] of actions [L, A] something was done and then the fallback alone, for
    as long as the gate looks ahead or the episode lasts; `safe` [L, A] is the fallback there."""
    fell = (action[:-1] == safe[:-1]).all(-1)
    return np.array(
        [not fell[t] and bool(fell[t + 1 : t + HORIZON].all()) for t in range(len(fell))]
    )


def seen_by(model: WorldModel, episode: Episode) -> list[Any]:
    """The observations of an episode's rows as the environment showed them."""
    if model.obs_spec.single:
        return list(next(iter(episode.obs.values())))
    return [{key: rows[t] for key, rows in episode.obs.items()} for t in range(len(episode))]


def promise(
    model: WorldModel, episodes: list[Episode], fallback: Fallback, limit: float, seed: int = 0
) -> RiskCalibration:
    """The bound on "this now, then the fallback", from held-out rows in which just that was done.

    It promises nothing of what is expected to come out above `limit`: that is held in any case.
    """
    made = calibrate(model, episodes, horizons=(HORIZON,), stride=5, seed=seed)
    seen = foresee_episodes(
        model, episodes, HORIZON, samples=made.samples, unit=made.unit, seed=seed + 1
    )
    claims, known = claims_of(seen, HORIZON, made.floor), seen.known[:, -1]
    safe = falling(fallback)
    plans = [
        as_asked(np.asarray(e.action), np.stack([safe(obs) for obs in seen_by(model, e)]))
        for e in episodes
    ]
    asked = np.array(
        [plans[n][t] for n, t in zip(seen.episode[known], seen.row[known], strict=True)]
    )
    kept = asked & (claims.estimate <= limit)
    columns = (claims.estimate, claims.scale, claims.happened, claims.episode)
    return made.with_claims(Claims(*(column[kept] for column in columns)), HORIZON)


def gated(
    env: Any,
    model: WorldModel,
    fallback: Fallback,
    bound: Any,
    limit: float,
    ledger: Path,
    risk: Any,
) -> GatedEnv:
    """The machine behind the gate: what is not allowed is replaced by the fallback."""
    evidence = ModelEvidence(model, fallback, bound=bound, horizon=HORIZON)
    # it blocks for risk alone, never for a poor return
    gate = Gate(limit=limit, max_age=60.0, min_gain=-1e9)
    # a machine that matters has a durable ledger: leave the last argument out
    return GatedEnv(
        env,
        gate,
        falling(fallback, env.action_space.dtype),
        maker=evidence,
        ledger=Ledger(ledger, durable=False),
        risk=Beyond(risk),
    )


@dataclass
class Played:
    """What a number of episodes came to; lists hold one number per episode."""

    returns: list[float] = field(default_factory=list)
    unsafe: list[int] = field(default_factory=list)  # rows beyond the limit
    events: list[int] = field(default_factory=list)  # rows in which it goes beyond the limit
    harm: list[float] = field(default_factory=list)  # V_s, summed over rows
    rows: list[int] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list, repr=False)  # of every decision


class Timed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Knows how long the machine itself took for its last row."""

    seconds = 0.0

    def step(self, action: Any) -> Any:
        started = time.perf_counter()
        try:
            return self.env.step(action)
        finally:
            self.seconds = time.perf_counter() - started


def play(
    env: Any,
    agent: Any,
    episodes: int,
    length: int,
    risk: Any,
    *,
    seed: int = 500_000,
    label: str = "",
) -> Played:
    """The agent at work; each episode begins, and its agent draws, as its seed says.

    With a `label` a line tells now and then how far it is.
    """
    found = Played()
    inner = env.env if isinstance(env, GatedEnv) else None
    for number in range(seed, seed + episodes):
        obs, _ = env.reset(seed=number)
        act = agent.begin(np.random.default_rng(number))
        total, harm, held = 0.0, [0.0], 0
        over = False
        while not over and len(harm) <= length:
            before, action = obs, act(obs)
            started = time.perf_counter()
            obs, reward, ended, cut, info = env.step(action)
            took = time.perf_counter() - started
            over, total = ended or cut, total + float(reward)
            harm.append(float(risk(before, action, obs, float(reward), ended, info)))
            held += "gate" in info and info["gate"].sent == "fallback"
            if inner is not None:
                found.seconds.append(took - getattr(inner, "seconds", 0.0))
        bad = np.asarray(harm) > 0
        found.returns.append(total)
        found.unsafe.append(int(bad.sum()))
        found.events.append(int((bad[1:] & ~bad[:-1]).sum()))
        found.harm.append(float(np.sum(harm)))
        found.rows.append(len(harm) - 1)
        found.held.append(held)
        done = len(found.rows)
        if label and (done % 5 == 0 or done == episodes):
            print(f"  {label}: {done} of {episodes} episodes", flush=True)
    return found


def table(columns: dict[str, Played]) -> str:
    """Consequences avoided, and what that cost."""
    rows = [("", list(columns))]
    for name, value in (
        ("rows over the limit", lambda p: f"{sum(p.unsafe)} of {sum(p.rows)}"),
        ("times it went over the limit", lambda p: str(sum(p.events))),
        ("episodes over the limit", lambda p: f"{np.count_nonzero(p.unsafe)} of {len(p.rows)}"),
        ("risk met, per episode", lambda p: f"{np.mean(p.harm):.3g}"),
        ("return, per episode", lambda p: f"{np.mean(p.returns):.4g}"),
        ("actions held", lambda p: f"{sum(p.held) / max(sum(p.rows), 1):.1%}"),
        (
            "median decision, ms",
            lambda p: f"{1e3 * np.median(p.seconds):.1f}" if p.seconds else "-",
        ),
    ):
        rows.append((name, [value(p) for p in columns.values()]))
    return "\n".join(f"{name:<30}" + "".join(f"{c:>18}" for c in cells) for name, cells in rows)


def live(
    out: Path,
    name: str,
    agent: Any,
    fallback: Fallback,
    *,
    limit: float,
    length: int,
    rows: int,
    updates: int,
    calibrating: int,
    episodes: int,
    seed: int = 0,
) -> tuple[dict[str, Played], RiskCalibration]:
    """The whole life cycle in the folder `out`; a model that it holds is used again."""
    out.mkdir(parents=True, exist_ok=True)
    if (out / "model").exists():
        model = WorldModel.load(out / "model")
    else:
        store, seen = record(name, agent, fallback, length, seed, rows=rows)
        harm = sum(bool((episode.safety > 0).any()) for episode in seen)
        print(f"learning from {len(seen)} episodes, {harm} of them over the limit", flush=True)
        model = train(store, updates, seed)
        model.save(out / "model")
    print(f"making the bound from {calibrating} held-out episodes: a minute or more", flush=True)
    _, held_out = record(name, agent, fallback, length, seed + HELD_OUT, episodes=calibrating)
    bound = promise(model, held_out, fallback, limit, seed)
    print("\n".join([*bound.findings, _promised(bound)]), flush=True)
    maker, world = make_world(name)
    env = Timed(maker())
    try:
        behind = gated(
            env, model, fallback, bound, limit, out / f"{time.time_ns()}.ledger", world.risk
        )
        columns = {
            "ungated": play(env, agent, episodes, length, world.risk, label="ungated"),
            "gated": play(behind, agent, episodes, length, world.risk, label="gated"),
        }
    finally:
        env.close()
    return columns, bound


def _promised(bound: RiskCalibration) -> str:
    """The least that is added to an estimate, in words."""
    least = bound.bounds[HORIZON].margin() * bound.floor
    if math.isinf(least):
        return "bound: infinite, so every action will be held; give it more --calibrating episodes"
    return f"bound: the estimate and {least:.3g} or more"


def parse(about: str | None) -> argparse.Namespace:
    """What the command line says."""
    words = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    words.add_argument("out", type=Path, help="a folder of its own")
    words.add_argument("--rows", type=int, default=20_000, help="to learn from")
    words.add_argument("--updates", type=int, default=2_000, help="of the model")
    words.add_argument("--calibrating", type=int, default=130, help="episodes the bound is made of")
    words.add_argument("--episodes", type=int, default=20, help="played with and without the gate")
    return words.parse_args()


def cli() -> None:
    """The example."""
    given = parse(__doc__)
    columns, _ = live(
        given.out.resolve(),
        "Swimmer-v5",
        Swimmer(),
        [0.0, 0.0],
        limit=0.1,
        length=200,
        rows=given.rows,
        updates=given.updates,
        calibrating=given.calibrating,
        episodes=given.episodes,
    )
    print(table(columns))


if __name__ == "__main__":
    cli()

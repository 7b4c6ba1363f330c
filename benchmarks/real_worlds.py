"""Third-party worlds under random actions: open-loop error after a fixed number of updates."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from bb_wm.data import collect
from bb_wm.diagnose import evaluate
from bb_wm.types import ActionSpec, Episode, ObsSpec
from bb_wm.worlds.catalogue import make_world
from benchmarks import trust
from benchmarks.results import Job, say
from benchmarks.training import PRESETS, Settings, train

WORLDS = ("Pendulum-v1", "Acrobot-v1", "Reacher-v5", "Hopper-v5", "CartPole-v1")
_HELD_OUT = 1_000_003  # added to the seed: held-out episodes are never those of another seed


def measure(job: Job, settings: Settings) -> Mapping[str, Any]:
    """Train on the world and judge on held-out episodes; the job's JSON."""
    began = time.perf_counter()
    obs_spec, action_spec, training, held = gather(job.world, job.seed, settings)
    collected = time.perf_counter() - began
    config = PRESETS[job.preset](job.seed)
    model, result = train(
        config, obs_spec, action_spec, training, settings, seed=job.seed, label=job.label
    )
    evaluation = evaluate(
        model,
        held,
        training=training,
        context=settings.context,
        horizons=settings.horizons,
        windows=settings.windows,
        seed=job.seed,
    )
    say(f"  {job.label}: {evaluation.verdict()}")
    result["evaluation"] = evaluation.to_json()
    result["trust"] = trust.judge(model, held, settings.context, job.seed)
    return {**result, "collect_seconds": collected, "episodes": len(training)}


def gather(
    world: str, seed: int, settings: Settings
) -> tuple[ObsSpec, ActionSpec, list[Episode], list[Episode]]:
    """The world's spaces, training and held-out episodes under uniformly random actions."""
    maker, about = make_world(world)
    env = maker()
    try:
        specs = ObsSpec.of(env.observation_space), ActionSpec.of(env.action_space)
        training = collect(env, rows=settings.rows, seed=seed, risk=about.risk)
        held = collect(env, rows=settings.heldout_rows, seed=seed + _HELD_OUT, risk=about.risk)
    finally:
        env.close()
    return *specs, training, held

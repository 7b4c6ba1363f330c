"""The rows that `python -m benchmarks quality` trains and judges on, and the rules for all."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from bb_wm.config import WorldModelConfig
from bb_wm.data import collect
from bb_wm.diagnose.windows import SHORT_CONTEXT, plan_windows
from bb_wm.rssm import WorldModel
from bb_wm.types import ActionSpec, Episode, ObsSpec
from bb_wm.worlds.catalogue import make_world
from bb_wm.worlds.pixels import pixel_name
from benchmarks.results import Job
from benchmarks.training import Settings, train

HEADLINE = 10
NOISE = 0.05  # of a column's deviation, where columns are hidden
_HELD_OUT, _VALIDATION = 1_000_003, 2_000_003  # added to the seed: rows of no other seed


@dataclass(frozen=True, slots=True)
class Rules:
    """The same for every world and model."""

    updates: int = 3_000
    rows: int = 20_000
    heldout_rows: int = 5_000
    validation_rows: int = 2_000
    sequences: int = 16
    length: int = 32
    windows: int = 1_000
    context: int = 10
    horizons: tuple[int, ...] = (1, 5, 10, 15)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "horizons": list(self.horizons)}

    @property
    def plan(self) -> dict[str, Any]:
        """What `plan_windows` is asked for."""
        return {"context": self.context, "horizons": self.horizons}

    @property
    def training(self) -> Settings:
        """As `benchmarks.training.train` and `exact_worlds` want them."""
        return Settings(
            rows=self.rows,
            heldout_rows=self.heldout_rows,
            updates=self.updates,
            batch_size=self.sequences,
            length=self.length,
            windows=self.windows,
            context=self.context,
            horizons=self.horizons,
        )


@dataclass(frozen=True)
class Data:
    """A world's rows under uniformly random actions, in three independent parts."""

    obs_spec: ObsSpec
    action_spec: ActionSpec
    training: list[Episode]
    validation: list[Episode]
    held: list[Episode]


@functools.lru_cache(maxsize=1)
def gather(world: str, seed: int, rules: Rules) -> Data:
    """The rows of a world; with columns after an @, only these and noisy."""
    name, _, columns = (world, "", "") if pixel_name(world)[1] else world.partition("@")
    maker, about = make_world(name)
    env = maker()
    try:
        specs = ObsSpec.of(env.observation_space), ActionSpec.of(env.action_space)
        training, validation, held = (
            collect(env, rows=rows, seed=seed + shift, risk=about.risk)
            for rows, shift in (
                (rules.rows, 0),
                (rules.validation_rows, _VALIDATION),
                (rules.heldout_rows, _HELD_OUT),
            )
        )
    finally:
        env.close()
    if not columns:
        return Data(*specs, training, validation, held)
    keep = [int(column) for column in columns.split(",")]
    (entry,) = specs[0].entries
    std = np.concatenate([np.asarray(e.obs[entry.key]) for e in training]).std(axis=0)[keep]
    random = np.random.default_rng([seed, 7])
    parts = (
        hide(part, entry.key, keep, NOISE * std, random) for part in (training, validation, held)
    )
    return Data(ObsSpec.of(len(keep)), specs[1], *parts)


def train_ours(
    config: WorldModelConfig, job: Job, rules: Rules, data: Data
) -> tuple[WorldModel, dict[str, Any]]:
    """Our model of a job's world, and what training it took."""
    return train(
        config,
        data.obs_spec,
        data.action_spec,
        data.training,
        rules.training,
        seed=job.seed,
        label=job.label,
    )


def hide(
    episodes: Sequence[Episode],
    key: str,
    keep: Sequence[int],
    noise: np.ndarray,
    random: np.random.Generator,
) -> list[Episode]:
    """The episodes with only the columns `keep` of vector `key`, and normal noise on them."""
    name = ObsSpec.of(1).entries[0].key
    found = []
    for episode in episodes:
        x = np.asarray(episode.obs[key])[:, list(keep)]
        blurred = (x + noise * random.standard_normal(x.shape)).astype(np.float32)
        found.append(replace(episode, obs={name: blurred}))
    return found


def reaching(episodes: list[Episode], rules: Rules) -> list[Episode]:
    """The episodes to judge on: all, or only those that last 10 steps where most do not."""
    plan = plan_windows([len(e) for e in episodes], **rules.plan)
    if HEADLINE in plan.horizons:
        return episodes
    return [e for e in episodes if len(e) >= SHORT_CONTEXT + HEADLINE] or episodes

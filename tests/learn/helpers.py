"""A small real training: LineWorld, the real model with few units, runs of seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bb_wm import WorldModel, WorldModelConfig
from bb_wm.config import GRU, Gaussian
from bb_wm.learn import Run, Trainer, TrainSettings, WorldSource
from bb_wm.model.objective import Objective
from bb_wm.testing.worlds import LineWorld
from bb_wm.types import Episode

SETTINGS = TrainSettings(
    rows=300,
    heldout_rows=60,
    updates=13,
    batch_size=3,
    length=5,
    seed=3,
    log_every=4,
    evaluate_every=4,
    checkpoint_every=5,
    best_metric="score",
    probe=False,
)
CONFIG = WorldModelConfig(
    core=GRU(16),
    latent=Gaussian(4),
    objective=Objective(steps=2, starts=1),
    hidden=8,
    layers=1,
    head_hidden=8,
    features=8,
    warmup=3,
    seed=3,
    budget=None,
)


def line_world() -> LineWorld:
    return LineWorld(length=30)


def make_model(config: WorldModelConfig = CONFIG) -> WorldModel:
    world = line_world()
    return WorldModel(world.observation_space, world.action_space, config)


def judge(model: WorldModel, episodes: Sequence[Episode]) -> Mapping[str, float]:
    """A held-out number that really comes from the model: its reward error in the first rows."""
    total = 0.0
    for episode in episodes:
        latent = model.encode(episode.obs["obs"][:5])
        said = model.predict_reward(latent).detach().numpy()
        total += float(abs(said - episode.reward[:5]).mean())
    return {"score": total / len(episodes)}


def make_trainer(
    folder: Path,
    settings: TrainSettings = SETTINGS,
    *,
    model: WorldModel | None = None,
    evaluate: Callable[..., Mapping[str, float]] | None = judge,
    **options: Any,
) -> Trainer:
    """A trainer on a new run in `folder`, or on the one that is there."""
    model = make_model() if model is None else model
    if (folder / "run.json").exists():
        run = Run.open(folder)
    else:
        world = {"name": "Line"}
        run = Run.create(folder, world=world, config=model.describe(), settings=settings)
    source = options.pop("source", WorldSource(line_world, seed=settings.seed))
    return Trainer(run, model, source, settings, evaluate=evaluate, **options)

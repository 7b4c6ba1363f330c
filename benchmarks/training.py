"""The plain loop every measurement uses: rows -> sampler -> update, with lines that show life."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bb_wm.config import WorldModelConfig
from bb_wm.data import EpisodeStore, SequenceSampler
from bb_wm.model.cores import GRU, Transformer
from bb_wm.model.stochastic import Categorical, Gaussian
from bb_wm.rssm import WorldModel
from bb_wm.types import ActionSpec, Episode, ObsSpec
from benchmarks.results import say

PRESETS: dict[str, Callable[[int], WorldModelConfig]] = {
    "default": lambda seed: WorldModelConfig(seed=seed),
    "gru-categorical": lambda seed: WorldModelConfig(core=GRU(), latent=Categorical(), seed=seed),
    "transformer-gaussian": lambda seed: WorldModelConfig(
        core=Transformer(), latent=Gaussian(), seed=seed
    ),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """The same for every world and preset; nothing is tuned per world."""

    rows: int = 20_000
    heldout_rows: int = 6_000
    updates: int = 1_000
    batch_size: int = 16
    length: int = 32
    windows: int = 500
    context: int = 10
    horizons: tuple[int, ...] = (1, 5, 10, 15)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "horizons": list(self.horizons)}


class Progress:
    """A line every ten seconds: how far, at what loss, how much longer."""

    def __init__(self, label: str, total: int, every: float = 10.0) -> None:
        self._label, self._total, self._every = label, total, every
        self._began = self._told = time.perf_counter()

    def __call__(self, update: int, loss: float) -> None:
        now = time.perf_counter()
        if now - self._told < self._every and update < self._total:
            return
        self._told = now
        pace = update / max(now - self._began, 1e-9)
        left = (self._total - update) / pace
        say(
            f"  {self._label}: {update}/{self._total} updates, loss {loss:.3f}, "
            f"{pace:.1f}/s, {left:.0f} s left"
        )


def train(
    config: WorldModelConfig,
    obs_spec: ObsSpec,
    action_spec: ActionSpec,
    episodes: Sequence[Episode],
    settings: Settings,
    *,
    seed: int,
    label: str,
) -> tuple[WorldModel, dict[str, Any]]:
    """A trained model, and what training took and ended with."""
    model = WorldModel(obs_spec, action_spec, config)
    store = EpisodeStore(None, obs_spec, action_spec)
    store.append(episodes)
    sampler = SequenceSampler(
        store, batch_size=settings.batch_size, length=settings.length, seed=seed
    )
    progress = Progress(label, settings.updates)
    began, skipped = time.perf_counter(), 0.0
    last: list[dict[str, float]] = []
    for update in range(1, settings.updates + 1):
        loss, metrics = model.update(sampler.sample())
        skipped += metrics.get("skipped", 0.0)
        last = [*last[-49:], {"loss": loss, **metrics}]
        progress(update, loss)
    names = last[-1].keys() if last else ()
    means = {name: sum(m[name] for m in last) / len(last) for name in names}
    return model, {
        "train_seconds": time.perf_counter() - began,
        "skipped": skipped,
        "last_metrics": {name: value for name, value in means.items() if value == value},
        "parameters": count_parameters(model),
        "config": config.to_json(),
    }


def count_parameters(model: WorldModel) -> int:
    """Trainable numbers of the model."""
    return sum(parameter.numel() for parameter in model._training.parameters())

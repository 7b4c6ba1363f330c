"""Batches drawn from a store of 20,000 rows in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bb_wm.data import EpisodeStore, SequenceSampler
from bb_wm.types import ActionSpec, Episode, ObsSpec

OBS, ACTION = 24, 6


def _store(episodes: int, length: int) -> EpisodeStore:
    specs = ObsSpec.of(OBS), ActionSpec.of(ACTION)
    random = np.random.default_rng(0)
    store = EpisodeStore(None, *specs)
    action = random.uniform(-1, 1, (length, ACTION)).astype(np.float32)
    action[-1] = 0
    one = Episode(
        obs={"obs": random.standard_normal((length, OBS)).astype(np.float32)},
        action=action,
        reward=np.zeros(length, np.float32),
        safety=np.zeros(length, np.float32),
        terminated=True,
        truncated=False,
    )
    store.append([one] * episodes)
    return store


@pytest.mark.parametrize(("batch", "rows"), [(16, 32), (256, 16)], ids=["default", "wide"])
@pytest.mark.parametrize("length", [8, 200], ids=["short", "long"])
def bench_sample(benchmark: Any, batch: int, rows: int, length: int) -> None:
    """Short episodes are laid one after another in a sequence; long ones are cut."""
    sampler = SequenceSampler(_store(20_000 // length, length), batch_size=batch, length=rows)
    benchmark(sampler.sample)

"""Worlds whose episodes last two rows are judged too, on the one step there is."""

import numpy as np
import pytest

from bb_wm.config import GRU, Gaussian, WorldModelConfig
from bb_wm.diagnose import collect_traces, evaluate
from bb_wm.rssm import WorldModel
from bb_wm.types import Episode


def two_rows(count):
    draw = np.random.default_rng(0)
    for _ in range(count):
        seen = draw.normal(size=(2, 3)).astype(np.float32)
        action = np.array([[draw.uniform(-1, 1)], [0]], np.float32)
        reward = np.array([0, draw.normal()], np.float32)
        yield Episode({"obs": seen}, action, reward, np.zeros(2, np.float32), True, False)


@pytest.mark.parametrize("same", [False, True])
def test_two_rows_are_one_context_row_and_one_step(same):
    model = WorldModel(3, 1, WorldModelConfig(core=GRU(32), latent=Gaussian(32), hidden=16))
    episodes = list(two_rows(6))
    if same:  # contexts that do not differ teach nothing, but they can be judged
        for episode in episodes:
            episode.obs["obs"][0] = 1.0
    result = evaluate(model, episodes, training=episodes)
    assert (result.context, result.horizons, result.windows) == (1, (1,), 6)
    assert all(np.isfinite(path.nrmse[0]) for path in result.paths)
    assert "the median episode has 2 rows" in result.note
    assert len(collect_traces(model, episodes, windows=2)) == 2

"""The real WorldModel through evaluation, traces and page."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
import torch
from tests.diagnose.helpers import linear_episodes, make_episode

from bb_wm.config import WorldModelConfig
from bb_wm.diagnose import evaluate
from bb_wm.diagnose.traces import collect_traces
from bb_wm.model.cores import GRU, Transformer
from bb_wm.model.stochastic import Categorical, Gaussian
from bb_wm.rssm import WorldModel

SMALL = {"hidden": 16, "head_hidden": 8, "features": 8, "budget": None}
KINDS = [
    WorldModelConfig(core=GRU(16), latent=Gaussian(4), **SMALL),
    WorldModelConfig(core=GRU(16), latent=Categorical(4, 8), **SMALL),
    WorldModelConfig(core=Transformer(16), latent=Gaussian(4), **SMALL),
]


@pytest.mark.parametrize("config", KINDS)
def test_every_kind_of_model_is_scored_on_every_mode(config):
    model = WorldModel(2, 2, config)
    train, held = linear_episodes(6, 60, 0), linear_episodes(6, 60, 1)
    result = evaluate(model, held, training=train, modes=("mode", "shortcut", "sample"), windows=60)
    names = [path.name for path in result.paths]
    assert names == ["mode", "shortcut", "sample", "persistence", "ridge ARX(10)"]
    for path in result.paths[:3]:
        assert all(math.isfinite(value) and value > 0 for value in path.nrmse)
    assert result.kl >= 0.0
    assert math.isfinite(result.reconstruction)


def test_an_untrained_shortcut_leans_on_persistence():
    """Change and value begin at 0 and the gate at sigmoid(-2), so a step keeps the rest."""
    model = WorldModel(2, 2, KINDS[0])
    held = linear_episodes(6, 60, 1)
    latent = model.encode(np.asarray(held[0].obs["obs"][:1], np.float32))
    imagined = model.rollout(latent, torch.zeros(1, 4, 2), mode="shortcut")
    keep = 1 - 1 / (1 + math.exp(2.0))
    expected = torch.stack([latent.sight * keep**k for k in (1, 2, 3, 4)], dim=1)
    torch.testing.assert_close(model.imagined_obs(imagined)["obs"], expected)


def test_evaluating_changes_nothing_that_training_depends_on():
    model = WorldModel(2, 2, KINDS[0])
    before = {name: value.clone() for name, value in model.state_tensors().items()}
    held = linear_episodes(4, 40, 1)
    torch.manual_seed(0)
    stream = torch.get_rng_state()
    first = evaluate(model, held, modes=("mode", "shortcut", "sample"), windows=50)
    collect_traces(model, held)
    after = model.state_tensors()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(stream, torch.get_rng_state())
    again = evaluate(model, held, modes=("mode", "shortcut", "sample"), windows=50)
    assert [path.nrmse for path in first.paths] == [path.nrmse for path in again.paths]


def test_horizons_stay_within_what_the_model_allows():
    config = WorldModelConfig(core=GRU(16), latent=Gaussian(4), horizon=5, max_horizon=8, **SMALL)
    result = evaluate(WorldModel(2, 2, config), linear_episodes(4, 40, 1), windows=30)
    assert result.horizons == (1, 5)
    assert "horizon 10, 15 left out: it is beyond the model's max_horizon" in result.note


def mixed_episodes(count: int, seed: int):
    """Vectors, choices and pixels; the picture is a bar as high as the choice."""
    generator = np.random.default_rng(seed)
    episodes = []
    for _ in range(count):
        choice = (np.arange(20) + generator.integers(4)) % 4
        pixels = np.zeros((20, 8, 8, 1), np.uint8)
        for t, c in enumerate(choice):
            pixels[t, : 2 * c + 1] = 200
        obs = {
            "image": pixels,
            "pick": choice[:, None].astype(np.int64),
            "speed": generator.standard_normal((20, 2)).astype(np.float32),
        }
        action = generator.uniform(-1, 1, (20, 1))
        action[-1] = 0
        episodes.append(make_episode(obs, action))
    return episodes


def test_choices_and_pixels_are_scored_in_their_own_units():
    spaces = gymnasium.spaces.Dict(
        {
            "image": gymnasium.spaces.Box(0, 255, (8, 8, 1), np.uint8),
            "pick": gymnasium.spaces.Discrete(4),
            "speed": gymnasium.spaces.Box(-9, 9, (2,), np.float32),
        }
    )
    model = WorldModel(spaces, 1, KINDS[0])
    modes = ("mode", "shortcut", "sample")
    result = evaluate(
        model, mixed_episodes(6, 1), training=mixed_episodes(6, 0), modes=modes, windows=20
    )
    assert result.context == 3
    for name in modes:
        path = result.path(name)
        assert 0.0 <= path.exact["pick"][0] <= 1.0
        assert 0.0 < path.image["image"][0] < 1.0
    linear = result.path("ridge ARX(3)")
    assert linear.exact["pick"][9] == 1.0
    assert linear.image == {}
    # persistence of a counter modulo 4 is right every fourth step and its picture too
    held = result.path("persistence")
    assert [held.exact["pick"][k - 1] for k in (1, 2, 3, 4, 8)] == [0.0, 0.0, 0.0, 1.0, 1.0]
    assert held.image["image"][3] == 0.0
    assert "pixel error" in result.table()

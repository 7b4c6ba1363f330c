"""A fallback that looks: what the gate imagines of it is what it would do where the model expects
to be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.serve.test_gated_env import REST, PointHazardOracle, tiny_model

from bb_wm.errors import ConfigError
from bb_wm.imagine import Utility
from bb_wm.serve.fallback import Fallback, native_obs
from bb_wm.serve.model_evidence import ModelEvidence, unbounded_trust
from bb_wm.types import ObsSpec
from bb_wm.worlds.catalogue import make_world


def back(obs) -> np.ndarray:
    """Towards the middle, half as far."""
    return np.clip(-0.5 * np.asarray(obs)[:1], -1.0, 1.0)


@pytest.fixture(scope="module")
def line():
    env = make_world("LineWorld")[0]()
    return env, tiny_model(env)


def test_a_function_is_asked_about_the_rows_that_are_expected(line) -> None:
    env, model = line
    obs, _ = env.reset(seed=1)
    latent = model.encode(obs)
    first = torch.full((model.action_spec.size,), 0.3)
    found = Fallback(model, model.action_spec, back).after(latent, first, 4)
    assert torch.equal(found[0], first)
    for k in range(1, 4):  # by hand: what a rollout of what was done so far ends in
        latent = model.step(latent, found[k - 1])
        seen = next(iter(model.imagine_obs(latent).values())).detach().numpy()
        assert np.allclose(found[k], back(seen), atol=1e-6)
    assert len({tuple(row.tolist()) for row in found[1:]}) == 3  # it does look


def test_the_evidence_of_a_constant_function_is_that_of_the_constant(line) -> None:
    env, model = line
    told = []
    for fallback in (
        np.zeros(env.action_space.shape),
        lambda obs: np.zeros(env.action_space.shape),
    ):
        evidence = ModelEvidence(
            model, fallback, bound=unbounded_trust, utility=Utility(), horizon=4, samples=4
        )
        obs, _ = env.reset(seed=2)
        evidence.see(obs, None)
        proposed = np.full(model.action_spec.size, 0.2, np.float32)
        told.append(evidence.judge(proposed, observed_at=0.0, deadline=None).evidence)
    assert told[0] == told[1]


def test_falling_back_at_once_looks_at_the_real_row(line) -> None:
    env, model = line
    obs, _ = env.reset(seed=3)
    assert np.allclose(Fallback(model, model.action_spec, back).now(obs), back(obs))


def test_a_model_that_shows_nothing_is_asked_for_no_function() -> None:
    with pytest.raises(ConfigError, match="fallback"):
        ModelEvidence(PointHazardOracle(), lambda obs: REST, bound=unbounded_trust)


def test_nested_observations_come_back_as_they_were_shown() -> None:
    import gymnasium as gym

    box = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    space = gym.spaces.Dict({"arm": gym.spaces.Dict({"angle": box, "speed": box}), "eye": box})
    spec, shown = ObsSpec.of(space), space.sample()
    decoded = {key: torch.from_numpy(value) for key, value in spec.keyed(shown).items()}
    again = native_obs(spec, decoded)
    assert set(again) == {"arm", "eye"}
    assert np.array_equal(again["arm"]["speed"], shown["arm"]["speed"])

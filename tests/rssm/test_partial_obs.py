"""log_likelihood of some keys of an observation."""

import gymnasium
import numpy as np
import pytest
import torch

from bb_wm.errors import BatchError
from bb_wm.rssm import WorldModel


def test_the_likelihood_of_keys_adds_up_and_strangers_are_refused():
    space = gymnasium.spaces.Dict(
        {"a": gymnasium.spaces.Discrete(3), "b": gymnasium.spaces.Box(-1, 1, (2,), np.float32)}
    )
    model = WorldModel(space, 2)
    obs = {"a": np.array([1, 2]), "b": np.array([[0.1, 0.2], [0.3, -0.4]], np.float32)}
    latent = model.encode(obs)
    told = {"a": torch.tensor([[1], [2]]), "b": torch.tensor(obs["b"])}
    whole = model.log_likelihood(latent, told)
    parts = [model.log_likelihood(latent, {key: value}) for key, value in told.items()]
    assert torch.allclose(whole, parts[0] + parts[1], atol=1e-5)
    with pytest.raises(BatchError, match="some of"):
        model.log_likelihood(latent, {"c": told["a"]})
    with pytest.raises(BatchError, match="some of"):
        model.log_likelihood(latent, {})

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


def test_the_next_row_is_foretold_by_the_shortcut():
    """Probabilities of all answers add up to 1, per key and in one broadcast; what learns is this
    very number; a latent that was only imagined has no sight to start from."""
    space = gymnasium.spaces.Dict(
        {
            "a": gymnasium.spaces.Discrete(3),
            "b": gymnasium.spaces.Discrete(4),
            "c": gymnasium.spaces.Box(-1, 1, (2,), np.float32),
        }
    )
    model = WorldModel(space, 2)
    rng = np.random.default_rng(0)
    batch = {
        "obs": {
            "a": rng.integers(0, 3, (32, 8)),
            "b": rng.integers(0, 4, (32, 8)),
            "c": rng.standard_normal((32, 8, 2)).astype(np.float32),
        },
        "action": rng.uniform(-1, 1, (32, 8, 2)).astype(np.float32),
        "reward": np.zeros((32, 8), np.float32),
        "safety": np.zeros((32, 8), np.float32),
        "terminated": np.zeros((32, 8), bool),
    }
    for _ in range(5):
        model.update(batch)
    latent = model.encode({key: value[:, 0] for key, value in batch["obs"].items()})
    action = torch.from_numpy(batch["action"][:, 0])
    one = model.next_log_likelihood(latent, action, {"b": torch.arange(4).expand(1, 4)[:, :1]})
    answers = torch.arange(4)[None, :, None].expand(32, 4, 1)
    all_of_b = model.next_log_likelihood(latent.expand(1), action[:, None], {"b": answers})
    assert torch.allclose(all_of_b.exp().sum(-1), torch.ones(32), atol=1e-5)
    assert torch.allclose(all_of_b[:, 0], one, atol=1e-6)
    told = {key: torch.from_numpy(value[:, 1]) for key, value in batch["obs"].items()}
    told = {key: value[:, None] if value.dim() == 1 else value for key, value in told.items()}
    whole = model.next_log_likelihood(latent, action, told)
    parts = [model.next_log_likelihood(latent, action, {key: told[key]}) for key in told]
    assert torch.allclose(whole, sum(parts), atol=1e-5)
    with pytest.raises(BatchError, match=r"latent\.sight"):
        model.next_log_likelihood(model.step(latent, action), action, told)
    with pytest.raises(BatchError, match="some of"):
        model.next_log_likelihood(latent, action, {"strange": told["a"]})

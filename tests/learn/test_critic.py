"""The critic against sums done by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bb_wm.config import WorldModelConfig
from bb_wm.errors import ConfigError, DataError
from bb_wm.imagine import Utility
from bb_wm.learn.critic import Critic
from bb_wm.model.cores import GRU
from bb_wm.model.stochastic import Gaussian
from bb_wm.rssm import WorldModel
from bb_wm.types import Episode, Latent, Trajectory


def walk(rows: int, start: int, *, ended: bool) -> Episode:
    """Places start, start + 1, ...; every row but the first earns 1."""
    place = np.arange(start, start + rows, dtype=np.float32)
    reward = np.ones(rows, np.float32)
    reward[0] = 0.0
    return Episode(
        obs={"obs": np.stack([place / 10.0, np.ones(rows, np.float32)], axis=1)},
        action=np.zeros((rows, 1), np.float32),
        reward=reward,
        safety=np.zeros(rows, np.float32),
        terminated=ended,
        truncated=not ended,
    )


class Plain:
    """A model whose latent is the row itself: what is learnt is the critic's alone."""

    device = torch.device("cpu")

    def filter(self, batch) -> Latent:
        obs = batch.obs["obs"]
        return Latent(obs, obs[..., :0], obs.new_zeros(*obs.shape[:-1], 0, 0), obs[..., :0])


def at(place: float) -> Latent:
    row = torch.tensor([[place / 10.0, 1.0]])
    return Latent(row, row[:, :0], row.new_zeros(1, 0, 0), row[:, :0])


def test_what_is_left_until_the_end() -> None:
    """Ten places, then the end: from place p there are 9 - p rewards to come."""
    episodes = [walk(10 - start, start, ended=True) for start in range(9)]
    critic = Critic.fit(Plain(), episodes, discount=0.9, rounds=15, steps=150)  # type: ignore[arg-type]
    for place in (0, 4, 7):
        exact = (1 - 0.9 ** (9 - place)) / 0.1
        assert float(critic(at(place))) == pytest.approx(exact, abs=0.25)


def test_an_episode_that_was_cut_off_goes_on_and_one_that_ended_does_not() -> None:
    still = [walk(10, 0, ended=False) for _ in range(8)]
    for episode in still:
        episode.obs["obs"][:, 0] = 0.3
    forever = Critic.fit(Plain(), still, discount=0.8, rounds=15, steps=100)  # type: ignore[arg-type]
    assert float(forever(at(3))) == pytest.approx(1 / 0.2, abs=0.3)
    ended = [walk(2, 3, ended=True) for _ in range(8)]
    once = Critic.fit(Plain(), ended, discount=0.8, rounds=5, steps=100)  # type: ignore[arg-type]
    assert float(once(at(3))) == pytest.approx(1.0, abs=0.1)


def test_it_stands_behind_the_last_row_of_a_plan() -> None:
    """Utility adds discount ** horizon * reach * v(last row)."""
    critic = Critic.fit(  # type: ignore[arg-type]
        Plain(), [walk(6, 0, ended=True)] * 4, discount=0.9, rounds=3, steps=20
    )
    rows = torch.tensor([[[0.1, 1.0], [0.2, 1.0]]])[None]
    empty = rows[..., :0]
    latents = Latent(rows, empty, rows.new_zeros(1, 1, 2, 0, 0), empty)
    ones = torch.ones(1, 1, 2)
    trajectory = Trajectory(
        start=latents.map(lambda t: t[:, :, 0]),
        latents=latents,
        action=torch.zeros(1, 1, 2, 1),
        reward=ones,
        safety=0 * ones,
        continuation=0.5 * ones,
        discount=torch.tensor([[[1.0, 0.5]]]),
    )
    told = Utility(discount=0.9, terminal=critic)(trajectory).return_
    by_hand = 1 + 0.9 * 0.5 + 0.9**2 * 0.25 * float(critic(at(2)))
    assert float(told) == pytest.approx(by_hand, rel=1e-5)


def test_a_world_model_and_the_same_seed_the_same_bits() -> None:
    config = WorldModelConfig(
        core=GRU(24), latent=Gaussian(8), hidden=24, head_hidden=8, budget=None
    )
    model = WorldModel(2, 1, config)
    episodes = [walk(8, 0, ended=True), walk(5, 2, ended=False)]
    before = torch.random.get_rng_state()
    one, two = (Critic.fit(model, episodes, rounds=2, steps=5) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    latent = model.encode(np.array([[0.1, 1.0], [0.5, 1.0]], np.float32))
    assert one(latent).shape == (2,)
    assert torch.equal(one(latent), two(latent))
    assert not torch.equal(
        one(latent), Critic.fit(model, episodes, rounds=2, steps=5, seed=1)(latent)
    )


def test_bad_settings_are_refused() -> None:
    for change in ({"discount": 1.0}, {"mix": -0.1}, {"rounds": 0}, {"steps": 0}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            Critic.fit(Plain(), [walk(4, 0, ended=True)], **change)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="two rows"):
        Critic.fit(Plain(), [])  # type: ignore[arg-type]

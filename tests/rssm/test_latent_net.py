"""A user's own net over latents: what it computes, what learns through it, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bb_wm.config import Categorical, Gaussian, WorldModelConfig
from bb_wm.errors import ConfigError
from bb_wm.rssm import LatentNet, WorldModel
from bb_wm.types import Latent

FAMILIES = {"gaussian": Gaussian(8), "categorical": Categorical(4, 8)}


def small(family) -> WorldModel:
    return WorldModel(3, 2, WorldModelConfig(latent=family, hidden=16, head_hidden=16, budget=None))


def starts(model: WorldModel, count: int) -> Latent:
    rows = np.random.default_rng(0).standard_normal((count, 3)).astype(np.float32)
    return model.encode(rows)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_it_is_a_perceptron_over_h_and_z(family):
    model = small(family)
    net = LatentNet(model, 2, hidden=16, layers=2)
    latent = starts(model, 100)  # enough that one-hots are looked up
    first, second = net.net.hidden
    x = F.silu(F.linear(torch.cat([latent.h, latent.z], -1), first.weight, first.bias))
    by_hand = net.net.output(F.silu(second(x)))
    torch.testing.assert_close(net(latent), by_hand, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_policy_learns_through_imagination(family):
    model = small(family)
    torch.manual_seed(0)
    net = LatentNet(model, 2, hidden=16, layers=1)
    wanted = 0.5
    optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
    start = starts(model, 70)

    def play() -> torch.Tensor:
        path = model.rollout(start, lambda latent: torch.tanh(net(latent)), 3)
        return (path.action - wanted).square().mean() + path.latents.h.square().mean()

    before = play().item()
    for _ in range(40):
        loss = play()
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in net.parameters())
        optimiser.step()
    assert play().item() < 0.5 * before


@pytest.mark.parametrize("name", ["outputs", "hidden", "layers"])
def test_sizes_are_checked(name):
    sizes = {"outputs": 1, "hidden": 4, "layers": 1, name: 0}
    with pytest.raises(ConfigError, match=name):
        LatentNet(small(Gaussian(8)), **sizes)

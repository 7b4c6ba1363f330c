"""The contract checks pass on our own parts and catch parts that break a promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.model.builders import PAIRS, small_config

from bb_wm.model.cores import GRU, GRUModule, Transformer
from bb_wm.model.stochastic import Categorical, Gaussian
from bb_wm.rssm import WorldModel
from bb_wm.testing.contracts import check_core, check_dynamics, check_stochastic
from bb_wm.types import Latent


@pytest.mark.parametrize("family", [Gaussian(), Categorical(), Gaussian(3), Categorical(2, 5)])
def test_our_families_keep_the_contract(family: Gaussian | Categorical) -> None:
    check_stochastic(family)


@pytest.mark.parametrize(
    "core", [GRU(16), Transformer(16, heads=2, window=4), GRU(), Transformer()]
)
def test_our_cores_keep_the_contract(core: GRU | Transformer) -> None:
    check_core(core)


def test_our_model_and_its_shortcut_keep_the_contract() -> None:
    model = WorldModel(3, 2, small_config(*PAIRS[0]))
    latent = model.encode(np.zeros((5, 3), np.float32))
    check_dynamics(model, latent)
    check_dynamics(model.shortcut, latent)


class Careless(Gaussian):
    """A mean over the batch slipped in."""

    __slots__ = ()

    def sample(self, params: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return super().sample(params, noise) - super().sample(params, noise).mean(0)


class Mute(Categorical):
    """A one-hot without its gradient."""

    __slots__ = ()

    def sample(self, params: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return super().sample(params, noise).detach() + 0.0 * params.sum()


class Backwards(Gaussian):
    """KL with its sign lost."""

    __slots__ = ()

    def kl_per_variable(self, q: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        return -super().kl_per_variable(q, p)


@pytest.mark.parametrize(
    ("family", "promise"),
    [(Careless(4), "independent"), (Mute(2, 3), "gradient"), (Backwards(4), "negative")],
)
def test_a_broken_family_is_caught(family: Gaussian | Categorical, promise: str) -> None:
    with pytest.raises(AssertionError, match=promise):
        check_stochastic(family)


class Deaf(GRU):
    """A core that ignores its action."""

    __slots__ = ()

    def build(self, z_size: int, action_size: int) -> GRUModule:
        module = GRUModule(self, z_size, action_size)
        torch.nn.init.zeros_(module.from_action.weight)
        return module


class Biased(GRU):
    """A projection that says something when nothing was done."""

    __slots__ = ()

    def build(self, z_size: int, action_size: int) -> GRUModule:
        module = GRUModule(self, z_size, action_size)
        module.from_action = torch.nn.Linear(action_size, self.size)
        return module


@pytest.mark.parametrize(("core", "promise"), [(Deaf(16), "action"), (Biased(16), "no action")])
def test_a_broken_core_is_caught(core: GRU, promise: str) -> None:
    with pytest.raises(AssertionError, match=promise):
        check_core(core)


def test_a_model_with_negative_risk_or_hidden_chance_is_caught() -> None:
    model = WorldModel(3, 2, small_config(*PAIRS[0]))
    latent = model.encode(np.zeros((5, 3), np.float32))

    class Optimist(WorldModel):
        def predict_safety(self, latent: Latent) -> torch.Tensor:
            return super().predict_safety(latent) - 1.0

    class Gambler(WorldModel):
        def step(
            self, latent: Latent, action: torch.Tensor, noise: torch.Tensor | None = None
        ) -> Latent:
            return super().step(latent, action, torch.randn_like(latent.z))

    for kind, promise in ((Optimist, "risk"), (Gambler, "chance")):
        with pytest.raises(AssertionError, match=promise):
            check_dynamics(kind(3, 2, small_config(*PAIRS[0])), latent)

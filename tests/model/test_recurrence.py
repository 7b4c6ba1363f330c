"""The hand-written time loops against autograd: the same values, the same gradients."""

from __future__ import annotations

import pytest
import torch
from gymnasium import spaces
from tests.model.builders import FAMILIES, small_config, small_network

from bb_wm.model import lookup
from bb_wm.model.cores import GRU, GRUModule
from bb_wm.model.dynamics import RSSM
from bb_wm.model.nets import RMSNorm, tanh
from bb_wm.model.recurrence import FilterLoop, PosteriorTape
from bb_wm.model.stochastic import Categorical, Gaussian, Stochastic
from bb_wm.model.tape import walk
from bb_wm.rssm.build import build_network
from bb_wm.types import ActionSpec, Latent, ObsSpec

DICT = spaces.Dict(
    {
        "a": spaces.Discrete(3),
        "b": spaces.MultiDiscrete([4, 2]),
        "c": spaces.Box(-1.0, 1.0, (2,)),
        "d": spaces.Discrete(5),
    }
)
every_family = pytest.mark.parametrize("family", FAMILIES, ids=["gaussian", "categorical"])


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def rssm_of(family: Stochastic, *, mixed: bool) -> RSSM:
    if not mixed:
        return small_network(GRU(16), family, double=True).rssm
    network = build_network(ObsSpec.of(DICT), ActionSpec.of(2), small_config(GRU(16), family))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network.double().rssm


def both_ways(
    rssm: RSSM, monkeypatch: pytest.MonkeyPatch, run: object, leaves: list[torch.Tensor]
) -> None:
    """The tape's outputs and gradients, of leaves and parameters, are autograd's."""
    names = [name for name, _ in rssm.named_parameters()]
    found = []
    for by_hand in (True, False):
        if not by_hand:
            monkeypatch.setattr(GRUModule, "tape", lambda self: None)
        outputs = run()  # type: ignore[operator]
        slopes = [normal(*out.shape, seed=i) for i, out in enumerate(outputs)]
        wanted = [*leaves, *rssm.parameters()]
        found.append((outputs, torch.autograd.grad(outputs, wanted, slopes, allow_unused=True)))
    for mine, theirs in zip(found[0][0], found[1][0], strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-12)
    for name, mine, theirs in zip(
        [*map(str, leaves), *names], found[0][1], found[1][1], strict=True
    ):
        # What a one-row loop does not reach has no gradient by autograd, a zero one by hand.
        some = [g for g in (mine, theirs) if g is not None]
        zero = torch.zeros_like(some[0]) if some else torch.zeros(())
        pair = [zero if g is None else g for g in (mine, theirs)]
        torch.testing.assert_close(*pair, atol=1e-10, rtol=1e-10, msg=name)


@every_family
@pytest.mark.parametrize("noisy", [True, False], ids=["sample", "mode"])
@pytest.mark.parametrize("many", [1, 64], ids=["looked up", "multiplied"])
def test_the_filter(
    family: Stochastic, noisy: bool, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "_MANY", many)  # after a reset z is no one-hot even so
    rssm = rssm_of(family, mixed=False)
    sight, action = normal(3, 7, 3).requires_grad_(), normal(3, 7, 2).requires_grad_()
    first = torch.zeros(3, 7, dtype=torch.bool)
    first[:, 0] = first[1, 3] = first[2, 5] = True
    noise = normal(3, 7, family.noise_size) if noisy else None

    def run() -> tuple[torch.Tensor, ...]:
        found = rssm.filter(sight, action, first, noise)
        return found.h, found.z, found.posterior, found.prior

    both_ways(rssm, monkeypatch, run, [sight, action])


def start_of(rssm: RSSM, family: Stochastic) -> Latent:
    h, z = normal(3, 2, 16), normal(3, 2, family.size)
    latent = Latent(h, z, h.new_zeros(3, 2, 0, 0), normal(3, 2, rssm.encoder.linear.in_features))
    return latent.map(lambda t: t.requires_grad_())


@every_family
@pytest.mark.parametrize("mixed", [False, True], ids=["vector", "mixed keys"])
@pytest.mark.parametrize("steps", [1, 4])
def test_the_open_loops(
    family: Stochastic, mixed: bool, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rssm = rssm_of(family, mixed=mixed)
    rssm.memory_share.value.uniform_(generator=torch.Generator().manual_seed(0))
    start, action = start_of(rssm, family), normal(3, 2, steps, 2).requires_grad_()

    def run() -> tuple[torch.Tensor, ...]:
        return (*rssm.open_loop(start, action), *rssm.shortcut_loop(start, action))

    both_ways(rssm, monkeypatch, run, [start.h, start.z, start.sight, action])


def test_the_filters_gradient_is_the_slope_itself() -> None:
    """By finite differences. A categorical's straight-through gradient is no slope; it is held
    to autograd's above."""
    rssm, family = rssm_of(Gaussian(4), mixed=False), Gaussian(4)
    module = rssm.core
    shapes = [(3, 2, 16), (3, 2, 16), (3, 2, family.param_size), (2, 16), (2, 4)]
    inputs = tuple(normal(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes))
    noise = normal(2, 3, 4, seed=9).unbind(1)
    keep = [None, torch.tensor([[1.0], [0.0]], dtype=torch.float64), None]

    def run(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        tape = module.tape()
        assert tape is not None
        posterior = PosteriorTape(rssm.h_to_posterior, rssm.posterior_output)
        return walk(FilterLoop(tape, posterior, family, noise, keep), *tensors)

    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("family", [Gaussian(3), Categorical(2, 5), Categorical(2, 4, uniform=0.0)])
@pytest.mark.parametrize("noisy", [True, False], ids=["sample", "mode"])
def test_a_draw_is_the_sample_or_mode_and_pulls_as_autograd(
    family: Stochastic, noisy: bool
) -> None:
    params = normal(6, family.param_size).requires_grad_()
    noise = normal(6, family.noise_size, seed=1) if noisy else None
    plain = family.mode(params) if noise is None else family.sample(params, noise)
    slope, later, added = (
        normal(6, n, seed=2) for n in (family.size, family.size, params.shape[1])
    )
    (expected,) = torch.autograd.grad(plain, params, slope + later)
    for draw in (family.draw, lambda p, n: Stochastic.draw(family, p, n)):
        z, pull = draw(params.detach(), noise)
        torch.testing.assert_close(z, plain.detach())
        torch.testing.assert_close(pull(slope, later, added), expected + added)


def test_the_fast_forms_are_torchs_own() -> None:
    x = 3.0 * normal(200, 64)
    torch.testing.assert_close(tanh(x), torch.tanh(x), atol=1e-14, rtol=1e-12)
    mine, theirs = RMSNorm(64, eps=1e-3).double(), torch.nn.RMSNorm(64, eps=1e-3).double()
    torch.testing.assert_close(mine(x), theirs(x), atol=1e-12, rtol=1e-12)

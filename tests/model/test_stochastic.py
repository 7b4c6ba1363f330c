"""Families of z against torch.distributions and against theory."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, Normal, kl_divergence

from bb_wm.errors import ConfigError
from bb_wm.model.stochastic import Categorical, Gaussian

FAMILIES = [Gaussian(5), Categorical(3, 7), Categorical(2, 4, uniform=0.0)]


def draw_params(family: Gaussian | Categorical, seed: int, rows: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.randn(rows, family.param_size, generator=generator)


def as_torch(
    family: Gaussian | Categorical, params: torch.Tensor
) -> torch.distributions.Distribution:
    if isinstance(family, Gaussian):
        mean, std = family.moments(params)
        return Independent(Normal(mean, std), 1)
    probs = torch.softmax(params.reshape(-1, family.groups, family.classes), -1)
    probs = (1 - family.uniform) * probs + family.uniform / family.classes
    return Independent(TorchCategorical(probs=probs), 1)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_kl_and_entropy_are_torchs(family: Gaussian | Categorical) -> None:
    q, p = draw_params(family, 1).double(), draw_params(family, 2).double()
    expected = kl_divergence(as_torch(family, q), as_torch(family, p))
    torch.testing.assert_close(family.kl(q, p), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(family.entropy(q), as_torch(family, q).entropy())


@pytest.mark.parametrize("family", FAMILIES, ids=str)
@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.0, 8.0))
def test_kl_is_never_negative_and_zero_only_at_equality(
    family: Gaussian | Categorical, seed: int, scale: float
) -> None:
    q = scale * draw_params(family, seed).double()
    p = scale * draw_params(family, seed + 1).double()
    assert bool((family.kl_per_variable(q, p) >= -1e-12).all())
    torch.testing.assert_close(
        family.kl(q, q), torch.zeros(4, dtype=torch.float64), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_samples_follow_the_distribution(family: Gaussian | Categorical) -> None:
    params = draw_params(family, 3, rows=1)
    noise = torch.randn(40_000, family.noise_size, generator=torch.Generator().manual_seed(0))
    z = family.sample(params.expand(40_000, -1), noise)
    if isinstance(family, Gaussian):
        mean, std = family.moments(params)
        assert bool(((z.mean(0) - mean[0]).abs() < 5 * std[0] / 200).all())
        torch.testing.assert_close(z.std(0), std[0], rtol=0.03, atol=0)
    else:
        probs = as_torch(family, params).base_dist.probs[0]  # type: ignore[attr-defined]
        torch.testing.assert_close(z.mean(0), probs.flatten(), rtol=0, atol=0.012)


@pytest.mark.parametrize("family", FAMILIES[1:], ids=str)
def test_categorical_gradients_pass_straight_through(family: Categorical) -> None:
    """d(sample)/d(params) is the softmax's own gradient, whatever class was drawn."""
    params = draw_params(family, 4).requires_grad_()
    weight = torch.randn(family.size, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(4, family.noise_size, generator=torch.Generator().manual_seed(2))
    z = family.sample(params, noise)
    values = z.detach().reshape(4, family.groups, family.classes)
    torch.testing.assert_close(values.sum(-1), torch.ones(4, family.groups))
    torch.testing.assert_close(values.amax(-1), torch.ones(4, family.groups))
    (gradient,) = torch.autograd.grad((z * weight).sum(), params)
    soft = family.log_probs(params).exp().flatten(1)
    (expected,) = torch.autograd.grad((soft * weight).sum(), params)
    torch.testing.assert_close(gradient, expected)


def test_mode_is_the_most_probable_value() -> None:
    gaussian, categorical = Gaussian(2), Categorical(2, 3)
    torch.testing.assert_close(
        gaussian.mode(torch.tensor([1.0, -2.0, 0.3, 0.1])), torch.tensor([1.0, -2.0])
    )
    params = torch.tensor([0.0, 3.0, 1.0, 2.0, -1.0, 0.0])
    torch.testing.assert_close(
        categorical.mode(params), torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: Gaussian(0),
        lambda: Gaussian(-3),
        lambda: Gaussian(True),
        lambda: Gaussian(2.0),  # type: ignore[arg-type]
        lambda: Gaussian(4, min_std=0.0),
        lambda: Categorical(4, 1),
        lambda: Categorical(0, 4),
        lambda: Categorical(4, 4, uniform=1.0),
        lambda: Categorical(4, 4, uniform=float("nan")),
    ],
)
def test_bad_sizes_are_refused(make: object) -> None:
    with pytest.raises(ConfigError) as caught:
        make()  # type: ignore[operator]
    assert caught.value.field.startswith("latent.")


@pytest.mark.parametrize("known", [Gaussian(3), Categorical(3, 4)])
def test_a_subclass_that_samples_otherwise_is_drawn_otherwise(known: Stochastic) -> None:
    """The loops of training draw by a shortcut of their own; it must not outlive the law."""

    class Halved(type(known)):  # type: ignore[misc]
        __slots__ = ()

        def sample(self, params: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            return 0.5 * type(known).sample(self, params, noise)

        def mode(self, params: torch.Tensor) -> torch.Tensor:
            return 0.5 * type(known).mode(self, params)

    halved = Halved()
    params = torch.randn(5, halved.param_size, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(5, halved.noise_size, generator=torch.Generator().manual_seed(1))
    for chance in (noise, None):
        z, pull = halved.draw(params, chance)
        wanted = halved.mode(params) if chance is None else halved.sample(params, chance)
        torch.testing.assert_close(z, wanted)
        plain, by_plain = type(known)().draw(params, chance)
        slope, none = torch.ones_like(z), torch.zeros_like(params)
        torch.testing.assert_close(pull(slope, slope, none), 0.5 * by_plain(slope, slope, none))
        torch.testing.assert_close(z, 0.5 * plain)

    class Mute(type(known)):  # type: ignore[misc]
        __slots__ = ()

        def mode(self, params: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*params.shape[:-1], self.size)

    z, pull = Mute().draw(params, None)
    assert not z.any()
    assert not pull(torch.ones_like(z), torch.ones_like(z), torch.zeros_like(params)).any()


@pytest.mark.parametrize("family", [Gaussian(32), Categorical(4, 8)], ids=["gaussian", "classes"])
def test_moments_are_those_of_samples(family: Gaussian | Categorical) -> None:
    generator = torch.Generator().manual_seed(0)
    params = torch.randn(3, family.param_size, generator=generator)
    mean, deviation = family.moments(params)
    noise = torch.randn(20_000, 1, family.noise_size, generator=generator)
    z = family.sample(params.expand(20_000, -1, -1), noise.expand(-1, 3, -1))
    torch.testing.assert_close(z.mean(0), mean, atol=0.05, rtol=0.0)
    torch.testing.assert_close(z.std(0), deviation, atol=0.05, rtol=0.0)

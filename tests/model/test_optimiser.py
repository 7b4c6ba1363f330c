"""One step against torch's own AdamW and SOAP by itself, and what a refused step leaves behind."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.model.builders import PAIRS, small_network

from bb_wm.model.optimiser import Optimiser, OptimiserSettings, Rate
from bb_wm.model.soap import Soap


def settings(clip: float = 0.0, average: float = 0.9) -> OptimiserSettings:
    return OptimiserSettings(
        Rate(1e-2, warmup=4, anneal=4),
        guess=Rate(2e-2, warmup=4, anneal=2, power=1.0),
        weight_decay=0.1,
        clip=clip,
        average=average,
    )


def loss_of(network: torch.nn.Module, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(())
    for parameter in network.parameters():
        target = torch.randn(parameter.shape, generator=generator)
        total = total + (parameter - target).square().sum()
    return total


RATES = (0.0025, 0.005, 0.0075, 0.01, 0.01 * (4 / 5) ** 0.5, 0.01 * (4 / 6) ** 0.5)
GUESS_RATES = (
    0.005,
    0.01,
    *(0.02 * up * (2 / n) for up, n in ((0.75, 3), (1, 4), (1, 5), (1, 6))),
)


def test_steps_are_torchs_adamw_and_soap_with_warm_up_and_annealing() -> None:
    mine, theirs = small_network(*PAIRS[0]), small_network(*PAIRS[0])
    optimiser = Optimiser(mine, settings())
    guesses = dict(theirs.rssm.markov.named_parameters())
    alone = {id(guess) for guess in guesses.values()}
    others = [p for p in theirs.parameters() if id(p) not in alone]
    assert guesses
    adamw = torch.optim.AdamW(others, weight_decay=0.1, fused=True)
    moments = [[torch.zeros_like(p) for p in guesses.values()] for _ in range(2)]
    soap = Soap(guesses, *moments)
    for step, (rate, guess_rate) in enumerate(zip(RATES, GUESS_RATES, strict=True)):
        applied, norm = optimiser.step(loss_of(mine, step))
        assert applied
        adamw.param_groups[0]["lr"] = rate
        theirs.zero_grad()
        loss = loss_of(theirs, step)
        found = torch.autograd.grad(loss, list(guesses.values()), retain_graph=True)
        loss.backward()
        gradients = torch.cat([p.grad.flatten() for p in theirs.parameters()])  # type: ignore[union-attr]
        assert norm == pytest.approx(float(gradients.norm()), rel=1e-5)
        adamw.step()
        soap.step(dict(enumerate(found)), step + 1, rate=guess_rate, weight_decay=0.1)
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_state_put_back_goes_on_bit_for_bit() -> None:
    whole, part = (small_network(*PAIRS[0]) for _ in range(2))
    mine, theirs = Optimiser(whole, settings()), Optimiser(part, settings())
    for step in range(5):
        mine.step(loss_of(whole, step))
    theirs.load_state({name: tensor.clone() for name, tensor in mine.state().items()})
    for step in range(5, 12):
        mine.step(loss_of(whole, step))
        theirs.step(loss_of(part, step))
    after = theirs.state()
    assert all(torch.equal(tensor, after[name]) for name, tensor in mine.state().items())
    assert any(name.startswith("optimiser/basis/") for name in after)


def test_without_annealing_the_rate_stays() -> None:
    constant = Rate(1e-2, warmup=4, anneal=0)
    assert constant.at(1) == 0.0025
    assert constant.at(10**6) == 1e-2


def test_the_rate_falls_with_the_power_it_was_given() -> None:
    assert Rate(1e-2, warmup=4, anneal=100).at(400) == 0.005
    assert Rate(1e-2, warmup=4, anneal=100, power=1.0).at(400) == 0.0025


def test_the_average_is_the_documented_one() -> None:
    network = small_network(*PAIRS[0])
    optimiser = Optimiser(network, settings(average=0.5))
    expected = copy.deepcopy(list(network.parameters()))
    for step in range(1, 15):
        optimiser.step(loss_of(network, step))
        decay = min(0.5, step / (step + 10))
        for mean, parameter in zip(expected, network.parameters(), strict=True):
            mean.data.lerp_(parameter.data, 1 - decay)
    for mean, average in zip(expected, optimiser.averages, strict=True):
        torch.testing.assert_close(mean.data, average)


def test_clipping_bounds_each_tensor_by_its_own_size() -> None:
    network = small_network(*PAIRS[0])
    optimiser = Optimiser(network, settings(clip=0.3))
    before = [p.detach().clone() for p in network.parameters()]
    seen: list[torch.Tensor] = []
    real = optimiser._adamw

    def spy(which: list[int], gradients: dict[int, torch.Tensor]) -> None:
        seen.extend(g.norm() / before[i].norm().clamp_min(1e-3) for i, g in gradients.items())
        real(which, gradients)

    optimiser._adamw = spy  # type: ignore[method-assign]
    optimiser.step(1e4 * loss_of(network, 0))
    assert all(float(share) <= 0.3 * 1.001 for share in seen)
    assert any(float(share) > 0.29 for share in seen)
    assert len(seen) == len(before)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_broken_loss_or_gradient_changes_nothing(poison: float) -> None:
    network = small_network(*PAIRS[0])
    optimiser = Optimiser(network, settings())
    optimiser.step(loss_of(network, 0))
    before = {name: tensor.clone() for name, tensor in optimiser.state().items()}
    applied, _ = optimiser.step(loss_of(network, 1) * poison)
    assert not applied
    # Finite forward, broken backward: the slope of sqrt at 0 is infinite.
    first = next(network.parameters())
    applied, norm = optimiser.step(loss_of(network, 1) + torch.sqrt((first * 0.0).sum()))
    assert not applied
    assert not norm < float("inf")
    after = optimiser.state()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_gradient_that_is_let_through_overflows_no_moment() -> None:
    network = small_network(*PAIRS[0])
    optimiser = Optimiser(network, settings())
    for size in (1e15, 1e16, 1e17, 1e18):
        optimiser.step(size * loss_of(network, 0))
    state = optimiser.state()
    assert int(state["optimiser/steps"]) > 0
    assert all(bool(torch.isfinite(t).all()) for n, t in state.items() if n.startswith("opt"))
    assert all(bool(torch.isfinite(p).all()) for p in network.parameters())


def test_averages_share_the_statistics_they_were_trained_with() -> None:
    network = small_network(*PAIRS[0])
    optimiser = Optimiser(network, settings())
    network.reward.statistics.update(torch.randn(10, 1) + 5.0)
    for mine, theirs in zip(network.buffers(), optimiser.averaged.buffers(), strict=True):
        assert mine is theirs

"""SOAP against a twin in numpy, against torch's Adam where there are no bases, and in theory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bb_wm.model import soap
from bb_wm.model.soap import Soap

RATE, DECAY = 0.02, 0.1


def soap_of(*parameters: torch.Tensor) -> Soap:
    moments = [[torch.zeros_like(p) for p in parameters] for _ in range(2)]
    return Soap({str(i): p for i, p in enumerate(parameters)}, *moments)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Twin:
    """One matrix in float64, written from the paper's algorithm 3 with `numpy` alone."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.w = weight.double().numpy().copy()
        rows, columns = self.w.shape
        self.left, self.right = np.zeros((rows, rows)), np.zeros((columns, columns))
        self.ql, self.qr = np.eye(rows), np.eye(columns)
        self.m, self.v = np.zeros_like(self.w), np.zeros_like(self.w)

    def step(self, gradient: torch.Tensor, t: int) -> None:
        g = gradient.double().numpy()
        new = max(0.05, 1 / t)
        self.left = (1 - new) * self.left + new * g @ g.T
        self.right = (1 - new) * self.right + new * g.T @ g
        if t in (1, 2, 4, 8) or t % 10 == 0:
            order = np.argsort(-np.diag(self.ql.T @ self.left @ self.ql), kind="stable")
            self.ql, self.v = np.linalg.qr(self.left @ self.ql[:, order])[0], self.v[order]
            order = np.argsort(-np.diag(self.qr.T @ self.right @ self.qr), kind="stable")
            self.qr, self.v = np.linalg.qr(self.right @ self.qr[:, order])[0], self.v[:, order]
        self.m = 0.95 * self.m + 0.05 * g
        self.v = 0.95 * self.v + 0.05 * (self.ql.T @ g @ self.qr) ** 2
        unbiased = 1 - 0.95**t
        size = np.sqrt(self.v / unbiased)
        step = (self.ql.T @ self.m @ self.qr / unbiased) / (size + 1e-5 * size.max() + 1e-8)
        self.w = self.w * (1 - RATE * DECAY) - RATE * self.ql @ step @ self.qr.T


def test_steps_are_those_of_a_twin_in_numpy() -> None:
    # Square: a basis that the first gradients leave free could be completed in other ways.
    weight = normal(4, 4, seed=0).double()
    mine, twin = soap_of(weight), Twin(weight)
    for t in range(1, 26):
        gradient = normal(4, 4, seed=t).double() * torch.tensor([1.0, 5.0, 0.2, 2.0])
        mine.step({0: gradient}, t, rate=RATE, weight_decay=DECAY)
        twin.step(gradient, t)
    np.testing.assert_allclose(weight.numpy(), twin.w, rtol=1e-6, atol=1e-9)


def test_without_bases_it_is_adam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soap, "_WIDEST", 3)
    monkeypatch.setattr(soap, "_ROUNDING", 0.0)
    mine = [normal(5, 4, seed=0), normal(4, seed=1)]
    theirs = [torch.nn.Parameter(p.clone()) for p in mine]
    stepped = soap_of(*mine)
    assert stepped.state() == {}
    adam = torch.optim.AdamW(theirs, lr=RATE, betas=(0.95, 0.95), weight_decay=DECAY)
    for t in range(1, 31):
        gradients = [normal(*p.shape, seed=10 * t + i) for i, p in enumerate(mine)]
        stepped.step(dict(enumerate(gradients)), t, rate=RATE, weight_decay=DECAY)
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient
        adam.step()
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-5, atol=1e-6)


def test_the_first_step_by_hand() -> None:
    """A gradient u s v^T of rank one is one number in its bases; that number steps by the rate."""
    u, v = torch.tensor([0.6, 0.8]), torch.tensor([0.0, 0.8, -0.6])
    weight = torch.zeros(2, 3)
    soap_of(weight).step({0: 7.0 * torch.outer(u, v)}, 1, rate=RATE, weight_decay=0.0)
    torch.testing.assert_close(weight, -RATE * torch.outer(u, v), rtol=0.0, atol=0.02 * RATE)


def test_rounding_where_a_basis_is_free_moves_nothing() -> None:
    """An input that never varies has a gradient of 0 and no direction of its own."""
    weight = torch.zeros(8, 6)
    stepped = soap_of(weight)
    for t in range(1, 101):
        gradient = normal(8, 6, seed=t)
        gradient[:, 2] = 0.0
        stepped.step({0: gradient}, t, rate=RATE, weight_decay=0.0)
    assert float(weight[:, 2].abs().max()) < 0.02 * float(weight.abs().max())


def test_bases_become_the_singular_vectors_of_a_gradient_that_stays() -> None:
    left, right = (torch.linalg.qr(normal(n, n, seed=n).double())[0] for n in (4, 6))
    gradient = left @ torch.diag(torch.tensor([8.0, 4.0, 2.0, 1.0]).double()) @ right[:, :4].T
    stepped = soap_of(torch.zeros(4, 6, dtype=torch.float64))
    for t in range(1, 201):
        stepped.step({0: gradient}, t, rate=RATE, weight_decay=0.0)
    bases = stepped.state()
    for found, real in ((bases["basis/0/0"], left), (bases["basis/1/0"][:, :4], right[:, :4])):
        torch.testing.assert_close((found.T @ real).abs(), torch.eye(4).double())


def test_what_has_no_gradient_stays_and_what_has_none_of_it_only_decays() -> None:
    first, second = normal(4, 3, seed=0), normal(4, 3, seed=1)
    before = first.clone(), second.clone()
    stepped = soap_of(first, second)
    for t in range(1, 12):
        stepped.step({1: torch.zeros(4, 3)}, t, rate=RATE, weight_decay=DECAY)
    assert torch.equal(first, before[0])
    torch.testing.assert_close(second, before[1] * (1.0 - RATE * DECAY) ** 11)


def test_a_state_put_back_goes_on_bit_for_bit() -> None:
    weight = normal(4, 3, seed=0)
    whole = soap_of(weight)
    for t in range(1, 8):
        whole.step({0: normal(4, 3, seed=t)}, t, rate=RATE, weight_decay=DECAY)
    again = weight.clone()
    resumed = soap_of(again)
    resumed.first[0].copy_(whole.first[0])
    resumed.second[0].copy_(whole.second[0])
    for name, tensor in resumed.state().items():
        tensor.copy_(whole.state()[name])
    for t in range(8, 25):
        for one in (whole, resumed):
            one.step({0: normal(4, 3, seed=t)}, t, rate=RATE, weight_decay=DECAY)
    assert torch.equal(weight, again)

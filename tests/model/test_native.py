"""The C++ between products against torch's operations: every function, whole updates, rollouts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.model.builders import small_batch
from torch.nn import functional as F

import bb_wm
from bb_wm.config import GRU, Categorical, Gaussian, Objective, WorldModelConfig
from bb_wm.errors import ConfigError
from bb_wm.model import native
from bb_wm.model.choices import mixed_kl
from bb_wm.model.cores import GRUModule, GRUTape, NativeGRUTape
from bb_wm.model.lookup import index_of_hots
from bb_wm.model.nets import MLP
from bb_wm.model.objective import Noise, evaluate_terms
from bb_wm.model.stochastic import Stochastic
from bb_wm.rssm import LatentNet, WorldModel

CLASSES = Categorical(4, 32)
FAMILIES = [CLASSES, Gaussian(16), Categorical(3, 16, uniform=0.0)]
narrowed = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
every_family = pytest.mark.parametrize("family", FAMILIES, ids=["classes", "gaussian", "plain"])


@pytest.fixture(autouse=True)
def built() -> Iterator[None]:
    bb_wm.use_native()
    yield
    bb_wm.use_native(False)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype)


def close(mine: torch.Tensor, exact: torch.Tensor) -> None:
    """To a few roundings of mine, whose reference is float64's."""
    loose = 1e-2 if mine.dtype == torch.bfloat16 else 3e-6
    torch.testing.assert_close(mine.double(), exact.double(), atol=loose, rtol=loose)


# --- function by function -----------------------------------------------------------------------


@narrowed
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_rows(rows: int, dtype: torch.dtype) -> None:
    product, added = normal(rows, 48, dtype=dtype), normal(rows, 2, 48, seed=1)[:, 1]
    before = product.double() + added.double()
    close(native.add(product, added), before)
    close(native.add(product, added[0]), product.double() + added[0].double())
    whole = torch.full((rows, 64), 7.0, dtype=dtype)
    kept = native.silu_kept(product, added, whole[:, :48])
    close(kept, before)
    close(whole[:, :48], F.silu(before))
    assert bool((whole[:, 48:] == 7.0).all())
    native.silu(product, added, whole[:, 16:])
    close(whole[:, 16:], F.silu(before))
    slope = normal(rows, 48, seed=2, dtype=dtype)
    exact = torch.ops.aten.silu_backward(slope.double(), kept.double())
    close(native.silu_slope(slope, kept), exact)


@narrowed
def test_heads(dtype: torch.dtype) -> None:
    product, bias = normal(21, 3 * 32 + 3, dtype=dtype), normal(3 * 32 + 3, seed=1)
    last, last_bias = normal(3, 32, seed=2), normal(3, seed=3)
    inner, path = (product.double() + bias).tensor_split([96], dim=1)
    exact = (F.silu(inner).view(21, 3, 32) * last).sum(-1) + path + last_bias
    torch.testing.assert_close(
        native.heads(product, bias, last, last_bias).double(), exact, atol=1e-5, rtol=1e-5
    )


@narrowed
@pytest.mark.parametrize("rows", [3, 70])
def test_a_gru_and_its_slopes(rows: int, dtype: torch.dtype) -> None:
    size = 32
    gates = normal(rows, 3 * size, dtype=dtype)
    h = normal(rows, 2 * size, seed=1)[:, size:]
    weight, bias = 1.0 + 0.1 * normal(3 * size, seed=2), normal(3 * size, seed=3)
    leaves = [x.double().requires_grad_() for x in (gates, weight, bias, h)]
    normed = leaves[0] * (leaves[0].square().mean(-1, keepdim=True) + 1e-3).rsqrt()
    reset, middle, update = (normed * leaves[1] + leaves[2]).chunk(3, dim=-1)
    exact = torch.lerp(leaves[3], torch.tanh(reset.sigmoid() * middle), update.sigmoid())
    close(native.gru(gates, weight, bias, h), exact.detach())
    slope = normal(rows, size, seed=4)
    wanted = torch.autograd.grad(exact, leaves, slope.double())
    by_gates, rest, sums = native.gru_slope(gates, weight, bias, h, slope)
    found = [by_gates, *sums.sum(0), rest]
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(
            mine.double(), theirs, atol=2e-2 if mine.dtype == torch.bfloat16 else 2e-5, rtol=1e-2
        )


@narrowed
def test_what_enters_a_gru(dtype: torch.dtype) -> None:
    product, before, rest = normal(9, 48, dtype=dtype), normal(9, 16, seed=1), normal(9, 32, seed=2)
    by_before, by_h = native.gru_entry_slope(product, before, rest)
    exact = torch.ops.aten.silu_backward(product[:, :16].double(), before.double())
    close(by_before, exact)
    close(by_h, product[:, 16:].double() + rest.double())


@pytest.mark.parametrize(("rows", "groups", "classes"), [(1, 1, 16), (7, 3, 32), (40, 16, 48)])
@pytest.mark.parametrize("noisy", [True, False], ids=["sample", "mode"])
def test_draws(rows: int, groups: int, classes: int, noisy: bool) -> None:
    family = Categorical(groups, classes)
    logits = 3.0 * normal(rows, 2, family.size)[:, 1]
    noise = normal(rows, groups, seed=1) if noisy else None
    z, pull = family.draw(logits, noise)
    slope, added = normal(rows, family.size, seed=2), normal(rows, family.size, seed=3)
    found = pull(slope, 0.5 * slope, added)
    index = index_of_hots(z, groups, classes)
    bb_wm.use_native(False)
    plain, pull = family.draw(logits, noise)
    assert torch.equal(z, plain)
    assert index is not None
    places = z.view(rows, groups, classes).argmax(-1) + classes * torch.arange(groups)
    assert torch.equal(index, places)
    close(found, pull(slope, 0.5 * slope, added))


def test_the_first_of_equals_is_the_mode() -> None:
    hot, index = native.draw(torch.zeros(2, 32), None, 0.01, 2)
    assert index.tolist() == [[0, 16], [0, 16]]
    assert hot.view(2, 2, 16)[..., 0].min() == 1.0


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_levels_at_the_ends_draw_a_class(level: float) -> None:
    hot, index = native.draw(normal(2, 64), torch.full((2, 2), level), 0.01, 2)
    assert torch.equal(hot.view(2, 2, 32).sum(-1), torch.ones(2, 2))
    assert index.tolist() == [[0, 32]] * 2 if level == 0.0 else [[31, 63]] * 2


@pytest.mark.parametrize("count", [1, 16, 37])
def test_the_divergence_and_its_gradients(count: int) -> None:
    q, p = (3.0 * normal(count, 32, seed=seed) for seed in (0, 1))
    slope = normal(count, seed=2)
    found = []
    for dtype in (torch.float32, torch.float64):  # float64 does not fit: torch's own
        leaves = [x.to(dtype).requires_grad_() for x in (q, p)]
        kl = mixed_kl(*leaves, 0.01, (0.3, 0.7))
        found.append([kl.detach(), *torch.autograd.grad(kl, leaves, slope.to(dtype))])
    for mine, exact in zip(*found, strict=True):
        torch.testing.assert_close(mine.double(), exact, atol=5e-6, rtol=2e-5)


def test_only_the_gradients_that_are_asked_are_made() -> None:
    q, p = normal(4, 32).requires_grad_(), normal(4, 32, seed=1)
    (only,) = torch.autograd.grad(mixed_kl(q, p, 0.01).sum(), q)
    both = torch.autograd.grad(mixed_kl(q, p.requires_grad_(), 0.01).sum(), [q, p])
    assert torch.equal(only, both[0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_bad_numbers_stay_bad(bad: float) -> None:
    """They are what an update is undone for, and a plan is not believed for."""
    x = normal(20, 96)
    x[3, 5] = bad
    ones = torch.ones(96)
    rows = native.gru(x, ones, ones, normal(20, 32, seed=1)).isfinite().all(-1)
    assert rows.tolist() == [row != 3 for row in range(20)]
    out = torch.empty(20, 96)
    native.silu(x, torch.zeros(96), out)
    assert not bool(out[3, 5].isfinite())
    assert not bool(native.add(x, x)[3, 5].isfinite())
    kl = mixed_kl(x.view(20, 3, 32), normal(20, 3, 32, seed=1), 0.01)
    assert kl.isfinite().sum() == (60 if bad == -torch.inf else 59)  # that one is never drawn
    hot, index = native.draw(x, torch.full((20, 3), 0.5), 0.01, 3)  # some class, never no place
    assert torch.equal(hot.view(20, 3, 32).sum(-1), torch.ones(20, 3))
    assert bool(((index >= 0) & (index < 96)).all())


# --- the whole ----------------------------------------------------------------------------------


def model_of(family: Stochastic, **objective: float) -> WorldModel:
    config = WorldModelConfig(
        core=GRU(32),
        latent=family,
        hidden=32,
        head_hidden=16,
        objective=Objective(steps=3, **objective),  # type: ignore[arg-type]
        budget=None,
    )
    model = WorldModel(3, 2, config)
    generator = torch.Generator().manual_seed(0)
    for parameter in model._network.parameters():
        if bool((parameter == 0).all()):  # zero outputs would hide what depends on what
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return model


@every_family
@pytest.mark.parametrize("count", [4, 70])
def test_an_update_is_torchs(family: Stochastic, count: int) -> None:
    model, batch = model_of(family), small_batch(count, 9)
    batch.is_first[1, 4] = True
    network, objective = model._network.requires_grad_(), model.config.objective
    generator = torch.Generator().manual_seed(0)
    noise = Noise.draw(batch, family.noise_size, objective, generator)
    found = []
    for on in (True, False):
        bb_wm.use_native(on)
        terms = evaluate_terms(network, batch, objective, noise, updates=0, track=False)
        wanted = [p for _, p in network.named_parameters()]
        found.append((terms.total, torch.autograd.grad(terms.total, wanted, allow_unused=True)))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=1e-5)
    names = [name for name, _ in network.named_parameters()]
    for name, mine, theirs in zip(names, found[0][1], found[1][1], strict=True):
        assert (mine is None) == (theirs is None), name
        if mine is not None:
            assert (mine - theirs).norm() <= 1e-5 * theirs.norm() + 1e-7, name


@every_family
@pytest.mark.parametrize("lead", [(20,), (5, 4)])
def test_imagination_is_torchs(family: Stochastic, lead: tuple[int, ...]) -> None:
    model = model_of(family)
    start = model.encode(normal(20, 3).numpy()).unflatten(lead)
    policy = LatentNet(model, 2, hidden=32)
    for mode in ("mode", "sample", "shortcut"):
        found = []
        for on in (True, False):
            bb_wm.use_native(on)
            chance = torch.Generator().manual_seed(1)
            with torch.no_grad():
                found.append(
                    model.rollout(start, lambda x: policy(x).tanh(), 4, mode=mode, generator=chance)
                )
        for name in ("reward", "safety", "continuation", "action"):
            pair = [getattr(path, name) for path in found]
            torch.testing.assert_close(*pair, atol=1e-5, rtol=1e-4, msg=f"{mode} {name}")
        torch.testing.assert_close(found[0].latents.h, found[1].latents.h, atol=1e-5, rtol=1e-4)


def test_threads_change_no_bit() -> None:
    before, found = torch.get_num_threads(), []
    q, x = normal(60, 3, 32), normal(60, 96)
    ones = torch.ones(96)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            chance = native.draw(x, torch.full((60, 3), 0.4), 0.01, 3)
            slopes = native.gru_slope(x, ones, ones, x[:, :32], x[:, 32:64])
            found.append([native.mixed_kl(q, q.flip(0), 0.01), *chance, *slopes])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_training_twice_gives_the_same_bits() -> None:
    states = []
    for _ in range(2):
        model, batch = model_of(CLASSES), small_batch(20, 9)
        for _ in range(3):
            model.update(batch)
        states.append(model.state_tensors())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(one, states[1][name]) for name, one in states[0].items())


def test_where_it_is_not_for() -> None:
    assert native.fits(torch.zeros(1), 16, 32)
    assert not native.fits(torch.zeros(1), 16, 24)
    assert not native.fits(torch.zeros(1, dtype=torch.float64), 16)
    assert not native.ready(torch.zeros(32, 16), 16)  # gradients are recorded
    with torch.no_grad():
        assert native.ready(torch.zeros(32, 16), 16)
        assert not native.ready(torch.zeros(3, 16), 16)
    assert not native.classes_fit(torch.zeros(1), 272)
    assert type(GRUModule(GRU(16), 4, 2).tape()) is NativeGRUTape
    assert type(GRUModule(GRU(24), 4, 2).tape()) is GRUTape
    bb_wm.use_native(False)
    assert not native.fits(torch.zeros(1), 16)
    assert type(GRUModule(GRU(16), 4, 2).tape()) is GRUTape


def test_a_perceptron_of_odd_sizes_is_torchs() -> None:
    for net in (MLP(7, 5, hidden=32, layers=2), MLP(7, 16, hidden=24, layers=1)):
        x = normal(6, 4, 7)
        with torch.no_grad():
            mine = net(x)
        torch.testing.assert_close(mine, net(x).detach(), atol=1e-6, rtol=1e-5)


# --- building -----------------------------------------------------------------------------------


def test_it_is_built_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.use_native()
    (kept,) = (tmp_path / "bb_wm").iterdir()
    stamp = kept.stat().st_mtime_ns
    native.use_native()
    assert [path.stat().st_mtime_ns for path in (tmp_path / "bb_wm").iterdir()] == [stamp]
    if os.name == "posix":
        assert (tmp_path / "bb_wm").stat().st_mode & 0o077 == 0


def test_no_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    native.use_native(False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="no-such-compiler") as caught:
        native.use_native()
    assert "apt-get" in str(caught.value)
    assert not native.fits(torch.zeros(1))


def test_a_compiler_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = tmp_path / "compiler"
    bad.write_text("#!/bin/sh\necho no such standard >&2\nexit 1\n")
    bad.chmod(0o755)
    monkeypatch.setenv("CXX", str(bad))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match="no such standard"):
        native.use_native()
    assert list((tmp_path / "cache" / "bb_wm").iterdir()) == []


def test_one_action_for_many_latents_and_other_kinds_of_products() -> None:
    """What torch broadcasts must not be read past its end, nor halves as floats."""
    config = WorldModelConfig(core=GRU(32), latent=Gaussian(16), hidden=32, budget=None)
    model = WorldModel(3, 2, config)
    latent, action = model.encode(normal(4, 40, 3)), normal(4, 40, 2)
    for one in (action[:, :1], action[:1, :1], action[0, 0]):
        with torch.no_grad():
            quick = model.step(latent, one).h
            bb_wm.use_native(False)
            slow = model.step(latent, one.expand(4, 40, 2)).h
            bb_wm.use_native()
        close(quick, slow)
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        assert bool(torch.isfinite(model.step(latent, action).h).all())

"""Contract checks for new parts: one call that says what a part of ours has to keep.

    check_stochastic(MyFamily(8))       check_core(MyCore(32))       check_dynamics(model, latent)

Each raises AssertionError naming the promise that was broken, and gives nothing back when all hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bb_wm.protocols import Dynamics, Observer

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.model.cores import Core
    from bb_wm.model.stochastic import Stochastic
    from bb_wm.types import Latent


def _promise(kept: bool, what: str) -> None:
    if not kept:
        raise AssertionError(what)


def _normal(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def check_stochastic(family: Stochastic) -> None:
    """A stochastic family: sizes, KL, gradients, independence of rows, samples fixed by noise."""
    q, p = (_normal(5, family.param_size, seed=seed) for seed in (0, 1))
    noise = _normal(5, family.noise_size, seed=2)
    z = family.sample(q, noise)
    _promise(z.shape == (5, family.size), f"sample is [*batch, size]; got {list(z.shape)}")
    _promise(family.mode(q).shape == z.shape, "mode has the shape of a sample")
    _promise(torch.equal(z, family.sample(q, noise)), "the same noise gives the same sample")
    _promise(torch.equal(z[2:3], family.sample(q[2:3], noise[2:3])), "rows are independent")
    kl = family.kl_per_variable(q, p)
    _promise(kl.shape == (5, family.variables), "kl_per_variable is [*batch, variables]")
    _promise(bool((kl >= -1e-9).all()), "KL is never negative")
    _promise(bool((family.kl(q, q).abs() < 1e-9).all()), "KL of a distribution to itself is 0")
    _promise(bool((family.kl(q, p) > 0).all()), "KL to another distribution is above 0")
    _promise(family.entropy(q).shape == (5,), "entropy is [*batch]")
    told = family.statistics(q)
    _promise(told.shape[:1] == (5,) and told.ndim == 2, "statistics is [*batch, F]")
    _promise(bool((told != family.statistics(p)).any(-1).all()), "statistics tell q from p")
    for name, out in (("sample", family.sample), ("mode", lambda x, _: family.mode(x))):
        leaf = q.clone().requires_grad_()
        weight = _normal(family.size, seed=3)
        (gradient,) = torch.autograd.grad((out(leaf, noise) * weight).sum(), leaf)
        _promise(bool((gradient != 0).any()), f"{name} passes a gradient to the parameters")


def check_core(core: Core, *, z_size: int = 6, action_size: int = 3) -> None:
    """A core: sizes, use of every input, independence of rows, a zeroed past that is no past."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = core.build(z_size, action_size).double()
    _promise(module.size == core.size, "the module has the setting's size")
    h = _normal(4, module.size, seed=0).tanh()
    z, action = _normal(4, z_size, seed=1), _normal(4, action_size, seed=2)
    memory = h.new_zeros(4, module.window, module.memory_size)

    def walk(h: Tensor, z: Tensor, memory: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        out: tuple[Tensor, Tensor] = module(h, z, memory, module.project(action))
        return out

    # A second row, so that a core that remembers in `memory` has something there.
    h1, memory1 = walk(h, z, memory, action)
    _promise(h1.shape == h.shape, f"h is [*batch, size]; got {list(h1.shape)}")
    _promise(memory1.shape == memory.shape, "memory keeps its shape")
    h2, _ = walk(h1, z.flip(0), memory1, action)
    _promise(bool(torch.isfinite(h2).all()), "h is finite")
    alone, _ = walk(h1[1:2], z.flip(0)[1:2], memory1[1:2], action[1:2])
    _promise(bool((alone - h2[1:2]).abs().max() < 1e-9), "rows of a batch are independent")
    for name, leaf in (("z", z), ("action", action)):
        leaf = leaf.clone().requires_grad_()
        first, kept = walk(
            h, leaf if name == "z" else z, memory, leaf if name == "action" else action
        )
        second, _ = walk(first, z.flip(0), kept, action.flip(0))
        (gradient,) = torch.autograd.grad(second.square().sum(), leaf)
        _promise(
            bool((gradient != 0).any()), f"the {name} of one row reaches the h of the next but one"
        )
    zero = torch.zeros_like(action)
    _promise(
        bool((module.project(zero) == 0).all()), "project of no action is 0, so a reset forgets it"
    )


def check_dynamics(model: Dynamics, latent: Latent) -> None:
    """A simulator behind `protocols.Dynamics` (and `Observer`, if it is one), from latents [B]."""
    _promise(isinstance(model, Dynamics), "it answers protocols.Dynamics")
    count = latent.batch_shape[0]
    action = torch.zeros(count, model.action_size, dtype=latent.h.dtype)
    noise = _normal(count, model.noise_size, seed=0).to(latent.h.dtype)
    before = latent.map(torch.clone)
    ahead = model.step(latent, action, noise)
    _promise(ahead.batch_shape == (count,), "step keeps the batch")
    again = model.step(latent, action, noise)
    _promise(
        torch.equal(ahead.h, again.h) and torch.equal(ahead.z, again.z), "noise is all the chance"
    )
    _promise(
        torch.equal(latent.h, before.h) and torch.equal(latent.z, before.z), "step changes no input"
    )
    for name in ("reward", "safety", "continue"):
        said = getattr(model, f"predict_{name}")(ahead)
        _promise(said.shape == (count,), f"predict_{name} is [*batch]; got {list(said.shape)}")
        _promise(bool(torch.isfinite(said).all()), f"predict_{name} is finite")
    _promise(bool((model.predict_safety(ahead) >= 0).all()), "risk is never negative")
    chance = model.predict_continue(ahead)
    _promise(bool(((chance >= 0) & (chance <= 1)).all()), "continuation is a probability")
    if isinstance(model, Observer):
        seen = model.imagine_obs(
            ahead, _normal(count, model.obs_noise_size, seed=1).to(ahead.h.dtype)
        )
        read = model.condition(ahead, seen)
        _promise(read.batch_shape == (count,), "condition keeps the batch")
        _promise(model.log_likelihood(ahead, seen).shape == (count,), "log_likelihood is [*batch]")

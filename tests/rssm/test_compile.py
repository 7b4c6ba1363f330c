"""Compiled steps say what the others say; what cannot be compiled is told before anything ran."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bb_wm.config import GRU, Categorical, Gaussian, Transformer, WorldModelConfig
from bb_wm.errors import ConfigError
from bb_wm.rssm import WorldModel

PAIRS = [
    (GRU(16), Gaussian(4)),
    (GRU(16), Categorical(4, 4)),
    (Transformer(16, layers=1, heads=2, window=4), Gaussian(4)),
]


@pytest.mark.parametrize(("core", "latent"), PAIRS, ids=["gru", "categorical", "transformer"])
@pytest.mark.parametrize("mode", ["mode", "sample", "shortcut"])
def test_compiled_steps_imagine_the_same(core, latent, mode) -> None:
    """By torch's tracer alone, in one graph: what its compiler makes of that is its own affair."""
    torch.compiler.reset()
    config = WorldModelConfig(core=core, latent=latent, hidden=16, budget=None)
    plain, compiled = WorldModel(3, 2, config), WorldModel(3, 2, config)
    assert compiled.compile(backend="eager", fullgraph=True) is compiled
    obs = np.random.default_rng(0).standard_normal((70, 3)).astype(np.float32)
    actions = torch.rand(70, 4, 2, generator=torch.Generator().manual_seed(0))
    found, expected = (m.rollout(m.encode(obs), actions, mode=mode) for m in (compiled, plain))
    for name in ("reward", "safety", "continuation"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))
    torch.testing.assert_close(found.latents.h, expected.latents.h)
    torch.testing.assert_close(found.latents.z, expected.latents.z)


def test_compiled_steps_follow_what_is_learnt() -> None:
    torch.compiler.reset()
    rows = np.random.default_rng(0).standard_normal((8, 6, 3)).astype(np.float32)
    batch = {"obs": rows, "action": rows[..., :2].clip(-1, 1), "reward": rows[..., 0]}
    batch["terminated"] = np.zeros((8, 6), bool)
    config = WorldModelConfig(core=GRU(16), latent=Gaussian(4), hidden=16, budget=None)
    plain, compiled = WorldModel(3, 2, config), WorldModel(3, 2, config)
    compiled.compile(backend="eager")
    imagined = []
    for model in (plain, compiled):
        before = model.rollout(model.encode(rows[:, 0]), torch.ones(8, 3, 2)).latents.h
        model.update(batch)
        imagined.append(model.rollout(model.encode(rows[:, 0]), torch.ones(8, 3, 2)).latents.h)
        assert not torch.allclose(before, imagined[-1])
    torch.testing.assert_close(*imagined)


def test_a_missing_compiler_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError) as told:
        WorldModel(3, 2).compile()
    assert told.value.field == "compile"
    assert "no-such-compiler" in str(told.value)


@pytest.mark.slow
def test_the_real_compiler_imagines_the_same() -> None:
    torch.compiler.reset()
    plain, compiled = WorldModel(3, 2), WorldModel(3, 2).compile()
    obs = np.random.default_rng(0).standard_normal((70, 3)).astype(np.float32)
    found, expected = (m.rollout(m.encode(obs), torch.ones(70, 4, 2)) for m in (compiled, plain))
    torch.testing.assert_close(found.latents.h, expected.latents.h, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.reward, expected.reward, atol=1e-5, rtol=1e-4)

"""Cores: the Transformer's cache against an independent whole-sequence twin, and its window."""

from __future__ import annotations

import pytest
import torch

from bb_wm.model.cores import GRU, Core, CoreModule, Transformer, TransformerModule

CORES: list[Core] = [GRU(16), Transformer(16, layers=2, heads=2, window=8)]


def build(core: Core, seed: int = 0) -> CoreModule:
    torch.manual_seed(seed)
    module = core.build(5, 3)
    for (
        parameter
    ) in module.parameters():  # biases and distances too, or the test would not see them
        if parameter.ndim < 3:
            torch.nn.init.normal_(parameter, std=0.3)
    return module.double()


def walk(module: CoreModule, z: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    batch, rows = z.shape[:2]
    h = z.new_zeros(batch, module.size)
    memory = z.new_zeros(batch, module.window, module.memory_size)
    out = []
    for t in range(rows):
        h, memory = module(h, z[:, t], memory, module.project(action[:, t]))
        out.append(h)
    return torch.stack(out, 1)


def whole_sequence(
    module: TransformerModule, z: torch.Tensor, action: torch.Tensor
) -> torch.Tensor:
    """Textbook causal attention on all rows at once, with the same weights and no cache."""
    x = module.from_z(z) + module.project(action)
    rows = z.shape[1]
    distance = torch.arange(rows)[:, None] - torch.arange(rows)[None, :]  # query minus key
    allowed = (distance >= 0) & (distance <= module.window)
    for block in module.blocks:
        normed = block.attend_norm(x)  # type: ignore[operator]
        query, key, value = block.qkv(normed).chunk(3, -1)  # type: ignore[operator]
        heads, width = block.heads, x.shape[-1] // block.heads  # type: ignore[operator]
        parts = [
            p.reshape(*p.shape[:-1], heads, width).transpose(1, 2) for p in (query, key, value)
        ]
        place = (module.window - distance).clamp(0, module.window)
        bias = block.distance[:, place]  # type: ignore[index]
        bias = bias.masked_fill(~allowed, -torch.inf)
        mixed = torch.nn.functional.scaled_dot_product_attention(*parts, attn_mask=bias)
        x = x + block.out(mixed.transpose(1, 2).flatten(-2))  # type: ignore[operator]
        hidden = torch.nn.functional.silu(block.up(block.mlp_norm(x)))  # type: ignore[operator]
        x = x + block.down(hidden)  # type: ignore[operator]
    return module.norm(x)


@pytest.mark.parametrize("rows", [6, 9, 20])
def test_the_cache_equals_no_cache(rows: int) -> None:
    module = build(CORES[1])
    assert isinstance(module, TransformerModule)
    generator = torch.Generator().manual_seed(rows)
    z = torch.randn(3, rows, 5, generator=generator, dtype=torch.float64)
    action = torch.randn(3, rows, 3, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        walk(module, z, action), whole_sequence(module, z, action), atol=1e-9, rtol=1e-9
    )


@pytest.mark.parametrize("core", CORES, ids=["gru", "transformer"])
def test_no_row_depends_on_a_later_one(core: Core) -> None:
    module = build(core)
    z = torch.randn(2, 6, 5, dtype=torch.float64, requires_grad=True)
    action = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    out = walk(module, z, action)
    for t in range(6):
        by_z, by_action = torch.autograd.grad(out[:, t].sum(), (z, action), retain_graph=True)
        assert bool((by_z[:, t + 1 :] == 0).all())
        assert bool((by_action[:, t + 1 :] == 0).all())
        assert bool((by_z[:, : t + 1].abs().sum(-1) > 0).all())


def test_gru_keeps_its_state_when_the_update_gate_is_shut() -> None:
    module = build(CORES[0])
    with torch.no_grad():
        module.bias[32:] = -60.0  # type: ignore[index]
    h = torch.randn(2, 16, dtype=torch.float64)
    memory = h.new_zeros(2, 0, 0)
    z, projected = h.new_zeros(2, 5), module.project(h.new_zeros(2, 3))
    torch.testing.assert_close(module(h, z, memory, projected)[0], h)


def test_the_window_forgets_what_is_older() -> None:
    module = build(Transformer(16, layers=1, heads=2, window=3))
    z = torch.randn(1, 8, 5, dtype=torch.float64)
    action = torch.randn(1, 8, 3, dtype=torch.float64)
    other = z.clone()
    other[:, :4] += 1.0  # rows 0..3 lie more than 3 rows before row 7
    torch.testing.assert_close(
        walk(module, z, action)[:, 7], walk(module, other, action)[:, 7], atol=0, rtol=0
    )
    assert not torch.allclose(walk(module, z, action)[:, 6], walk(module, other, action)[:, 6])

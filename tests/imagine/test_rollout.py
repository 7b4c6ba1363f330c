"""Reading outcomes row by row or all at once is the same."""

from __future__ import annotations

import pytest
import torch
from tests.rssm.test_world_model import small_model

import bb_wm.imagine.rollout as module


def test_many_latents_are_read_one_by_one_and_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    start = model.encode(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    actions = torch.zeros(4, 5, 2)
    together = model.rollout(start, actions, 5)
    monkeypatch.setattr(module, "_MANY", 0)
    apart = model.rollout(start, actions, 5)
    for name in ("reward", "safety", "continuation", "discount"):
        found, wanted = getattr(apart, name), getattr(together, name)
        assert found.shape == wanted.shape == (4, 5)
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)

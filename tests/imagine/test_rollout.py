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


def test_policies_may_imagine_without_gradients_for_good() -> None:
    model = small_model()
    with torch.inference_mode():
        start = model.encode(torch.zeros(2, 3))
        imagined = model.rollout(start, lambda latent: latent.h.new_zeros(2, 2), 3)
    assert imagined.reward.shape == (2, 3)
    again = model.rollout(start, lambda latent: latent.h.new_zeros(2, 2), 3)
    torch.testing.assert_close(again.reward, imagined.reward)

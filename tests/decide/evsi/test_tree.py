"""Asking ahead of a learned belief, against ToolDesk's exact solver and by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.exact_desk import ExactDesk

from bb_wm.decide.evsi.tree import AskTree
from bb_wm.errors import BatchError, ConfigError
from bb_wm.imagine.utility import Limit, Utility
from bb_wm.testing import tooldesk_exact as exact
from bb_wm.testing import tooldesk_score as scoring
from bb_wm.types import Latent
from bb_wm.worlds import tooldesk, tooldesk_asks

UTILITY = Utility(abstain=0.0)
TREE = AskTree(depth=1, utility=UTILITY)
COMMITS, _ = tooldesk_asks.commits()


def roots(model: ExactDesk) -> tuple[Latent, dict[str, torch.Tensor], scoring.Histories]:
    """The 48 first sights: latents, what is seen, and the histories they stand for."""
    start, _ = scoring.roots()
    count = len(start)
    obs = {
        "answer": np.zeros(count, int),
        "calls_left": np.full(count, tooldesk.CALLS),
        "clarity": start.clarity,
        "cue": start.cue,
        "named": np.zeros((count, 8), int),
        "price": np.searchsorted(tooldesk.LEVELS, start.price),
        "stake": np.searchsorted(tooldesk.LEVELS, start.stake),
        "tool": np.zeros(count, int),
    }
    seen = {k: torch.as_tensor(v).reshape(count, -1) for k, v in obs.items()}
    return model.encode(obs), seen, start


@pytest.mark.parametrize(("depth", "twin"), [(1, exact.one_call_evsi), (2, exact.Lookahead(2).net)])
def test_the_worth_of_every_ask_is_the_exact_one(depth, twin) -> None:
    model = ExactDesk()
    latent, seen, start = roots(model)
    found = replace(TREE, depth=depth)(model, latent, seen, tooldesk_asks.asks(), COMMITS)
    known = [scoring.knowledge(start, row) for row in range(len(start))]
    truth = torch.tensor([[twin(one, tool) for tool in exact.TOOLS] for one in known])
    assert float((found.evsi - truth).abs().max()) < 2e-5
    if depth == 1:
        assert float(found.info[:, 2].abs().max()) < 1e-5  # the tool that says nothing


def test_a_state_is_worth_the_same_alone_and_twice() -> None:
    model = ExactDesk()
    latent, seen, _ = roots(model)
    whole = TREE(model, latent, seen, tooldesk_asks.asks(), COMMITS)
    rows = torch.tensor([7])
    alone = TREE(
        model, latent[rows], {k: v[rows] for k, v in seen.items()}, tooldesk_asks.asks(), COMMITS
    )
    again = TREE(model, latent, seen, tooldesk_asks.asks(), COMMITS)
    assert torch.allclose(alone.evsi, whole.evsi[rows], atol=1e-6)
    assert torch.equal(again.evsi, whole.evsi)


def test_what_cannot_be_called_is_worth_minus_infinity() -> None:
    model = ExactDesk()
    latent, seen, _ = roots(model)
    seen["calls_left"][::2] = 0
    found = TREE(model, latent, seen, tooldesk_asks.asks(), COMMITS)
    open_ = TREE(model, *roots(model)[:2], tooldesk_asks.asks(), COMMITS)
    assert bool((found.evsi[::2] == -torch.inf).all())
    assert torch.allclose(found.evsi[1::2], open_.evsi[1::2], atol=1e-6)


def test_no_more_calls_are_looked_ahead_than_are_left() -> None:
    """With one call left, two calls ahead are worth what one is."""
    model = ExactDesk()
    latent, seen, _ = roots(model)
    seen["calls_left"][:] = 1
    asks = tooldesk_asks.asks()
    one = TREE(model, latent, seen, asks, COMMITS)
    two = replace(TREE, depth=2)(model, latent, seen, asks, COMMITS)
    assert torch.allclose(one.evsi, two.evsi, atol=1e-6)


def test_a_limit_bars_candidates_after_every_answer() -> None:
    """Against the sum over answers by hand: commits riskier than the limit are not there."""
    model, bound = ExactDesk(), 0.3
    latent, seen, start = roots(model)
    limited = replace(TREE, utility=Utility(abstain=0.0, limit=Limit(bound)))
    found = limited(model, latent, seen, tooldesk_asks.asks(), COMMITS)

    def stop(belief, stake) -> float:
        best = max(belief)
        return max(0.0, stake * (3 * best - 2)) if 1 - best <= bound else 0.0

    for row in range(0, len(start), 5):
        known = scoring.knowledge(start, row)
        desk = known.desk
        read = sum(p * stop(after.belief, desk.stake) for p, after in known.after("B"))
        # blind: the belief is the same, and the same commits are barred
        truth = read - stop(known.belief, desk.stake) - desk.cost("B")
        assert float(found.evsi[row, 1]) == pytest.approx(truth, abs=2e-5)


class Wearing(ExactDesk):
    """Calling tool B halves the stake."""

    def step(self, latent, action, noise=None):
        after = super().step(latent, action, noise)
        h = after.h.clone()
        h[..., 4] = torch.where(action[..., 1] > 0, h[..., 4] / 2, h[..., 4])
        return self._latent(h, after.z)


def test_what_a_call_does_to_the_world_is_counted_where_it_may() -> None:
    model = Wearing()
    latent, seen, start = roots(model)
    asks = [replace(ask, changes=True) for ask in tooldesk_asks.asks()]
    found = TREE(model, latent, seen, asks, COMMITS)
    still = TREE(model, latent, seen, tooldesk_asks.asks(), COMMITS)
    for row in range(0, len(start), 7):
        known = scoring.knowledge(start, row)
        desk = known.desk
        read = sum(p * exact.stop_value(k.belief, desk.stake / 2) for p, k in known.after("B"))
        truth = read - known.stop - desk.cost("B")
        assert float(found.evsi[row, 1]) == pytest.approx(truth, abs=2e-5)
        assert float(still.evsi[row, 1]) >= float(found.evsi[row, 1]) - 1e-6


def test_bad_input_says_what_is_wrong() -> None:
    model = ExactDesk()
    latent, seen, _ = roots(model)
    asks = tooldesk_asks.asks()
    with pytest.raises(ConfigError, match="different names"):
        TREE(model, latent, seen, [asks[0], asks[0]], COMMITS)
    with pytest.raises(BatchError, match="latent"):
        TREE(model, latent[0], seen, asks, COMMITS)
    with pytest.raises(ConfigError, match="per outcome"):
        AskTree(utility=Utility(limit=Limit(0.1, scope="ex_ante")))
    wrong = replace(asks[0], answers=lambda now: {k: v[:1, None] for k, v in now.items()})
    with pytest.raises(BatchError, match="answers of A"):
        TREE(model, latent, seen, [wrong], COMMITS)


def test_answers_are_told_apart_by_their_own_keys() -> None:
    """A z that has not made up its mind: every answer alike, and what goes with it alike too."""

    class Blurred(ExactDesk):
        def log_likelihood(self, latent, obs):
            total = super().log_likelihood(latent, obs) if "answer" in obs else 0.0
            others = [value for key, value in obs.items() if key == "named"]
            for value in others:  # independent keys: a change of `named` counts a second time
                total = total - 1.5 * (value.sum(-1) > 0)
            return total

    model = Blurred()
    latent, seen, start = roots(model)
    told = TREE(model, latent, seen, tooldesk_asks.asks(), COMMITS)
    blind = [replace(ask, keys=None) for ask in tooldesk_asks.asks()]
    wrong = TREE(model, latent, seen, blind, COMMITS)
    truth = torch.tensor(
        [exact.one_call_evsi(scoring.knowledge(start, row), "B") for row in range(len(start))]
    )
    assert float((told.evsi[:, 1] - truth).abs().max()) < 2e-5
    assert float((wrong.evsi[:, 1] - truth).mean()) < -0.05

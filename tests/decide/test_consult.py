"""Whole episodes with asking: on the exact model the strategies earn what is known exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.exact_desk import ExactDesk

from bb_wm.decide import Asker, AskTree, Gate, Ledger, Verdict, decide_and_record, read_ledger
from bb_wm.decide.consult import (
    DrawnBelief,
    always,
    as_seen,
    confident,
    consult,
    gated,
    never,
)
from bb_wm.errors import ConfigError
from bb_wm.imagine import Utility
from bb_wm.testing import tooldesk_exact as exact
from bb_wm.worlds.asking import asking_world
from bb_wm.worlds.tooldesk import ToolDesk

WORLD = asking_world("ToolDesk")
GATE = Gate(limit=2.0, max_age=1.0, clock=lambda: 0.0)
EPISODES = 400


@pytest.fixture(scope="module")
def asker() -> Asker:
    tree = AskTree(depth=1, utility=Utility(abstain=0.0))
    return Asker(ExactDesk(), WORLD.candidates, WORLD.names, WORLD.asks, tree=tree)


def play(asker: Asker, strategy, episodes: int = EPISODES):
    envs = [ToolDesk(expected_reward=True) for _ in range(episodes)]
    return consult(envs, asker.model.encode, asker, strategy, WORLD.hold, seed=3)


@pytest.mark.parametrize(
    ("strategy", "twin"),
    [
        (gated(GATE), "myopic_exact_evsi"),
        (never(GATE), "never"),
        (always(GATE, "A"), "always_A4"),
        (confident(GATE, "B", 0.9), "maxprob<0.9_B"),
    ],
)
def test_a_strategy_earns_its_exact_value(asker, strategy, twin) -> None:
    found = play(asker, strategy)
    error = found.returns.std(ddof=1) / len(found.returns) ** 0.5
    truth = exact.mean_value(exact.gates()[twin])
    assert found.returns.mean() == pytest.approx(truth, abs=4 * error)
    assert error < 0.08


def test_asks_are_counted_and_holding_is_an_action(asker) -> None:
    assert play(asker, always(GATE, "A"), 20).asked.tolist() == [[4, 0, 0]] * 20
    assert play(asker, never(GATE), 20).asked.sum() == 0
    timid = Gate(limit=0.0, max_age=1.0, clock=lambda: 0.0)  # no commit is that safe
    held = play(asker, never(timid), 20)
    assert held.returns.tolist() == [0.0] * 20
    assert held.risks.tolist() == [0.0] * 20


def test_decisions_and_what_they_earned_go_on_record(asker, tmp_path) -> None:
    with Ledger(tmp_path / "l.sqlite", durable=False) as ledger:
        strategy = gated(GATE, lambda evidence: decide_and_record(GATE, ledger, evidence))
        found = play(asker, strategy, 30)
        for name, earned in found.earned:
            ledger.outcome(name, earned)
        report = read_ledger(ledger)
    assert len(found.earned) == 30 + int(found.asked.sum())
    assert sum(report.counts.values()) == len(found.earned)
    firsts = [earned for _, earned in found.earned[:30]]  # every episode's first decision
    assert np.allclose(firsts, found.returns)


def test_evidence_is_what_the_model_says(asker) -> None:
    obs, _ = ToolDesk().reset(seed=0, options={"clarity": 2, "stake": 1})
    row = {key: np.asarray(value)[None] for key, value in obs.items()}
    (evidence,) = asker.evidence(asker.model.encode(row), as_seen(row), observed_at=1.0)
    best = max(evidence.candidates, key=lambda one: one.utility)
    assert best.name == f"commit {int(obs['cue'])}"
    assert best.utility == pytest.approx(3 * (3 * 0.92 - 2), abs=1e-4)
    assert best.risk == pytest.approx(0.08, abs=1e-5)
    assert [ask.name for ask in evidence.asks] == ["A", "B", "C"]
    assert GATE.decide(evidence, now=1.5).verdict in (Verdict.ACT, Verdict.ASK)
    assert GATE.decide(evidence, now=9.0).verdict is Verdict.HOLD  # stale


def test_drawn_beliefs_agree_where_nothing_is_drawn(asker) -> None:
    """The exact model draws nothing, so many particles of it are one; and its luck is its own."""
    drawn = DrawnBelief(asker.model.encode, 1, particles=4)
    envs = [ToolDesk(expected_reward=True) for _ in range(20)]
    many = consult(envs, drawn, asker, gated(GATE), WORLD.hold, seed=3)
    one = play(asker, gated(GATE), 20)
    assert np.allclose(many.returns, one.returns)
    assert (many.asked == one.asked).all()
    with pytest.raises(ConfigError, match="particles"):
        DrawnBelief(asker.model.encode, 1, particles=1)


def test_nan_in_the_model_is_held(asker) -> None:
    class Broken(ExactDesk):
        def predict_reward(self, latent):
            return torch.full_like(super().predict_reward(latent), torch.nan)

    broken = Asker(Broken(), WORLD.candidates, WORLD.names, WORLD.asks, tree=asker.tree)
    held = play(broken, gated(GATE), 10)
    assert held.asked.sum() == 0
    assert held.returns.tolist() == [0.0] * 10

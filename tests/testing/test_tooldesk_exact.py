"""The exact ToolDesk against the reference numbers, against brute force, and by hand."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from bb_wm.errors import ActionError
from bb_wm.testing import tooldesk_exact as exact
from bb_wm.testing import tooldesk_score as scoring

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "worlds" / "data" / "tooldesk_exact.json").read_text()
)
GATES = exact.gates()


@pytest.mark.parametrize("name", sorted(REFERENCE["gates"]))
def test_every_gate_earns_what_the_reference_says(name: str) -> None:
    assert exact.mean_value(GATES[name]) == pytest.approx(REFERENCE["gates"][name], abs=1e-9)


def test_optimum_and_best_static_policy() -> None:
    assert exact.optimal_value() == pytest.approx(REFERENCE["J_star"], abs=1e-9)
    assert exact.static_value() == pytest.approx(REFERENCE["J_static"], abs=1e-9)
    assert exact.best_static_per_desk() == pytest.approx(1.244053, abs=5e-7)


def test_every_context_of_the_reference() -> None:
    full = exact.Lookahead()
    for desk, row in zip(exact.DESKS, REFERENCE["contexts"], strict=True):
        known = exact.Knowledge(desk, exact.NOTHING, exact.CALLS)
        assert (desk.clarity, desk.stake, desk.price) == (
            row["clarity"],
            row["stake"],
            row["price"],
        )
        assert known.stop == pytest.approx(row["V_stop"], abs=1e-9)
        assert full.value(known) == pytest.approx(row["Vstar"], abs=1e-9)
        for tool in exact.TOOLS:
            assert exact.one_call_evsi(known, tool) == pytest.approx(row["evsi1"][tool], abs=1e-9)
            # the reference rounds its advantages to six digits
            assert full.net(known, tool) == pytest.approx(row["adv"][tool], abs=5.1e-7)


@pytest.mark.parametrize(
    ("name", "regret"),
    [
        ("bayes_optimal", 0.0),
        ("three_call_lookahead", 0.0),
        ("two_call_lookahead", 0.034),
        ("batch_evsi_n3", 0.093),
        ("myopic_exact_evsi", 0.235),
        ("maxprob<0.9_B", 0.467),
        ("never", 3.012),
        ("latent_evpi", 3.536),
    ],
)
def test_normalised_regret_of_the_published_table(name: str, regret: float) -> None:
    assert exact.normalised_regret(exact.mean_value(GATES[name])) == pytest.approx(
        regret, abs=5.1e-4
    )


def test_one_call_by_hand() -> None:
    """Clear cue .92, stake 3, price 1, tool B (silent .25, right .95, cost .2).

    Stopping: 3 (.92 - 2 * .08) = 2.28. B agrees with probability .92 * .95 + .08 * .05 / 3 and then
    the commit is right with .874 / that; after B names another intent j, the cue's weight is
    .92 * .05 / 3 = .015333 against j's .08 / 3 * .95 = .025333.
    """
    agree = 0.92 * 0.95 + 0.08 * 0.05 / 3
    other = (1 - agree) / 3
    after_agree = 3 * (3 * 0.874 / agree - 2)
    best_other = max(0.0, 3 * (3 * (0.08 / 3 * 0.95) / other - 2))
    worth = 0.25 * 2.28 + 0.75 * (agree * after_agree + 3 * other * best_other) - 2.28 - 0.2
    known = exact.Knowledge(exact.Desk(2, 3.0, 1.0), exact.NOTHING, 4)
    assert exact.one_call_evsi(known, "B") == pytest.approx(worth, abs=1e-12)


def test_joined_states_equal_brute_force_over_answer_sequences() -> None:
    """Two calls of A, then one of B, summed over all 5 * 5 * 5 sequences without any symmetry."""
    desk = exact.Desk(1, 3.0, 1.0)
    total = 0.0
    tools = ((0.1, 0.7), (0.1, 0.7), (0.25, 0.95))  # silence, right
    for sequence in itertools.product(range(5), repeat=3):  # 0..3 named, 4 silent
        joint = [0.65 if k == 0 else 0.35 / 3 for k in range(4)]
        for (silence, right), answer in zip(tools, sequence, strict=True):
            for k in range(4):
                named = right if k == answer else (1 - right) / 3
                joint[k] *= silence if answer == 4 else (1 - silence) * named
        weight = math.fsum(joint)
        total += max(0.0, 3.0 * (3.0 * max(joint) - 2.0 * weight))
    total -= 0.05 + 0.05 + 0.20
    plan = {4: "A", 3: "A", 2: "B"}
    assert exact.value_of(lambda k: plan.get(k.calls_left), desk) == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("name", ["bayes_optimal", "never", "always_B2", "latent_evpi"])
def test_walked_score_equals_the_solved_value(name: str) -> None:
    """The walk renames no intent and joins no states: a second road to the same number."""
    score = scoring.score(scoring.exact_play(GATES[name]))
    assert score.value == pytest.approx(exact.mean_value(GATES[name]), abs=1e-9)
    for line in score.calibration.values():
        assert (line.slope, line.r2, line.sign_accuracy) == pytest.approx((1, 1, 1), abs=1e-9)
    assert score.useless_share == pytest.approx(0.8 if name == "latent_evpi" else 0.0)


def test_calibration_line_by_hand() -> None:
    """Points (0, 1), (1, 3), (2, 2) with weights 1, 2, 1: slope 1/2, R2 = .25 * .5 / .6875."""
    line = scoring.calibrate(np.array([0.0, 1, 2]), np.array([1.0, 3, 2]), np.array([1.0, 2, 1]))
    assert line.slope == pytest.approx(0.5)
    assert line.intercept == pytest.approx(2.25 - 0.5)
    assert line.r2 == pytest.approx(0.25 * 0.5 / 0.6875)
    # the estimate 0 of a true 1 has the wrong sign: weight 1 * 1 of 1 + 6 + 2
    assert line.sign_accuracy == pytest.approx(8 / 9)


def test_a_play_that_calls_without_calls_left_is_refused() -> None:
    with pytest.raises(ActionError):
        scoring.score(lambda h: scoring.Choices(np.zeros(len(h), np.int64)))

"""Traps that show over many decisions, each with its wrong variant; work that need not be done."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bb_wm.decide.evidence import AskEvidence, CandidateEvidence, Evidence
from bb_wm.decide.evsi import EVSI, Ask, JointSamples, lookahead
from bb_wm.decide.experiment import Experiment, decide_and_record
from bb_wm.decide.gate import Gate, Verdict
from bb_wm.decide.ledger import Ledger
from bb_wm.decide.ledger_report import Watch, lot_line, read_ledger
from bb_wm.imagine.utility import Limit, Utility
from bb_wm.testing.evsi_cases import CASES, look_up, quadratic
from bb_wm.testing.paper_worlds import GaussianWorld

torch.set_num_threads(1)
GATE = Gate(limit=1.0, max_age=5.0, clock=lambda: 100.0)


def sensor(q_gain):
    """theta ~ N(0, 1) seen with noise 1; q moves by q_gain of what it should."""
    one = torch.eye(1).double()
    return GaussianWorld(torch.zeros(1).double(), one, one, 1.0, q_gain=q_gain)


def look(q_gain, count=256):
    world = sensor(q_gain)
    belief = world.prior(torch.randn(count, 1, generator=torch.Generator().manual_seed(0)))
    return EVSI(particles=count)(
        world, belief, Ask("look", cost=0.1), lambda s: torch.cat([torch.zeros_like(s.z), s.z], -1)
    )


def collapsed(result):
    return any("collapse" in alarm for alarm in result.alarms)


def decide(result, ledger, experiment):
    ask = AskEvidence.of(result, risk=0.0, risk_bound=0.0)
    push = CandidateEvidence("push", 0.5, 0.0, 0.0)
    state = Evidence(
        candidates=(push,),
        hold_utility=0.0,
        horizon=10,
        observed_at=99.5,
        policy="list",
        asks=(ask,),
    )
    return decide_and_record(GATE, ledger, state, experiment=experiment)


# ---- posterior collapse: EVSI 0 for ever, and the gate never asks again ----


def test_a_posterior_that_collapses_with_training_is_alarmed_before_it_is_dead():
    alarms = [collapsed(look(q_gain)) for q_gain in (1.0, 0.3, 0.1, 0.02, 0.0)]
    assert alarms == [False, False, False, True, True]


def test_exploratory_calls_show_what_a_collapsed_posterior_hides(tmp_path: Path):
    """The look is worth .2821 - .1 in truth; q says -.1 in every state."""
    result, luck = look(0.0), np.random.default_rng(0)
    assert result.evsi == pytest.approx(-0.1)
    assert collapsed(result)
    asked = {}
    for name, experiment in (("silent", None), ("lots", Experiment(share=0.3))):
        with Ledger(tmp_path / f"{name}.sqlite", durable=False) as ledger:
            asked[name] = 0
            for _ in range(120):
                decision = decide(result, ledger, experiment)
                called = decision.verdict is Verdict.ASK
                asked[name] += called
                value = (0.2821 - 0.1 if called else 0.0) + 0.1 * luck.normal()
                ledger.outcome(decision.decision_id, value)
            report = read_ledger(ledger, watch=Watch(least=40, hubris=0.06))
        found = {alarm.name: alarm for alarm in report.alarms}
        assert "deaf" in found  # the alarm over many decisions
        # The trap: without a lot the gate never asks, and nothing it sees can prove it wrong.
        assert found["hubris"].confirmed is (None if name == "silent" else True)
    assert asked["silent"] == 0
    assert asked["lots"] >= 5  # of 120; lots hang on random names of decisions


# ---- calibrating on called episodes only ----


def test_gains_read_from_called_episodes_only_are_those_of_another_sort_of_episode():
    """Hard states make asking worth more and returns lower: return = 5 - 4 evsi (+ evsi asked)."""
    draw = np.random.default_rng(0)
    evsi = draw.normal(0.2, 0.5, 4000)
    level = 5 - 4 * evsi + draw.normal(size=4000)
    chosen = evsi > 0
    trap = (level + evsi)[chosen].mean() - level[~chosen].mean()
    assert trap < -2  # it seems that asking ruins the return, although it never did
    lot = draw.random(4000) < 0.5
    line = lot_line(evsi, level + lot * evsi, lot)
    assert line.slope == pytest.approx(1.0, abs=4 * line.slope_error)
    assert line.mean_gain == pytest.approx(0.2, abs=4 * line.mean_gain_error)
    assert line.mean_gain > 0 > trap


def test_the_estimates_of_called_asks_are_too_good():
    """Worthless tools: those whose estimate was above 0 promise what they cannot keep."""
    estimates = []
    for seed in range(60):
        g = torch.Generator().manual_seed(seed)
        table = torch.rand(64, 5, generator=g).double() + 0.1
        table = table / table.sum(-1, keepdim=True)
        worth = torch.randn(64, 4, generator=g).double()
        estimates.append(EVSI().estimate(JointSamples(worth, likelihood=table)).evsi)
    found = np.array(estimates)
    error = found.std() / np.sqrt(len(found))
    assert abs(found.mean()) < 4 * error  # all of them: no bias to calibrate away
    assert found[found > 0.01].mean() > 5 * error  # those that a gate would have called


# ---- follow-ups and baselines ----


def test_forced_follow_ups_are_worth_less_than_those_that_hang_on_the_answer():
    case = look_up()
    states, prior = case.whole
    worth, table = case.candidates(states), case.model.answer
    free = lookahead(worth, {"tool": (table, 0.4)}, depth=2, weights=prior, exact=True)
    both = (table[:, :, None] * table[:, None]).flatten(1)
    samples = JointSamples(worth, likelihood=both, weights=prior, exact=True)
    forced = EVSI().estimate(samples, 0.8, calls=2)  # the trap: always pay for the second call
    assert free.evsi["tool"] > forced.evsi + 0.05
    assert free.evsi["tool"] >= case.exact().evsi


def test_a_baseline_that_may_wait_for_a_free_answer_leaves_nothing_to_pay_for():
    case = look_up()
    states, prior = case.whole
    worth, table = case.candidates(states), case.model.answer
    pick = ((prior[:, None] * table).T @ worth).argmax(-1)
    waiting = (table * worth[:, pick]).sum(1, keepdim=True)  # closed loop: the answer comes free
    samples = JointSamples(
        worth,
        before=torch.cat([worth, waiting], 1),
        likelihood=table,
        weights=prior,
        exact=True,
    )
    assert EVSI().estimate(samples, 0.4).evsi == pytest.approx(-0.4)
    trap = JointSamples(worth, before=worth, likelihood=table, weights=prior, exact=True)
    assert EVSI().estimate(trap, 0.4).evsi == pytest.approx(1.5035)  # an open-loop baseline


# ---- not even the truth would pay ----


class Counted(GaussianWorld):
    """Counts the latents its answers and posteriors are made for."""

    seen = 0

    def condition(self, latent, obs, noise=None):
        Counted.seen += noise is not None and latent.z[..., 0].numel()
        return super().condition(latent, obs, noise)


def priced(cost, **settings):
    """theta ~ N(0, 1): the truth is worth .399, a look .282; rolled out from every latent asked."""
    one = torch.eye(1).double()
    world, rolled = Counted(torch.zeros(1).double(), one, one, 1.0), []

    def worth(s):
        rolled.append(s.z.shape[0])
        return torch.cat([torch.zeros_like(s.z), s.z], -1)

    belief = world.prior(torch.randn(256, 1, generator=torch.Generator().manual_seed(1)))
    result = EVSI(particles=256, first_stage=64, **settings)(
        world, belief, Ask("look", cost=cost), worth
    )
    return result, sum(rolled)


def test_where_the_truth_would_not_pay_the_sampling_stops():
    dear, work = priced(0.8)
    assert dear.status == "do not ask"
    assert dear.upper < 0
    assert dear.upper <= dear.evpi_bound * 2 - dear.cost
    assert work == 64  # the worths of one stage, and no world imagined again
    assert dear.worlds == 64
    assert dear.rollouts == 64 * 2
    close, more = priced(0.28)
    assert close.status == "undecided"
    assert close.worlds == 256
    assert more > 4 * work
    # The trap: that bound reported as the worth itself would buy what is not worth its price.
    between, _ = priced(0.4)
    assert between.evpi_bound - between.cost > 0 > between.evsi


def test_a_limit_may_make_ignorance_worth_more_than_the_truth_and_stops_nothing():
    case = CASES["P9b_hard_limit_trap"]()
    evsi = EVSI(utility=Utility(discount=1.0, limit=Limit(0.12)))
    result = case.run(evsi, 0, weighted=True)
    assert result.info == pytest.approx(-0.6, abs=0.1)
    assert result.upper < 0


# ---- q that is not honest ----


@pytest.mark.parametrize(("wrong", "word"), [
    ({"q_scale": 0.5}, "too sure"), ({"q_gain": 1.49}, "off on average"),
])  # fmt: skip
def test_the_tower_alarms_on_a_wrong_q_with_the_default_number_of_worlds(wrong, word):
    found = [quadratic(**wrong).run(EVSI(answers=1), 300 + seed) for seed in range(20)]
    assert sum(result.tower_alarm for result in found) == 20
    assert sum(any(word in alarm for alarm in result.alarms) for result in found) >= 15
    # The trap: the average of U alone, without asking how far the truth lies from what q expects.
    level = [abs(r.tower_gap) > 3 * r.tower_standard_error for r in found]
    if "q_scale" in wrong:
        assert sum(level) < 20


def test_an_honest_q_is_left_alone():
    names = ("P1_gauss2", "P10_lgrssm_quad", "P13_extra_key", "P5_lookup")
    alarms = [
        CASES[name]().run(EVSI(answers=1), 400 + seed).tower_alarm
        for name in names
        for seed in range(10)
    ]
    assert sum(alarms) <= 1

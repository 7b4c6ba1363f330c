"""EVSI on models: asks with a step of their own, several calls, several asks, stages, beliefs."""

import math

import numpy as np
import pytest
import torch

from bb_wm.decide.evsi import EVSI, Ask, CrossFittedRegression, JointSamples, lookahead
from bb_wm.errors import ConfigError
from bb_wm.imagine.belief import Belief
from bb_wm.imagine.utility import Limit, Utility
from bb_wm.protocols import Observer
from bb_wm.testing.evsi_cases import look_up, rock, two_gaussians
from bb_wm.testing.paper_worlds import FiniteWorld, GaussianWorld, latent_of
from bb_wm.testing.tabular import tiger

torch.set_num_threads(1)


class Drift(GaussianWorld):
    """z moves by the action and noise, is rewarded for being near 0 and risky beyond 1."""

    def step(self, latent, action, noise=None):
        moved = latent.z + action.double()
        return latent_of(moved if noise is None else moved + 0.1 * noise)

    def predict_reward(self, latent):
        return -latent.z[..., 0].square()

    def predict_safety(self, latent):
        return (latent.z[..., 0].abs() - 1).clamp_min(0)


def drift():
    one = torch.eye(1).double()
    return Drift(torch.zeros(1).double(), one, one, 0.3)


def cloud(count=256, seed=0):
    return drift().prior(torch.randn(count, 1, generator=torch.Generator().manual_seed(seed)))


MOVES = torch.tensor([[-1.0], [0.0], [1.0]]).double()[:, None].expand(3, 4, 1)


def test_the_paper_worlds_are_observers():
    assert isinstance(drift(), Observer)
    assert isinstance(look_up().model, Observer)


def test_a_call_that_takes_a_step_is_paid_for_by_its_delay():
    """Deadline 4 in both branches: after one waiting step, three moves are left."""
    wait = Ask("wait and look", torch.zeros(1).double(), cost=0.0)
    result = EVSI(utility=Utility(discount=1.0))(drift(), cloud(), wait, MOVES)
    # Not moving is best blind, so waiting costs nothing: effect 0 within the noise of steps.
    assert result.effect == pytest.approx(0.0, abs=0.02)
    assert result.info > 3 * result.standard_error
    assert result.v_read == pytest.approx(result.v_no + result.info + result.effect)
    # A call that throws the world away from its goal costs its push for four rows.
    push = Ask("push", 2 * torch.ones(1).double())
    thrown = EVSI(utility=Utility(discount=1.0))(drift(), cloud(), push, MOVES)
    # Blind best after a push of 2 is -1 for 3 rows: -(4 + 1 + 0 + 1) - 4 against -4: effect -6.
    assert thrown.effect == pytest.approx(-6.0, abs=0.8)


def test_policies_and_actions_are_the_same_candidates():
    policies = [lambda s, a=a: torch.full_like(s.z, a) for a in (-1.0, 0.0, 1.0)]
    ask = Ask("look")
    by_actions = EVSI()(drift(), cloud(), ask, MOVES)
    by_policies = EVSI(horizon=4)(drift(), cloud(), ask, policies)
    assert by_policies.gain == pytest.approx(by_actions.gain, abs=1e-9)
    assert by_policies.rollouts == by_actions.rollouts


def test_the_limit_binds_the_call_itself():
    utility = Utility(discount=1.0, limit=Limit(0.5))
    push = Ask("push", 3 * torch.ones(1).double())
    result = EVSI(utility=utility)(drift(), cloud(), push, MOVES)
    assert result.refused
    assert "limit" in result.status


def test_same_seed_same_answer_and_noise_is_shared_by_asks():
    asks = [Ask("one"), Ask("two", cost=0.1)]
    first = EVSI()(drift(), cloud(), asks, MOVES)
    again = EVSI()(drift(), cloud(), asks, MOVES)
    assert [r.evsi for r in first] == [r.evsi for r in again]
    assert first["one"].v_no == pytest.approx(first["two"].v_no)
    assert first.best.name == "one"
    assert EVSI(seed=1)(drift(), cloud(), asks, MOVES)["one"].gain != first["one"].gain


def test_beliefs_latents_and_pairs_are_taken():
    case = look_up()
    states, prior = case.whole
    plain = EVSI()(case.model, (states, prior), case.ask, case.candidates, exact=True)
    belief = Belief.of(states, prior.log())
    same = EVSI()(case.model, belief, case.ask, case.candidates, exact=True)
    assert same.gain == pytest.approx(plain.gain)
    with pytest.raises(ConfigError):
        EVSI()(case.model, "a belief", case.ask, case.candidates)
    dead = Belief.of(states, torch.full((4,), -torch.inf).double())
    assert EVSI()(case.model, dead, case.ask, case.candidates).refused
    assert EVSI()(case.model, dead, case.ask, case.candidates, exact=True).refused


def test_one_latent_is_enough_where_the_call_draws():
    """The call moves the state: its answer is not known before, although the latent is."""
    moves = torch.tensor([[0.5, 0.5], [0.5, 0.5]], dtype=torch.float64)
    answer = torch.tensor([[0.8, 0.2], [0.2, 0.8]], dtype=torch.float64)
    world = FiniteWorld(torch.tensor([0.5, 0.5]).double(), answer, moves)
    utility = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    ask = Ask("spin", torch.zeros(1).double(), answers=world.answers())
    start = world.states()[0]
    result = EVSI(utility=Utility(discount=1.0), particles=1024)(
        world, start, ask, lambda s: s.z @ utility
    )
    assert result.info == pytest.approx(0.6, abs=0.07)
    assert result.effect == pytest.approx(-1.0, abs=0.07)


def test_several_calls_drawn_or_listed_agree():
    case = rock(5, 3)
    listed = case.run(EVSI(particles=1024), 0).gain
    drawn = Ask("tool", cost=0.3, calls=3)
    states = case.belief(1024, torch.Generator().manual_seed(0))
    result = EVSI(particles=1024)(case.model, states, drawn, case.candidates)
    assert result.estimator == "CrossFittedRegression"
    assert result.gain == pytest.approx(listed, abs=0.25)
    assert result.calls == 3
    assert result.cost == pytest.approx(0.9)


def test_two_calls_with_steps_of_their_own_on_the_tiger():
    world = tiger()
    states = world.latent(torch.arange(2))
    listen, answers = torch.eye(3).double()[0], {"obs": torch.arange(2)[:, None]}
    doors = torch.tensor([[0.0, -100, 10], [0.0, 10, -100]], dtype=torch.float64)
    net = []
    for calls in (1, 2, 3):
        ask = Ask("listen", listen, cost=1.0, cost_in_reward=True, answers=answers, calls=calls)
        result = EVSI(utility=Utility(discount=1.0))(
            world, (states, torch.ones(2).double() / 2), ask, lambda s: s.h @ doors, exact=True
        )
        net.append(result.evsi)
    assert net == pytest.approx([-1.0, 2.975, 2.80375])


def test_sequential_stages_stop_when_decided():
    case = look_up()
    easy = case.run(EVSI(particles=256, first_stage=64), 0)
    assert easy.worlds == 64
    assert easy.status == "ask"
    close = Ask("tool", cost=1.9, answers=case.ask.answers)
    hard = EVSI(particles=256, first_stage=64)(case.model, case.whole, close, case.candidates)
    assert hard.worlds == 256
    assert hard.status == "undecided"
    priced = EVSI(particles=256, first_stage=64, compute_price=10.0)(
        case.model, case.whole, close, case.candidates
    )
    assert priced.worlds == 64
    assert priced.status == "undecided"
    assert priced.opportunity_loss > 0


def test_choosing_the_best_of_many_useless_tools_does_not_pay():
    """The optimiser's curse: the best of twelve estimates is too good, the held-out one is not."""
    best, selected = [], []
    for seed in range(40):
        g = torch.Generator().manual_seed(seed)
        worth = torch.randn(64, 4, generator=g).double()
        problems = {}
        for name in range(8):
            table = torch.rand(64, 6, generator=g).double() + 0.2
            table = table / table.sum(-1, keepdim=True)
            problems[str(name)] = (JointSamples(worth, likelihood=table), 0.0)
        ranking = EVSI().rank(problems)
        best.append(ranking.best.evsi)
        selected.append(ranking.selected)
        assert list(ranking) == sorted(ranking, key=lambda r: -r.evsi)
    assert np.mean(best) > 3 * np.std(best) / math.sqrt(40)
    assert np.mean(selected) < 2 * np.std(selected) / math.sqrt(40)
    luck = np.subtract(best, selected)
    assert np.mean(luck) > 3 * np.std(luck) / math.sqrt(40)


def test_ranking_is_by_net_and_never_by_ratio():
    worth = torch.tensor([[0.0, 1.0], [0.0, -1.0]]).double()
    sure, hint = torch.eye(2).double(), torch.tensor([[0.6, 0.4], [0.4, 0.6]]).double()
    ranking = EVSI().rank(
        {
            "hint": (JointSamples(worth, likelihood=hint, exact=True), 0.01),  # .10 for .01
            "sure": (JointSamples(worth, likelihood=sure, exact=True), 0.20),  # .50 for .20
        }
    )
    assert ranking.best.name == "sure"
    assert ranking.selected == pytest.approx(0.3)


def tool_desk(clarity=0.4, stake=1.0, price=1.0):
    worth = stake * torch.cat([3 * torch.eye(4) - 2, torch.zeros(4, 1)], 1).double()
    eye = torch.eye(4).double()

    def told(silent, right):
        table = (1 - silent) * (eye * right + (1 - eye) * (1 - right) / 3)
        return torch.cat([table, torch.full((4, 1), silent).double()], 1)

    tools = {
        "A": (told(0.10, 0.70), 0.05 * price),
        "B": (told(0.25, 0.95), 0.20 * price),
        "C": (torch.full((4, 16), 1 / 16).double(), 0.02 * price),
    }
    prior = torch.full((4,), (1 - clarity) / 3).double()
    prior[0] = clarity
    return worth, tools, prior


def test_tool_desk_one_call_and_lookahead():
    """clarity 0, stake 1, price 1: exact one-call EVSI .094, .4375, -.02 (public reference)."""
    worth, tools, prior = tool_desk()
    one = lookahead(worth, tools, depth=1, weights=prior, exact=True)
    assert one.evsi == pytest.approx({"A": 0.094, "B": 0.4375, "C": -0.02})
    two = lookahead(worth, tools, depth=2, weights=prior, exact=True)
    assert two.first == "B"
    assert two.evsi["A"] > one.evsi["A"]
    deep = lookahead(worth, {k: tools[k] for k in "AB"}, depth=4, weights=prior, exact=True)
    assert deep.v_stop + max(deep.evsi.values()) == pytest.approx(0.5857150468749999)
    assert deep.evsi["A"] == pytest.approx(0.584134, abs=1e-6)


def test_lookahead_from_sampled_worlds():
    worth, tools, prior = tool_desk()
    exact = lookahead(worth, tools, depth=2, weights=prior, exact=True).evsi
    found = []
    for seed in range(10):
        g = torch.Generator().manual_seed(seed)
        index = torch.multinomial(prior, 256, replacement=True, generator=g)
        sampled = {name: (table[index], cost) for name, (table, cost) in tools.items()}
        found.append(lookahead(worth[index], sampled, depth=2).evsi)
    for name in tools:
        assert np.mean([f[name] for f in found]) == pytest.approx(exact[name], abs=0.05)


def test_settings_are_checked():
    with pytest.raises(ConfigError):
        EVSI(particles=0)
    with pytest.raises(ConfigError):
        EVSI(compute_price=math.nan)
    with pytest.raises(ConfigError):
        Ask("x", calls=5)
    with pytest.raises(ConfigError):
        Ask("x", cost=math.nan)
    with pytest.raises(ConfigError):
        CrossFittedRegression(folds=2)
    with pytest.raises(ConfigError):
        EVSI()(drift(), cloud(), [Ask("x"), Ask("x")], MOVES)
    with pytest.raises(ConfigError):
        EVSI()(drift(), cloud(), Ask("x", keys=("nothing",)), MOVES)
    with pytest.raises(ConfigError):
        EVSI()(drift(), cloud(), Ask("x", torch.zeros(2)), MOVES)
    with pytest.raises(ConfigError):
        EVSI()(drift(), cloud(), Ask("x", torch.zeros(1), calls=4), MOVES)


def test_answers_are_estimated_as_nested_monte_carlo_has_it():
    """An independent twin: a large nested simulation with exact posterior draws."""
    case, g = two_gaussians(), np.random.default_rng(0)
    theta = -0.5 + 2 * g.standard_normal(3000)
    told = theta + 1.5 * g.standard_normal(3000)
    mean, spread = -0.5 + 0.64 * (told + 0.5), math.sqrt(4 * (1 - 0.64))
    inner = mean[:, None] + spread * g.standard_normal((3000, 400))
    nested = np.maximum(inner.mean(1), 0).mean() - max(0.0, theta.mean())
    ours = np.mean([case.run(EVSI(tower=False), seed).gain for seed in range(10)])
    assert ours == pytest.approx(nested, abs=0.07)

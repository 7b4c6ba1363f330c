"""Utility: by hand, by an independent twin, and by what must not change it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bb_wm.errors import BatchError, ConfigError
from bb_wm.imagine.risk import CVaR, Mean, Worst
from bb_wm.imagine.rollout import reach
from bb_wm.imagine.utility import Limit, Utility, Worth, risk_drift
from bb_wm.types import Latent, Trajectory


def trajectory(reward, safety=None, continuation=None):
    """A trajectory [*batch, K] of the given rows, whose latents hold h = reward."""
    reward = torch.tensor(reward, dtype=torch.float64)
    safety = torch.zeros_like(reward) if safety is None else torch.tensor(safety).double()
    cont = torch.ones_like(reward) if continuation is None else torch.tensor(continuation).double()
    h = reward[..., None]
    latents = Latent(h, h[..., :0], h[..., None, :0], h[..., :0])
    start = latents.map(lambda t: t.select(reward.dim() - 1, 0))
    return Trajectory(start, latents, h, reward, safety, cont, reach(cont))


def test_discounted_return_with_continuation_by_hand():
    path = trajectory([[1.0, 2.0, 3.0]], [[4.0, 0.0, 8.0]], [[0.5, 0.5, 0.5]])
    worth = Utility(discount=0.5, risk_weight=2.0)(path)
    # reach 1, 1/2, 1/4; gamma^k 1, 1/2, 1/4: G = 1 + 2/4 + 3/16; V = 4 + 0 + 8/4.
    assert worth.return_.item() == pytest.approx(1 + 0.5 + 3 / 16, abs=1e-12)
    assert worth.risk.item() == pytest.approx(6.0, abs=1e-12)
    assert worth.utility.item() == pytest.approx(1.6875 - 12.0, abs=1e-12)
    assert worth.spread.item() == 0.0
    assert bool(worth.allowed)


def test_risk_discount_and_peak_by_hand():
    path = trajectory([[0.0, 0.0, 0.0]], [[4.0, 6.0, 20.0]], [[0.5, 0.5, 1.0]])
    assert Utility(risk_discount=0.5).risks(path).item() == pytest.approx(4 + 6 / 4 + 20 / 16)
    assert Utility(over_time="peak").risks(path).item() == pytest.approx(5.0)


def test_terminal_value_counts_the_chance_of_getting_there():
    path = trajectory([[1.0, 10.0]], None, [[0.5, 0.4]])
    utility = Utility(discount=0.5, terminal=lambda latent: 100 * latent.h[..., 0])
    # 1 + .5*.5*10 and the value 1000 behind reach .5 * .4 and gamma^2.
    assert utility(path).return_.item() == pytest.approx(1 + 2.5 + 0.25 * 0.2 * 1000)


def test_terminal_value_of_another_shape_is_refused():
    with pytest.raises(BatchError, match=r"Utility.terminal must be \[1\]"):
        Utility(terminal=lambda latent: latent.h)(trajectory([[1.0]]))


def test_drift_weighs_where_the_path_ends():
    path = trajectory([0.0, 0.0, 0.0], [1.0, 2.0, 4.0], [0.5, 0.5, 0.7])
    # Ends at row 0 with .5, at row 1 with .25, at the last with the remaining .25.
    assert risk_drift(path, torch.tensor(1.0)).item() == pytest.approx(0.5 + 0.5 + 1.0 - 1.0)


def test_spread_and_standard_error_by_hand():
    worth = Utility(discount=1.0)(trajectory([[1.0], [2.0], [3.0], [6.0]]))
    sd = math.sqrt(sum((x - 3) ** 2 for x in (1, 2, 3, 6)) / 3)
    assert worth.spread.item() == pytest.approx(sd)
    assert worth.standard_error.item() == pytest.approx(sd / 2)


def test_weights_count_like_repetitions():
    weights = torch.tensor([0.5, 0.25, 0.25]).log()
    weighted = Utility(risk=CVaR(0.5), risk_weight=1.0)(
        trajectory([[1.0], [5.0], [2.0]], [[3.0], [1.0], [9.0]]), log_weights=weights
    )
    repeated = Utility(risk=CVaR(0.5), risk_weight=1.0)(
        trajectory([[1.0], [1.0], [5.0], [2.0]], [[3.0], [3.0], [1.0], [9.0]])
    )
    assert weighted.utility.item() == pytest.approx(repeated.utility.item())
    assert weighted.risk.item() == pytest.approx((9.0 * 0.25 + 3.0 * 0.25) / 0.5)


def test_cvar_by_hand():
    risks = torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0], dtype=torch.float64)
    assert CVaR(0.2)(risks).item() == pytest.approx(10.0)
    assert CVaR(0.4)(risks).item() == pytest.approx(7.0)
    assert CVaR(0.3)(risks).item() == pytest.approx((10 * 0.2 + 4 * 0.1) / 0.3)
    assert CVaR(1.0)(risks).item() == pytest.approx(4.0)
    assert Worst()(risks).item() == 10.0
    assert Mean()(risks).item() == pytest.approx(4.0)


def tail_mean(risks, weights, tail):
    """CVaR another way: pour the worst outcomes into a bucket of size `tail`."""
    left, total = tail, 0.0
    for risk, weight in sorted(zip(risks, weights, strict=True), reverse=True):
        taken = min(left, weight)
        total += taken * risk
        left -= taken
    return total / tail


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=9).filter(
        lambda rows: sum(w for _, w in rows) > 0
    ),
    st.sampled_from([0.05, 0.1, 0.25, 0.5, 0.9, 1.0]),
)
def test_cvar_equals_its_twin_with_ties_and_weights_of_zero(rows, tail):
    total = sum(w for _, w in rows)
    risks = torch.tensor([float(r) for r, _ in rows], dtype=torch.float64)
    weights = torch.tensor([w / total for _, w in rows], dtype=torch.float64)
    expected = tail_mean(risks.tolist(), weights.tolist(), tail)
    assert CVaR(tail)(risks, weights).item() == pytest.approx(expected, abs=1e-5)


def test_risk_measures_are_ordered():
    risks = torch.rand(50, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, tail, worst = Mean()(risks), CVaR(0.1)(risks), Worst()(risks)
    assert (mean <= tail + 1e-12).all()
    assert (tail <= worst + 1e-12).all()


def test_worst_ignores_what_has_no_weight():
    risks = torch.tensor([1.0, 100.0], dtype=torch.float64)
    assert Worst()(risks, torch.tensor([1.0, 0.0]).double()).item() == 1.0


def test_per_outcome_and_ex_ante_limits_differ_as_in_the_hard_limit_trap():
    # go: V_s = 1 if bad, p_bad .1, answers [[.95, .05], [.25, .75]], limit .12 on E[V_s].
    chances = torch.tensor([0.9 * 0.95 + 0.1 * 0.25, 0.9 * 0.05 + 0.1 * 0.75])
    risk = torch.tensor([0.1 * 0.25, 0.1 * 0.75]) / chances
    assert risk.tolist() == pytest.approx([0.02840909, 0.625])
    assert Limit(0.12).allows(risk[:, None]).tolist() == [True, False]
    assert not Limit(0.12, "outcome").allows(risk, chances)
    assert Limit(0.12, "ex_ante").allows(risk, chances)  # .1 on average
    assert Limit(0.12).allows(risk, torch.tensor([1.0, 0.0]))  # an outcome that cannot come


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["reward", "safety"])
def test_one_bad_number_in_one_rollout_makes_the_candidate_unusable(bad, where):
    reward, safety = [[1.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]
    (reward if where == "reward" else safety)[1][1] = bad
    for measure in (Mean(), CVaR(0.5), Worst()):
        worth = Utility(risk=measure, limit=Limit(5.0))(trajectory(reward, safety))
        assert not worth.usable
        assert not worth.allowed


def test_negative_risk_is_a_broken_head():
    worth = Utility()(trajectory([[1.0], [1.0]], [[3.0], [-0.5]]))
    assert not worth.usable


def test_abstaining_has_no_risk():
    worth = Utility(abstain=0.7).abstaining(torch.zeros(3))
    assert worth.utility.tolist() == pytest.approx([0.7] * 3)
    assert worth.risk.tolist() == [0.0] * 3
    other = Utility()(trajectory([[[1.0]]] * 3, [[[2.0]]] * 3))
    assert other.delta_risk().tolist() == [2.0] * 3
    assert other.delta_risk(other).tolist() == [0.0] * 3


def test_worth_concatenates_and_gathers_candidates():
    one = Utility()(trajectory([[[1.0]], [[2.0]]]))
    both = Worth.concatenate([one, one])
    assert both.gather(torch.tensor([3, 0])).return_.tolist() == [2.0, 1.0]


@pytest.mark.parametrize(
    "settings",
    [
        {"discount": 1.1},
        {"discount": math.nan},
        {"risk_weight": -1.0},
        {"risk_weight": math.nan},
        {"risk": "cvar"},
        {"limit": 0.1},
        {"abstain": math.nan},
        {"over_time": "last"},
    ],
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ConfigError, match=f"Utility.{next(iter(settings))} must be"):
        Utility(**settings)


def test_bad_limits_and_tails_are_refused():
    for make in (lambda: Limit(math.nan), lambda: Limit(-1.0), lambda: CVaR(0.0), lambda: CVaR(2)):
        with pytest.raises(ConfigError):
            make()
    with pytest.raises(ConfigError):
        Limit(1.0, "sometimes")


def test_a_trajectory_without_rollouts_is_refused():
    with pytest.raises(BatchError, match="axis of N rollouts"):
        Utility()(trajectory([1.0, 2.0]))
    with pytest.raises(BatchError, match="log_weights"):
        Utility()(trajectory([[1.0], [2.0]]), log_weights=torch.zeros(3))

"""Every trap of EVSI, built in on purpose: the wrong variant is shown to be caught."""

import math

import numpy as np
import pytest
import torch

from bb_wm.decide.evsi import EVSI, Ask, CrossFittedRegression, Enumeration, JointSamples
from bb_wm.decide.evsi.criteria import TailUtility
from bb_wm.decide.evsi.result import opportunity_loss
from bb_wm.errors import BatchError, RangeError
from bb_wm.imagine.utility import Utility
from bb_wm.testing.evsi_cases import CASES, RETURNS, RISKS, look_up, quadratic, tiger_stop
from bb_wm.testing.paper_worlds import GaussianWorld, latent_of

torch.set_num_threads(1)


def drawn(case, count, seed, repeats=8):
    """Worlds and answers of a GaussianWorld case, without going through EVSI."""
    g = torch.Generator().manual_seed(seed)
    latent = case.belief(count, g)
    told = case.model.imagine_obs(
        latent.expand(repeats), torch.randn(count, repeats, case.model.obs_noise_size, generator=g)
    )["o"]
    return case.candidates(latent), told


def lookup_samples(exact=True):
    case = look_up()
    states, prior = case.whole
    return JointSamples(
        case.candidates(states), likelihood=case.model.answer, weights=prior, exact=exact
    )


def test_max_inside_the_average_makes_v_no_too_large():
    result = look_up().exact()
    worth = look_up().candidates(look_up().whole[0])
    inside = float((look_up().whole[1] * worth.amax(1)).sum())
    assert result.v_no == pytest.approx(1.0)
    assert inside == pytest.approx(5.0)  # the trap: knows the intent before asking


def test_latent_evpi_is_a_bound_and_not_the_evsi():
    result = quadratic().run(EVSI(particles=2048, answers=2, tower=False), 0)
    assert result.evpi_bound == pytest.approx(0.885, abs=0.06)
    assert result.gain == pytest.approx(0.579, abs=0.05)
    assert result.gain < result.evpi_bound


def test_plug_in_maximum_of_noisy_means_is_biased_and_ours_is_not():
    """Eight answers per world, five inner draws: the naive nested estimator of zero information."""
    naive, ours = [], []
    for seed in range(30):
        g = np.random.default_rng(seed)
        theta = g.standard_normal((64, 8))  # posterior draws after an answer that says nothing
        worth = 0.02 * np.arange(4) + theta[..., None] * np.array([1, -1, 1, -1])
        naive.append(worth.mean(1).max(-1).mean() - worth.mean((0, 1)).max())
        utility, told = drawn(CASES["P7_zero_info"](), 256, seed)
        ours.append(EVSI().estimate(JointSamples(utility, features=told)).gain)
    assert np.mean(naive) > 0.2
    assert abs(np.mean(ours)) < 0.02


def test_one_baseline_for_both_terms():
    """V_no from other rollouts than V_read: the difference of two noises instead of their pair."""
    ours, apart = [], []
    case = CASES["P1_gauss2"]()
    for seed in range(30):
        utility, told = drawn(case, 256, seed)
        other, _ = drawn(case, 256, seed + 1000)
        # The luck of the world is common to all candidates: a paired baseline does not feel it.
        luck = 5 * torch.randn(256, 1, generator=torch.Generator().manual_seed(seed)).double()
        result = EVSI().estimate(JointSamples(utility + luck, features=told))
        ours.append(result.gain)
        unlucky = (
            5 * torch.randn(256, 1, generator=torch.Generator().manual_seed(seed + 9)).double()
        )
        apart.append(result.v_read - float((other + unlucky).mean(0).max()))
    assert np.std(apart) > 3 * np.std(ours)


def test_cost_in_the_reward_is_counted_once():
    case = CASES["P4_tiger_H5"]()
    evsi = EVSI(utility=Utility(discount=0.95))
    assert case.exact(evsi).evsi == pytest.approx(46.057329185, abs=1e-8)
    wrong = Ask("listen", case.ask.action, cost=1.0, answers=case.ask.answers)
    twice = evsi(case.model, case.whole, wrong, case.candidates, before=case.before, exact=True)
    assert twice.evsi == pytest.approx(45.057329185, abs=1e-8)


def test_entropy_of_answers_is_no_value():
    """A noisy television: sixteen equally likely answers that say nothing."""
    base = lookup_samples()
    noise = torch.full((4, 16), 1 / 16, dtype=torch.float64)
    result = EVSI().estimate(
        JointSamples(base.utility, likelihood=noise, weights=base.weights, exact=True), 0.02
    )
    entropy = float(-(noise[0] * noise[0].log()).sum())
    assert entropy > 2.7
    assert result.info == pytest.approx(0.0, abs=1e-12)
    assert result.evsi == pytest.approx(-0.02)
    assert result.status == "do not ask"


def test_choosing_on_the_particle_instead_of_its_answer_is_clairvoyance():
    """Features must be functions of the answer: those of the particle itself read the future."""
    case = CASES["P7_zero_info"]()
    latent = case.belief(256, torch.Generator().manual_seed(0))
    worth = case.candidates(latent)
    blind = EVSI()(case.model, latent, case.ask, case.candidates)
    clairvoyant = EVSI().estimate(JointSamples(worth, features=latent.z[:, None].expand(-1, 8, -1)))
    assert clairvoyant.info > 0.5
    assert abs(blind.info) < 0.03


class OwnLatent(GaussianWorld):
    """A world whose `condition` returns the particle itself, as a table world's does."""

    def condition(self, latent, obs, noise=None):
        return latent


def test_a_posterior_that_keeps_the_particle_cannot_leak_it_and_is_alarmed():
    one = torch.eye(1).double()
    world = OwnLatent(torch.zeros(1).double(), one, one, 1.0)
    belief = world.prior(torch.randn(256, 1, generator=torch.Generator().manual_seed(0)))

    def worth(s):
        return torch.cat([torch.zeros_like(s.z), s.z], -1)

    stuck = EVSI()(world, belief, Ask("look", cost=0.1), worth)
    assert stuck.info == pytest.approx(0.0, abs=1e-9)
    assert any("collapse" in alarm for alarm in stuck.alarms)
    # It is worth .2821 (sqrt(.5) phi(0)): read the answer itself, and the gate asks again.
    seen = EVSI(reading="answer")(world, belief, Ask("look", cost=0.1), worth)
    assert seen.info == pytest.approx(0.2821, abs=0.08)
    assert not seen.alarms


def test_a_single_sample_posterior_is_refused():
    case = quadratic()
    one = latent_of(torch.zeros(1).double())
    result = EVSI()(case.model, one, case.ask, case.candidates)
    assert result.refused
    assert not result.usable
    assert result.status.startswith("refused: one latent")
    few = EVSI().estimate(JointSamples(torch.randn(3, 2), features=torch.randn(3, 8, 1)))
    assert few.refused


def test_forced_equal_follow_up_hides_what_adaptive_calls_are_worth():
    one, two = tiger_stop(1).exact(), tiger_stop(2).exact()
    assert one.evsi == pytest.approx(-1.0)  # one call: never worth it
    assert two.evsi == pytest.approx(2.975)  # two calls: worth it


def test_negative_info_is_a_mistake_for_expected_utility():
    base = lookup_samples()
    assert EVSI().estimate(base).info > 0
    # The trap: choose by a wrong posterior and score by the same one.
    upside_down = base.likelihood.flip(0)
    sums = (base.weights[:, None] * upside_down).T @ base.utility
    pick = sums.argmax(-1)
    true = (base.weights[:, None] * base.likelihood).T @ base.utility
    assert float(true[torch.arange(5), pick].sum()) - 1.0 < 0


def test_the_same_folds_to_choose_and_to_score_are_too_hopeful():
    hopeful, honest = [], []
    for seed in range(60):
        g = torch.Generator().manual_seed(seed)
        utility = torch.randn(64, 6, generator=g)  # nothing to know
        table = (2 * torch.randn(64, 8, generator=g)).softmax(-1)
        table = table.double() / table.double().sum(-1, keepdim=True)
        found = Enumeration()(JointSamples(utility, likelihood=table))
        hopeful.append(found.info_hopeful)
        honest.append(found.gain_honest)
    assert np.mean(hopeful) > 6 * np.std(hopeful) / math.sqrt(60)  # a value where there is none
    assert np.mean(honest) < 2 * np.std(honest) / math.sqrt(60)
    assert np.mean(honest) < np.mean(hopeful) / 2


def test_importance_weights_fail_in_high_dimension_where_regression_does_not():
    case = CASES["P12_hd16"]()
    weighted, ours = [], []
    for seed in range(6):
        utility, told = drawn(case, 256, seed)
        latent = case.belief(256, torch.Generator().manual_seed(seed))
        log = -0.5 * (told[:, 0, None] - latent.z[None]).square().sum(-1)
        share = log.softmax(-1)  # one draw carries almost all weight
        weighted.append(float((share @ utility).amax(-1).mean() - utility.mean(0).max()))
        ours.append(EVSI(tower=False).estimate(JointSamples(utility, features=told)).gain)
    assert abs(np.mean(weighted) - case.gross) > 2 * abs(np.mean(ours) - case.gross)
    assert np.mean(weighted) > case.gross + 0.1


def test_clipping_at_zero_before_averaging_invents_value():
    estimates = []
    for seed in range(40):
        utility, told = drawn(CASES["P7_zero_info"](), 64, seed)
        utility = utility + torch.randn(64, 4, generator=torch.Generator().manual_seed(seed)) * 2
        found = CrossFittedRegression()(JointSamples(utility, features=told))
        estimates.append(found.gain_honest)
    assert min(estimates) < 0  # honest scores go below 0, and are left there
    assert np.mean(np.maximum(estimates, 0)) > np.mean(estimates)


def test_conditional_cvar_invents_value_and_the_mixture_does_not():
    utility = RETURNS - 0.5 * RISKS
    table = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
    prior = torch.tensor([0.92, 0.08], dtype=torch.float64)
    samples = JointSamples(utility, likelihood=table, weights=prior, exact=True)
    mixture = EVSI(criterion=TailUtility(0.2)).estimate(samples)
    criterion, conditional = TailUtility(0.2), 0.0
    for o in range(2):
        joint = prior * table[:, o]
        given = JointSamples(
            utility, likelihood=torch.ones(2, 1).double(), weights=joint / joint.sum(), exact=True
        )
        conditional += float(joint.sum()) * EVSI(criterion=criterion).estimate(given).v_no
    assert conditional - mixture.v_no == pytest.approx(0.8036)  # the trap
    assert mixture.info == pytest.approx(0.0, abs=1e-9)


def test_averaging_members_forgets_what_the_answer_says_about_them():
    result = CASES["P14_ensemble"]().exact()
    assert result.gain == pytest.approx(2.8)
    members = [
        EVSI()
        .estimate(
            JointSamples(
                utility[None], likelihood=torch.tensor([says], dtype=torch.float64), exact=True
            )
        )
        .gain
        for utility, says in (
            (torch.tensor([5.0, -3.0, 0.0]), [0.1, 0.9]),
            (torch.tensor([-3.0, 5.0, 0.0]), [0.8, 0.2]),
        )
    ]
    assert members == pytest.approx([0.0, 0.0])


def test_assuming_the_new_key_independent_of_the_old_is_seen_in_the_number():
    case = CASES["P13_extra_key"]()
    found = [case.run(EVSI(tower=False), seed).gain for seed in range(12)]
    assert np.mean(found) == pytest.approx(0.0369, abs=0.02)
    assert np.mean(found) < 0.1239 / 2  # what independence would say


def test_stopping_rule_is_the_expected_opportunity_loss():
    assert opportunity_loss(0.0, 1.0) == pytest.approx(0.3989423)
    assert opportunity_loss(1.0, 1.0) == pytest.approx(0.0833155)
    assert opportunity_loss(-2.0, 2.0) == pytest.approx(2 * 0.0833155)
    x = np.random.default_rng(0).normal(0.7, 1.3, 400_000)  # the loss itself: E[max(-x, 0)]
    assert opportunity_loss(0.7, 1.3) == pytest.approx(np.maximum(-x, 0).mean(), abs=4e-3)


@pytest.mark.parametrize("field", ["utility", "likelihood", "weights"])
def test_broken_samples_are_refused_at_the_door(field):
    base = lookup_samples()
    values = {
        "utility": base.utility.clone(), "likelihood": base.likelihood.clone(),
        "weights": base.weights.clone(),
    }  # fmt: skip
    values[field].view(-1)[0] = math.nan
    with pytest.raises(BatchError) as caught:
        JointSamples(**values).validated()
    assert caught.value.field == field


def test_answers_that_do_not_sum_to_one_are_refused():
    with pytest.raises(RangeError) as caught:
        JointSamples(
            torch.ones(2, 2), likelihood=torch.tensor([[0.5, 0.4], [0.5, 0.5]])
        ).validated()
    assert caught.value.field == "likelihood"


def test_a_broken_model_never_raises_and_is_never_asked():
    case = quadratic()
    result = EVSI()(
        case.model,
        case.belief(64, torch.Generator()),
        case.ask,
        lambda s: case.candidates(s) * math.nan,
    )
    assert result.refused
    assert not result.usable
    assert "utility" in result.status

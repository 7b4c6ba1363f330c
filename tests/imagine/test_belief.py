"""Belief: against Bayes by hand, an exact filter, and the laws of resampling."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bb_wm.decide.planners import Enumerate
from bb_wm.errors import BatchError, ConfigError, LatentError
from bb_wm.imagine.belief import Belief, systematic
from bb_wm.imagine.ensemble import Ensemble, _Pick, tag
from bb_wm.imagine.utility import Utility
from bb_wm.testing.tabular import TabularPOMDP, tiger
from bb_wm.types import Latent

LISTEN = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)


def heard(side):
    return {"obs": torch.tensor([side])}


def tiger_belief(model, noise=None):
    belief = Belief.of(model.latent(torch.tensor([0, 1])))
    return belief.step(model, LISTEN, torch.zeros(2, 1) if noise is None else noise)


def test_reading_is_bayes_rule():
    model = tiger()
    belief = tiger_belief(model).read(model, heard(0))
    assert belief.weights.tolist() == pytest.approx([0.85, 0.15])
    twice = belief.step(model, LISTEN, torch.zeros(2, 1)).read(model, heard(0))
    assert twice.weights[0].item() == pytest.approx(0.85**2 / (0.85**2 + 0.15**2))
    assert twice.log_weights.logsumexp(-1).item() == pytest.approx(0.0, abs=1e-12)


def test_effective_size_and_mean_by_hand():
    model = tiger()
    belief = tiger_belief(model).read(model, heard(0))
    assert belief.effective_size.item() == pytest.approx(1 / (0.85**2 + 0.15**2))
    assert belief.mean(belief.latents.h).tolist() == pytest.approx([0.85, 0.15])
    assert Belief.of(belief.latents).effective_size.item() == pytest.approx(2.0)


def test_an_impossible_answer_leaves_nothing_to_trust():
    model = tiger(accuracy=1.0)
    belief = Belief.of(model.latent(torch.tensor([0, 0]))).step(model, LISTEN, torch.zeros(2, 1))
    dead = belief.read(model, heard(1))
    assert not dead.alive
    assert torch.isnan(dead.log_weights).all()
    still = dead.resample(torch.tensor(0.3))
    assert not still.alive
    plan = Enumerate(horizon=1).plan(model, still)
    assert not plan.valid
    assert torch.isnan(plan.actions).all()


def test_a_likelihood_of_nan_means_impossible():
    class Broken(TabularPOMDP):
        def log_likelihood(self, latent, obs):
            value = TabularPOMDP.log_likelihood(self, latent, obs)
            return torch.where(latent.h[..., 0] > 0, torch.nan, value)

    good = tiger()
    model = Broken(good.transition, good.observation, good.reward)
    assert tiger_belief(model).read(model, heard(0)).weights.tolist() == [0.0, 1.0]


weights_lists = st.lists(st.integers(0, 6), min_size=1, max_size=12).filter(lambda w: sum(w) > 0)


@given(weights_lists, st.floats(0, 0.999999))
def test_systematic_resampling_copies_floor_or_ceil(counts, uniform):
    weights = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    index = systematic(weights, torch.tensor(uniform, dtype=torch.float64))
    copies = torch.bincount(index, minlength=len(counts)).double()
    expected = weights * len(counts)
    assert (copies >= (expected - 1e-9).floor()).all()
    assert (copies <= (expected + 1e-9).ceil()).all()
    assert (copies[weights == 0] == 0).all()


def test_systematic_resampling_is_unbiased():
    weights = torch.tensor([0.05, 0.4, 0.0, 0.33, 0.22], dtype=torch.float64)
    grid = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    index = systematic(weights.expand(1000, 5), grid)
    mean = torch.nn.functional.one_hot(index, 5).sum(1).double().mean(0)
    assert mean.tolist() == pytest.approx((5 * weights).tolist(), abs=2e-3)


def test_only_poor_rows_are_resampled():
    model = tiger()
    latents = model.latent(torch.tensor([[0, 1, 0, 1], [0, 1, 0, 1]]))
    logs = torch.tensor([[0.97, 0.01, 0.01, 0.01], [0.25, 0.25, 0.3, 0.2]]).double().log()
    belief = Belief.of(latents, logs).resample(torch.tensor([0.5, 0.5]))
    assert belief.weights[0].tolist() == pytest.approx([0.25] * 4)
    assert (belief.latents.h[0, :, 0] == 1).all()
    assert belief.weights[1].tolist() == pytest.approx([0.25, 0.25, 0.3, 0.2])
    assert torch.equal(belief.latents.h[1], latents.h[1])


def test_the_particle_filter_approaches_the_exact_filter():
    rng = np.random.default_rng(3)
    transition = rng.dirichlet(np.ones(3), size=(1, 3))
    observation = rng.dirichlet(0.7 * np.ones(4), size=(1, 3))
    model = TabularPOMDP(transition, observation, np.zeros((1, 3)))
    answers = [0, 2, 2, 1, 3, 0]
    exact = np.ones(3) / 3
    for answer in answers:
        exact = (exact @ transition[0]) * observation[0, :, answer]
        exact /= exact.sum()
    generator, count = torch.Generator().manual_seed(0), 6000
    belief = Belief.of(model.latent(torch.arange(count) % 3))
    action = torch.ones(1, dtype=torch.float64)
    for answer in answers:
        noise = torch.randn(count, 1, generator=generator)
        belief = belief.step(model, action, noise).read(model, heard(answer))
        belief = belief.resample(torch.rand((), generator=generator))
    assert belief.mean(belief.latents.h).tolist() == pytest.approx(exact.tolist(), abs=0.02)


class GaussianReader:
    """h fixed, prior z ~ N(0.3, 1), o = z + N(0, 0.7^2), q the exact posterior."""

    gain = 1 / (1 + 0.49)

    def condition(self, latent, obs, noise=None):
        mean = 0.3 + self.gain * (obs["obs"] - 0.3)
        z = mean + math.sqrt(0.49 * self.gain) * noise
        return Latent(latent.h, z, latent.memory, latent.sight)

    def log_likelihood(self, latent, obs):
        # predictive of h alone: o ~ N(.3 + h, 1.49)
        return -((obs["obs"] - 0.3 - latent.h)[..., 0] ** 2) / (2 * 1.49)


def test_particles_around_a_latent_and_redrawn_follow_the_posterior():
    empty = torch.zeros(2, 0)
    latent = Latent(torch.zeros(2, 1), torch.zeros(2, 1), empty[..., None], empty)
    noise = torch.randn(2, 20_000, 1, generator=torch.Generator().manual_seed(1))
    obs = {"obs": torch.tensor([[1.3], [-2.0]])}
    belief = Belief.around(GaussianReader(), latent, obs, noise)
    wanted = [0.3 + 1.0 / 1.49, 0.3 - 2.3 / 1.49]
    assert belief.mean(belief.latents.z)[:, 0].tolist() == pytest.approx(wanted, abs=0.02)
    prior = Belief.of(latent.expand(20_000))
    redrawn = prior.read(GaussianReader(), obs, redraw=noise)
    assert torch.equal(redrawn.latents.z, belief.latents.z)
    assert redrawn.effective_size.tolist() == pytest.approx([20_000.0] * 2, rel=1e-3)


def test_shapes_and_settings_are_checked():
    model = tiger()
    latents = model.latent(torch.tensor([0, 1]))
    with pytest.raises(LatentError, match="same axes"):
        Belief(latents, torch.zeros(3))
    with pytest.raises(BatchError, match="uniform"):
        Belief.of(latents).resample(torch.zeros(2))
    with pytest.raises(ConfigError, match="below"):
        Belief.of(latents).resample(torch.tensor(0.1), below=2.0)


def member(says_one):
    """One state; the tool shows 1 with the given probability whatever is done."""
    shown = np.array([[[1 - says_one, says_one]]])
    return TabularPOMDP(np.ones((1, 1, 1)), shown, np.zeros((1, 1)))


def test_an_ensemble_drawn_jointly_learns_which_member_is_right():
    # Models 1 and 2 equally likely; A pays 5 / -3, B -3 / 5, none 0; the tool says 1 with .9 / .2.
    ensemble = Ensemble([member(0.9), member(0.2)])
    start = [m.latent(torch.zeros(3)) for m in ensemble.members]
    belief = ensemble.belief(start)
    belief = belief.step(ensemble, torch.ones(1, dtype=torch.float64), torch.zeros(6, 1))
    pays = torch.tensor([[5.0, -3.0, 0.0], [-3.0, 5.0, 0.0]], dtype=torch.float64)
    worth = pays[ensemble.member_of(belief.latents)]
    assert belief.mean(worth).max().item() == pytest.approx(1.0)  # V_no
    chances, values = [0.45, 0.55], []
    for answer in (0, 1):
        after = belief.read(ensemble, heard(answer))
        values.append(after.mean(worth).max().item())
    assert ensemble.member_weights(after).tolist() == pytest.approx([0.9 / 1.1, 0.2 / 1.1])
    gross = sum(p * v for p, v in zip(chances, values, strict=True)) - 1.0
    assert gross == pytest.approx(2.8, abs=1e-9)
    # The trap: inside each member the best action is known already, so nothing is learnt.
    assert [pays[m].max().item() for m in (0, 1)] == [5.0, 5.0]


def test_an_ensemble_gives_every_row_its_own_member():
    generator = torch.Generator().manual_seed(0)
    models = [tiger(0.85), tiger(0.6), tiger(0.99)]
    ensemble = Ensemble(models)
    states = torch.randint(2, (4, 5), generator=generator)
    tags = torch.randint(3, (4, 5), generator=generator)
    noise = torch.randn(4, 5, 1, generator=generator)
    action = torch.nn.functional.one_hot(torch.randint(3, (4, 5), generator=generator), 3).double()
    latent = tag(models[0].latent(states), 0)
    latent = Latent(
        torch.cat([tags[..., None].double(), latent.h[..., 1:]], -1),
        latent.z,
        latent.memory,
        latent.sight,
    )
    moved = ensemble.step(latent, action, noise)
    obs = ensemble.imagine_obs(moved, noise)
    likelihood = ensemble.log_likelihood(moved, obs)
    reward = ensemble.predict_reward(moved)
    for i in range(4):
        for j in range(5):
            model = models[tags[i, j]]
            alone = model.step(model.latent(states[i, j]), action[i, j], noise[i, j])
            assert torch.equal(moved.h[i, j, 1:], alone.h)
            assert moved.h[i, j, 0] == tags[i, j]
            assert torch.equal(obs["obs"][i, j], model.imagine_obs(alone, noise[i, j])["obs"])
            mine = {"obs": obs["obs"][i, j]}
            assert torch.equal(likelihood[i, j], model.log_likelihood(alone, mine))
            assert reward[i, j] == alone.z[-1]
    with pytest.raises(ConfigError, match="one action_size"):
        Ensemble([tiger(), member(0.5)])


def test_rows_of_no_member_stay_nothing_and_noise_may_have_no_size():
    models = [tiger(0.85), tiger(0.6)]
    ensemble = Ensemble(models)
    broken = tag(models[0].latent(torch.zeros(3, dtype=torch.long)), 0).map(lambda x: x * math.nan)
    assert torch.isnan(ensemble.predict_reward(broken)).all()
    assert ensemble.predict_reward(broken[:0]).shape == (0,)
    picked = _Pick(torch.tensor([2, 0]), 2)(torch.zeros(2, 3, 0))
    assert picked.shape == (2, 0)


def test_planning_from_a_belief_weighs_its_particles():
    model = tiger()
    sure = Belief.of(model.latent(torch.tensor([0, 1])), torch.tensor([0.98, 0.02]).log().double())
    plan = Enumerate(horizon=1, samples=1).plan(model, sure, utility=Utility(discount=1.0))
    assert plan.action.tolist() == [0.0, 0.0, 1.0]  # the tiger is left: open right
    assert plan.worth.utility.item() == pytest.approx(0.98 * 10 - 0.02 * 100)
    unsure = Belief.of(model.latent(torch.tensor([0, 1])))
    plan = Enumerate(horizon=1, samples=1).plan(model, unsure)
    assert plan.action.tolist() == [1.0, 0.0, 0.0]

"""Planners on worlds whose best plan is known, under bad numbers, masks, limits and batches."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from tests.decide.planner_worlds import FunctionWorld, NetWorld

from bb_wm.decide.planners import CEM, MPPI, Enumerate, RandomShooting
from bb_wm.errors import ConfigError, InputTypeError, LatentError, ResourceError
from bb_wm.imagine.belief import Belief
from bb_wm.imagine.risk import CVaR, Worst
from bb_wm.imagine.utility import Limit, Utility
from bb_wm.testing.linear_quadratic import LinearQuadratic
from bb_wm.types import ActionSpec, Latent

BOX = ActionSpec.of(gymnasium.spaces.Box(-1, 1, (1,), np.float32))
CHOICE = ActionSpec.of(gymnasium.spaces.Discrete(3))
HYBRID = ActionSpec.of(
    gymnasium.spaces.Dict(
        {
            "dial": gymnasium.spaces.Box(-1, 3, (2,), np.float32),
            "mode": gymnasium.spaces.Discrete(3),
        }
    )
)
PLANNERS = [
    RandomShooting(horizon=3, candidates=200),
    CEM(horizon=3, candidates=100, elites=10, rounds=6),
    MPPI(horizon=3, candidates=100, rounds=6),
]
SUM = Utility(discount=1.0)


def double_integrator(noise_sd=0.0):
    return LinearQuadratic(
        dynamics=np.array([[1.0, 0.1], [0.0, 1.0]]),
        control=np.array([[0.005], [0.1]]),
        state_cost=np.diag([1.0, 0.1]),
        action_cost=np.array([[0.05]]),
        noise_sd=noise_sd,
    )


@pytest.mark.parametrize("start", [[1.0, 0.0], [-0.5, 1.0]])
def test_cem_and_mppi_find_the_riccati_optimum(start):
    world = double_integrator()
    best, value = world.best_plan(np.array(start), 10)
    settings = {"horizon": 10, "rounds": 25, "candidates": 200}
    for planner, error in (
        (CEM(elites=20, initial_spread=2.0, least_spread=1e-4, **settings), 5e-3),
        (MPPI(spread=2.0, temperature=0.05, spread_decay=0.8, **settings), 0.25),
    ):
        plan = planner.plan(world, world.latent(torch.tensor(start)), utility=SUM)
        assert plan.worth.return_.item() <= value + 1e-9
        assert plan.worth.return_.item() == pytest.approx(value, rel=2e-3)
        assert np.abs(plan.actions[:, 0].numpy() - best[:, 0]).max() < error


def test_riccati_is_the_optimum_of_its_own_equations():
    world = double_integrator()
    best, value = world.best_plan(np.array([1.0, -0.3]), 6)
    actions = torch.tensor(best, requires_grad=True)
    latent = world.latent(torch.tensor([1.0, -0.3], dtype=torch.float64))
    total = torch.zeros((), dtype=torch.float64)
    for action in actions:
        latent = world.step(latent, action)
        total = total + world.predict_reward(latent)
    (gradient,) = torch.autograd.grad(total, actions)
    assert total.item() == pytest.approx(value, abs=1e-9)
    assert gradient.abs().max() < 1e-9


def test_additive_noise_does_not_move_the_linear_quadratic_plan():
    # Certainty equivalence: with noise common to all candidates the same plan is best on average.
    world = double_integrator(noise_sd=0.05)
    planner = CEM(horizon=6, rounds=15, candidates=120, elites=12, initial_spread=2.0, samples=64)
    plan = planner.plan(world, world.latent(torch.tensor([1.0, 0.0])), utility=SUM)
    best, _ = world.best_plan(np.array([1.0, 0.0]), 6)
    assert plan.action.item() == pytest.approx(best[0, 0], abs=0.15)
    assert plan.worth.spread > 0
    assert plan.worth.standard_error.item() == pytest.approx(plan.worth.spread.item() / 8)


@pytest.mark.parametrize(
    ("planner", "tolerance"),
    [
        (RandomShooting(horizon=1, candidates=4000), 0.25),
        (CEM(horizon=3, candidates=200, elites=20, rounds=10), 0.1),
        (MPPI(horizon=3, candidates=200, rounds=10), 0.1),
    ],
)
def test_hybrid_actions_are_found(planner, tolerance):
    def reward(action, noise, row):
        dial, mode = action[..., :2], action[..., 2:]
        target = torch.stack([torch.full_like(row, 2.5), 0.5 * row - 0.5], -1)
        return mode[..., 1] - (dial - target).square().sum(-1)

    world = FunctionWorld(HYBRID, reward)
    plan = planner.plan(world, world.latent(), utility=SUM)
    steps = planner.horizon
    assert plan.actions[:, 3].tolist() == [1.0] * steps
    assert plan.actions[:, 2:].sum(-1).tolist() == [1.0] * steps
    targets = torch.tensor([[2.5, -0.5], [2.5, 0.0], [2.5, 0.5]])[:steps]
    assert (plan.actions[:, :2] - targets).abs().max() < tolerance
    native = HYBRID.unflatten(plan.action.numpy())
    assert native["mode"] == 1
    assert native["dial"].shape == (2,)


@pytest.mark.parametrize("planner", PLANNERS)
def test_bounds_are_kept_and_reached(planner):
    world = FunctionWorld(BOX, lambda a, n, k: 5 * a[..., 0])
    plan = planner.plan(world, world.latent(2), utility=SUM)
    assert (plan.candidates.abs() <= 1).all()
    least = 0.3 if isinstance(planner, RandomShooting) else 0.99
    assert (plan.actions >= least).all()


@pytest.mark.parametrize("planner", PLANNERS)
def test_common_noise_makes_equal_candidates_equal(planner):
    # The action means nothing; only luck differs between rollouts, and all candidates share it.
    world = FunctionWorld(BOX, lambda a, n, k: n[..., 0], noise_size=1)
    plan = planner.plan(world, world.latent(), utility=SUM)
    assert (plan.candidate_worth.utility == plan.candidate_worth.utility[0]).all()
    assert plan.worth.spread > 0.5


def test_the_reported_worth_is_not_the_clairvoyant_one():
    # r = -(a - n)^2: one common rollout lets the search read its luck; the truth is -(1 + a^2).
    world = FunctionWorld(
        BOX, lambda a, n, k: -(a[..., 0] - n[..., 0].clamp(-1, 1)).square(), None, 1
    )
    reports, searches = [], []
    for seed in range(20):
        planner = RandomShooting(horizon=1, candidates=400, samples=1)
        generator = torch.Generator().manual_seed(seed)
        plan = planner.plan(world, world.latent(), utility=SUM, generator=generator)
        reports.append(plan.worth.utility.item())
        searches.append(plan.candidate_worth.utility[0].item())
    assert np.mean(searches) > -0.01
    assert np.mean(reports) < -0.5


@pytest.mark.parametrize("planner", PLANNERS)
def test_a_price_moves_the_plan_and_is_in_its_worth(planner):
    """Reward 5 a, price 8 |a| per row: the best plan is to do next to nothing."""
    world = FunctionWorld(BOX, lambda a, n, k: 5 * a[..., 0], noise_size=1)

    def price(start, actions):
        assert start.batch_shape == actions.shape[:-2]
        return 8 * actions.abs().sum((-1, -2))

    plan = planner.plan(world, world.latent(2), utility=SUM, price=price)
    most = 0.7 if isinstance(planner, RandomShooting) else 0.2  # without the price: 1
    assert (plan.actions.abs() < most).all()
    paid = 5 * plan.actions.sum((-1, -2)) - 8 * plan.actions.abs().sum((-1, -2))
    torch.testing.assert_close(plan.worth.utility, paid, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("planner", PLANNERS)
def test_a_plan_whose_price_is_no_number_is_never_chosen(planner):
    world = FunctionWorld(BOX, lambda a, n, k: a[..., 0])

    def price(start, actions):
        late = (actions[..., 0] > 0.2).any(-1)
        return torch.where(late, torch.nan, 0.0)

    plan = planner.plan(world, world.latent(), utility=SUM, price=price)
    assert plan.valid
    assert (plan.actions <= 0.2).all()


def test_the_price_of_a_belief_is_the_mean_over_its_particles():
    world = FunctionWorld(BOX, lambda a, n, k: 0 * a[..., 0], noise_size=1)
    latents = world.latent(2)
    latents = replace(latents, h=torch.tensor([[0.0], [1.0]]).expand_as(latents.h))
    belief = Belief.of(latents, torch.tensor([0.75, 0.25]).log())
    planner = RandomShooting(horizon=2, candidates=8, samples=3)
    plan = planner.plan(
        world, belief, utility=SUM, price=lambda start, actions: 4 * start.h[..., 0]
    )
    torch.testing.assert_close(plan.worth.utility, torch.tensor(-1.0))


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_candidates_with_broken_numbers_are_never_chosen(planner, bad):
    def reward(action, noise, row):
        return torch.where(action[..., 0] > 0.2, bad, action[..., 0])

    world = FunctionWorld(BOX, reward)
    plan = planner.plan(world, world.latent(), utility=SUM)
    assert plan.valid
    assert (plan.actions <= 0.2).all()
    assert torch.isfinite(plan.worth.utility)
    risky = FunctionWorld(BOX, lambda a, n, k: a[..., 0], risk=reward)
    risky.risk = lambda a, n, k: torch.where(a[..., 0] > 0.2, bad, 0.0)
    assert (planner.plan(risky, risky.latent(), utility=SUM).actions <= 0.2).all()


@pytest.mark.parametrize("planner", [*PLANNERS, Enumerate(horizon=2)])
def test_no_action_where_nothing_is_finite(planner):
    spec = CHOICE if isinstance(planner, Enumerate) else BOX

    def reward(action, noise, row):
        return torch.where(row >= 0, float("nan"), 0.0)

    world = FunctionWorld(spec, reward)
    plan = planner.plan(world, world.latent(2), utility=Utility(abstain=0.0))
    assert not plan.valid.any()
    assert torch.isnan(plan.actions).all()
    assert plan.abstain.all()
    assert not plan.allowed.any()


@pytest.mark.parametrize("planner", PLANNERS)
def test_a_broken_start_does_not_touch_its_neighbours(planner):
    world = NetWorld(ActionSpec.of(gymnasium.spaces.Box(-1, 1, (5,), np.float32)))
    latents = world.latents(3)
    broken = latents.map(lambda t: t.clone())
    broken.h[1] = float("nan")
    clean, mixed = planner.plan(world, latents), planner.plan(world, broken)
    assert mixed.valid.tolist() == [True, False, True]
    for row in (0, 2):
        assert torch.equal(mixed.actions[row], clean.actions[row])


BIG_BOX = ActionSpec.of(gymnasium.spaces.Box(-1, 1, (5,), np.float32))
MANY = ActionSpec.of(gymnasium.spaces.Discrete(5))


@pytest.mark.parametrize(
    ("planner", "spec"),
    [
        *[(planner, BIG_BOX) for planner in PLANNERS],
        *[(planner, MANY) for planner in PLANNERS],
        (Enumerate(horizon=3), MANY),
    ],
)
def test_a_start_gets_the_same_plan_alone_as_in_any_batch(planner, spec):
    world = NetWorld(spec)
    latents = world.latents(5)
    utility = Utility(risk_weight=0.1, risk=CVaR(0.25), limit=Limit(40.0))
    mask = torch.rand(5, 5, generator=torch.Generator().manual_seed(3)) > 0.3
    mask[:, 0] = True
    whole = planner.plan(world, latents, utility=utility, mask=mask)
    warm = planner.plan(world, latents, utility=utility, mask=mask, previous=whole)
    order = [3, 1, 4, 0]
    some = planner.plan(world, latents[order], utility=utility, mask=mask[order])
    for place, row in enumerate(order):
        one = slice(row, row + 1)
        alone = planner.plan(world, latents[one], utility=utility, mask=mask[one])
        after = planner.plan(
            world, latents[one], utility=utility, mask=mask[one], previous=whole[one]
        )
        for batched, single in (
            (whole[row], alone[0]),
            (some[place], alone[0]),
            (warm[row], after[0]),
        ):
            assert torch.equal(batched.actions, single.actions)
            assert torch.equal(batched.worth.utility, single.worth.utility)
            assert torch.equal(batched.candidates, single.candidates)


def test_generators_per_start_give_each_its_own_noise():
    world = NetWorld(BIG_BOX)
    planner, latents = PLANNERS[1], world.latents(3)

    def generators():
        return [torch.Generator().manual_seed(seed) for seed in (5, 6, 7)]

    whole = planner.plan(world, latents, generator=generators())
    for row, generator in enumerate(generators()):
        alone = planner.plan(world, latents[row : row + 1], generator=generator)
        assert torch.equal(alone.actions[0], whole.actions[row])
    with pytest.raises(ConfigError, match="one per start"):
        planner.plan(world, latents, generator=generators()[:2])


def test_batch_axes_are_kept_and_noise_can_be_given():
    world = NetWorld(BIG_BOX)
    planner = PLANNERS[1]
    noise = planner.draw(world, torch.Generator().manual_seed(0))
    grid = planner.plan(world, world.latents(6).unflatten((2, 3)), noise=noise)
    flat = planner.plan(world, world.latents(6), noise=noise)
    assert grid.actions.shape == (2, 3, 3, 5)
    assert torch.equal(grid.actions.reshape(6, 3, 5), flat.actions)
    single = planner.plan(world, world.latents(6)[4], noise=noise)
    assert torch.equal(single.actions, flat.actions[4])


def positive_affine(scale, shift):
    def reward(action, noise, row):
        raw = -(action[..., 0] - 0.37).square() * (1 + noise[..., 0].square()) + 0.2 * noise[..., 0]
        return scale * raw + shift

    return FunctionWorld(BOX, reward, noise_size=1)


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize(("scale", "shift"), [(8.0, 0.0), (3.7, 0.0), (1.0, 5.0), (0.02, -11.0)])
def test_plans_do_not_depend_on_the_unit_and_zero_of_utility(planner, scale, shift):
    plain, changed = positive_affine(1.0, 0.0), positive_affine(scale, shift)
    one = planner.plan(plain, plain.latent(), utility=SUM)
    other = planner.plan(changed, changed.latent(), utility=SUM)
    assert torch.allclose(one.actions, other.actions, atol=1e-7)
    expected = scale * one.worth.utility + 3 * shift
    assert torch.allclose(other.worth.utility, expected, atol=1e-6)


def test_duplicate_and_dominated_actions_change_nothing():
    pays = torch.tensor([[0.3, 1.0, 0.2], [2.0, 0.1, 0.4], [0.0, 0.5, 0.6]], dtype=torch.float64)

    def world(table):
        def reward(action, noise, row):
            return torch.einsum("...a,...a->...", action, table[row.long() % 3])

        spec = ActionSpec.of(gymnasium.spaces.Discrete(table.shape[1]))
        return FunctionWorld(spec, reward)

    plain = world(pays)
    twins = world(torch.cat([pays, pays[:, 1:2], pays.min(1, keepdim=True).values - 1], 1))
    planner = Enumerate(horizon=3)
    one = planner.plan(plain, plain.latent(), utility=SUM)
    other = planner.plan(twins, twins.latent(), utility=SUM)
    assert one.worth.utility.item() == pytest.approx(1.0 + 2.0 + 0.6)
    assert other.worth.utility.item() == one.worth.utility.item()
    assert other.actions.argmax(-1).tolist() == one.actions.argmax(-1).tolist() == [1, 0, 2]


def test_enumeration_tries_every_sequence_once():
    spec = ActionSpec.of(gymnasium.spaces.MultiDiscrete([2, 3]))
    seen = []

    def reward(action, noise, row):
        return torch.zeros_like(row)

    world = FunctionWorld(spec, reward)
    planner = Enumerate(horizon=2, keep=100, at_once=7)
    plan = planner.plan(world, world.latent())
    for candidate in plan.candidates:
        seen.append(tuple(candidate.flatten().tolist()))
        assert (candidate[:, :2].sum(-1) == 1).all()
        assert (candidate[:, 2:].sum(-1) == 1).all()
    assert len(seen) == len(set(seen)) == 36
    with pytest.raises(ResourceError, match=r"6\^8"):
        Enumerate(horizon=8).plan(world, world.latent())
    box = FunctionWorld(BOX, reward)
    with pytest.raises(ConfigError, match="continuous part"):
        Enumerate(horizon=2).plan(box, box.latent())


@pytest.mark.parametrize("planner", [*PLANNERS, Enumerate(horizon=3)])
def test_a_mask_holds_at_the_first_step(planner):
    world = FunctionWorld(CHOICE, lambda a, n, k: a @ torch.tensor([1.0, 3.0, 2.0]).double())
    mask = torch.tensor([[True, False, True], [True, True, True], [False, False, False]])
    plan = planner.plan(world, world.latent(3), utility=SUM, mask=mask)
    assert plan.valid.tolist() == [True, True, False]
    assert plan.actions[0].argmax(-1).tolist() == [2, 1, 1]
    assert plan.actions[1].argmax(-1).tolist() == [1, 1, 1]
    assert torch.isnan(plan.actions[2]).all()
    assert not plan.candidates[0, :, 0, 1].any()
    always = torch.ones(3, 3, 3, dtype=torch.bool)
    always[:, :, 1] = False
    plan = planner.plan(world, world.latent(3), utility=SUM, mask=always)
    assert (plan.actions.argmax(-1) == 2).all()


class Gated(FunctionWorld):
    """Class 1 is only available on odd rows, and doing it elsewhere breaks the test."""

    def mask_of(self, latent):
        mask = torch.ones(*latent.batch_shape, 3, dtype=torch.bool)
        mask[..., 1] = latent.h[..., 0] % 2 == 1
        return mask

    def step(self, latent, action, noise=None):
        assert not (action.bool() & ~self.mask_of(latent)).any()
        assert (action.sum(-1) == 1).all()
        return FunctionWorld.step(self, latent, action, noise)


@pytest.mark.parametrize("planner", [*PLANNERS, Enumerate(horizon=3)])
def test_a_mask_of_the_latent_holds_at_every_imagined_row(planner):
    world = Gated(CHOICE, lambda a, n, k: a @ torch.tensor([1.0, 3.0, 2.0]).double())
    plan = planner.plan(world, world.latent(2), utility=SUM, mask_of=world.mask_of)
    assert plan.worth.utility.tolist() == [7.0, 7.0]  # 2, then 3, then 2
    assert plan.action.argmax(-1).tolist() == [2, 2]


@pytest.mark.parametrize("planner", PLANNERS)
def test_a_hard_limit_is_kept_and_used_up(planner):
    world = FunctionWorld(
        BOX, lambda a, n, k: a[..., 0], lambda a, n, k: (a[..., 0] - 0.5).clamp_min(0)
    )
    free = planner.plan(world, world.latent(), utility=SUM)
    bound = planner.plan(world, world.latent(), utility=Utility(discount=1.0, limit=Limit(0.3)))
    assert bound.allowed
    assert bound.worth.risk <= 0.3
    if not isinstance(planner, RandomShooting):
        assert free.worth.return_ > 2.9
        assert bound.worth.return_.item() > 1.5


@pytest.mark.parametrize("planner", PLANNERS)
def test_where_nothing_is_allowed_the_least_risk_is_taken_and_said_to_be_too_much(planner):
    world = FunctionWorld(
        BOX, lambda a, n, k: a[..., 0], lambda a, n, k: 1 + (a[..., 0] + 0.5).square()
    )
    utility = Utility(discount=1.0, limit=Limit(0.5))
    plan = planner.plan(world, world.latent(), utility=utility)
    assert plan.valid
    assert not plan.allowed
    assert not plan.abstain
    slack = 0.4 if isinstance(planner, RandomShooting) else 0.02
    assert plan.worth.risk.item() == pytest.approx(3.0, abs=slack)
    hold = Utility(discount=1.0, limit=Limit(0.5), abstain=-100.0)
    assert planner.plan(world, world.latent(), utility=hold).abstain


def test_a_limit_on_the_worst_rollout_is_tighter_than_on_the_mean():
    world = FunctionWorld(
        BOX, lambda a, n, k: a[..., 0], lambda a, n, k: (a[..., 0] + n[..., 0]).clamp_min(0), 1
    )
    planner = CEM(horizon=1, candidates=100, elites=10, rounds=5, samples=64)
    chosen = []
    for measure in (CVaR(1.0), CVaR(0.2), Worst()):
        utility = Utility(risk=measure, limit=Limit(1.0))
        chosen.append(planner.plan(world, world.latent(), utility=utility).action.item())
    assert chosen[0] > chosen[1] > chosen[2]


@pytest.mark.parametrize("planner", PLANNERS)
def test_abstaining_wins_ties_and_losses(planner):
    for pay, abstains in ((-1.0, True), (0.0, True), (0.1, False)):
        world = FunctionWorld(BOX, lambda a, n, k, pay=pay: torch.full_like(k, pay))
        plan = planner.plan(world, world.latent(), utility=Utility(abstain=0.0))
        assert bool(plan.abstain) is abstains
        assert plan.valid


def test_a_warm_start_continues_the_last_plan():
    # The best action of a row is written in the row, so a plan moved one step on stays right.
    def targets(row):
        return torch.sin(2.1 * row)

    def world(offset):
        return FunctionWorld(BOX, lambda a, n, k: -(a[..., 0] - targets(k + offset)).square())

    good = CEM(horizon=8, candidates=200, elites=20, rounds=8)
    brief = CEM(horizon=8, candidates=8, elites=4, rounds=1)
    now = good.plan(world(0), world(0).latent(2), utility=SUM)
    cold = brief.plan(world(1), world(1).latent(2), utility=SUM)
    warm = brief.plan(world(1), world(1).latent(2), utility=SUM, previous=now)
    assert (warm.worth.utility > cold.worth.utility + 1).all()
    broken = now.map(lambda t: t.clone())
    broken.valid[1] = False
    broken.scores[1] = float("nan")
    mixed = brief.plan(world(1), world(1).latent(2), utility=SUM, previous=broken)
    assert mixed.valid.all()
    assert torch.equal(mixed.actions[0], warm.actions[0])


def test_a_warm_start_keeps_a_found_combination_of_choices():
    secret = torch.tensor([0, 2, 1, 1, 0, 2, 2, 1, 0])

    def world(offset):
        def reward(action, noise, row):
            right = secret[(row.long() + offset) % 9]
            return action.gather(-1, right[..., None])[..., 0]

        return FunctionWorld(CHOICE, reward)

    now = CEM(horizon=6, candidates=200, elites=20, rounds=6).plan(
        world(0), world(0).latent(), utility=SUM
    )
    assert now.actions.argmax(-1).tolist() == secret[:6].tolist()
    for planner in (
        RandomShooting(horizon=6, candidates=4),
        CEM(horizon=6, candidates=8, elites=4, rounds=1),
        MPPI(horizon=6, candidates=8, rounds=1),
    ):
        warm = planner.plan(world(1), world(1).latent(), utility=SUM, previous=now)
        assert warm.actions[:5].argmax(-1).tolist() == secret[1:6].tolist()


def test_mode_and_sampled_rollouts_differ_where_risk_is_rare():
    # V_s is 1 where a > 0 and the noise is large: the mode never sees it.
    world = FunctionWorld(
        BOX,
        lambda a, n, k: a[..., 0],
        lambda a, n, k: ((a[..., 0] > 0) & (n[..., 0] > 1)).double(),
        1,
    )
    utility = Utility(limit=Limit(0.0))
    blind = CEM(horizon=3, samples=0).plan(world, world.latent(), utility=utility)
    seeing = CEM(horizon=3, samples=32).plan(world, world.latent(), utility=utility)
    assert (blind.actions > 0.5).all()
    assert (seeing.actions <= 0).all()


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: CEM(horizon=0), "CEM.horizon"),
        (lambda: CEM(samples=-1), "CEM.samples"),
        (lambda: CEM(elites=500), "CEM.elites"),
        (lambda: CEM(momentum=1.0), "CEM.momentum"),
        (lambda: CEM(decay=0.5), "CEM.decay"),
        (lambda: CEM(initial_spread=float("nan")), "CEM.initial_spread"),
        (lambda: MPPI(temperature=0.0), "MPPI.temperature"),
        (lambda: MPPI(candidates=True), "MPPI.candidates"),
        (lambda: RandomShooting(candidates=0), "RandomShooting.candidates"),
        (lambda: RandomShooting(colour=-1.0), "RandomShooting.colour"),
        (lambda: RandomShooting(starts_at_once=0), "RandomShooting.starts_at_once"),
        (lambda: Enumerate(most=0), "Enumerate.most"),
    ],
)
def test_bad_settings_are_refused(make, field):
    with pytest.raises(ConfigError, match=f"^{field} must be"):
        make()


def test_what_does_not_fit_is_refused_at_the_door():
    world = FunctionWorld(CHOICE, lambda a, n, k: torch.zeros_like(k))
    planner, latent = RandomShooting(horizon=3, candidates=8), world.latent(2)
    with pytest.raises(ConfigError, match="action_spec"):
        planner.plan(world, latent, action_spec=BOX)
    with pytest.raises(ConfigError, match="mask"):
        planner.plan(world, latent, mask=torch.ones(3, dtype=torch.bool))
    with pytest.raises(ConfigError, match="previous"):
        planner.plan(world, latent, previous=planner.plan(world, world.latent(3)))
    with pytest.raises(InputTypeError, match="latent"):
        planner.plan(world, latent.h)
    with pytest.raises(LatentError, match="at least one start"):
        planner.plan(world, latent[:0])
    noise = RandomShooting(horizon=4, candidates=8).draw(world, torch.Generator())
    with pytest.raises(ConfigError, match=r"noise\.search"):
        planner.plan(world, latent, noise=noise)
    world.spec = "up or down"
    with pytest.raises((InputTypeError, AttributeError)):
        planner.plan(world, latent)


def test_planning_changes_nothing_it_was_given():
    world = NetWorld(BIG_BOX)
    latent = world.latents(2)
    before: Latent = latent.map(lambda t: t.clone())
    latent.h.requires_grad_(True)
    plan = CEM(horizon=3, rounds=2, candidates=16, elites=4).plan(world, latent)
    assert torch.equal(latent.h, before.h)
    assert not plan.actions.requires_grad

"""The latency governor on a clock that moves with the imagined rows: every choice is on paper."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from tests.decide.planner_worlds import FunctionWorld

from bb_wm.decide.evidence import Evidence
from bb_wm.decide.gate import Gate, Verdict
from bb_wm.decide.governor import Governor, LatencyBudget, ladder, work
from bb_wm.decide.planners import CEM, MPPI, Enumerate, RandomShooting
from bb_wm.errors import ConfigError
from bb_wm.types import ActionSpec

BOX = ActionSpec.of(gymnasium.spaces.Box(-1, 1, (1,), np.float32))
CHOICE = ActionSpec.of(gymnasium.spaces.Discrete(3))
SHOOTING = RandomShooting(horizon=8, candidates=64, samples=0)


class SlowWorld(FunctionWorld):
    """Every imagined row of one rollout takes `cost` milliseconds of its own clock."""

    def __init__(self, cost=0.01, spec=BOX):
        super().__init__(spec, reward=lambda action, noise, row: -(action[..., 0] - 0.5).square())
        self.cost, self.now, self.latest_step = cost, 1000.0, 0.0

    def clock(self):
        return self.now

    def step(self, latent, action, noise=None):
        count = 1
        for axis in latent.batch_shape:
            count *= axis
        self.latest_step = self.cost * count
        self.now += self.latest_step / 1000
        return super().step(latent, action, noise)


def governor_of(world, milliseconds, planner=SHOOTING, **settings):
    budget = LatencyBudget(milliseconds=milliseconds, **settings)
    return Governor(planner, budget, clock=world.clock)


def plan_once(governor, world, *batch, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return governor.plan(world, world.latent(*batch), generator=generator, **options)


def test_the_ladder_gives_up_candidates_first_and_only_ever_gets_cheaper():
    rungs = ladder(SHOOTING, LatencyBudget(milliseconds=1, least_candidates=16, least_horizon=3))
    sizes = [(rung.candidates, rung.horizon) for rung in rungs]
    assert sizes == [(16, 3), (16, 5), (16, 8), (21, 8), (30, 8), (44, 8), (64, 8)]
    assert rungs[-1] is SHOOTING
    budget = LatencyBudget(milliseconds=1, least_candidates=40, first="horizon")
    sizes = [(rung.candidates, rung.horizon) for rung in ladder(SHOOTING, budget)]
    assert sizes == [(40, 3), (44, 3), (64, 3), (64, 5), (64, 8)]
    for planner in (CEM(), MPPI(), SHOOTING):
        amounts = [work(rung) for rung in ladder(planner, LatencyBudget(milliseconds=1))]
        assert amounts == sorted(set(amounts))


def test_elites_keep_their_share_and_enumeration_only_gets_shorter():
    rungs = ladder(CEM(candidates=100, elites=10), LatencyBudget(milliseconds=1))
    assert [(rung.candidates, rung.elites) for rung in rungs if rung.horizon == 12] == [
        (16, 2), (23, 2), (34, 3), (49, 5), (70, 7), (100, 10),
    ]  # fmt: skip
    rungs = ladder(Enumerate(horizon=5), LatencyBudget(milliseconds=1, least_horizon=2))
    assert [rung.horizon for rung in rungs] == [2, 3, 5]


def test_measured_it_starts_on_the_richest_rung_that_fits():
    # A plan of c candidates and h rows takes (c + 1) h / 100 ms: the chosen one is judged last.
    world = SlowWorld()
    governor = governor_of(world, milliseconds=4.0)
    times = governor.measure(world, world.latent())
    full = [work(rung) / 100 for rung in governor.rungs]
    assert times == pytest.approx(full[: len(times)], rel=1e-6)
    assert times[-1] > 4.0 >= times[-2]
    made = plan_once(governor, world)
    assert made.report.on_time
    assert made.plan is not None
    assert (made.report.candidates, made.report.horizon) == (44, 8)
    assert made.report.expected == pytest.approx(made.report.spent)
    assert "44 of 64 candidates" in made.report.words
    assert made.report.to_json()["shortened"] is True


def test_the_plan_is_the_one_its_rung_makes_alone_and_in_full_where_there_is_time():
    world = SlowWorld()
    governor = governor_of(world, milliseconds=100.0)
    governor.measure(world, world.latent())
    made = plan_once(governor, world, seed=3)
    assert not made.report.shortened
    assert "in full" in made.report.words
    alone = SHOOTING.plan(world, world.latent(), generator=torch.Generator().manual_seed(3))
    assert torch.equal(made.plan.actions, alone.actions)


def test_unmeasured_it_begins_cheap_and_climbs_rung_by_rung_with_patience():
    world = SlowWorld()
    governor = governor_of(world, milliseconds=100.0, patience=3)
    seen = [plan_once(governor, world).report for _ in range(25)]
    assert seen[0].rung == 0
    assert seen[0].expected is None
    climbs = [i for i, report in enumerate(seen) if report.moved == "up"]
    assert climbs == [3, 6, 9, 12, 15, 18]
    assert seen[-1].rung == seen[-1].rungs - 1
    assert all(report.on_time for report in seen)


def test_a_slow_machine_shortens_at_once_and_a_fast_one_restores_only_after_patience():
    world = SlowWorld()
    governor = governor_of(world, milliseconds=8.0, patience=4, window=3)
    governor.measure(world, world.latent())
    top = len(governor.rungs) - 1
    assert plan_once(governor, world).report.rung == top  # 5.12 ms
    world.cost = 0.02  # now 10.24 ms in full: one plan is late, and is not given out
    late = plan_once(governor, world)
    assert late.plan is None
    assert not late.report.on_time
    assert late.report.rung == top
    after = plan_once(governor, world)
    assert after.report.moved == "down"
    assert after.report.on_time
    assert after.report.spent <= 0.9 * 8.0
    world.cost = 0.01
    rungs = [plan_once(governor, world).report.rung for _ in range(20)]
    assert rungs == sorted(rungs)
    assert rungs[:4] == [after.report.rung] * 4
    assert rungs[-1] == top


def test_between_the_two_thresholds_nothing_moves():
    world = SlowWorld()
    governor = governor_of(world, milliseconds=6.0, patience=1, climb=0.5)
    governor.measure(world, world.latent())
    start = plan_once(governor, world).report.rung
    for factor in (1.0, 1.04, 0.97, 1.05, 0.9) * 6:
        world.cost = 0.01 * factor
        assert plan_once(governor, world).report.rung == start


def test_what_is_expected_never_falls_with_richness_whatever_was_measured():
    world = SlowWorld()
    generator = np.random.default_rng(0)
    governor = governor_of(world, milliseconds=5.0, patience=1)
    for _ in range(200):
        world.cost = 0.01 * float(generator.lognormal(0, 0.7))
        plan_once(governor, world)
        expected = [governor._expected(rung, 1) for rung in range(len(governor.rungs))]
        assert expected == sorted(expected)


def test_it_is_cut_off_within_one_step_of_the_budget_and_says_so():
    world = SlowWorld(cost=1.0)
    governor = governor_of(world, milliseconds=10.0)
    for _ in range(5):
        made = plan_once(governor, world)
        assert made.plan is None
        assert not made.report.on_time
        assert 10.0 < made.report.spent <= 10.0 + world.latest_step + 1e-6
        assert made.report.words.startswith("No plan: it was cut off")


def test_the_gate_holds_on_a_plan_that_was_too_late():
    world = SlowWorld(cost=1.0)
    report = plan_once(governor_of(world, milliseconds=10.0), world).report
    evidence = Evidence(
        candidates=(), hold_utility=0.0, horizon=report.horizon, observed_at=0.0, policy="x"
    )
    decision = Gate(limit=1.0, max_age=10.0).decide(replace(evidence, fault=report.fault), now=1.0)
    assert decision.verdict is Verdict.HOLD
    assert "planning" in decision.reason
    assert plan_once(governor_of(SlowWorld(), milliseconds=10.0), SlowWorld()).report.fault is None


def test_the_same_clock_gives_the_same_choices():
    def story():
        world = SlowWorld()
        governor = governor_of(world, milliseconds=5.0, patience=2)
        told = []
        for i in range(40):
            world.cost = 0.01 * (1 + (i // 10) % 3)
            told.append(plan_once(governor, world, seed=i).report)
        return told

    assert story() == story()


def test_more_starts_are_expected_to_take_longer():
    world = SlowWorld()
    governor = governor_of(world, milliseconds=5.2)
    governor.measure(world, world.latent())
    assert plan_once(governor, world).report.candidates == 44
    batch = plan_once(governor, world, 2)
    assert batch.report.on_time
    assert batch.report.rung < 5
    assert batch.plan.actions.shape[0] == 2


def test_previous_plan_and_mask_are_cut_to_the_horizon():
    world = SlowWorld(spec=CHOICE)
    world.reward = lambda action, noise, row: action[..., 0]
    planner = RandomShooting(horizon=8, candidates=16, samples=0)
    long = planner.plan(world, world.latent(8))
    mask = torch.ones(8, 8, 3, dtype=torch.bool)
    mask[..., 0] = False
    governor = governor_of(world, milliseconds=100.0, planner=planner)
    made = plan_once(governor, world, 8, previous=long, mask=mask)
    assert made.report.horizon == 3
    assert made.plan.actions.shape == (8, 3, 3)
    assert not made.plan.actions[..., 0].any()
    first_only = plan_once(governor, world, 8, mask=mask[:, 0], previous=made.plan)
    assert not first_only.plan.actions[:, 0, 0].any()
    governor.rung = len(governor.rungs) - 1  # a short plan cannot warm a long search
    assert plan_once(governor, world, 8, previous=made.plan).plan.actions.shape == (8, 8, 3)


def test_a_real_model_and_the_real_clock():
    from bb_wm.config import WorldModelConfig
    from bb_wm.model.cores import GRU
    from bb_wm.rssm import WorldModel

    model = WorldModel(3, 2, WorldModelConfig(core=GRU(16), hidden=16, budget=None))
    latent = model.encode(np.zeros((1, 3), np.float32))
    governor = Governor(SHOOTING, LatencyBudget(milliseconds=60_000.0, patience=1))
    for _ in range(8):
        made = governor.plan(model, latent)
        assert made.plan is not None
        assert made.plan.valid.all()
    assert not made.report.shortened
    strict = Governor(SHOOTING, LatencyBudget(milliseconds=1e-6)).plan(model, latent)
    assert strict.plan is None
    assert strict.report.fault is not None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("milliseconds", 0.0),
        ("milliseconds", float("nan")),
        ("least_candidates", 0),
        ("least_horizon", True),
        ("reserve", 1.0),
        ("climb", 0.95),
        ("patience", 0),
        ("first", "rows"),
    ],
)
def test_settings_that_cannot_be_used_are_named(name, value):
    with pytest.raises(ConfigError) as caught:
        LatencyBudget(**{"milliseconds": 5.0, name: value})
    assert caught.value.field == f"LatencyBudget.{name}"


def test_noise_of_one_shape_is_refused():
    world = SlowWorld()
    with pytest.raises(ConfigError):
        plan_once(governor_of(world, 5.0), world, noise=SHOOTING.draw(world, torch.Generator()))

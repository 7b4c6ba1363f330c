"""How far to trust imagination: the promise holds where it can be checked, and nothing is trusted
where no promise can be made."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.diagnose.helpers import linear_episodes

from bb_wm.config import WorldModelConfig
from bb_wm.data import EpisodeStore, SequenceSampler
from bb_wm.decide.shooting import RandomShooting
from bb_wm.diagnose.calibration import TrustedHorizon
from bb_wm.diagnose.calibration.trust import Cases, cases_of, gaps
from bb_wm.errors import BatchError, CheckpointError, ConfigError, DataError, LatentError
from bb_wm.imagine.utility import Utility
from bb_wm.model.cores import GRU
from bb_wm.model.stochastic import Gaussian
from bb_wm.rssm import WorldModel

REACH = 8


@pytest.fixture(scope="module")
def model() -> WorldModel:
    config = WorldModelConfig(
        core=GRU(32), latent=Gaussian(8), hidden=32, head_hidden=16, warmup=10, budget=None
    )
    made = WorldModel(2, 2, config)
    store = EpisodeStore(None, made.obs_spec, made.action_spec)
    store.append(linear_episodes(40, 30, 0, noise=0.05))
    sampler = SequenceSampler(store, batch_size=16, length=12, seed=0)
    for _ in range(70):
        made.update(sampler.sample())
    return made


def fitted(cases: Cases, *, bound: float = 1.0, miss: float = 0.1) -> TrustedHorizon:
    ones = np.ones(cases.gap.shape[1])
    fresh = TrustedHorizon(bound, miss, 0.05, ones, 1e-6 * ones, 1.0, "none")
    return fresh._kept(cases)


def scattered(count: int, seed: int, *, honest: bool) -> Cases:
    """Gaps that grow with the horizon; honest ones foretell the error up to a factor."""
    random = np.random.default_rng(seed)
    gap = np.cumsum(random.exponential(0.2, (count, REACH)), axis=1)
    told = gap if honest else random.permutation(gap)
    error = np.maximum.accumulate(told * random.lognormal(0.0, 0.4, (count, REACH)), axis=1)
    return Cases(gap, error, np.ones((count, REACH), bool))


@pytest.mark.parametrize("seed", range(5))
def test_the_promise_holds_on_cases_never_seen(seed: int) -> None:
    trust = fitted(scattered(600, seed, honest=True))
    fresh = scattered(5000, 100 + seed, honest=True)
    rows = trust.rows_of(fresh.gap)
    some = rows > 0
    wrong = fresh.error[some, rows[some] - 1] > trust.bound
    assert wrong.mean() <= 0.1
    assert rows.mean() > 0.3 * REACH / 2  # and it is not kept by trusting nothing
    # without the fitted caution it would not hold: the factor's spread is not in the ratio
    bold = trust._rows(trust.foretell(fresh.gap))
    met = bold > 0
    assert (fresh.error[met, bold[met] - 1] > trust.bound).mean() > 0.1


def test_a_gap_that_foretells_nothing_is_trusted_less() -> None:
    honest = fitted(scattered(600, 0, honest=True))
    idle = fitted(scattered(600, 0, honest=False))
    assert idle.caution > honest.caution


def test_too_few_cases_promise_nothing() -> None:
    few = fitted(scattered(20, 0, honest=True))
    assert math.isinf(few.caution)
    assert few.rows_of(np.zeros((1, REACH))).tolist() == [0]


def test_the_longer_the_plan_the_larger_the_gap_and_the_fewer_rows(model: WorldModel) -> None:
    """Prefix: what a plan's first rows are trusted for does not depend on how it goes on."""
    episodes = linear_episodes(40, 30, 1, noise=0.05)
    trust = TrustedHorizon.fit(model, episodes, reach=REACH, bound=0.7, context=5)
    latent = model.encode(np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32))
    actions = torch.randn(6, REACH, 2, generator=torch.Generator().manual_seed(0))
    apart = gaps(model, latent, actions)
    assert bool((apart.diff(dim=-1) >= 0).all())
    torch.testing.assert_close(gaps(model, latent, actions[:, :3]), apart[:, :3])
    rows = trust(model, latent, actions)
    torch.testing.assert_close(trust(model, latent, actions[:, :3]), rows.clamp_max(3))
    tighter = replace(trust, bound=0.3)
    assert bool((tighter(model, latent, actions) <= rows).all())
    with pytest.raises(BatchError, match="rows"):
        trust(model, latent, torch.zeros(6, REACH + 1, 2))


def test_errors_are_those_of_the_evaluation_by_hand(model: WorldModel) -> None:
    """One start of one episode, done step by step; rows past the end are not real."""
    (episode,) = linear_episodes(1, 9, 3)
    cases = cases_of(model, [episode], 5, context=8, count=10)
    assert cases.real.tolist() == [[True, False, False, False, False]]
    latent = None
    for t in range(8):
        done = None if t == 0 else torch.from_numpy(episode.action[t - 1 : t])
        latent = model.encode(episode.obs["obs"][t : t + 1], latent, done)
    assert latent is not None
    action = torch.from_numpy(episode.action[7:8])
    seen = model.condition(latent, model.imagine_obs(model.step(latent, action))).sight
    came = model.encode(episode.obs["obs"][8:9], latent, action).sight
    error = float((seen - came).square().mean().sqrt())
    assert cases.error[0] == pytest.approx([error] * 5, rel=1e-4)
    with torch.no_grad():
        fast = model.rollout(latent, action[:, None], 1, mode="shortcut").latents.sight[:, 0]
    assert cases.gap[0, 0] == pytest.approx(float((seen - fast).square().mean().sqrt()), rel=1e-4)


def test_what_is_not_a_number_is_not_trusted(model: WorldModel) -> None:
    episodes = linear_episodes(40, 30, 1, noise=0.05)
    trust = TrustedHorizon.fit(model, episodes, reach=REACH, bound=2.0, context=5)
    latent = model.encode(np.zeros((2, 2), np.float32))
    broken = replace(latent, h=latent.h * torch.tensor([[1.0], [torch.nan]]))
    with pytest.raises(LatentError, match="finite"):  # which a gate holds for
        trust(model, broken, torch.zeros(2, REACH, 2))


def test_marked_trajectories_and_priced_plans(model: WorldModel) -> None:
    episodes = linear_episodes(40, 30, 1, noise=0.05)
    trust = TrustedHorizon.fit(model, episodes, reach=REACH, bound=0.4, context=5)
    latent = model.encode(np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32))
    actions = torch.randn(64, REACH, 2, generator=torch.Generator().manual_seed(0))
    trajectory = trust.mark(model, model.rollout(latent, actions))
    rows = trust(model, latent, actions)
    assert trajectory.trusted is not None
    assert rows.unique().numel() > 2
    assert trajectory.trusted.tolist() == rows.tolist()
    short = trajectory.prefix(3).trusted
    assert short is not None
    assert short.tolist() == trust(model, latent, actions[:, :3]).tolist()
    price = trust.price(model, 0.5)(latent, actions)
    assert price.tolist() == (0.5 * (REACH - rows)).tolist()
    # A planner that is only asked to be believable finds plans that go further.
    planner = RandomShooting(horizon=REACH, candidates=32, samples=0)
    idle = Utility(risk_weight=0.0, discount=0.0)
    plan = planner.plan(model, latent, utility=idle, price=trust.price(model, 1e6))
    assert trust(model, latent, plan.actions).float().mean() > rows.float().mean()
    with pytest.raises(ConfigError, match="per_row"):
        trust.price(model, -1.0)


def test_saved_and_loaded_for_its_own_model_only(model: WorldModel, tmp_path: Path) -> None:
    trust = TrustedHorizon.fit(model, linear_episodes(20, 30, 1), reach=REACH, context=5)
    trust.save(tmp_path / "trust.json")
    again = TrustedHorizon.load(tmp_path / "trust.json", model)
    assert again.to_json() == trust.to_json()
    with pytest.raises(CheckpointError, match="fit again"):
        TrustedHorizon.load(tmp_path / "trust.json", WorldModel(2, 2, model.config))
    damaged = {**trust.to_json(), "ratio": [-1.0]}
    with pytest.raises(CheckpointError, match="TrustedHorizon"):
        TrustedHorizon.from_json(damaged)


def test_bad_settings_are_refused(model: WorldModel) -> None:
    episodes = linear_episodes(8, 20, 1)
    for change in (
        {"bound": 0.0},
        {"bound": math.nan},
        {"miss": 1.0},
        {"doubt": 0.0},
        {"reach": 0},
    ):
        with pytest.raises(ConfigError):
            TrustedHorizon.fit(model, episodes, **change)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="at least 4"):
        TrustedHorizon.fit(model, episodes[:3])

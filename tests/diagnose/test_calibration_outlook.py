"""Foretold observations: the blend is the regression, the spread is as wide as what came."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.diagnose.helpers import linear_episodes

from bb_wm.config import WorldModelConfig
from bb_wm.data import EpisodeStore, SequenceSampler
from bb_wm.diagnose.calibration import Outlook
from bb_wm.diagnose.calibration.outlook import INSIDE, SAMPLES, _share, _width
from bb_wm.diagnose.open_loop import context_batch, future_actions
from bb_wm.diagnose.windows import cut_windows
from bb_wm.errors import BatchError, CheckpointError, ConfigError, DataError
from bb_wm.model.cores import GRU
from bb_wm.model.stochastic import Gaussian
from bb_wm.rssm import WorldModel
from bb_wm.types import Episode

REACH = 6


@pytest.fixture(scope="module")
def model() -> WorldModel:
    config = WorldModelConfig(
        core=GRU(32), latent=Gaussian(8), hidden=32, head_hidden=16, warmup=10, budget=None
    )
    made = WorldModel(2, 2, config)
    store = EpisodeStore(None, made.obs_spec, made.action_spec)
    store.append(linear_episodes(40, 30, 0, noise=0.1))
    sampler = SequenceSampler(store, batch_size=16, length=12, seed=0)
    for _ in range(60):
        made.update(sampler.sample())
    return made


@pytest.fixture(scope="module")
def outlook(model: WorldModel) -> Outlook:
    return Outlook.fit(model, linear_episodes(60, 30, 1, noise=0.1), reach=REACH, context=5)


def foretell(
    model: WorldModel, outlook: Outlook, episodes: list[Episode]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre [W, K, 2], samples [W, S, K, 2] and what came [W, K, 2], on whole windows."""
    windows = cut_windows(episodes, context=5, reach=REACH, count=400, seed=3, full=True)
    latent = model.filter(context_batch(model, windows))[:, -1]
    actions = future_actions(windows, latent)
    generator = torch.Generator().manual_seed(0)
    samples = outlook.sample(model, latent, actions, generator=generator)["obs"]
    centre = outlook.expect(model, latent, actions)["obs"]
    return centre.numpy(), samples.numpy(), windows.obs["obs"][:, 5:]


def inside(samples: np.ndarray, real: np.ndarray) -> float:
    return float(((samples.min(1) <= real) & (real <= samples.max(1))).mean())


def test_coverage_on_rows_never_seen(model: WorldModel, outlook: Outlook) -> None:
    fresh = linear_episodes(60, 30, 2, noise=0.1)
    centre, samples, real = foretell(model, outlook, fresh)
    assert inside(samples, real) == pytest.approx(INSIDE, abs=0.03)
    plain = Outlook.plain(model, REACH)
    raw_centre, raw, _ = foretell(model, plain, fresh)
    assert abs(inside(raw, real) - INSIDE) > 0.05  # what is learnt alone is not calibrated
    assert np.square(centre - real).mean() <= np.square(raw_centre - real).mean()


def test_plain_is_the_model_itself(model: WorldModel) -> None:
    latent = model.encode(np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32))
    actions = torch.randn(3, REACH, 2, generator=torch.Generator().manual_seed(0))
    plain = Outlook.plain(model, REACH)
    slow = model.imagined_obs(model.rollout(latent, actions))["obs"]
    torch.testing.assert_close(plain.expect(model, latent, actions)["obs"], slow)
    told = plain.sample(model, latent, actions, count=4, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    wide = actions[:, None].expand(3, 4, REACH, 2)
    drawn = model.rollout(latent.expand(4), wide, mode="sample", generator=generator).latents
    noise = torch.randn(3, 4, REACH, model.obs_noise_size, generator=generator)
    torch.testing.assert_close(told["obs"], model.imagine_obs(drawn, noise)["obs"])


def test_a_shorter_plan_is_the_prefix_of_a_longer_one(model: WorldModel, outlook: Outlook) -> None:
    latent = model.encode(np.zeros((2, 2), np.float32))
    actions = torch.randn(2, REACH, 2, generator=torch.Generator().manual_seed(0))
    whole = outlook.expect(model, latent, actions)["obs"]
    torch.testing.assert_close(outlook.expect(model, latent, actions[:, :2])["obs"], whole[:, :2])
    with pytest.raises(BatchError, match=f"1..{REACH} rows"):
        outlook.expect(model, latent, torch.zeros(2, REACH + 1, 2))


def test_share_and_width_by_hand() -> None:
    random = np.random.default_rng(0)
    slow, fast = random.normal(size=(2, 500, 3, 1))
    there = np.ones((500, 3), bool)
    truth = 0.3 * fast + 0.7 * slow
    np.testing.assert_allclose(_share(slow, fast, truth, there), 0.3)
    assert _share(slow, fast, 2 * fast - slow, there).tolist() == [[1.0]] * 3
    assert _share(slow, slow, truth, there).tolist() == [[0.0]] * 3
    # Samples of deviation 1 against a truth of deviation 2.5: 2.5 times as wide; a few windows
    # that have no such row must not count.
    apart = random.normal(size=(4000, SAMPLES, 1, 1))
    off = 2.5 * random.normal(size=(4000, 1, 1))
    there = random.random((4000, 1)) < 0.8
    off[~there] = 1e6
    assert _width(apart, off, there)[0, 0] == pytest.approx(2.5, rel=0.06)
    assert _width(apart, np.zeros((4000, 1, 1)), there)[0, 0] == pytest.approx(1e-4)


def test_saved_and_loaded_for_its_own_model_only(
    model: WorldModel, outlook: Outlook, tmp_path: Path
) -> None:
    outlook.save(tmp_path / "outlook.json")
    again = Outlook.load(tmp_path / "outlook.json", model)
    assert again.to_json() == outlook.to_json()
    with pytest.raises(CheckpointError, match="fit again"):
        Outlook.load(tmp_path / "outlook.json", WorldModel(2, 2, model.config))
    for name, value in (
        ("share", {"obs": [[2.0, 0.0]] * REACH}),
        ("width", {"obs": [[-1.0, 1.0]] * REACH}),
        ("width", {"obs": [[1.0, 1.0]]}),
        ("reach", "six"),
        ("kind", "trusted horizon"),
    ):
        damaged = json.loads(json.dumps({**outlook.to_json(), name: value}))
        with pytest.raises(CheckpointError, match="Outlook"):
            Outlook.from_json(damaged)


def test_what_cannot_be_fitted_is_refused(model: WorldModel) -> None:
    for change in ({"reach": 99}, {"reach": True}, {"reach": 2.5}, {"count": 0}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            Outlook.fit(model, linear_episodes(4, 30, 1), **change)
    with pytest.raises(DataError, match="hold out more rows"):
        Outlook.fit(model, linear_episodes(2, 12, 1), reach=REACH)


def test_rows_that_few_windows_have_are_as_their_neighbours(model: WorldModel) -> None:
    # 20 episodes of 8 rows, 3 seen: 100, 80, 60, 40 and 20 windows have row 1, 2, 3, 4 and 5.
    outlook = Outlook.fit(model, linear_episodes(20, 8, 1, noise=0.1), reach=5, context=3)
    for part in (outlook.width["obs"], outlook.share["obs"]):
        assert part[4].tolist() == part[3].tolist()
        assert part[3].tolist() != part[2].tolist()


def test_keys_that_are_not_vectors_are_given_as_they_are_imagined() -> None:
    from gymnasium import spaces

    space = spaces.Dict({"at": spaces.Box(-1, 1, (2, 2), np.float32), "lamp": spaces.Discrete(3)})
    config = WorldModelConfig(
        core=GRU(16), latent=Gaussian(4), hidden=16, head_hidden=16, budget=None
    )
    mixed = WorldModel(space, 1, config)
    random = np.random.default_rng(0)
    episodes = [
        replace(
            linear_episodes(1, 20, 0)[0],
            obs={
                "at": random.normal(size=(20, 2, 2)).astype(np.float32),
                "lamp": random.integers(0, 3, 20),
            },
            action=np.zeros((20, 1), np.float32),
        )
        for _ in range(12)
    ]
    outlook = Outlook.fit(mixed, episodes, reach=3, context=5)
    assert list(outlook.width) == ["at"]
    latent = mixed.encode({"at": np.zeros((2, 2, 2), np.float32), "lamp": np.zeros(2, np.int64)})
    actions = torch.zeros(2, 3, 1)
    told = outlook.expect(mixed, latent, actions)
    drawn = outlook.sample(mixed, latent, actions, count=5)
    assert told["at"].shape == (2, 3, 2, 2)
    assert drawn["at"].shape == (2, 5, 3, 2, 2)
    assert drawn["lamp"].shape == (2, 5, *told["lamp"].shape[1:])
    assert told["lamp"].equal(mixed.imagined_obs(mixed.rollout(latent, actions))["lamp"])


def test_rows_that_few_episodes_have_are_foretold_when_asked_for(model):
    """Episodes of 6 rows and two of 30: by itself it reaches as far as most do, if asked all."""
    episodes = [
        *linear_episodes(40, 6, 1, noise=0.1),
        *linear_episodes(2, 30, 2, noise=0.1),
    ]
    assert Outlook.fit(model, episodes, context=3).reach == 3
    asked = Outlook.fit(model, episodes, reach=REACH, context=3)
    assert asked.reach == REACH
    start = model.encode(np.zeros(2, np.float32))
    told = asked.expect(model, start, torch.zeros(REACH, 2))
    assert told["obs"].shape == (REACH, 2)
    assert torch.isfinite(told["obs"]).all()

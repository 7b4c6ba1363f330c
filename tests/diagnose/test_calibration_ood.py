"""Strangeness: the tail table, whitening, and a real WorldModel on shifted rows before acting."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.diagnose.helpers import linear_episodes, make_episode

from bb_wm.config import WorldModelConfig
from bb_wm.data import EpisodeStore, SequenceSampler
from bb_wm.diagnose.calibration import (
    OODScore,
    RiskCalibration,
    Trail,
    TrustedHorizon,
    calibrate,
)
from bb_wm.diagnose.calibration.ood import Whitening, _together
from bb_wm.diagnose.calibration.tail import Tail
from bb_wm.diagnose.scores import auroc
from bb_wm.durable import dump_json, load_json
from bb_wm.errors import BatchError, CheckpointError, ConfigError, DataError, InputTypeError
from bb_wm.model.cores import GRU
from bb_wm.model.stochastic import Gaussian
from bb_wm.rssm import WorldModel


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=50), st.integers(-7, 7))
def test_p_value_counts_what_is_at_least_as_large(scores, score):
    exact = (1 + sum(s >= score for s in scores)) / (len(scores) + 1)
    assert float(Tail.fit(np.array(scores, float)).p_value(float(score))) == pytest.approx(exact)


def test_a_large_table_is_thinned_and_never_too_small():
    random = np.random.default_rng(0)
    scores, probe = random.standard_normal(20_000), random.standard_normal(500)
    table = Tail.fit(scores)
    exact = (1 + (scores >= probe[:, None]).sum(1)) / 20_001
    told = table.p_value(probe)
    assert len(table.ranks) < 400
    assert (told >= exact - 1e-12).all()
    assert (told <= exact * 1.04 + 1e-4).all()
    fresh = table.p_value(random.standard_normal(20_000))
    for share in (0.01, 0.1, 0.5):
        spread = math.sqrt(2 * share / 20_000)  # of both samples
        assert (fresh <= share).mean() == pytest.approx(share, abs=4 * spread)


def test_tail_ends_and_nan():
    table = Tail.fit(np.arange(99.0))
    np.testing.assert_allclose(table.strangeness([1e9, math.inf, -1e9, 98.0])[[0, 1]], 2.0)
    assert table.p_value(-1e9) == 1.0
    assert table.p_value(98.0) == pytest.approx(0.02)
    assert np.isnan(table.strangeness(math.nan))
    with pytest.raises(DataError):
        Tail.fit(np.zeros(0))
    with pytest.raises(BatchError):
        Tail.fit(np.array([0.0, math.nan]))


def test_grades_go_on_where_p_values_end():
    table = Tail.fit(np.arange(99.0))  # median 49, largest 98
    inside, far, farther, nan = table.grade([97.0, 98.0 + 49.0, 98.0 + 490.0, math.nan])
    assert inside == table.strangeness(97.0)
    assert far == pytest.approx(2.0 + math.log(2.0))
    assert farther == pytest.approx(2.0 + math.log(11.0))
    assert math.isnan(nan)


def test_far_shifts_are_held_though_the_first_half_saw_less_than_the_second(score):
    """Rows of the second half beyond all of the first must not hide rows far beyond both."""
    raw = {name: np.full(3, float(score.tails[name].scores[0])) for name in score.tails}
    steps = np.array([1.0, 2.0, 100.0])
    together = _together(score.tails, {name: steps * value for name, value in raw.items()})
    assert (np.diff(together) > 0).all()


def test_whitened_size_is_one_and_sees_what_no_single_number_shows():
    random = np.random.default_rng(1)
    one = random.standard_normal(5000)
    rows = np.stack([5 + 3 * one, 1 - one + 0.1 * random.standard_normal(5000)], 1)
    white = Whitening.fit(rows)
    assert white(rows).mean() == pytest.approx(1.0, abs=0.1)
    # both numbers are usual, together they are not
    assert white(np.array([[8.0, 2.0]]))[0] > 50
    assert white(np.array([[8.0, 0.0]]))[0] < 5
    still = Whitening.fit(np.stack([one, np.zeros(5000)], 1))
    assert still(np.array([[0.0, 1.0]]))[0] > 1e4  # what never changed did
    wide = Whitening.fit(random.standard_normal((200, 70)))
    assert wide.weights.ndim == 1


@pytest.fixture(scope="module")
def model():
    config = WorldModelConfig(
        core=GRU(24),
        latent=Gaussian(6),
        hidden=24,
        head_hidden=8,
        features=8,
        warmup=10,
        learning_rate=3e-3,
        budget=None,
    )
    made = WorldModel(2, 2, config)
    store = EpisodeStore(None, made.obs_spec, made.action_spec)
    store.append(linear_episodes(40, 30, 0, noise=0.05))
    sampler = SequenceSampler(store, batch_size=16, length=12, seed=0)
    for _ in range(70):
        made.update(sampler.sample())
    return made


@pytest.fixture(scope="module")
def score(model):
    return OODScore.fit(model, linear_episodes(60, 30, 1, noise=0.05))


def walk(model, score, episodes):
    """Scores of all later rows [E, T - 1], each asked before its row was acted on."""
    obs = np.stack([e.obs["obs"] for e in episodes]).astype(np.float32)
    action = np.stack([e.action for e in episodes])
    found, latent, trail = [], model.encode(obs[:, 0]), Trail()
    for t in range(1, obs.shape[1]):
        found.append(score.score(model, obs[:, t], latent, action[:, t - 1], trail))
        latent = model.encode(obs[:, t], latent, action[:, t - 1])
    return np.stack(found, 1)


def usual(seed=2):
    return linear_episodes(40, 20, seed, noise=0.05)


@pytest.fixture(scope="module")
def told(model, score):
    return walk(model, score, usual())


def test_usual_rows_get_usual_p_values(told):
    for share in (0.5, 0.1, 0.02):
        spread = math.sqrt(share * (1 - share) * (1 / told.size + 1 / 870))  # of both samples
        assert (told >= -math.log10(share)).mean() == pytest.approx(share, abs=4 * spread)
    assert told.min() >= 0


def test_recorded_episodes_get_what_was_told_online(model, score, told):
    recorded = score.score_episodes(model, usual())
    np.testing.assert_allclose(recorded, told.ravel(), atol=0.02)


def change(episodes, make):
    return [make_episode(make(e.obs["obs"]), e.action) for e in episodes]


@pytest.mark.parametrize(
    ("name", "make", "bar"),
    [
        ("frozen", lambda x: np.repeat(x[:1], len(x), 0), 0.9),
        ("scaled", lambda x: 10 * x, 0.9),
        ("swapped", lambda x: x[:, ::-1], 0.9),
        ("blank", lambda x: x * np.array([1.0, 0.0]), 0.85),
        ("noisy", lambda x: x + 0.5 * np.random.default_rng(0).standard_normal(x.shape), 0.9),
        ("other dynamics", lambda x: -x, 0.9),
    ],
)
def test_shifts_are_strange_before_acting(model, score, told, name, make, bar):
    strange = walk(model, score, change(usual(3), make))
    found = auroc(
        np.concatenate([told.ravel(), strange.ravel()]),
        np.repeat([False, True], [told.size, strange.size]),
    )
    assert found > bar, name


def test_a_world_that_changed_a_little_for_good_shows_in_the_trend():
    """Every row half a deviation to the same side, as by hand: sum of KEEP^i over its root of
    squares."""
    white = np.full((60, 1, 3), 0.5)
    trail = Trail()
    told = [float(trail.add(row)[0]) for row in white]
    powers = 0.9 ** np.arange(60)
    by_hand = (0.5 * powers.cumsum()) ** 2 / (powers**2).cumsum()
    np.testing.assert_allclose(told, by_hand)
    assert told[-1] > 4  # and a single row says 0.25
    random, trail = np.random.default_rng(0), Trail()
    chance = [float(trail.add(row)) for row in random.standard_normal((20_000, 3))]
    assert np.mean(chance) == pytest.approx(1.0, abs=0.05)


def test_one_broken_row_does_not_condemn_the_next_ones():
    trail = Trail()
    for _ in range(50):
        trail.add(np.zeros(3))
    assert trail.add(np.full(3, 1e6)) < 2
    trail.begin()
    assert trail.add(np.full(3, 0.5)) == pytest.approx(0.25)


def test_without_a_previous_belief_a_trail_begins_anew(model, score):
    trail = Trail()
    obs, action = np.full((2, 2), 9.0, np.float32), np.zeros((2, 2), np.float32)
    score.score(model, obs, model.encode(np.zeros((2, 2), np.float32)), action, trail)
    assert trail.weight == 1
    score.score(model, obs, trail=trail)
    assert trail.weight == 0


def test_first_rows_are_judged_by_their_place(model, score):
    usual_first = score.score(model, np.zeros((5, 2), np.float32))
    strange = score.score(model, np.full(2, 50.0, np.float32))
    assert (usual_first < 1).all()
    assert strange > 2.5
    assert strange.shape == ()


def test_same_input_same_score_and_batches_do_not_matter(model, score):
    obs = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)
    action = np.zeros((3, 2), np.float32)
    before = model.encode(np.zeros((3, 2), np.float32))
    together = score.score(model, obs, before, action)
    alone = [score.score(model, obs[i], before[i], action[i]) for i in range(3)]
    np.testing.assert_allclose(together, alone, atol=0.02)
    np.testing.assert_array_equal(together, score.score(model, obs, before, action))
    signs = score.signs(model, obs, before, action)
    assert set(signs) == {"surprise", "jump", "trend", "place"}


def test_asking_does_not_disturb_the_models_chance(model, score):
    state = model.state_tensors()
    before = {k: v.clone() for k, v in state.items() if k.startswith("generator/")}
    walk(model, score, usual()[:2])
    after = model.state_tensors()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_json_gives_the_same_scores(model, score):
    again = OODScore.from_json(load_json(dump_json(score.to_json()), error=CheckpointError))
    few = usual()[:3]
    np.testing.assert_array_equal(walk(model, score, few), walk(model, again, few))


@pytest.mark.parametrize(
    "change", [{"tails": {}}, {"samples": 0}, {"seed": 1.5}, {"jump": {}}, {"first": {}}]
)
def test_json_that_is_not_a_score(score, change):
    data = json.loads(json.dumps(score.to_json()))
    with pytest.raises(CheckpointError):
        OODScore.from_json({**data, **change})
    data["later"]["scores"][0] = -1e9
    with pytest.raises(CheckpointError):
        OODScore.from_json(data)


def test_refusals(model, score):
    with pytest.raises(DataError):
        OODScore.fit(model, usual()[:3])
    with pytest.raises(ConfigError):
        OODScore.fit(model, usual(), samples=0)
    previous, action = model.encode(np.zeros(2, np.float32)), np.zeros(2, np.float32)
    with pytest.raises(BatchError):
        score.score(model, np.full(2, np.nan, np.float32), previous, action)
    imagined = model.step(previous, torch.zeros(2))
    with pytest.raises(InputTypeError):
        score.score(model, np.zeros(2, np.float32), imagined, action)


def test_a_world_models_calibration_is_saved_beside_it(model, tmp_path):
    held = [
        make_episode(e.obs["obs"], e.action, safety=(e.obs["obs"][:, 0] > 1).astype(float))
        for e in usual(5)
    ]
    for episode in held:
        episode.safety[0] = 0
    made = calibrate(model, held[:24], horizons=(1, 3))
    made.save(tmp_path / "calibration.json")
    model.save(tmp_path / "model")
    loaded = WorldModel.load(tmp_path / "model")
    again = RiskCalibration.load(tmp_path / "calibration.json", loaded)
    assert again.ood is not None
    latent = loaded.encode(held[0].obs["obs"][0].astype(np.float32))
    plans = torch.zeros(4, 3, 2)
    told = again.forecast(loaded, latent, plans)
    assert told.risk.shape == (4,)
    assert (told.bound == math.inf).all()  # 16 episodes bound nothing
    assert again.findings
    untrained = WorldModel(2, 2, model.config)
    with pytest.raises(CheckpointError, match="fit again"):
        RiskCalibration.load(tmp_path / "calibration.json", untrained)


def test_a_trail_is_of_one_batch_and_forgets_what_is_not_a_number(model, score):
    trail = Trail()
    many, one = np.zeros((3, 2), np.float32), np.zeros(2, np.float32)
    score.score(model, many, model.encode(many), many, trail)
    with pytest.raises(BatchError, match="one trail per episode"):
        score.score(model, one, model.encode(one), one, trail)
    assert trail.led.shape == (3, 2)
    broken = Trail()
    assert math.isnan(broken.add(np.array([math.nan, 0.0])))
    assert broken.add(np.zeros(2)) == 0.0


def test_bad_numbers_are_refused_and_no_episodes_have_no_scores(model, score):
    assert score.score_episodes(model, []).shape == (0,)
    with pytest.raises(ConfigError, match="samples"):
        OODScore.fit(model, usual(), samples=np.int64(4))
    for change in ({"stride": 0}, {"samples": 0}, {"event": math.nan}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            calibrate(model, usual(), horizons=(1,), **change)
    for change in ({"context": 0}, {"count": 1}, {"reach": 2.5}, {"reach": True}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            TrustedHorizon.fit(model, usual(), **change)

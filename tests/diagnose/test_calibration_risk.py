"""Calibrated risk on the hazard chain, whose probabilities are known, with its exact model."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from tests.diagnose.helpers import make_episode

from bb_wm.data import collect
from bb_wm.decide import Evidence, Gate, Verdict
from bb_wm.diagnose.calibration import (
    Claims,
    RiskCalibration,
    calibrate,
    calibration_error,
    foresee_episodes,
    recall_at,
)
from bb_wm.diagnose.scores import auroc
from bb_wm.errors import (
    BatchError,
    CheckpointError,
    ConfigError,
    DataError,
    HorizonError,
)
from bb_wm.testing.hazard import HazardChain
from bb_wm.types import Latent
from bb_wm.worlds.risk import InfoCost

CHAIN = {"depth": 3, "rate": 0.04, "length": 40}


class ChainModel:
    """The chain's own law as a simulator: h is the one-hot stage; its V_s is `lie` x the truth."""

    noise_size = 1
    action_size = 2

    def __init__(self, lie: float = 1.0) -> None:
        env = HazardChain(**CHAIN)
        self.laws = torch.tensor(np.stack([env.transition(a) for a in (0, 1)]), dtype=torch.float32)
        self.lie = lie

    def latent(self, stage):
        h = torch.as_tensor(stage)
        empty = h.new_zeros(*h.shape[:-1], 0)
        return Latent(h, empty, empty[..., None], empty)

    def filter(self, batch):
        return self.latent(batch.obs["obs"])

    def step(self, latent, action, noise=None):
        law = torch.einsum("...i,...a,aij->...j", latent.h, action, self.laws)
        level = torch.special.ndtr(noise if noise is not None else torch.zeros_like(law[..., :1]))
        stage = (law.cumsum(-1) < level).sum(-1).clamp_max(law.shape[-1] - 1)
        return self.latent(torch.nn.functional.one_hot(stage, law.shape[-1]).float())

    def predict_reward(self, latent):
        return torch.zeros_like(latent.h[..., 0])

    def predict_safety(self, latent):
        return self.lie * latent.h[..., -1]

    def predict_continue(self, latent):
        return torch.ones_like(latent.h[..., 0])


def record(count, seed):
    return collect(HazardChain(**CHAIN), episodes=count, seed=seed, risk=InfoCost())


@pytest.fixture(scope="module")
def episodes():
    return record(200, 0)


@pytest.fixture(scope="module")
def calibration(episodes):
    return calibrate(ChainModel(lie=0.2), episodes, horizons=(1, 4))


def test_foreseen_hazard_is_the_known_probability(episodes):
    env = HazardChain(**CHAIN)
    seen = foresee_episodes(ChainModel(), episodes[:8], 4, samples=600, stride=3)
    gaps = []
    for n in range(len(seen.row)):
        episode, row = episodes[seen.episode[n]], int(seen.row[n])
        actions = episode.action[row : row + 4].argmax(-1)[: len(episode) - 1 - row]
        stage = int(episode.obs["obs"][row].argmax())
        for k in range(1, len(actions) + 1):
            exact = env.event_within(stage, actions[:k])
            gaps.append((seen.foreseen.hazard[n, k - 1] - exact) / math.sqrt(0.25 / 600))
    assert np.abs(gaps).max() < 4.5
    assert np.square(gaps).mean() < 1.0


def test_what_came_by_hand():
    quiet = make_episode(
        np.eye(5, dtype=np.float32)[[0, 1, 2, 3]],
        np.eye(2, dtype=np.float32)[[0, 0, 0, 0]] * np.array([1, 1, 1, 0])[:, None],
        safety=np.array([0.0, 0.0, 2.0, 0.5]),
    )
    seen = foresee_episodes(ChainModel(), [quiet], 3, event=1.0)
    assert seen.row.tolist() == [0, 1, 2]
    assert seen.event.tolist() == [[False, True, True], [True, True, True], [False] * 3]
    np.testing.assert_allclose(seen.met[0], [0, 2, 2.5])
    # The recording stopped: what came within 3 rows is known from row 0 alone, event or not.
    assert seen.known.tolist() == [[True] * 3, [True, True, False], [True, False, False]]
    ended = make_episode(
        quiet.obs["obs"], quiet.action, safety=np.asarray(quiet.safety), terminated=True
    )
    assert foresee_episodes(ChainModel(), [ended], 3).known.all()
    peak = foresee_episodes(ChainModel(), [quiet], 3, peak=True)
    np.testing.assert_allclose(peak.met[0], [0, 2, 2])


def test_a_model_that_lies_about_the_size_is_corrected(calibration):
    fresh = record(120, 1)
    seen = foresee_episodes(ChainModel(lie=0.2), fresh, 4, unit=calibration.unit, seed=3)
    known = seen.known[:, 3]
    raw, came = seen.foreseen.hazard[known, 3], seen.event[known, 3]
    told = calibration.tables[4](raw)
    assert calibration_error(raw, came) > 0.05
    assert calibration_error(told, came) < 0.03
    assert auroc(told, came) == pytest.approx(auroc(raw, came), abs=0.02)
    assert told.mean() == pytest.approx(came.mean(), abs=0.02)


def test_forecast_of_candidates(calibration):
    model, env = ChainModel(lie=0.2), HazardChain(**CHAIN)
    latent = model.latent(torch.eye(5)[[0, 3]])
    go, slow = torch.eye(2)
    plans = torch.stack([go.expand(4, 2), slow.expand(4, 2), go.expand(4, 2)]).expand(2, 3, 4, 2)
    told = calibration.forecast(model, latent, plans)
    assert told.risk.shape == told.bound.shape == told.probability.shape == (2, 3)
    np.testing.assert_array_equal(told.risk[:, 0], told.risk[:, 2])  # the same luck
    assert told.risk[1, 0] > told.risk[0, 0]
    assert (told.bound >= told.risk).all()
    assert (told.scale >= calibration.floor).all()
    exact = env.event_within(3, np.zeros(4, int))
    assert told.probability[1, 0] == pytest.approx(exact, abs=0.12)
    again = calibration.forecast(model, latent, plans)
    np.testing.assert_array_equal(told.risk, again.risk)
    alone = calibration.forecast(model, latent[1], plans[1, 0])
    assert alone.bound.shape == ()


def test_bound_holds_on_fresh_episodes(calibration):
    model = ChainModel(lie=0.2)
    seen = foresee_episodes(model, record(150, 2), 4, unit=calibration.unit, seed=9)
    known = seen.known[:, 3]
    claims = Claims(
        seen.foreseen.risk[known, 3],
        seen.foreseen.spread[known, 3] + calibration.floor,
        seen.met[known, 3],
        seen.episode[known],
    )
    bound = calibration.bounds[4].bound(claims.estimate, claims.scale)
    assert math.isfinite(calibration.bounds[4].margin())
    missed = np.unique(claims.episode[claims.happened > bound]).size
    assert missed / 150 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 150)


def test_the_gate_acts_within_the_bound_and_holds_above_it(calibration):
    model = ChainModel(lie=0.2)
    plans = torch.eye(2)[[0, 1]][:, None].expand(2, 4, 2)
    told = calibration.forecast(model, model.latent(torch.eye(5)[0]), plans)
    facts = {"hold_utility": 0.0, "horizon": 4, "observed_at": 0.0, "policy": "test"}
    evidence = Evidence.of_arrays(utilities=[1.0, 0.5], **told.columns(), **facts)
    loose, tight = (Gate(limit=x, max_age=1.0) for x in (told.bound.max(), told.bound.min() / 2))
    assert loose.decide(evidence, now=0.5).verdict is Verdict.ACT
    assert tight.decide(evidence, now=0.5).reasons[0] == "risk_bound"
    stopped = calibration.forecast(
        model, model.latent(torch.eye(5)[0]), plans, drifted=True
    ).columns()
    evidence = Evidence.of_arrays(utilities=[1.0, 0.5], **stopped, **facts)
    assert loose.decide(evidence, now=0.5).verdict is Verdict.HOLD
    with pytest.raises(BatchError):
        calibration.forecast(model, model.latent(torch.eye(5)), plans.expand(5, 2, 4, 2)).columns()


def test_a_broken_latent_or_an_unknown_group_has_no_bound(calibration):
    model = ChainModel()
    broken = calibration.forecast(
        model, model.latent(torch.full((5,), math.nan)), torch.eye(2)[[0] * 4]
    )
    model.predict_safety = lambda latent: torch.full_like(latent.h[..., 0], math.nan)
    worse = calibration.forecast(model, model.latent(torch.eye(5)[0]), torch.eye(2)[[0] * 4])
    assert math.isnan(worse.risk)
    assert math.isnan(worse.probability)
    assert worse.bound == math.inf
    assert broken.bound >= 0
    told = calibration.forecast(
        ChainModel(), model.latent(torch.eye(5)[0]), torch.eye(2)[[0] * 4], group="other"
    )
    assert told.bound == math.inf


def test_groups_and_small_numbers_are_named(episodes):
    names = ["few"] * 60 + ["many"] * 140
    found = calibrate(ChainModel(), episodes, horizons=(2,), groups=names)
    assert found.bounds[2].counts == {"few": 40, "many": 93}
    assert found.bounds[2].margin("few") == math.inf
    assert math.isfinite(found.bounds[2].margin("many"))
    assert any("'few': 40 episodes of the 59" in line for line in found.findings)


def test_no_hazard_at_all_is_said():
    rows = np.eye(5, dtype=np.float32)[[0] * 6]
    action = np.eye(2, dtype=np.float32)[[0] * 6]
    action[-1] = 0
    found = calibrate(ChainModel(), [make_episode(rows, action)] * 9, horizons=(2,))
    assert any("Only 0 hazards" in line for line in found.findings)
    assert found.tables[2].flat
    assert found.bounds[2].margin() == math.inf
    assert found.drift is None
    with pytest.raises(DataError):
        found.monitor()


def test_bad_settings(episodes, calibration):
    model = ChainModel()
    for wrong in ((), (0,), (1.0,), (True,)):
        with pytest.raises(ConfigError):
            calibrate(model, episodes, horizons=wrong)
    with pytest.raises(DataError):
        calibrate(model, [], horizons=(1,))
    with pytest.raises(DataError):
        calibrate(model, episodes[:9], horizons=(1, 40))
    with pytest.raises(BatchError):
        calibrate(model, episodes, groups=["a"])
    latent = model.latent(torch.eye(5)[:2])
    with pytest.raises(HorizonError):
        calibration.forecast(model, latent, torch.zeros(2, 3, 2))
    with pytest.raises(BatchError):
        calibration.forecast(model, latent, torch.zeros(3, 4, 2))


def test_claims_of_the_planner_replace_the_bounds(calibration):
    random = np.random.default_rng(0)
    excess = random.uniform(0, 1, 100)
    claims = Claims(np.zeros(100), np.ones(100), excess, np.arange(100))
    found = calibration.with_claims(claims, 4)
    assert found.bounds[4].margin() == np.sort(excess)[98]
    assert found.bounds[1].margin() == math.inf
    groups = dict.fromkeys(range(100), "pick")
    assert math.isfinite(calibration.with_claims(claims, 4, groups).bounds[4].margin("pick"))
    monitor = found.monitor()
    assert any(monitor.update(3.0) for _ in range(100))
    with pytest.raises(HorizonError):
        calibration.with_claims(claims, 3)


def test_saved_and_loaded_for_the_same_model_only(calibration, tmp_path):
    path = tmp_path / "calibration.json"
    calibration.save(path)
    again = RiskCalibration.load(path, ChainModel())
    assert again.to_json() == calibration.to_json()
    latent, plan = ChainModel().latent(torch.eye(5)[2]), torch.eye(2)[[0] * 4]
    one, other = (c.forecast(ChainModel(), latent, plan) for c in (calibration, again))
    assert (one.bound, one.probability) == (other.bound, other.probability)

    class Another(ChainModel):
        pass

    with pytest.raises(CheckpointError, match="model must be the one it was fitted for"):
        RiskCalibration.load(path, Another())
    raw = bytearray(path.read_bytes())
    for place in range(0, len(raw), max(1, len(raw) // 97)):
        flipped = bytearray(raw)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError):
            RiskCalibration.load(path, ChainModel())


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "x"},
        {"format": 1},
        {"horizons": [4, 1]},
        {"horizons": []},
        {"unit": 0.0},
        {"floor": -1.0},
        {"samples": 0},
        {"peak": 0},
        {"model": None},
        {"tables": {}},
        {"bounds": {"1": {}, "4": {}}},
        {"drift": {}},
        {"ood": {}},
    ],
)
def test_json_that_is_not_a_calibration(calibration, change):
    data = json.loads(json.dumps(calibration.to_json()))
    RiskCalibration.from_json(data)
    with pytest.raises(CheckpointError):
        RiskCalibration.from_json({**data, **change})


def test_calibration_error_and_recall_by_hand():
    # bins of width 0.5: gaps |0.1 x 2 - 1| and |0.9 x 2 - 2| of four rows
    told, came = [0.1, 0.1, 0.9, 0.9], [1, 0, 1, 1]
    assert calibration_error(told, came, bins=2) == pytest.approx((0.8 + 0.2) / 4)
    assert calibration_error([0.25] * 4, [1, 0, 0, 0]) == 0.0
    score, event = np.arange(200.0), np.zeros(200)
    event[[198, 199, 50]] = 1
    # 197 quiet rows, 1 % is one false alarm: the threshold is the second largest quiet score
    assert recall_at(score, event) == pytest.approx(2 / 3)
    assert math.isnan(recall_at([1.0], [1.0]))
    for wrong in (([0.1], [1, 0]), ([math.nan], [1.0])):
        with pytest.raises(BatchError):
            calibration_error(*wrong)

"""What a diagnosis measures, on models and rows whose answers are known."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from tests.diagnose.helpers import A, LinearModel, linear_episodes, make_episode

from bb_wm.diagnose import latency as latency_module
from bb_wm.diagnose.actions import measure_actions
from bb_wm.diagnose.calibration_curves import Rows, check_reward, check_risk, curve_of, filter_rows
from bb_wm.diagnose.codec import decode, encode
from bb_wm.diagnose.effort import measure_effort
from bb_wm.diagnose.estimates import Estimate, flipped, ratio, units_of
from bb_wm.diagnose.horizon import Yardstick, measure_drift
from bb_wm.diagnose.latency import measure_latency
from bb_wm.diagnose.windows import cut_windows
from bb_wm.errors import DataError
from bb_wm.testing.point_hazard import PointHazardEnv, PointHazardLayout, PointHazardOracle
from bb_wm.types import ActionSpec, Latent, ObsSpec


def test_a_ratio_and_its_interval_by_hand():
    # r = 12/8 = 1.5; residuals per unit: (1+2) - 1.5*2 = 0, (5) - 1.5*2 = 2, (4) - 1.5*4 = -2
    above, below = np.array([1.0, 2.0, 5.0, 4.0]), np.array([1.0, 1.0, 2.0, 4.0])
    found = ratio(above, below, np.array([7, 7, 8, 9]))
    assert found.value == pytest.approx(1.5)
    assert found.units == 3
    error = math.sqrt(3 / 2 * 8) / 8
    # Student's 99 % quantile for 2 degrees is 9.92; the expansion gives it to a few percent
    assert found.high - found.value == pytest.approx(9.92 * error, rel=0.2)
    assert not found.known  # three units are too few for any verdict
    assert flipped(found).low == pytest.approx(1 - found.high)


def test_intervals_hold_what_they_promise_where_rows_of_an_episode_are_alike():
    """99 % intervals of a mean over 12 episodes of 20 rows that share most of their error."""
    draw = np.random.default_rng(0)
    unit = np.repeat(np.arange(12), 20)
    missed = naive = 0
    for _ in range(1000):
        values = np.repeat(draw.standard_normal(12), 20) + 0.3 * draw.standard_normal(240)
        found = ratio(values, np.ones(240), unit)
        missed += not found.low < 0 < found.high
        alone = ratio(values, np.ones(240), np.arange(240))
        naive += not alone.low < 0 < alone.high
    assert missed <= 25
    assert naive > 200  # rows taken for independent would promise far too much


def test_few_episodes_are_cut_into_blocks():
    episode, row = np.array([0, 0, 1, 1]), np.array([10, 60, 10, 120])
    assert len(np.unique(units_of(episode, row))) == 4
    many = np.arange(20)
    assert units_of(many, np.zeros(20, int)).tolist() == many.tolist()


def cut(episodes, reach=6, context=4):
    return cut_windows(episodes, context=context, reach=reach, count=80, seed=0)


def test_the_exact_model_does_not_drift_and_a_wrong_one_does():
    episodes = linear_episodes(24, 40, 1)
    yardstick = Yardstick(ObsSpec.of(2), episodes)
    exact = measure_drift(LinearModel(), cut(episodes), yardstick)
    assert max(e.value for e in exact.excess) < 1e-6
    assert exact.constant[0] == pytest.approx(1.0, abs=0.35)
    wrong = measure_drift(LinearModel(matrix=A * 1.45), cut(episodes), yardstick)
    assert wrong.excess[0].high < 1.0  # one step is still better than none
    assert wrong.excess[4].low > 1.1
    assert wrong.worst_k == 5
    assert wrong.worst is not None
    assert 0 <= wrong.worst.row < 40


def test_the_yardstick_puts_choices_and_pixels_in_the_same_unit():
    import gymnasium

    spec = ObsSpec.of(
        gymnasium.spaces.Dict(
            {
                "image": gymnasium.spaces.Box(0, 255, (8, 8, 1), np.uint8),
                "pick": gymnasium.spaces.Discrete(3),
            }
        )
    )
    pixels = np.zeros((4, 8, 8, 1), np.uint8)
    pixels[:2] = 100  # mean 50, variance 2500
    rows = {"image": pixels, "pick": np.array([[1], [1], [1], [2]])}
    yardstick = Yardstick(spec, [make_episode(rows)])
    real = {key: value[None] for key, value in rows.items()}
    same = {key: np.broadcast_to(yardstick.constant[key], real[key].shape) for key in real}
    assert yardstick(same, real).mean() == pytest.approx(1.0)
    said = {"image": np.full((1, 4, 8, 8, 1), 100.0), "pick": real["pick"]}
    # image: 0, 0, 10000/2500, 10000/2500; choices all right: halves of 0, 0, 4, 4
    assert yardstick(said, real)[0].tolist() == pytest.approx([0.0, 0.0, 2.0, 2.0])


def test_shifted_actions_fit_worse_unless_the_rows_are_shifted():
    right = linear_episodes(24, 40, 1)
    yardstick = Yardstick(ObsSpec.of(2), right)
    found = measure_actions(LinearModel(), cut(right), yardstick)
    # the exact model has no error to divide by; every other action has one
    assert not found.early.known or found.early.low > 1
    noisy = linear_episodes(24, 40, 1, noise=0.1)
    found = measure_actions(LinearModel(), cut(noisy), Yardstick(ObsSpec.of(2), noisy))
    assert found.shuffled.low > 2
    assert found.early.low > 2
    assert found.late.low > 2
    late = linear_episodes(24, 40, 1, noise=0.1, delay=1)
    found = measure_actions(
        LinearModel(), cut(late), Yardstick(ObsSpec.of(2), late), rows=linear_episodes(20, 60, 2)
    )
    assert found.early.high < 0.5
    assert found.late.low > 0.9
    assert found.probe is not None
    assert found.probe.verdict == "aligned"


def test_a_calibration_curve_by_hand():
    said, was = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.0, 1.0, 1.0, 2.0])
    found = curve_of(said, was, np.arange(4), bins=2)
    assert [(b.predicted, b.real, b.count) for b in found.bins] == [(0.0, 0.5, 2), (1.0, 1.5, 2)]
    assert found.slope == pytest.approx(1.0)
    assert found.bias.value == pytest.approx(-0.5)
    assert found.rmse == pytest.approx(math.sqrt(0.5))
    assert curve_of(np.zeros(3), np.arange(3.0), np.arange(3)).bins[0].count == 3


def rows_of(risk, real) -> Rows:
    count = len(risk)
    zero = np.zeros(count)
    where = np.arange(count)
    return Rows(zero, zero, np.asarray(risk, float), np.asarray(real, float), where // 10, where)


def test_a_coarse_honest_head_hides_nothing_and_a_blind_one_everything():
    draw = np.random.default_rng(0)
    danger = draw.uniform(0, 0.2, 4000)
    real = (draw.random(4000) < danger).astype(float)
    honest = check_risk(rows_of(danger, real))
    assert honest.hidden.low < 0 < honest.hidden.high < 0.1
    coarse = check_risk(rows_of(np.full(4000, real.mean()), real))
    assert coarse.hidden.value == 0.0
    blind = check_risk(rows_of(np.full(4000, 1e-3), real))
    assert blind.hidden.low > 0.9
    assert blind.missed is not None
    assert real[blind.missed.row] == 1.0
    # half of the events are seen as they are, the other half not at all
    half = check_risk(rows_of(np.where(np.arange(4000) % 2, real, 0.0), real))
    assert half.hidden.value == pytest.approx(0.5, abs=0.1)
    broken = check_risk(rows_of(np.full(4000, np.nan), real))
    assert broken.hidden.value == pytest.approx(1.0)


@dataclass
class HeadedLinear(LinearModel):
    """The exact model with its heads, as filtering rows needs them."""

    def __init__(self) -> None:
        super().__init__(risk=lambda x: x[..., 0].clamp_min(0))

    def predict_reward(self, latent: Latent) -> torch.Tensor:
        return latent.h[..., 0] - 2 * latent.h[..., 1]

    def predict_safety(self, latent: Latent) -> torch.Tensor:
        return self.risk(latent.h)


def test_every_row_but_the_first_is_filtered_once_whatever_the_lengths():
    episodes = [*linear_episodes(3, 12, 1), *linear_episodes(2, 7, 2)]
    found = filter_rows(HeadedLinear(), episodes)
    assert len(found.reward) == 3 * 11 + 2 * 6
    assert sorted(set(zip(found.episode.tolist(), found.row.tolist(), strict=True)))[0] == (0, 1)
    np.testing.assert_allclose(found.reward, found.real_reward, atol=1e-5)
    assert check_reward(found).slope == pytest.approx(1.0, abs=1e-5)


def test_growth_of_a_steps_price_is_read_from_the_fastest_rounds(monkeypatch):
    noise = np.random.default_rng(0)

    def timed(power):
        def once(model, start, horizon, batch):
            slow = 1 + 4 * (noise.random() < 0.4)
            return horizon**power * slow, horizon**power * slow

        return once

    windows = cut(linear_episodes(4, 40, 1))
    for power, low, high in ((1, 0.99, 1.01), (2, 2.9, 3.1)):
        monkeypatch.setattr(latency_module, "_once", timed(power))
        found = measure_latency(LinearModel(), windows, horizons=(1, 5, 15))
        assert low < found.growth.value < high
        assert found.growth.known
    assert {t.horizon for t in found.timings} == {1, 5, 15}


def test_rollouts_are_really_timed():
    found = measure_latency(LinearModel(), cut(linear_episodes(4, 40, 1)), horizons=(2, 6))
    assert all(t.median_ms >= t.fastest_ms > 0 for t in found.timings)


@dataclass(frozen=True, slots=True)
class LeakyOracle(PointHazardOracle):
    """The true equations, with a reward that believes pushing right is worth something."""

    leak: float = 0.0
    action_spec = ActionSpec.of(PointHazardEnv().action_space)

    def step(self, latent, action, noise=None):
        after = PointHazardOracle.step(self, latent, action, noise)
        z = after.z.clone()
        z[..., 0] += self.leak * action[..., 0]
        return replace(after, z=z)


def test_effort_delivers_under_the_true_equations_and_not_under_a_leak():
    quiet = PointHazardLayout(noise_sd=0.0, goals=((0.7, 0.7), (-0.7, -0.7)))
    make = lambda: PointHazardEnv(quiet, steps=40)  # noqa: E731
    true = measure_effort(LeakyOracle(quiet), make, starts=8, warmup=3)
    assert true.promise.low > 0
    assert abs(true.undelivered.value) < 0.02
    leaky = measure_effort(LeakyOracle(quiet, leak=2.0), make, starts=8, warmup=3)
    assert leaky.undelivered.low > 0.5
    assert leaky.rows[0].candidates == 1
    assert leaky.rows[-1].candidates == 512
    assert leaky.rows[-1].imagined > leaky.rows[0].imagined


@dataclass(frozen=True)
class Inner:
    name: str
    value: float


@dataclass(frozen=True)
class Outer:
    items: tuple[Inner, ...]
    numbers: dict[str, float]
    maybe: Inner | None
    flag: bool


def test_the_codec_brings_back_what_it_took_and_refuses_the_rest():
    value = Outer((Inner("a", math.inf), Inner("b", -0.5)), {"x": 1.0}, None, True)
    plain = encode(value)
    assert plain["items"][0]["value"] == "inf"
    assert decode(Outer, plain, "outer") == value
    nan = decode(Inner, encode(Inner("n", math.nan)), "inner")
    assert math.isnan(nan.value)
    for broken, field in (
        ({**plain, "more": 1}, "outer"),
        ({**plain, "flag": 1}, "outer.flag"),
        ({**plain, "items": [{"name": "a", "value": "__import__('os')"}]}, "outer.items[0].value"),
        ({**plain, "maybe": 3}, "outer.maybe"),
        ({**plain, "numbers": [1.0]}, "outer.numbers"),
    ):
        with pytest.raises(DataError) as caught:
            decode(Outer, broken, "outer")
        assert caught.value.field == field


def test_estimates_know_when_they_know_nothing():
    assert not Estimate(1.0, math.nan, 2.0, 50).known
    assert not ratio(np.ones(9), np.zeros(9), np.arange(9)).known

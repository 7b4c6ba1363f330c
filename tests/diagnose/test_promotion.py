"""Promotion on a chain whose risks are known exactly, with heads altered on purpose."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from benchmarks.promotion import ChainWorld, PointWorld
from tests.diagnose.helpers import make_episode

from bb_wm.decide.planners import Enumerate
from bb_wm.diagnose.promotion import Outcome, PromotionRule, promote
from bb_wm.diagnose.promotion.views import NEW, OLD, choose_states, compare_views, realised_risk
from bb_wm.errors import ConfigError, DataError
from bb_wm.imagine.utility import Limit, Utility

WORLD = ChainWorld()
PLANNER = Enumerate(horizon=4, samples=16)
RULE = PromotionRule(context=1, states=150, samples=8, shared=8, resamples=200)


@functools.cache
def data(count=100, seed=0):
    return tuple(WORLD.episodes(count, seed, shifted=False))


def verdict(new, old=None, episodes=None, **changes):
    old = WORLD.model() if old is None else old
    episodes = data() if episodes is None else episodes
    settings = {"planner": PLANNER, "utility": WORLD.utility, "rule": RULE, **changes}
    return promote(new, old, episodes, **settings)


def check(found, code):
    return next(one for one in found.checks if one.code == code)


class Broken(type(WORLD.model())):
    """Its head answers NaN in the event."""

    def predict_safety(self, latent):
        risk = super().predict_safety(latent)
        return torch.where(risk > 0.5, torch.nan, risk)


def test_a_model_may_replace_itself_and_nothing_moves():
    found = verdict(WORLD.model())
    assert found.outcome is Outcome.PROMOTE
    assert check(found, "delta_risk").value == 0.0
    assert check(found, "trust_region").value == pytest.approx(0.0, abs=1e-12)
    assert found.numbers["same_choice_share"] == 1.0
    assert found.numbers["weight_of_new_head"] == 0.5


def test_a_blind_head_is_blocked_though_it_says_that_risk_falls():
    blind = WORLD.model(seen=0.1)
    found = verdict(blind)
    assert found.outcome is Outcome.BLOCK
    assert not check(found, "delta_risk").passed
    views = compare_views(
        blind, WORLD.model(), data(), planner=PLANNER, utility=WORLD.utility, rule=RULE
    )
    # Uncalibrated, each model's own word would have it that risk falls by nearly all there was.
    assert views.own[NEW, NEW].mean() < 0.3 * views.own[OLD, OLD].mean()


def test_a_model_that_mends_a_blind_one_is_promoted():
    found = verdict(WORLD.model(), WORLD.model(seen=0.3))
    assert found.outcome is Outcome.PROMOTE
    assert found.numbers["delta_risk_mean"] < -0.05


@pytest.mark.parametrize("altered", [{"scale": 2.0}, {"alarm": 0.2, "seen": 1.2}])
def test_another_scale_of_the_same_risk_is_no_rise(altered):
    found = verdict(WORLD.model(**altered))
    assert found.outcome is Outcome.PROMOTE, found.text


def test_too_few_episodes_or_too_little_risk_is_refused():
    few = verdict(WORLD.model(), episodes=data()[:40])
    assert few.outcome is Outcome.REFUSE
    assert [one.code for one in few.failed] == ["episodes"]
    assert "at least 59" in few.reason
    calm = [replace(e, safety=0 * e.safety) for e in data()]
    none = verdict(WORLD.model(), episodes=calm)
    assert none.outcome is Outcome.REFUSE
    assert [one.code for one in none.failed] == ["risky_episodes"]
    single = verdict(WORLD.model(), episodes=data()[:1])
    assert single.outcome is Outcome.REFUSE
    assert single.numbers["delta_risk_percentile"] != single.numbers["delta_risk_percentile"]


def test_rare_risk_is_refused_even_for_a_model_that_would_be_blocked():
    found = verdict(WORLD.model(seen=0.1), episodes=data()[:40])
    assert found.outcome is Outcome.REFUSE
    assert not check(found, "delta_risk").passed


def test_broken_numbers_block_the_new_and_refuse_for_the_old():
    broken = Broken(WORLD.world)
    found = verdict(broken)
    assert found.outcome is Outcome.BLOCK
    assert found.failed[0].code == "new_sound"
    assert verdict(WORLD.model(), broken).outcome is Outcome.REFUSE
    assert verdict(broken, episodes=data()[:3]).outcome is Outcome.BLOCK


def test_preferences_that_have_nothing_in_common_are_blocked():
    class Contrary(type(WORLD.model())):
        def predict_reward(self, latent):
            return -super().predict_reward(latent)

    found = verdict(Contrary(WORLD.world))
    assert not check(found, "trust_region").passed
    assert found.outcome is Outcome.BLOCK


def test_the_same_arguments_give_the_same_verdict_to_the_last_bit():
    first, second = (verdict(WORLD.model(slow=0.9)).to_json() for _ in range(2))
    assert first == second
    assert first["settings"]["planner"]["kind"] == "Enumerate"
    assert first["settings"]["rule"]["states"] == 150
    assert len(first["calibration"]) == 2


def test_a_plan_that_may_not_be_carried_out_carries_no_risk():
    strict = Utility(discount=1.0, limit=Limit(0.0))
    views = compare_views(
        WORLD.model(), WORLD.model(alarm=0.1), data(), planner=PLANNER, utility=strict, rule=RULE
    )
    assert not views.acts[OLD].any()  # it sees some risk in whatever is done
    assert views.acts[NEW].any()
    assert views.sound.all()
    found = verdict(WORLD.model(), WORLD.model(alarm=0.1), utility=strict)
    assert found.numbers["old_choice_risk"] == 0.0


def test_what_is_paired_is_the_same():
    rule = replace(RULE, states=40)
    new, old = WORLD.model(seen=0.2), WORLD.model()
    views = compare_views(new, old, data(), planner=PLANNER, utility=WORLD.utility, rule=rule)
    swapped = compare_views(old, new, data(), planner=PLANNER, utility=WORLD.utility, rule=rule)
    assert np.array_equal(views.own[::-1, ::-1], swapped.own)
    assert np.array_equal(views.logged[::-1], swapped.logged)
    # The same belief and the same luck: on one plan they differ by what their heads say, 5 times.
    assert np.allclose(views.own[NEW], 0.2 * views.own[OLD])
    assert np.allclose(views.logged[NEW], 0.2 * views.logged[OLD])


def test_episodes_take_turns():
    windows = choose_states(data(), 4, replace(RULE, states=250))
    counts = np.bincount(windows.episode, minlength=100)
    assert counts.sum() == 250
    assert set(counts.tolist()) == {2, 3}
    once = choose_states(data(), 4, replace(RULE, states=70))
    assert len(np.unique(once.episode)) == 70


def test_true_risk_to_go_by_hand():
    safety = np.zeros(12)
    safety[[3, 5, 6]] = [1.0, 2.0, 4.0]
    episode = make_episode(np.arange(12.0)[:, None], safety=safety)
    windows = choose_states([episode], 3, replace(RULE, context=2))
    at = {int(start): place for place, start in enumerate(windows.start)}
    assert sorted(at) == list(range(8))  # the last that 3 rows follow begins at 7
    risk = realised_risk(windows, Utility())
    assert [risk[at[s]] for s in (0, 1, 2, 4, 5)] == [1.0, 3.0, 6.0, 4.0, 0.0]
    assert realised_risk(windows, Utility(over_time="peak"))[at[2]] == 4.0
    assert realised_risk(windows, Utility(risk_discount=0.5))[at[2]] == pytest.approx(2.0)


def test_a_window_that_the_world_ended_is_kept_and_one_that_was_cut_is_not():
    cut = make_episode(np.arange(8.0)[:, None])
    ended = make_episode(np.arange(8.0)[:, None], safety=np.eye(8)[7], terminated=True)
    rule = replace(RULE, context=1)
    assert sorted(choose_states([cut], 4, rule).start) == [0, 1, 2, 3]
    windows = choose_states([ended], 4, rule)
    assert sorted(windows.start) == [0, 1, 2, 3, 4, 5, 6]
    assert realised_risk(windows, Utility()).sum() == 4.0
    with pytest.raises(DataError):
        choose_states([make_episode(np.arange(4.0)[:, None])], 9, rule)


def test_models_of_two_spaces_cannot_be_paired():
    with pytest.raises(ConfigError) as caught:
        verdict(PointWorld().model())
    assert caught.value.field == "new.obs_spec"

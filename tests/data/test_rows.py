"""The one conversion from (obs, action, reward, ...) to rows, worked by hand."""

import gymnasium as gym
import numpy as np
import pytest

from bb_wm.data.rows import EpisodeBuilder
from bb_wm.errors import ActionError, BBWMError, DataError, DtypeError, EpisodeError, RangeError
from bb_wm.types import ActionSpec, ObsSpec

spaces = gym.spaces


def builder(obs=2, action=1) -> EpisodeBuilder:
    return EpisodeBuilder(ObsSpec.of(obs), ActionSpec.of(action))


def test_what_a_step_brings_stands_in_the_row_it_leads_to() -> None:
    rows = builder()
    rows.start([1.0, 2.0])
    rows.step([0.5], [3.0, 4.0], reward=10.0, terminated=False, truncated=False, risk=0.25)
    rows.step([-0.5], [5.0, 6.0], reward=20.0, terminated=True, truncated=False, risk=0.75)
    episode = rows.finish()
    assert episode.obs["obs"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert episode.action.tolist() == [[0.5], [-0.5], [0.0]]
    assert episode.reward.tolist() == [0.0, 10.0, 20.0]
    assert episode.safety.tolist() == [0.0, 0.25, 0.75]
    assert (episode.terminated, episode.truncated) == (True, False)
    assert {a.dtype for a in (episode.obs["obs"], episode.action, episode.reward)} == {
        np.dtype(np.float32)
    }
    assert rows.rows == 0


@pytest.mark.parametrize(
    ("terminated", "truncated", "kept"),
    [(True, False, (True, False)), (False, True, (False, True)), (True, True, (True, False))],
)
def test_termination_is_stronger_than_running_out_of_time(terminated, truncated, kept) -> None:
    rows = builder()
    rows.start([0, 0])
    rows.step([0], [1, 1], reward=0, terminated=terminated, truncated=truncated)
    episode = rows.finish()
    assert (episode.terminated, episode.truncated) == kept


def test_ends_that_are_not_the_worlds() -> None:
    rows = builder()
    rows.start([0, 0])
    with pytest.raises(EpisodeError, match="without an end"):
        rows.finish()
    rows.step([0], [1, 1], reward=0, terminated=False, truncated=False)
    cut = rows.cut()
    assert (cut.terminated, cut.truncated, len(cut)) == (False, True, 2)
    rows.start([0, 0])
    assert rows.abandon() is None  # one row tells nothing
    rows.start([0, 0])
    rows.step([0], [1, 1], reward=0, terminated=False, truncated=False)
    left = rows.abandon()
    assert left is not None
    assert (left.terminated, left.truncated) == (False, False)


def test_buffers_reused_by_the_environment_do_not_change_rows() -> None:
    rows, buffer, action = builder(), np.zeros(2), np.zeros(1)
    rows.start(buffer)
    for t in range(1, 4):
        buffer += 1
        action[:] = t / 10
        rows.step(action, buffer, reward=t, terminated=False, truncated=t == 3)
    action[:] = 9
    assert rows.finish().obs["obs"][:, 0].tolist() == [0, 1, 2, 3]


def test_images_stay_bytes_and_choices_become_indices() -> None:
    space = spaces.Dict(
        {
            "view": spaces.Box(0, 255, (8, 8, 3), np.uint8),
            "room": spaces.Discrete(5),
            "arm": spaces.Dict({"q": spaces.Box(-1, 1, (2, 3), np.float64)}),
            "memory": spaces.Box(0, 255, (4,), np.uint8),
            "level": spaces.Box(0, 1, (), np.float32),
        }
    )
    rows = builder(space, spaces.Discrete(3))
    draw = space.sample()
    rows.start(draw)
    rows.step(2, draw, reward=1, terminated=True, truncated=False)
    episode = rows.finish()
    kinds = {key: (value.dtype.name, value.shape) for key, value in episode.obs.items()}
    assert kinds == {
        "view": ("uint8", (2, 8, 8, 3)),
        "room": ("int64", (2, 1)),
        "arm/q": ("float32", (2, 2, 3)),
        "memory": ("float32", (2, 4)),
        "level": ("float32", (2, 1)),
    }
    assert np.array_equal(episode.obs["arm/q"][1], draw["arm"]["q"].astype(np.float32))
    assert episode.action.tolist() == [[0, 0, 1], [0, 0, 0]]


def test_float64_is_rounded_once_to_float32() -> None:
    rows, value = builder(1), 0.1 + 1e-12
    rows.start([value])
    rows.step([0], [value], reward=0, terminated=True, truncated=False)
    assert rows.finish().obs["obs"][1, 0] == np.float32(value)


_STEP = {"reward": 1.0, "terminated": False, "truncated": False}


@pytest.mark.parametrize(
    ("change", "error", "names"),
    [
        ({"obs": [np.nan, 0]}, DataError, "obs"),
        ({"obs": [1e39, 0]}, DataError, "obs"),
        ({"obs": [1.0]}, DataError, "obs"),
        ({"obs": [[1.0, 2.0], [1.0, 2.0]]}, DataError, "obs"),
        ({"obs": ["a", "b"]}, DtypeError, "obs"),
        ({"obs": {"x": [1.0, 2.0]}}, DtypeError, "obs"),
        ({"reward": np.nan}, DataError, "reward"),
        ({"reward": [1.0, 2.0]}, DataError, "reward"),
        ({"reward": None}, DataError, "reward"),
        ({"risk": -0.1}, RangeError, "risk"),
        ({"risk": np.inf}, DataError, "risk"),
        ({"terminated": 2}, DtypeError, "terminated"),
        ({"truncated": 0.5}, DtypeError, "truncated"),
        ({"action": [np.nan]}, ActionError, "action"),
        ({"action": [0.0, 1.0]}, ActionError, "action"),
        ({"action_mask": [True, True]}, ActionError, "action_mask"),
    ],
)
def test_a_bad_step_is_refused_and_changes_nothing(change, error, names) -> None:
    rows = builder()
    rows.start([0, 0])
    rows.step([0.1], [1, 1], **_STEP)
    bad = {"action": [0.2], "obs": [2, 2], **_STEP, **change}
    with pytest.raises(error, match=names) as caught:
        rows.step(bad.pop("action"), bad.pop("obs"), **bad)
    assert isinstance(caught.value, BBWMError)
    rows.step([0.3], [3, 3], **{**_STEP, "truncated": True})
    episode = rows.finish()
    assert episode.obs["obs"][:, 0].tolist() == [0, 1, 3]
    assert episode.action[:, 0].tolist() == [np.float32(0.1), np.float32(0.3), 0]


def test_steps_need_an_open_episode() -> None:
    rows = builder()
    with pytest.raises(EpisodeError, match="start"):
        rows.step([0], [1, 1], **_STEP)
    rows.start([0, 0])
    with pytest.raises(EpisodeError, match="open"):
        rows.start([0, 0])
    rows.step([0], [1, 1], **{**_STEP, "terminated": True})
    with pytest.raises(EpisodeError, match="last row"):
        rows.step([0], [1, 1], **_STEP)


def test_an_action_that_is_not_available_is_refused() -> None:
    rows = builder(2, spaces.Discrete(3))
    rows.start([0, 0], action_mask=np.array([True, False, True]))
    with pytest.raises(ActionError, match="available"):
        rows.step(1, [1, 1], **_STEP)
    rows.step(2, [1, 1], **{**_STEP, "terminated": True})
    episode = rows.finish()
    assert episode.action_mask is not None
    assert episode.action_mask.tolist() == [[True, False, True], [True, True, True]]


def test_nested_actions_are_read_in_the_specs_order() -> None:
    space = spaces.Dict(
        {
            "turn": spaces.Box(-1, 1, (2, 2)),
            "click": spaces.Discrete(2),
            "keys": spaces.MultiBinary(2),
        }
    )
    spec = ActionSpec.of(space)
    rows = EpisodeBuilder(ObsSpec.of(1), spec)
    action = {"turn": np.array([[0.1, 0.2], [0.3, 0.4]]), "click": 1, "keys": np.array([0, 1])}
    rows.start([0])
    rows.step(action, [1], **_STEP)
    flat = np.array([0, 1, 1, 0, 0, 1, 0.1, 0.2, 0.3, 0.4], np.float32)  # click, keys, turn
    rows.step(flat, [2], **{**_STEP, "truncated": True})
    episode = rows.finish()
    assert np.array_equal(episode.action[0], flat)
    assert np.array_equal(episode.action[1], flat)

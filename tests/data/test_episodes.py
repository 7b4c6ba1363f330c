"""Every malformed transition is refused, by name, before anything is stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.data.builders import OBS, box, discrete, make_episode, rich_obs, same

from bb_wm.data import EpisodeStore, validate_episode
from bb_wm.errors import (
    ActionError,
    BatchError,
    BBWMError,
    DtypeError,
    EpisodeError,
    InputTypeError,
    RangeError,
    ResourceError,
)
from bb_wm.types import ActionSpec, Episode, ObsSpec

Change = Callable[[Episode], dict[str, Any]]


def put(name: str, index: Any, value: float) -> Change:
    """The change that writes one number into a copy of a field."""

    def change(episode: Episode) -> dict[str, Any]:
        array = (episode.obs["obs"] if name == "obs" else getattr(episode, name)).copy()
        array[index] = value
        return {name: {"obs": array} if name == "obs" else array}

    return change


def cast(name: str, dtype: Any) -> Change:
    def change(episode: Episode) -> dict[str, Any]:
        if name == "obs":
            return {"obs": {"obs": episode.obs["obs"].astype(dtype)}}
        return {name: getattr(episode, name).astype(dtype)}

    return change


def cut(name: str) -> Change:
    return lambda e: {name: getattr(e, name)[:-1]}


CONTINUOUS = ActionSpec.of(2)
BOX = box(-1, 1, 2)
CHOICE = discrete(3)
KINDS: dict[str, tuple[ActionSpec, Change, type[BBWMError], str]] = {
    "1 NaN in obs": (CONTINUOUS, put("obs", (2, 1), np.nan), BatchError, "obs"),
    "2 Inf in reward": (CONTINUOUS, put("reward", 3, -np.inf), BatchError, "reward"),
    "3 absurd number": (CONTINUOUS, put("obs", (0, 0), 2e6), RangeError, "obs"),
    "4 obs of another shape": (
        CONTINUOUS,
        lambda e: {"obs": {"obs": e.obs["obs"][:, :2]}},
        BatchError,
        "obs",
    ),
    "5 missing key": (CONTINUOUS, lambda e: {"obs": {}}, BatchError, "obs"),
    "6 extra key": (
        CONTINUOUS,
        lambda e: {"obs": {**e.obs, "more": e.reward}},
        BatchError,
        "obs",
    ),
    "7 float64": (CONTINUOUS, cast("obs", np.float64), DtypeError, "obs"),
    "8 objects": (CONTINUOUS, cast("reward", object), DtypeError, "reward"),
    "9 reward [T, 1]": (
        CONTINUOUS,
        lambda e: {"reward": e.reward[:, None]},
        BatchError,
        "reward",
    ),
    "10 lengths differ": (CONTINUOUS, cut("safety"), BatchError, "safety"),
    "11 one row only": (
        CONTINUOUS,
        lambda e: {
            "obs": {"obs": e.obs["obs"][:1]},
            "action": e.action[-1:],
            "reward": e.reward[:1],
            "safety": e.safety[:1],
        },
        EpisodeError,
        "episode",
    ),
    "12 risk below zero": (CONTINUOUS, put("safety", 1, -0.1), RangeError, "safety"),
    "13 reward before any action": (CONTINUOUS, put("reward", 0, 1.0), EpisodeError, "reward"),
    "14 an action in the last row": (
        CONTINUOUS,
        put("action", (-1, 0), 0.5),
        ActionError,
        "action",
    ),
    "15 action outside its box": (BOX, put("action", (1, 1), 1.5), ActionError, "action"),
    "16 no one-hot": (CHOICE, put("action", (1, slice(None)), 0.0), ActionError, "action"),
    "17 terminated and truncated": (
        CONTINUOUS,
        lambda e: {"truncated": True},
        EpisodeError,
        "truncated",
    ),
    "18 flag that is no bool": (
        CONTINUOUS,
        lambda e: {"terminated": 2},
        DtypeError,
        "terminated",
    ),
    "19 two ones": (CHOICE, put("action", (0, slice(None)), 1.0), ActionError, "action"),
    "20 half a choice": (CHOICE, put("action", (0, slice(None)), 0.5), ActionError, "action"),
    "21 forbidden action": (
        CHOICE,
        lambda e: {"action_mask": e.action == 0},
        ActionError,
        "action",
    ),
    "22 mask of another type": (
        CHOICE,
        lambda e: {"action_mask": np.ones(e.action.shape, np.float32)},
        DtypeError,
        "action_mask",
    ),
    "23 action of another width": (
        CONTINUOUS,
        lambda e: {"action": e.action[:, :1]},
        BatchError,
        "action",
    ),
    "24 a list": (CONTINUOUS, lambda e: {"reward": list(e.reward)}, InputTypeError, "reward"),
    "25 nothing": (CONTINUOUS, lambda e: {"safety": None}, DtypeError, "safety"),
    "26 masked array": (
        CONTINUOUS,
        lambda e: {"reward": np.ma.masked_array(e.reward)},
        InputTypeError,
        "reward",
    ),
    "27 a huge episode": (
        CONTINUOUS,
        lambda e: {
            "obs": {"obs": np.broadcast_to(np.float32(0), (10**9, 3))},
            "reward": np.broadcast_to(np.float32(0), 10**9),
        },
        ResourceError,
        "obs",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_malformed_transition_is_refused_and_nothing_changes(kind: str, tmp_path: Any) -> None:
    action_spec, change, error, field = KINDS[kind]
    good = make_episode(action_spec=action_spec)
    bad = dataclasses.replace(good, **change(good))
    with EpisodeStore(tmp_path / "s", OBS, action_spec) as store:
        store.append([good])
        before = snapshot(tmp_path)
        with pytest.raises(error) as caught:
            store.append([good, bad])
        assert caught.value.field.startswith(field)
        assert len(str(caught.value)) <= 400
        assert caught.value.expected
        assert snapshot(tmp_path) == before
        assert (len(store), store.rows, store.next_id) == (1, 5, 1)


def snapshot(root: Any) -> dict[str, tuple[bytes, int]]:
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("key", "dtype", "value", "error"),
    [
        ("eye", np.float32, 0.5, DtypeError),
        ("eye", np.int64, 300, DtypeError),
        ("mode", np.float32, 1.0, DtypeError),
        ("mode", np.int64, 3, RangeError),
        ("mode", np.int8, -1, RangeError),
        ("arm", np.int64, 1, DtypeError),
    ],
)
def test_each_key_has_its_own_numbers(
    key: str, dtype: Any, value: float, error: type[BBWMError]
) -> None:
    spec = rich_obs()
    episode = make_episode(obs_spec=spec)
    wrong = np.zeros(episode.obs[key].shape, dtype)
    wrong[1, 0] = value
    with pytest.raises(error) as caught:
        validate_episode(
            dataclasses.replace(episode, obs={**episode.obs, key: wrong}), spec, CONTINUOUS
        )
    assert key in caught.value.field


def test_a_good_episode_comes_back_the_same() -> None:
    for end in ("terminated", "truncated", "abandoned"):
        episode = make_episode(obs_spec=rich_obs(), action_spec=CHOICE, end=end, masked=True)
        assert same(validate_episode(episode, rich_obs(), CHOICE), episode)


def test_what_float32_holds_exactly_is_taken() -> None:
    spec = ObsSpec.of({"pad": 2, "on": 1})
    episode = make_episode(obs_spec=spec)
    obs = {
        "pad": np.array([[0, 65535]] * 5, np.uint16),
        "on": np.array([[True], [False]] * 2 + [[True]]),
    }
    stored = validate_episode(dataclasses.replace(episode, obs=obs), spec, CONTINUOUS)
    assert stored.obs["pad"].dtype == stored.obs["on"].dtype == np.float32
    assert stored.obs["pad"][0].tolist() == [0.0, 65535.0]
    assert stored.obs["on"][:, 0].tolist() == [1, 0, 1, 0, 1]


def test_a_choice_without_its_axis_gets_one() -> None:
    import gymnasium

    spec = ObsSpec.of(gymnasium.spaces.Discrete(4))
    episode = make_episode(obs_spec=spec)
    flat = dataclasses.replace(episode, obs={"obs": episode.obs["obs"][:, 0].astype(np.int16)})
    assert same(validate_episode(flat, spec, CONTINUOUS), episode)


def test_not_an_episode() -> None:
    for wrong in (None, {}, [make_episode()]):
        with pytest.raises(InputTypeError):
            validate_episode(wrong, OBS, CONTINUOUS)  # type: ignore[arg-type]

"""Spaces as plain data: every form in, every form back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from bb_wm.errors import ActionError, ConfigError, InputTypeError
from bb_wm.types import ActionSpec, ObsSpec

ACTIONS: dict[str, Any] = {
    "int": 3,
    "box": spaces.Box(-2.0, 3.0, (2,)),
    "matrix": spaces.Box(-1.0, 1.0, (2, 3)),
    "half bounded": spaces.Box(np.float32([0, -np.inf]), np.float32([np.inf, 1])),
    "discrete": spaces.Discrete(4),
    "multi": spaces.MultiDiscrete([2, 3]),
    "binary": spaces.MultiBinary(3),
    "dict": spaces.Dict(
        {"what": spaces.Discrete(3), "where": spaces.Box(-1, 1, (2, 2)), "m": spaces.MultiBinary(2)}
    ),
    "tuple": spaces.Tuple((spaces.Discrete(2), spaces.Box(0, 1, (1,)))),
    "nested": spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)}), "c": spaces.Discrete(3)}),
}


def sample(space: Any, seed: int) -> Any:
    if isinstance(space, int):
        return np.random.default_rng(seed).standard_normal(space).astype(np.float32)
    space.seed(seed)
    return space.sample()


@pytest.mark.parametrize("name", ACTIONS)
@given(seed=st.integers(0, 1000))
def test_an_action_survives_there_and_back(name: str, seed: int) -> None:
    space = ACTIONS[name]
    spec = ActionSpec.of(space)
    flat = spec.flatten(sample(space, seed))
    assert flat.shape == (spec.size,)
    assert flat.dtype == np.float32
    again = spec.unflatten(flat)
    np.testing.assert_array_equal(spec.flatten(again), flat)
    if name not in ("int", "tuple", "nested"):  # those come back keyed by their place
        assert space.contains(again), again
    assert ActionSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("name", ACTIONS)
def test_random_actions_are_valid_and_evenly_spread(name: str) -> None:
    spec = ActionSpec.of(ACTIONS[name])
    flat = spec.sample(np.random.default_rng(0), 4000)
    low, high = spec.bounds()
    assert bool((flat >= low - 1e-6).all())
    assert bool((flat <= high + 1e-6).all())
    for part, place in spec.slices():
        piece = flat[:, place]
        if part.kind == "discrete":
            np.testing.assert_array_equal(piece.sum(-1), 1.0)
            np.testing.assert_allclose(piece.mean(0), 1 / part.size, atol=0.035)
        elif np.isfinite(part.low).all() and np.isfinite(part.high).all():
            middle = (np.asarray(part.low) + np.asarray(part.high)) / 2
            np.testing.assert_allclose(piece.mean(0), middle, atol=0.1)


def test_flat_actions_of_a_batch() -> None:
    spec = ActionSpec.of(spaces.MultiDiscrete([2, 3]))
    np.testing.assert_array_equal(
        spec.flatten(np.array([[0, 2], [1, 0]])), [[1, 0, 0, 0, 1], [0, 1, 1, 0, 0]]
    )
    one = ActionSpec.of(spaces.Discrete(3))
    np.testing.assert_array_equal(one.flatten(np.array([2, 0])), [[0, 0, 1], [1, 0, 0]])
    np.testing.assert_array_equal(one.flatten(np.eye(3, dtype=np.float32)), np.eye(3))
    np.testing.assert_array_equal(one.flatten(1), [0, 1, 0])


@pytest.mark.parametrize(
    ("space", "action"),
    [
        (spaces.Box(-1, 1, (2,)), np.array([0.0, 1.5], np.float32)),
        (spaces.Box(-1, 1, (2,)), np.array([0.0, np.nan], np.float32)),
        (spaces.Box(-1, 1, (2,)), np.zeros(3, np.float32)),
        (spaces.Discrete(3), 3),
        (spaces.Discrete(3), -1),
        (spaces.Discrete(3), np.array([0.5, 0.5, 0.0], np.float32)),
        (spaces.MultiDiscrete([2, 3]), np.array([0, 3])),
        (spaces.Dict({"a": spaces.Discrete(2)}), {"b": 1}),
        (2, np.array(["a", "b"])),
    ],
)
def test_actions_outside_the_space_are_refused(space: Any, action: Any) -> None:
    with pytest.raises(ActionError) as caught:
        ActionSpec.of(space).flatten(action)
    assert caught.value.field == "action"


def test_no_action_is_no_action() -> None:
    with pytest.raises(InputTypeError):
        ActionSpec.of(2).flatten(None)


def test_observations_of_every_form() -> None:
    assert ObsSpec.of(3).entries[0].shape == (3,)
    assert ObsSpec.of((2, 3)).entries[0].kind == "vector"
    assert ObsSpec.of((64, 64, 3)).entries[0].kind == "image"
    assert ObsSpec.of((3, 64, 64)).entries[0].channels_first
    assert ObsSpec.of((4, 4, 3)).entries[0].kind == "vector"  # too small for convolutions
    assert ObsSpec.of(spaces.Box(0, 255, (32, 32, 3), np.uint8)).entries[0].kind == "image"
    assert ObsSpec.of(spaces.Box(-1, 1, ())).entries[0].shape == (1,)
    nested = ObsSpec.of({"b": {"y": 2, "x": spaces.Discrete(4)}, "a": 1})
    assert [entry.key for entry in nested.entries] == ["a", "b/x", "b/y"]
    assert nested.keyed({"b": {"y": 1, "x": 2}, "a": 3}) == {"b/y": 1, "b/x": 2, "a": 3}
    mixed = ObsSpec.of(spaces.Tuple((spaces.Discrete(2), spaces.MultiBinary(2))))
    assert [(entry.key, entry.classes) for entry in mixed.entries] == [("0", (2,)), ("1", (2, 2))]
    for spec in (nested, mixed, ObsSpec.of((64, 64, 3))):
        assert ObsSpec.from_json(spec.to_json()) == spec
    with pytest.raises(ConfigError, match="featuriser"):
        ObsSpec.of(spaces.Text(5))

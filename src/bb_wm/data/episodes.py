"""Is this episode believable? Asked once, before it is stored; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bb_wm.data.limits import (
    EXACT_IN_FLOAT32,
    MAX_ABS,
    MAX_EPISODE_BYTES,
    index_error,
    number_error,
)
from bb_wm.errors import (
    ActionError,
    BatchError,
    DtypeError,
    EpisodeError,
    InputTypeError,
    ResourceError,
)
from bb_wm.types import ActionSpec, Episode, ObsEntry, ObsSpec
from bb_wm.types.action_spec import check_box


def validate_episode(episode: Episode, obs_spec: ObsSpec, action_spec: ActionSpec) -> Episode:
    """The same episode in its stored form: float32, uint8 images, int64 choices, contiguous.

    Checked: every key and nothing else; shapes [T, ...] with one T >= 2; dtypes (nothing is cast
    but small integers and bools of vector keys, which float32 holds exactly); finite numbers within
    1e6; risk >= 0; reward and risk 0 at row 0, where nothing was done yet; T - 1 actions inside
    their space and allowed by the mask, and none in the last row; not both terminated and
    truncated. Raises BatchError and its kinds, DtypeError, InputTypeError, ResourceError.
    Arrays that are already in that form are not copied.
    """
    if not isinstance(episode, Episode):
        raise InputTypeError("episode", expected="Episode", actual=type(episode).__name__)
    reward = _array("reward", episode.reward)
    if reward.ndim != 1:
        raise BatchError("reward", expected="[T]", actual=list(reward.shape), hint=_LAST_AXIS)
    rows = len(reward)
    if rows < 2:
        raise EpisodeError(
            "episode", expected="at least 2 rows, one transition", actual=f"{rows} rows"
        )
    obs = _check_obs(episode.obs, obs_spec, rows)
    reward = _floats("reward", reward, (rows,))
    safety = _floats("safety", _array("safety", episode.safety), (rows,), low=0.0)
    for field, values in (("reward", reward), ("safety", safety)):
        if values[0] != 0:
            raise EpisodeError(
                f"{field}[0]",
                expected="0: at row 0 nothing was done yet",
                actual=float(values[0]),
                hint="put what action[t] brought into row t + 1.",
            )
    _check_end(episode)
    action = _floats("action", _array("action", episode.action), (rows, action_spec.size))
    _check_actions(action, action_spec)
    mask = _check_mask(episode.action_mask, action, action_spec)
    return Episode(
        obs=obs,
        action=action,
        reward=reward,
        safety=safety,
        terminated=bool(episode.terminated),
        truncated=bool(episode.truncated),
        action_mask=mask,
    )


_LAST_AXIS = "squeeze the last axis; nothing is broadcast."


def _array(field: str, value: Any) -> np.ndarray:
    if value is None or isinstance(value, str | bytes):
        raise DtypeError(field, expected="a numpy array", actual=type(value).__name__)
    if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
        raise InputTypeError(
            field,
            expected="a numpy array",
            actual=type(value).__name__,
            hint="tensors: .numpy(); lists: np.asarray(x, np.float32).",
        )
    if value.dtype.kind not in "biuf":
        raise DtypeError(field, expected="numbers", actual=f"dtype {value.dtype}")
    return value


def _shaped(field: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        swapped = array.ndim == len(shape) + 1 and array.shape == (*shape, 1)
        raise BatchError(
            field,
            expected=f"[T, ...] = {list(shape)}",
            actual=list(array.shape),
            hint=_LAST_AXIS if swapped else "",
        )


def _floats(
    field: str, array: np.ndarray, shape: tuple[int, ...], low: float = -MAX_ABS
) -> np.ndarray:
    _shaped(field, array, shape)
    if array.dtype != np.float32:
        raise DtypeError(
            field,
            expected="float32",
            actual=f"dtype {array.dtype}",
            hint="cast knowingly: x.astype(np.float32).",
        )
    if not (array.min() >= low and array.max() <= MAX_ABS):  # NaN fails both
        raise number_error(field, array, low=low)
    return np.ascontiguousarray(array)


def _check_obs(
    obs: Mapping[str, np.ndarray], obs_spec: ObsSpec, rows: int
) -> dict[str, np.ndarray]:
    if not isinstance(obs, Mapping):
        raise InputTypeError("obs", expected="a mapping of arrays", actual=type(obs).__name__)
    keyed = obs if obs_spec.single else obs_spec.keyed(obs)
    wanted = [entry.key for entry in obs_spec.entries]
    if sorted(keyed) != wanted:
        raise BatchError("obs", expected=f"keys {wanted}", actual=f"keys {sorted(keyed)}")
    arrays = {key: _array(f"obs[{key!r}]", keyed[key]) for key in wanted}
    size = sum(array.nbytes for array in arrays.values())
    if size > MAX_EPISODE_BYTES:
        raise ResourceError(
            "obs", expected=f"at most {MAX_EPISODE_BYTES} bytes an episode", actual=size
        )
    return {entry.key: _check_entry(entry, arrays[entry.key], rows) for entry in obs_spec.entries}


def _check_entry(entry: ObsEntry, array: np.ndarray, rows: int) -> np.ndarray:
    field = f"obs[{entry.key!r}]"
    shape = (rows, *entry.shape)
    if entry.kind == "image":
        _shaped(field, array, shape)
        if array.dtype != np.uint8:
            raise DtypeError(field, expected="uint8 pixels", actual=f"dtype {array.dtype}")
        return np.ascontiguousarray(array)
    if entry.kind == "discrete":
        if entry.shape == (1,) and array.ndim == 1:
            array = array[:, None]
        _shaped(field, array, shape)
        if array.dtype.kind not in "iu":
            raise DtypeError(field, expected="integer indices", actual=f"dtype {array.dtype}")
        if array.min() < 0 or (array.max(0) >= np.asarray(entry.classes)).any():
            raise index_error(field, array, entry.classes)
        return np.ascontiguousarray(array, np.int64)
    if array.dtype.name in EXACT_IN_FLOAT32:
        array = array.astype(np.float32)
    return _floats(field, array, shape)


def _check_end(episode: Episode) -> None:
    for field in ("terminated", "truncated"):
        value = getattr(episode, field)
        if not isinstance(value, bool | np.bool_):
            raise DtypeError(field, expected="a bool", actual=f"{type(value).__name__} {value!r}")
    if episode.terminated and episode.truncated:
        raise EpisodeError(
            "truncated",
            expected="False where terminated: only one ended the episode",
            actual="both True",
            hint="the world's end wins: truncated=False.",
        )


def _check_actions(action: np.ndarray, action_spec: ActionSpec) -> None:
    if action[-1].any():
        raise ActionError(
            "action[-1]",
            expected="all zero: nothing was done in the last row",
            actual=f"{int(np.count_nonzero(action[-1]))} numbers that are not 0",
            hint="T rows have T - 1 actions; action[t] leads to row t + 1.",
        )
    for part, place in action_spec.slices():
        piece = action[:-1, place]
        if part.kind == "box":
            check_box(part, piece)
            continue
        good = ((piece == 0) | (piece == 1)).all(-1) & (piece.sum(-1) == 1)
        if not good.all():
            raise ActionError(
                "action",
                expected=f"a one-hot of {part.size} in every row but the last",
                actual=f"{int((~good).sum())} rows that are none, first row {int(good.argmin())}",
            )


def _check_mask(
    mask: np.ndarray | None, action: np.ndarray, action_spec: ActionSpec
) -> np.ndarray | None:
    if mask is None:
        return None
    mask = _array("action_mask", mask)
    _shaped("action_mask", mask, action.shape)
    if mask.dtype != np.bool_:
        raise DtypeError("action_mask", expected="bool", actual=f"dtype {mask.dtype}")
    for part, place in action_spec.slices():
        if part.kind == "box":
            continue
        forbidden = ((action[:, place] > 0) & ~mask[:, place]).any(-1)
        if forbidden.any():
            raise ActionError(
                "action",
                expected="only actions that action_mask allows",
                actual=f"{int(forbidden.sum())} forbidden, first in row {int(forbidden.argmax())}",
            )
    return np.ascontiguousarray(mask)

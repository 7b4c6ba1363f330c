"""Whole episodes from the arrays of a log: where its rewards stand is said once, here.

A log that stores the reward with the action that caused it (Gymnasium's step, Minari, D4RL, most
CSV files) has rewards "leaving" a row; the row convention has them "arriving". With "leaving",
reward, risk and termination of the action in row t move to row t + 1. What the last action led to
is only kept when the row it led to was stored too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bb_wm.data.episodes import validate_episode
from bb_wm.data.rows import RewardPlace, obs_array
from bb_wm.errors import ConfigError, DataError, DtypeError, EpisodeError
from bb_wm.types import ActionSpec, Episode, ObsSpec


def episode_from_arrays(
    obs_spec: ObsSpec,
    action_spec: ActionSpec,
    *,
    obs: Any,
    action: Any,
    reward: np.ndarray,
    terminated: np.ndarray | bool,
    truncated: np.ndarray | bool = False,
    safety: np.ndarray | None = None,
    rewards: RewardPlace = "leaving",
    action_mask: np.ndarray | None = None,
) -> Episode:
    """A validated Episode of T rows from `obs` [T, ...] (an array, or a mapping of them).

    action: [T - 1] or [T] of the outside's own or flat ones; action[t] was done in row t. The last
        of T is not kept: the row it led to is not there.
    reward, safety, flags: with rewards="leaving" as long as `action`, index t belonging to
        action[t]; with "arriving" [T], index t received in row t, reward[0] = 0. Flags may be one
        bool for the episode's end.
    Raises DataError, EpisodeError, DtypeError and what `validate_episode` raises.
    """
    check_reward_place(rewards)
    seen = _obs_arrays(obs_spec, obs)
    rows = len(next(iter(seen.values())))
    flat = _flat_actions(action_spec, action, rows)
    count = len(flat)
    given = {"reward": reward, "safety": np.zeros(len(np.atleast_1d(reward)))}
    if safety is not None:
        given["safety"] = safety
    moved = {}
    for field, values in given.items():
        numbers = _numbers(field, values)
        wanted = rows if rewards == "arriving" else count
        if len(numbers) != wanted:
            raise DataError(field, expected=f"[{wanted}], rewards={rewards!r}", actual=len(numbers))
        if rewards == "leaving":
            numbers = np.concatenate([np.zeros(1, np.float32), numbers[: rows - 1]])
        elif numbers[0] != 0:
            raise EpisodeError(
                f"{field}[0]",
                expected="0: in row 0 nothing was done yet",
                actual=float(numbers[0]),
                hint='if it belongs to action[0], load with rewards="leaving".',
            )
        moved[field] = numbers
    unseen = rewards == "leaving" and count == rows  # the last action's outcome has no row
    ended = _end("terminated", terminated, rows, count, rewards)
    cut = _end("truncated", truncated, rows, count, rewards)
    idle = np.zeros((1, action_spec.size), np.float32)
    episode = Episode(
        obs=seen,
        action=np.concatenate([flat[: rows - 1], idle]),
        reward=moved["reward"],
        safety=moved["safety"],
        terminated=ended and not unseen,
        truncated=(cut and not ended) or (unseen and (ended or cut)),
        action_mask=None if action_mask is None else np.asarray(action_mask),
    )
    return validate_episode(episode, obs_spec, action_spec)


def check_reward_place(rewards: str) -> None:
    """ConfigError unless `rewards` is one of the two conventions."""
    if rewards not in ("leaving", "arriving"):
        raise ConfigError("rewards", expected='"leaving" or "arriving"', actual=repr(rewards))


def _obs_arrays(spec: ObsSpec, obs: Any) -> dict[str, np.ndarray]:
    keyed = spec.keyed(obs)
    wanted = [entry.key for entry in spec.entries]
    if sorted(keyed) != wanted:
        raise DataError("obs", expected=f"keys {wanted}", actual=f"keys {sorted(keyed)}")
    lengths = {key: len(np.atleast_1d(value)) for key, value in keyed.items()}
    if len(set(lengths.values())) != 1:
        raise DataError("obs", expected="one number of rows for all keys", actual=lengths)
    rows = next(iter(lengths.values()))
    if rows < 2:
        raise EpisodeError("obs", expected="at least 2 rows, one transition", actual=rows)
    return {entry.key: obs_array(entry, keyed[entry.key], rows) for entry in spec.entries}


def _flat_actions(spec: ActionSpec, action: Any, rows: int) -> np.ndarray:
    if not isinstance(action, Mapping | tuple):
        array = np.asarray(action)
        if array.dtype.kind not in "biuf":
            raise DtypeError("action", expected="numbers", actual=f"dtype {array.dtype}")
        if spec.form == "array" and array.ndim and array.size == len(array) * spec.size:
            array = array.reshape(len(array), spec.size)
        action = array
    if spec.form == "mapping" and isinstance(action, np.ndarray):
        flat = action.astype(np.float32)
    else:
        flat = np.asarray(spec.flatten(action), np.float32)
    if flat.ndim != 2 or flat.shape[1] != spec.size or len(flat) not in (rows - 1, rows):
        raise DataError(
            "action",
            expected=f"[{rows - 1} or {rows}, {spec.size}] for {rows} observations",
            actual=list(flat.shape),
        )
    return flat


def _numbers(field: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise DtypeError(field, expected="numbers", actual=f"dtype {array.dtype}")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(field, expected="one number per row", actual=list(array.shape))
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _end(field: str, flag: Any, rows: int, count: int, rewards: str) -> bool:
    """Whether the episode ends so; EpisodeError when it would go on after its end."""
    array = np.asarray(flag)
    whole = array.dtype.kind in "iuf" and np.isin(array, (0, 1)).all()
    if array.dtype.kind != "b" and not whole:
        raise DtypeError(field, expected="bools (or 0 and 1)", actual=f"dtype {array.dtype}")
    if array.size == 1:
        return bool(array.reshape(()))
    wanted = rows if rewards == "arriving" else count
    if array.shape != (wanted,):
        raise DataError(field, expected=[wanted], actual=list(array.shape))
    if array[:-1].any():
        raise EpisodeError(
            field,
            expected="True at the last row only",
            actual=f"True at row {int(np.flatnonzero(array)[0])} of {wanted}",
            hint="cut the log into one episode per run of the world.",
        )
    return bool(array[-1])

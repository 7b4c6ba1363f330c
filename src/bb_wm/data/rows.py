"""The one place where what an environment or a log says becomes rows of the row convention.

Gymnasium says "this action gave this reward and this next observation". The row convention says "at
row t you see obs[t] and receive reward[t]; then you do action[t], which leads to row t + 1". So the
reward, the risk and the termination of a step belong to the row the step leads to, and the action
belongs to the row it was done in. Off by one row, losses still fall; hence one place only.

Numbers: observations of vector keys are cast once to float32, whatever they were; images stay
uint8; discrete keys are int64 indices. Rewards and risks are float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from bb_wm.errors import ActionError, DataError, DtypeError, EpisodeError, RangeError
from bb_wm.types import ActionSpec, Episode, ObsEntry, ObsSpec

RewardPlace = Literal["leaving", "arriving"]


class EpisodeBuilder:
    """Grows one episode row by row: `start`, then `step` per action, then `finish`.

    Every input is checked before anything is kept: after an error the rows so far stand as they
    were, and `abandon` still gives them. All inputs are copied; an environment may reuse buffers.
    """

    def __init__(self, obs_spec: ObsSpec, action_spec: ActionSpec) -> None:
        self.obs_spec = obs_spec
        self.action_spec = action_spec
        self._clear()

    def _clear(self) -> None:
        self._obs: list[dict[str, np.ndarray]] = []
        self._actions: list[np.ndarray] = []
        self._rewards: list[float] = []
        self._risks: list[float] = []
        self._masks: list[np.ndarray | None] = []
        self._terminated = False
        self._truncated = False

    @property
    def rows(self) -> int:
        """T so far; 0 when no episode was started."""
        return len(self._rewards)

    @property
    def ended(self) -> bool:
        return self._terminated or self._truncated

    def start(self, obs: Any, *, action_mask: np.ndarray | None = None) -> None:
        """Row 0: what is seen before anything is done. `action_mask` [A], True where available."""
        if self.rows:
            raise EpisodeError("start", expected="no open episode", actual=f"{self.rows} open rows")
        first = obs_row(self.obs_spec, obs)
        mask = self._mask(action_mask)
        self._keep(first, 0.0, 0.0, mask)

    def step(
        self,
        action: Any,
        obs: Any,
        *,
        reward: float,
        terminated: bool,
        truncated: bool,
        risk: float = 0.0,
        action_mask: np.ndarray | None = None,
    ) -> None:
        """Row t + 1: `action` was done in row t and led to `obs`, `reward`, `risk` and the flags.

        `action` is the outside's own or already flat [A]; `action_mask` is what is available in the
        new row. An episode that terminates and runs out of time in one step has terminated.
        """
        if not self.rows:
            raise EpisodeError("step", expected="start(obs) first", actual="no open episode")
        if self.ended:
            raise EpisodeError("step", expected="no step after the last row", actual="one more")
        flat = flat_action(self.action_spec, action)
        self._check_available(flat)
        row = obs_row(self.obs_spec, obs)
        reward = _number("reward", reward)
        risk = _number("risk", risk)
        if risk < 0:
            raise RangeError("risk", expected=">= 0 (larger is worse)", actual=risk)
        ended, cut = _flag("terminated", terminated), _flag("truncated", truncated)
        mask = self._mask(action_mask)
        self._actions.append(flat)
        self._keep(row, reward, risk, mask)
        self._terminated = ended
        self._truncated = cut and not ended

    def finish(self) -> Episode:
        """The episode that has ended by itself; the builder is empty again."""
        if not self.ended:
            raise EpisodeError(
                "finish",
                expected="a last row that terminated or was truncated",
                actual=f"{self.rows} rows without an end",
                hint="use cut() when you stop recording, abandon() after a crash.",
            )
        return self._take()

    def cut(self) -> Episode:
        """The rows so far as a truncated episode: only the recording stops, not the world."""
        self._truncated = not self._terminated
        return self._take()

    def abandon(self) -> Episode | None:
        """The rows so far as an abandoned episode (neither flag), None below two rows."""
        self._terminated = self._truncated = False
        if self.rows < 2:
            self._clear()
            return None
        return self._take()

    def _keep(
        self, obs: dict[str, np.ndarray], reward: float, risk: float, mask: np.ndarray | None
    ) -> None:
        self._obs.append(obs)
        self._rewards.append(reward)
        self._risks.append(risk)
        self._masks.append(mask)

    def _mask(self, mask: np.ndarray | None) -> np.ndarray | None:
        if mask is None:
            return None
        array = np.array(mask, bool)
        if array.shape != (self.action_spec.size,):
            raise ActionError(
                "action_mask", expected=[self.action_spec.size], actual=list(array.shape)
            )
        return array

    def _check_available(self, flat: np.ndarray) -> None:
        mask = self._masks[-1]
        if mask is None:
            return
        for part, place in self.action_spec.slices():
            chosen = flat[place] > 0
            if part.kind == "discrete" and (chosen & ~mask[place]).any():
                raise ActionError(
                    "action",
                    expected=f"one of the available {np.flatnonzero(mask[place]).tolist()}",
                    actual=int(np.argmax(chosen)),
                    hint="the policy must respect the action mask of its row.",
                )

    def _take(self) -> Episode:
        if not self.rows:
            raise EpisodeError("episode", expected="at least one row", actual="none")
        idle = np.zeros(self.action_spec.size, np.float32)  # in the last row nothing was done
        masks: np.ndarray | None = None
        if any(mask is not None for mask in self._masks):
            free = np.ones(self.action_spec.size, bool)
            masks = np.stack([free if mask is None else mask for mask in self._masks])
        episode = Episode(
            obs={key: np.stack([row[key] for row in self._obs]) for key in self._obs[0]},
            action=np.stack([*self._actions, idle]),
            reward=np.asarray(self._rewards, np.float32),
            safety=np.asarray(self._risks, np.float32),
            terminated=self._terminated,
            truncated=self._truncated,
            action_mask=masks,
        )
        self._clear()
        return episode


def obs_row(spec: ObsSpec, obs: Any) -> dict[str, np.ndarray]:
    """One observation as checked arrays per key, of the entries' shapes, copied."""
    keyed = spec.keyed(obs)
    wanted = [entry.key for entry in spec.entries]
    if sorted(keyed) != wanted:
        raise DataError("obs", expected=f"keys {wanted}", actual=f"keys {sorted(keyed)}")
    return {entry.key: obs_array(entry, keyed[entry.key])[0] for entry in spec.entries}


def obs_array(entry: ObsEntry, value: Any, rows: int = 1) -> np.ndarray:
    """`rows` observations of one key -> [rows, *shape], cast by the rule of this module, copied."""
    field = f"obs[{entry.key!r}]"
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise DtypeError(field, expected="numbers", actual=f"dtype {array.dtype}")
    shapes = [(rows, *entry.shape), *([entry.shape] if rows == 1 else [])]
    if entry.size == 1:
        shapes += [(rows,), *([()] if rows == 1 else [])]
    loose = entry.kind == "discrete" and array.size == rows * entry.size  # nvec of any shape
    if array.shape not in shapes and not loose:
        raise DataError(field, expected=list(shapes[0]), actual=list(array.shape))
    array = array.reshape(rows, *entry.shape)
    if entry.kind == "image":
        if array.dtype != np.uint8:
            raise DtypeError(field, expected="uint8 pixels", actual=f"dtype {array.dtype}")
        return array.copy()
    if entry.kind == "discrete":
        return _indices(field, entry, array)
    with np.errstate(over="ignore"):
        cast = array.astype(np.float32)
    bad = ~np.isfinite(cast)
    if bad.any():
        where = np.argwhere(bad)[0].tolist()
        raise DataError(
            field,
            expected="finite numbers",
            actual=f"{array[tuple(where)]} at {where[1:] if rows == 1 else where} "
            f"({int(bad.sum())} such)",
        )
    return cast


def _indices(field: str, entry: ObsEntry, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "f" and not np.array_equal(array, np.round(array)):
        raise DtypeError(field, expected="integer indices", actual=f"dtype {array.dtype}")
    index = array.astype(np.int64)
    classes = np.asarray(entry.classes)
    if ((index < 0) | (index >= classes)).any():
        raise RangeError(
            field,
            expected=f"indices below {list(entry.classes[:8])}",
            actual=f"{int(index.min())}..{int(index.max())}",
        )
    return index


def flat_action(spec: ActionSpec, action: Any) -> np.ndarray:
    """One action of the outside (or a flat one) -> float32 [A], copied; ActionError out of range.

    A box action of any shape is read in C order: the flat vector has no shape of its own.
    """
    if spec.form == "array":
        action = np.asarray(action)
        if action.size == spec.size:
            action = action.reshape(spec.size)
    elif spec.form == "mapping":
        if isinstance(action, np.ndarray) and action.shape == (spec.size,):
            return _flat_parts(spec, np.asarray(action, np.float32))
        action = _ravelled(action)
    flat = np.array(spec.flatten(action), np.float32)
    if flat.shape != (spec.size,):
        raise ActionError("action", expected=[spec.size], actual=list(flat.shape))
    return flat


def _ravelled(action: Any) -> Any:
    if isinstance(action, Mapping):
        return {key: _ravelled(value) for key, value in action.items()}
    if isinstance(action, tuple):
        return tuple(_ravelled(value) for value in action)
    return action.ravel() if isinstance(action, np.ndarray) and action.ndim > 1 else action


def _flat_parts(spec: ActionSpec, flat: np.ndarray) -> np.ndarray:
    """A flat action of a Dict or Tuple space, each part checked by its own rule."""
    for part, place in spec.slices():
        form: Literal["array", "index"] = "array" if part.kind == "box" else "index"
        ActionSpec((part,), form).flatten(flat[place])
    return flat.copy()


def _number(field: str, value: Any) -> float:
    if isinstance(value, float) and abs(value) < 1e30:  # the common case, quickly; NaN fails it
        return float(value)
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise DataError(field, expected="one number", actual=f"{type(value).__name__} {value!r}")
    number = float(array.reshape(()))
    with np.errstate(over="ignore"):
        if not np.isfinite(np.float32(number)):
            raise DataError(field, expected="a finite number", actual=number)
    return number


def _flag(field: str, value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise DtypeError(field, expected="a bool", actual=f"{type(value).__name__} {value!r}")

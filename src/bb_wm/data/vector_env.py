"""Rows from a VectorEnv the caller built, whatever its autoreset mode.

Such an environment resets itself without a seed, so a run repeats from its start (slot i has a seed
and a generator of (seed, i)) but cannot be continued at an episode; `workers=n` can.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bb_wm.data.recorder import MASK_KEY, Actor, Recorder, Settings, env_name, info_cost
from bb_wm.data.vectorised import _join, _split
from bb_wm.errors import BBWMError, ConfigError, DataError
from bb_wm.types import Episode


def from_vector_env(vector: Any, settings: Settings) -> Iterator[Episode | BBWMError]:
    """Episodes in the order they end (by time, then by slot)."""
    settings = settings.complete(vector.single_observation_space, vector.single_action_space)
    crew = _Slots(vector, settings)
    crew.start()
    while True:
        yield from crew.advance()


def autoreset_mode(vector: Any) -> str:
    """ "NextStep", "SameStep" or "Disabled"; ConfigError when the environment does not say."""
    mode = vector.metadata.get("autoreset_mode")
    name = str(getattr(mode, "value", mode))
    if name not in ("NextStep", "SameStep", "Disabled"):
        raise ConfigError(
            "metadata['autoreset_mode']",
            expected="gymnasium.vector.AutoresetMode",
            actual=repr(mode),
            hint="pass the callable that makes one environment, with workers=n.",
        )
    return name


class _Slots:
    """One recorder per sub-environment, and the rule of its resets."""

    def __init__(self, vector: Any, settings: Settings) -> None:
        self.vector = vector
        self.settings = settings
        self.mode = autoreset_mode(vector)
        self.name = env_name(vector)
        self.actors = [Actor(settings, slot, stream=1) for slot in range(vector.num_envs)]
        self.recorders: list[Recorder | None] = [None] * vector.num_envs
        self._last: list[Any] = []

    def start(self) -> None:
        obs, infos = self.vector.reset(seed=[actor.env_seed for actor in self.actors])
        self._last = _split(self.vector, obs)
        for slot, seen in enumerate(self._last):
            self._begin(slot, seen, slot_info(infos, slot))

    def advance(self) -> Iterator[Episode | BBWMError]:
        native = [self._choose(slot) for slot in range(len(self.actors))]
        answer = self.vector.step(_join(self.vector.single_action_space, native))
        obs, rewards, ended, cut, infos = answer
        before, self._last = self._last, _split(self.vector, obs)
        again: list[int] = []
        for slot, seen in enumerate(self._last):
            recorder, info = self.recorders[slot], slot_info(infos, slot)
            if recorder is None:  # NEXT_STEP: this answer is the reset, not a row
                self._begin(slot, seen, info)
                continue
            over = bool(ended[slot] or cut[slot])
            last, told = seen, info
            if over and self.mode == "SameStep":
                last, told = info.pop("final_obs"), info.pop("final_info")
            try:
                risk = self._risk(
                    before[slot], native[slot], last, rewards[slot], ended[slot], told
                )
                mask = self._mask(last, told)
                recorder.take(last, rewards[slot], bool(ended[slot]), bool(cut[slot]), risk, mask)
            except Exception as error:
                yield from recorder.fail(error)
                return  # the caller stops: such an environment cannot be reset alone
            if recorder.ended:
                yield recorder.finish()
                self.recorders[slot] = None
                if not over or self.mode == "SameStep":
                    self._begin(slot, seen, info)
                elif self.mode == "Disabled":
                    again.append(slot)
        if again:
            self._reset(again)

    def _choose(self, slot: int) -> Any:
        recorder = self.recorders[slot]
        # a filler where NEXT_STEP ignores the action
        return self.vector.single_action_space.sample() if recorder is None else recorder.choose()

    def _begin(self, slot: int, seen: Any, info: dict[str, Any]) -> None:
        actor = self.actors[slot]
        recorder = Recorder(self.settings, actor.renewed(actor.episode), self.name)
        recorder.begin(seen, self._mask(seen, info))
        self.recorders[slot] = recorder

    def _reset(self, slots: list[int]) -> None:
        chosen = np.zeros(len(self.actors), bool)
        chosen[slots] = True
        obs, infos = self.vector.reset(options={"reset_mask": chosen})
        fresh = _split(self.vector, obs)
        for slot in slots:
            self._last[slot] = fresh[slot]
            self._begin(slot, fresh[slot], slot_info(infos, slot))

    def _risk(
        self, obs: Any, action: Any, after: Any, reward: Any, ended: Any, info: dict[str, Any]
    ) -> float:
        rule = self.settings.risk or info_cost
        if self.settings.risk is None and isinstance(info.get("cost"), int | np.integer):
            self._refuse_rounded_cost()
        return float(rule(obs, action, after, float(reward), bool(ended), info))

    def _refuse_rounded_cost(self) -> None:
        from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

        if isinstance(self.vector.unwrapped, AsyncVectorEnv | SyncVectorEnv):
            raise DataError(
                "info['cost']",
                expected="a float",
                actual="an integer array, into which Gymnasium would round later costs like 0.5",
                hint="pass the environment's maker with workers=n, or report float costs.",
            )

    def _mask(self, obs: Any, info: Mapping[str, Any]) -> Any:
        if self.settings.action_mask == "none":
            return None
        return obs[MASK_KEY] if self.settings.action_mask == "obs" else info.get(MASK_KEY)


def slot_info(infos: Mapping[str, Any], slot: int) -> dict[str, Any]:
    """One sub-environment's info, out of Gymnasium's merged one (`_key` says who has a key)."""
    told: dict[str, Any] = {}
    for key, value in infos.items():
        has = infos.get(f"_{key}")
        if key.startswith("_") and key[1:] in infos:
            continue
        if has is None or not has[slot]:
            continue
        told[key] = slot_info(value, slot) if isinstance(value, Mapping) else value[slot]
    return told

"""What collecting is made of: a reporter beside the environment, an actor, a recorder.

The reporter stands in the environment's own process and turns (obs, reward, ..., info) into exactly
typed numbers there: Gymnasium merges the infos of a vector environment under the type of the first
one it meets, so a cost of 0.5 after an integer 0 would arrive as 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np

from bb_wm.data.episodes import validate_episode
from bb_wm.data.native import flat_mask, native_action, sample_action
from bb_wm.data.rows import EpisodeBuilder, flat_action
from bb_wm.errors import BBWMError, ConfigError, DataError
from bb_wm.types import ActionSpec, Episode, ObsSpec

MASK_KEY = "action_mask"
Risk = Callable[[Any, Any, Any, float, bool, Mapping[str, Any]], float]


class EpisodePolicy(Protocol):
    """A policy with memory: every episode asks it for an actor of its own.

    `generator` belongs to the episode alone; drawing from it keeps the rows repeatable.
    """

    def begin(self, generator: np.random.Generator) -> Callable[[Any], Any]:
        """obs -> action, used for the rows of one episode in order."""
        ...


Policy = Callable[[Any], Any] | EpisodePolicy


def info_cost(
    obs: Any, action: Any, next_obs: Any, reward: float, terminated: bool, info: Mapping[str, Any]
) -> float:
    """info["cost"], as Safety-Gymnasium reports it; 0 where there is none."""
    return float(info.get("cost", 0.0))


@dataclass(frozen=True, slots=True)
class Settings:
    """What one call of `collect` fixes."""

    obs_spec: ObsSpec | None
    action_spec: ActionSpec | None
    policy: Policy | None
    risk: Risk | None
    seed: int
    action_mask: Literal["info", "obs", "none"] = "info"
    max_rows: int | None = None
    timeout_s: float = 60.0
    obs_space: Any = None
    action_space: Any = None

    def complete(self, obs_space: Any, action_space: Any) -> Settings:
        """With the specs that were not given taken from the environment's spaces."""
        seen = without_mask(obs_space) if self.action_mask == "obs" else obs_space
        return replace(
            self,
            obs_spec=ObsSpec.of(seen if self.obs_spec is None else self.obs_spec),
            action_spec=ActionSpec.of(
                action_space if self.action_spec is None else self.action_spec
            ),
            obs_space=obs_space,
            action_space=action_space,
        )


def without_mask(obs_space: Any) -> Any:
    """The observation space without its action mask; ConfigError when it has none."""
    spaces = getattr(obs_space, "spaces", None)
    if not isinstance(spaces, Mapping) or MASK_KEY not in spaces:
        raise ConfigError(
            "action_mask",
            expected=f"a Dict observation with a key {MASK_KEY!r}",
            actual=str(obs_space),
        )
    return {key: space for key, space in spaces.items() if key != MASK_KEY}


class Reporter:
    """One environment that answers obs, reward, terminated, truncated, risk and mask.

    `bb_wm.data.vectorised` runs it inside a worker of gymnasium.vector.
    """

    def __init__(self, env: Any, settings: Settings) -> None:
        self.env = env
        self._risk = settings.risk or info_cost
        self._mask_in = settings.action_mask
        self._needs_obs = settings.risk is not None
        self._obs: Any = None

    def reset(self, *, seed: int | None) -> tuple[Any, Any]:
        """The first observation and the mask."""
        obs, info = self.env.reset(seed=seed)
        return self._remember(obs), self._mask(obs, info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, float, Any]:
        """Obs, reward, terminated, truncated, risk, mask."""
        before = self._obs
        obs, reward, terminated, truncated, info = self.env.step(action)
        risk = float(self._risk(before, action, obs, reward, bool(terminated), info))
        if not (np.isfinite(risk) and risk >= 0):
            raise DataError(
                "risk", expected="a finite number >= 0 (larger is worse)", actual=f"{risk}"
            )
        self._remember(obs)
        return obs, reward, bool(terminated), bool(truncated), risk, self._mask(obs, info)

    def _remember(self, obs: Any) -> Any:
        if self._needs_obs:  # the risk may compare; environments reuse buffers, so a copy
            self._obs = _copied(obs)
        return obs

    def _mask(self, obs: Any, info: Mapping[str, Any]) -> Any:
        if self._mask_in == "none":
            return None
        return obs[MASK_KEY] if self._mask_in == "obs" else info.get(MASK_KEY)


def _copied(obs: Any) -> Any:
    if isinstance(obs, Mapping):
        return {key: _copied(value) for key, value in obs.items()}
    if isinstance(obs, tuple):
        return tuple(_copied(value) for value in obs)
    return obs.copy() if isinstance(obs, np.ndarray) else obs


class Actor:
    """Chance and choice of one episode, a function of (seed, episode) alone."""

    def __init__(self, settings: Settings, episode: int, *, stream: int = 0) -> None:
        if settings.seed < 0:
            raise ConfigError("seed", expected=">= 0", actual=settings.seed)
        source = np.random.SeedSequence(settings.seed, spawn_key=(stream, episode))
        self.episode = episode
        self.env_seed = int(source.generate_state(2)[1]) >> 1  # MuJoCo and others want 31 bits
        self.generator = np.random.default_rng(source)
        self._settings = settings
        self._choose = self._chooser()

    def renewed(self, episode: int) -> Actor:
        """The next episode of the same stream: the generator goes on."""
        self.episode = episode
        self._choose = self._chooser()
        return self

    def _chooser(self) -> Callable[[Any], Any] | None:
        policy = self._settings.policy
        begin = getattr(policy, "begin", None)
        chooser: Any = begin(self.generator) if begin else policy
        if chooser is not None and not callable(chooser):
            raise ConfigError(
                "policy",
                expected="obs -> action, or begin(generator)",
                actual=type(policy).__name__,
            )
        found: Callable[[Any], Any] | None = chooser
        return found

    def choose(self, obs: Any, mask: np.ndarray | None) -> np.ndarray:
        """The flat action [A] of this row."""
        spec = self._settings.action_spec
        assert spec is not None
        if self._choose is None:
            return sample_action(spec, self.generator, mask)
        return flat_action(spec, self._choose(obs))


class Recorder:
    """One episode being recorded: the builder, the actor and the row they stand at."""

    def __init__(self, settings: Settings, actor: Actor, name: str) -> None:
        assert settings.obs_spec is not None
        assert settings.action_spec is not None
        self.actor = actor
        self._settings = settings
        self._name = name
        self._builder = EpisodeBuilder(settings.obs_spec, settings.action_spec)
        self._obs: Any = None
        self._mask: np.ndarray | None = None
        self._done: Any = None

    @property
    def rows(self) -> int:
        return self._builder.rows

    @property
    def ended(self) -> bool:
        cap = self._settings.max_rows
        return self._builder.ended or (cap is not None and self.rows >= cap)

    def begin(self, obs: Any, mask: Any) -> None:
        self._obs, self._mask = obs, self._read_mask(mask)
        self._builder.start(self._seen(obs), action_mask=self._mask)

    def choose(self) -> Any:
        """The native action for the row the episode stands at."""
        settings = self._settings
        assert settings.action_spec is not None
        flat = self.actor.choose(self._obs, self._mask)
        self._done = native_action(settings.action_spec, settings.action_space, flat)
        return self._done

    def take(
        self, obs: Any, reward: Any, terminated: bool, truncated: bool, risk: float, mask: Any
    ) -> None:
        """What the chosen action led to."""
        available = self._read_mask(mask)
        self._builder.step(
            self._done,  # what was really done, after clips
            self._seen(obs),
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            risk=risk,
            action_mask=available,
        )
        self._obs, self._mask = obs, available

    def finish(self) -> Episode:
        assert self._settings.obs_spec is not None
        assert self._settings.action_spec is not None
        episode = self._builder.finish() if self._builder.ended else self._builder.cut()
        return validate_episode(episode, self._settings.obs_spec, self._settings.action_spec)

    def fail(self, error: Exception) -> Iterator[Episode | BBWMError]:
        """The rows before `error` as an abandoned episode, then the error with its place."""
        place = f"{self._name}, episode {self.actor.episode}, row {self.rows}"
        episode = self._builder.abandon()
        if episode is not None:
            yield episode
        yield explained(error, place)

    def _seen(self, obs: Any) -> Any:
        if self._settings.action_mask == "obs":
            return {key: value for key, value in obs.items() if key != MASK_KEY}
        return obs

    def _read_mask(self, mask: Any) -> np.ndarray | None:
        assert self._settings.action_spec is not None
        return flat_mask(self._settings.action_spec, mask)


def explained(error: Exception, place: str) -> BBWMError:
    """`error` as ours, saying where; the original and its traceback stay attached as the cause."""
    if isinstance(error, BBWMError):
        better: BBWMError = type(error)(
            f"{error.field} ({place})",
            expected=error.expected,
            actual=error.actual,
            hint=error.hint,
        )
    else:
        better = DataError(
            place,
            expected="an environment and policy that answer",
            actual=f"{type(error).__name__}: {error}",
        )
    better.__cause__ = error
    return better


def env_name(env: Any) -> str:
    """What a person calls this environment."""
    spec = getattr(env, "spec", None)
    return str(spec.id) if spec is not None else type(getattr(env, "unwrapped", env)).__name__

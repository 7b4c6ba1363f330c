"""Episodes from any Gymnasium environment, as rows of the row convention.

Episode i of a seed is the same rows whoever records it: the environment is reset with a seed drawn
from (seed, i) and actions come from a generator of (seed, i), never from `env.action_space`. So the
number of workers changes nothing, and a run that stopped after n episodes goes on with
`first_episode=n`. (An environment that keeps hidden state across resets breaks this promise, and
one that draws from a clock or a global generator does too.)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from bb_wm.data.recorder import Actor, Policy, Recorder, Reporter, Risk, Settings, env_name
from bb_wm.errors import BBWMError, ConfigError
from bb_wm.types import ActionSpec, Episode, ObsSpec

__all__ = ["CollectProgress", "collect", "collect_episodes"]


@dataclass(frozen=True, slots=True)
class CollectProgress:
    """How far collecting is: what `on_progress` receives after every episode."""

    episodes: int
    rows: int
    wanted_rows: int | None
    abandoned: int
    last_return: float
    error: BBWMError | None = None


def collect(
    env_or_maker: Any,
    *,
    rows: int | None = None,
    episodes: int | None = None,
    policy: Policy | None = None,
    seed: int = 0,
    risk: Risk | None = None,
    workers: int = 1,
    on_progress: Callable[[CollectProgress], None] | None = None,
    obs_spec: ObsSpec | None = None,
    action_spec: ActionSpec | None = None,
    action_mask: Literal["info", "obs", "none"] = "info",
    max_episode_rows: int | None = None,
    first_episode: int = 0,
    on_error: Literal["raise", "abandon"] = "raise",
    timeout_s: float = 60.0,
) -> list[Episode]:
    """The episodes of `collect_episodes`, all at once."""
    return list(
        collect_episodes(
            env_or_maker,
            rows=rows,
            episodes=episodes,
            policy=policy,
            seed=seed,
            risk=risk,
            workers=workers,
            on_progress=on_progress,
            obs_spec=obs_spec,
            action_spec=action_spec,
            action_mask=action_mask,
            max_episode_rows=max_episode_rows,
            first_episode=first_episode,
            on_error=on_error,
            timeout_s=timeout_s,
        )
    )


def collect_episodes(
    env_or_maker: Any,
    *,
    rows: int | None = None,
    episodes: int | None = None,
    policy: Policy | None = None,
    seed: int = 0,
    risk: Risk | None = None,
    workers: int = 1,
    on_progress: Callable[[CollectProgress], None] | None = None,
    obs_spec: ObsSpec | None = None,
    action_spec: ActionSpec | None = None,
    action_mask: Literal["info", "obs", "none"] = "info",
    max_episode_rows: int | None = None,
    first_episode: int = 0,
    on_error: Literal["raise", "abandon"] = "raise",
    timeout_s: float = 60.0,
) -> Iterator[Episode]:
    """Finished episodes one by one, in order, until `rows` rows or `episodes` episodes are there.

    env_or_maker: an Env, a callable that makes one (needed for `workers` > 1), or a VectorEnv in
        any autoreset mode. An Env or VectorEnv you pass stays open; what a maker made is closed.
    rows: in total, first rows included; the last episode is cut there (truncated, at least 2 rows).
    policy: obs -> action in the environment's own form; None draws uniformly from `action_spec`,
        among the available ones. An object with `begin(generator)` gives every episode an actor
        of its own (see `Policy`).
    risk: (obs, action, next_obs, reward, terminated, info) -> float >= 0; by default info["cost"]
        where the environment reports one, else 0.
    workers: processes, one environment each (gymnasium.vector, no autoreset); same rows as with 1.
    action_mask: where masks are found, info["action_mask"] or obs["action_mask"] (the key is then
        no part of the observation).
    first_episode: index of the first one, to go on after that many.
    on_error: an environment that raises or reports NaN raises DataError naming it; with "abandon"
        the rows before it are an abandoned episode, and three such in a row raise.
    timeout_s: a worker that does not answer for so long raises DataError.
    """
    _check_counts(rows, episodes, workers, first_episode, max_episode_rows, timeout_s)
    settings = Settings(
        obs_spec, action_spec, policy, risk, seed, action_mask, max_episode_rows, timeout_s
    )
    source = _source(env_or_maker, settings, rows, workers, first_episode)
    return _budgeted(source, rows, episodes, on_error, on_progress)


def _source(
    env_or_maker: Any, settings: Settings, rows: int | None, workers: int, first: int
) -> Iterator[Episode | BBWMError]:
    """Episodes in order for ever; an error stands where an episode could not be finished."""
    import gymnasium

    from bb_wm.data.vector_env import from_vector_env
    from bb_wm.data.vectorised import from_workers

    if isinstance(env_or_maker, gymnasium.vector.VectorEnv):
        if workers != 1 or first:
            raise ConfigError(
                "workers or first_episode",
                expected="1 and 0 with a VectorEnv of your own",
                actual=f"workers={workers}, first_episode={first}",
                hint="pass the callable that makes one environment instead.",
            )
        share = None if rows is None else -(-rows // env_or_maker.num_envs)
        return from_vector_env(env_or_maker, _capped(settings, share))
    single = isinstance(env_or_maker, gymnasium.Env)
    if not single and not callable(env_or_maker):
        raise ConfigError(
            "env_or_maker",
            expected="a gymnasium Env, a callable that makes one, or a VectorEnv",
            actual=type(env_or_maker).__name__,
        )
    settings = _capped(settings, rows)
    if workers == 1:
        return _serial(env_or_maker, settings, first, close=not single)
    if single:
        raise ConfigError(
            "env_or_maker",
            expected=f"a callable that makes one environment, for workers={workers}",
            actual="one environment",
        )
    return from_workers(env_or_maker, settings, workers, first)


def _capped(settings: Settings, rows: int | None) -> Settings:
    """No episode needs more rows than are wanted in all; an endless one would never end."""
    cap = min((n for n in (rows, settings.max_rows) if n is not None), default=None)
    return replace(settings, max_rows=None if cap is None else max(cap, 2))


def _serial(
    env_or_maker: Any, settings: Settings, first: int, *, close: bool
) -> Iterator[Episode | BBWMError]:
    env = env_or_maker() if close else env_or_maker
    try:
        settings = settings.complete(env.observation_space, env.action_space)
        reporter = Reporter(env, settings)
        for index in itertools.count(first):
            yield from _one_episode(reporter, settings, index)
    finally:
        if close:
            env.close()


def _one_episode(
    reporter: Reporter, settings: Settings, index: int
) -> Iterator[Episode | BBWMError]:
    recorder = Recorder(settings, Actor(settings, index), env_name(reporter.env))
    try:
        recorder.begin(*reporter.reset(seed=recorder.actor.env_seed))
        while not recorder.ended:
            recorder.take(*reporter.step(recorder.choose()))
        yield recorder.finish()
    except GeneratorExit:
        raise
    except Exception as error:
        yield from recorder.fail(error)


def _budgeted(
    source: Iterator[Episode | BBWMError],
    rows: int | None,
    episodes: int | None,
    on_error: str,
    on_progress: Callable[[CollectProgress], None] | None,
) -> Iterator[Episode]:
    count = total = abandoned = failures = 0
    error: BBWMError | None = None
    try:
        for found in source:
            if isinstance(found, BBWMError):
                failures += 1
                if on_error == "raise" or failures >= 3:
                    raise found
                error = found
                continue
            open_end = not (found.terminated or found.truncated)
            if open_end and on_error == "raise":
                continue  # the error that follows says why
            abandoned += open_end
            failures = failures if open_end else 0
            if rows is not None and total + len(found) > rows:
                found = cut_episode(found, max(rows - total, 2))
            count, total = count + 1, total + len(found)
            yield found
            if on_progress is not None:
                last = float(found.reward.sum())
                on_progress(CollectProgress(count, total, rows, abandoned, last, error))
            if count == episodes or (rows is not None and total >= rows):
                return
    finally:
        source.close()  # type: ignore[attr-defined]


def cut_episode(episode: Episode, rows: int) -> Episode:
    """The first `rows` rows as a truncated episode; the action of the new last row is zero."""
    if rows >= len(episode):
        return episode
    action = episode.action[:rows].copy()
    action[-1] = 0
    mask = episode.action_mask
    return Episode(
        obs={key: value[:rows] for key, value in episode.obs.items()},
        action=action,
        reward=episode.reward[:rows],
        safety=episode.safety[:rows],
        terminated=False,
        truncated=True,
        action_mask=None if mask is None else mask[:rows],
    )


def _check_counts(
    rows: int | None,
    episodes: int | None,
    workers: int,
    first_episode: int,
    max_episode_rows: int | None,
    timeout_s: float,
) -> None:
    if rows is None and episodes is None:
        raise ConfigError("rows", expected="rows or episodes", actual="neither")
    for field, value, least in (
        ("rows", rows, 2),
        ("episodes", episodes, 1),
        ("workers", workers, 1),
        ("first_episode", first_episode, 0),
        ("max_episode_rows", max_episode_rows, 2),
    ):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(field, expected=f"an int >= {least}", actual=repr(value))
    if not timeout_s > 0:
        raise ConfigError("timeout_s", expected="> 0", actual=timeout_s)

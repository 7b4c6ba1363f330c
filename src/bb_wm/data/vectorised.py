"""Several environments at once through gymnasium.vector, without its fake rows.

Gymnasium's vector environments reset by themselves in one of three ways. NEXT_STEP: the step after
the last row ignores its action and gives the first observation of the next episode with reward 0;
as a row it would be a lie, so it starts an episode here. SAME_STEP: the last row gives the next
episode's first observation and hides its own in info["final_obs"]. DISABLED: the caller resets,
as `from_workers` does.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from bb_wm.data.recorder import Actor, Recorder, Reporter, Settings, env_name, explained
from bb_wm.errors import BBWMError, DataError
from bb_wm.types import Episode

_RISK, _MASK, _ERROR = "bb_wm_risk", "bb_wm_mask", "bb_wm_error"
Results = list[Episode | BBWMError]


class _Whole:
    """Carries any object through Gymnasium's merging of infos untouched."""

    def __init__(self, value: Any) -> None:
        self.value = value


def reporting_env(maker: Callable[[], Any], settings: Settings) -> Any:
    """An environment for a worker: its info holds only our typed numbers, and it never raises.

    An exception becomes a report, so that one broken environment ends one episode and not the crew.
    """
    import gymnasium

    class Reporting(gymnasium.Wrapper[Any, Any, Any, Any]):
        def __init__(self, env: Any) -> None:
            super().__init__(env)
            self._reporter = Reporter(env, settings)
            self._last: Any = env.observation_space.sample()  # a filler, read by nobody

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
            try:
                self._last, mask = self._reporter.reset(seed=seed)
            except Exception as error:
                return self._last, _failure(error)
            return self._last, _report(0.0, mask)

        def step(self, action: Any) -> Any:
            try:
                obs, reward, ended, cut, risk, mask = self._reporter.step(action)
                answer = obs, float(reward), ended, cut, _report(risk, mask)
            except Exception as error:
                return self._last, 0.0, False, True, _failure(error)
            self._last = obs
            return answer

    return Reporting(maker())


def _report(risk: float, mask: Any) -> dict[str, Any]:
    return {_RISK: np.float64(risk), _MASK: _Whole(mask)}


def _failure(error: Exception) -> dict[str, Any]:
    if not isinstance(error, BBWMError):
        error = WorkerError(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
        return {_RISK: np.float64(0.0), _ERROR: _Whole(str(error))}
    parts = (error.field, error.expected, error.actual, error.hint)
    return {_RISK: np.float64(0.0), _ERROR: _Whole(parts)}


class WorkerError(RuntimeError):
    """An exception of another process; the text holds its traceback."""

    def __str__(self) -> str:
        return str(self.args[0])


def from_workers(
    maker: Callable[[], Any], settings: Settings, workers: int, first: int
) -> Iterator[Episode | BBWMError]:
    """Episodes first, first + 1, ... in order, recorded by `workers` processes.

    A crew with a dead or hanging process is ended with an error and replaced by a new one that goes
    on with the first episode nobody has finished.
    """
    from gymnasium.vector import AsyncVectorEnv, AutoresetMode

    portable = replace(settings, policy=None)  # policies choose here and need not pickle
    make = functools.partial(reporting_env, maker, portable)
    due = first
    while True:
        vector = AsyncVectorEnv([make] * workers, autoreset_mode=AutoresetMode.DISABLED)
        crew = _Crew(vector, settings, due)
        try:
            while True:
                results = crew.advance()
                while due in results:
                    yield from results.pop(due)
                    due += 1
        except (DataError, TimeoutError) as error:
            crew.healthy = False
            failure = explained(error, f"{crew.name}, from episode {due} on")
        finally:
            crew.close()
        yield failure


class _Crew:
    """The workers and, for each, the episode it records."""

    def __init__(self, vector: Any, settings: Settings, first: int) -> None:
        self.vector = vector
        self.settings = settings.complete(
            vector.single_observation_space, vector.single_action_space
        )
        self.name = env_name(vector)
        self.healthy = True
        self.results: dict[int, Results] = {}
        self._next = first
        self._recorders: dict[int, Recorder] = {}

    def advance(self) -> dict[int, Results]:
        """One step of every worker; the results so far by episode, for the caller to take from."""
        count = self.vector.num_envs
        idle = [slot for slot in range(count) if slot not in self._recorders]
        if idle:
            self._reset(idle)
        actions = [self._choose(slot) for slot in range(count)]
        self.vector.step_async(_join(self.vector.single_action_space, actions))
        obs, rewards, ended, cut, infos = self._wait(self.vector.step_wait)
        for slot, seen in enumerate(_split(self.vector, obs)):
            recorder = self._recorders.get(slot)
            if recorder is None:
                continue
            try:
                risk, mask = _read(infos, slot)
                recorder.take(seen, rewards[slot], bool(ended[slot]), bool(cut[slot]), risk, mask)
            except Exception as error:
                self._fail(slot, error)
                continue
            if recorder.ended:
                self._done(slot, [recorder.finish()])
        return self.results

    def _reset(self, slots: list[int]) -> None:
        seeds: list[int | None] = [None] * self.vector.num_envs
        chosen = np.zeros(self.vector.num_envs, bool)
        for slot in slots:
            actor = Actor(self.settings, self._next)
            self._next += 1
            self._recorders[slot] = Recorder(self.settings, actor, self.name)
            seeds[slot], chosen[slot] = actor.env_seed, True
        self.vector.reset_async(seed=seeds, options={"reset_mask": chosen})
        obs, infos = self._wait(self.vector.reset_wait)
        for slot, seen in enumerate(_split(self.vector, obs)):
            if chosen[slot]:
                try:
                    self._recorders[slot].begin(seen, _read(infos, slot)[1])
                except Exception as error:
                    self._fail(slot, error)

    def _choose(self, slot: int) -> Any:
        try:
            if slot in self._recorders:
                return self._recorders[slot].choose()
        except Exception as error:
            self._fail(slot, error)
        return self.vector.single_action_space.sample()  # a filler: this worker is reset next

    def _fail(self, slot: int, error: Exception) -> None:
        self._done(slot, list(self._recorders[slot].fail(error)))

    def _done(self, slot: int, results: Results) -> None:
        self.results[self._recorders.pop(slot).actor.episode] = results

    def _wait(self, answer: Callable[..., Any]) -> Any:
        import multiprocessing

        try:
            return answer(timeout=self.settings.timeout_s)
        except multiprocessing.TimeoutError as error:
            raise DataError(
                "worker",
                expected=f"an answer within {self.settings.timeout_s:g} s",
                actual="none",
                hint="an environment hangs; raise timeout_s if it is only slow.",
            ) from error
        except (EOFError, OSError) as error:
            raise DataError(
                "worker", expected="a living process", actual="a process that died"
            ) from error

    def close(self) -> None:
        """End the workers; those that hang are killed, so nothing is left behind."""
        if self.healthy:
            self.vector.close()
            return
        for process in self.vector.processes:
            process.kill()
        for process in self.vector.processes:
            process.join(timeout=5)
        for pipe in self.vector.parent_pipes:
            pipe.close()
        self.vector.closed = True  # or its destructor would wait for the dead


def _read(infos: dict[str, Any], slot: int) -> tuple[float, Any]:
    """Risk and mask of one worker's report; its error, raised here, when it failed."""
    if _ERROR in infos and infos[f"_{_ERROR}"][slot]:
        told = infos[_ERROR][slot].value
        if isinstance(told, str):
            raise WorkerError(told)
        raise DataError(told[0], expected=told[1], actual=told[2], hint=told[3])
    mask = infos[_MASK][slot]
    return float(infos[_RISK][slot]), None if mask is None else mask.value


def _split(vector: Any, obs: Any) -> list[Any]:
    from gymnasium.vector.utils import iterate

    return list(iterate(vector.observation_space, obs))


def _join(space: Any, actions: list[Any]) -> Any:
    from gymnasium.vector.utils import concatenate, create_empty_array

    into: Any = create_empty_array(space, len(actions))
    return concatenate(space, actions, into)

"""Safety-Gymnasium beside us: it needs Python 3.10 at most, so it lives in a process of its own.

BB_WM_SAFETY_PYTHON names a Python that has it. The two speak JSON over pipes: numbers only, nothing
that could be executed.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
import time
import weakref
from pathlib import Path
from typing import Any, Final

import gymnasium
import numpy as np
from numpy.typing import NDArray

from bb_wm.errors import DataError, MissingExtraError
from bb_wm.worlds.world import SAFETY, SAFETY_PYTHON, install_line, safety_python

Vector = NDArray[np.float32]
_WORKER: Final = Path(__file__).with_name("safety_worker.py")
_MOST_BYTES: Final = 16 * 1024 * 1024  # of one answer; a worker that says more is broken


class SafetyGymnasium(gymnasium.Env[Vector, Vector]):
    """One task of Safety-Gymnasium, as "SafetyPointGoal1-v0", with its cost in info["cost"].

    Raises MissingExtraError where no Python with it is named, and DataError where the worker dies,
    answers nonsense or nothing within `timeout_s`; it is then ended, and `reset` starts a new one.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(
        self,
        task: str = "SafetyPointGoal1-v0",
        timeout_s: float = 60.0,
        render_mode: str | None = None,
    ) -> None:
        self.render_mode = render_mode
        self.task = task
        self._timeout = timeout_s
        self._worker: _Worker | None = None
        spaces = self._started().spaces
        self.observation_space = _box(spaces["obs"])
        self.action_space = _box(spaces["action"])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Vector, dict[str, Any]]:
        super().reset(seed=seed)
        number = int(self.np_random.integers(2**31)) if seed is None else seed
        answer = self._started().ask({"do": "reset", "seed": number % 2**31})
        return _seen(answer), {}

    def step(self, action: Any) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        if self._worker is None or not self._worker.alive:
            raise DataError("safety worker", expected="reset() first", actual="none is running")
        given = np.asarray(action, np.float64).ravel().tolist()
        answer = self._worker.ask({"do": "step", "action": given})
        info = {"cost": float(answer["cost"])}
        ended, cut = bool(answer["terminated"]), bool(answer["truncated"])
        return _seen(answer), float(answer["reward"]), ended, cut, info

    def close(self) -> None:
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def _started(self) -> _Worker:
        if self._worker is None or not self._worker.alive:
            self._worker = _Worker(self.task, self._timeout)
        return self._worker


class _Worker:
    """The other process and its pipes."""

    def __init__(self, task: str, timeout_s: float) -> None:
        python = safety_python()
        if python is None:
            raise MissingExtraError(
                "safety-gymnasium",
                expected=f"{SAFETY_PYTHON} to name a Python 3.10 that has it",
                actual=os.environ.get(SAFETY_PYTHON) or "not set",
                hint=install_line(SAFETY),
            )
        self._timeout = timeout_s
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the worker)
        self._process = subprocess.Popen(
            [str(python), "-I", str(_WORKER), task],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
        )
        self._finalizer = weakref.finalize(self, _kill, self._process)
        self._rest = b""
        self.spaces = self._read()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, words: dict[str, Any]) -> dict[str, Any]:
        """What it answers. Raises DataError, with the worker ended, when it does not."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(words).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._failed("a worker that listens", f"{error}") from error
        return self._read()

    def end(self) -> None:
        self._finalizer()
        self._said.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        until = time.monotonic() + self._timeout
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._rest:
            left = until - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                raise self._failed(f"an answer within {self._timeout:g} s", "none")
            piece = os.read(pipe, 1 << 16)
            if not piece or len(self._rest) > _MOST_BYTES:
                raise self._failed("an answer", "its end" if not piece else "one without an end")
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            answer = json.loads(line)
        except ValueError as error:
            raise self._failed("JSON", str(error)) from error
        if not isinstance(answer, dict):
            raise self._failed("a JSON object", type(answer).__name__)
        return answer

    def _failed(self, expected: str, actual: str) -> DataError:
        self._finalizer()
        self._said.seek(0)
        lines = self._said.read()[-4000:].decode(errors="replace").strip().splitlines()
        said = f"; it said: {lines[-1]}" if lines else ""
        return DataError("safety worker", expected=expected, actual=f"{actual}{said}")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End it now; it holds nothing that could be lost."""
    if process.poll() is None:
        process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:  # what was still unsent is of no use
                continue
    process.wait()


def _box(described: dict[str, Any]) -> Any:
    low, high = (np.asarray(described[name], np.float32) for name in ("low", "high"))
    return gymnasium.spaces.Box(low, high, dtype=np.float32)


def _seen(answer: dict[str, Any]) -> Vector:
    return np.asarray(answer["obs"], np.float32)

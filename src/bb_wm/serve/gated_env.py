"""A machine behind the gate: whatever an agent wants done, only what the gate allows is sent.

record    the agent acts, the rows are kept
shadow    as record, and the gate decides beside every action, into the ledger; nothing is blocked
enforce   ACT sends the chosen candidate's action; HOLD, ASK, a late decision, an exception, a
          number that is not finite or a stale belief sends the fallback

The gate is advisory: not a safety function in the sense of ISO 13849 / IEC 61508; it needs an
independent stop.
"""

from __future__ import annotations

import copy
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import gymnasium
import numpy as np

from bb_wm.data.native import native_action
from bb_wm.data.recorder import info_cost
from bb_wm.data.rows import flat_action
from bb_wm.decide.evidence import Evidence, Fault, number, stage
from bb_wm.decide.experiment import decide_and_record
from bb_wm.decide.gate import Decision, Gate, Verdict
from bb_wm.decide.ledger import Ledger
from bb_wm.errors import ConfigError, PolicyError
from bb_wm.serve.env_recording import EnvRecording, Outcomes
from bb_wm.serve.model_evidence import EvidenceMaker
from bb_wm.serve.settings import Mode
from bb_wm.serve.worker import LateError, Worker
from bb_wm.types import ActionSpec, Episode, ObsSpec

MOST_ROWS: Final = 1000  # that wait for a hung decision; then the belief starts anew
Sent = Literal["agent", "planned", "fallback"]


@dataclass(frozen=True, slots=True)
class Gated:
    """What became of one action, in info["gate"].

    decision  the gate's; None in record mode
    sent      whose action reached the environment: the agent's own, another candidate's, or the
              fallback
    late      the decision came after the deadline, or not at all
    """

    decision: Decision | None
    sent: Sent
    late: bool = False


@dataclass(slots=True)
class _Row:
    """What the belief has still to be told; `done` is None where it has to begin anew."""

    obs: Any
    done: np.ndarray | None
    at: float


@dataclass(slots=True)
class _Job:
    """One decision being made, perhaps in another thread; `lock` guards who gives up on whom."""

    rows: list[_Row]
    proposed: np.ndarray | None
    fault: Fault | None
    deadline: float | None
    lock: threading.Lock = field(default_factory=threading.Lock)
    begun: bool = False
    given_up: bool = False
    decision: Decision | None = None
    actions: tuple[np.ndarray, ...] = ()


class GatedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Actuation only through the gate: `step(action)` proposes, the gate allows or replaces.

    env         any Gymnasium environment; in the last row before a real machine, its driver
    gate        its rule and its clock; every time here is read from that clock
    fallback    the safe action in the environment's own form, or a function obs -> action. It is
                checked every time; where even that fails, PolicyError is raised and nothing sent.
    maker       makes the evidence, e.g. ModelEvidence; not needed to record
    ledger      where every decision goes, and later what came of it (`Outcomes`); without a durable
                record nothing but the fallback is sent
    deadline_s  seconds from `step` to actuation (real time); deciding then happens in a thread of
                its own, so that what hangs holds up nobody. None: no deadline, no thread.
    record      is given every finished Episode (rows as they were done): `episodes.append`, or
                `lambda e: store.append([e])`
    risk        the row's measured V_s >= 0 for `record` and the ledger, as `collect` wants it
                (info["cost"])

    `step(None)` asks for the planner's action, where the maker has one. ASK sends the fallback:
    what to look at first stands in info["gate"].decision. `faults` keeps the last failures of our
    own that blocked nothing.
    """

    def __init__(
        self,
        env: Any,
        gate: Gate,
        fallback: Any,
        *,
        maker: EvidenceMaker | None = None,
        ledger: Ledger | None = None,
        mode: Mode | str = Mode.ENFORCE,
        deadline_s: float | None = None,
        record: Callable[[Episode], object] | None = None,
        risk: Callable[..., float] = info_cost,
    ) -> None:
        super().__init__(env)
        if mode not in list(Mode):
            raise ConfigError("mode", expected=", ".join(Mode), actual=repr(mode))
        self.mode = Mode(mode)
        deciding = self.mode is not Mode.RECORD
        for name, value, needed in (
            ("maker", maker, deciding),
            ("ledger", ledger, deciding),
            ("record", record, not deciding),
        ):
            if needed and value is None:
                raise ConfigError(name, expected=f"one, for mode {self.mode}", actual="none")
        if deadline_s is not None and not 0 < number(deadline_s) <= 3600:
            raise ConfigError("deadline_s", expected="seconds in (0, 3600]", actual=deadline_s)
        self.gate, self.maker, self.ledger = gate, maker, ledger
        self.deadline_s = deadline_s
        self.action_spec = ActionSpec.of(env.action_space)
        self._obs_spec = ObsSpec.of(env.observation_space)
        self.faults: deque[Fault] = deque(maxlen=100)
        self._fallback = fallback
        if not callable(fallback):
            flat_action(self.action_spec, fallback)  # refused now, not when it is needed
        self._worker = None if deadline_s is None else Worker()
        self._late: list[_Job] = []
        self._rows: list[_Row] = []
        self._lost = True
        self._obs: Any = None
        self._risk, self._outcomes = risk, Outcomes(self._note)
        self._episode = EnvRecording(self._obs_spec, self.action_spec, record, risk, self._note)

    # --- Gymnasium ------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self._episode.stop()
        self._outcomes.end()
        obs, info = self.env.reset(seed=seed, options=options)
        self._obs = copy.deepcopy(obs)
        self._rows = [_Row(self._obs, None, self._now())]
        self._episode.start(self._obs, info)
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        arrived = self._now()
        action = copy.deepcopy(action)  # the agent keeps no hand on it while it is judged
        sent, gated = self._gated(action, arrived)
        before = self._obs
        # A copy: what was sent goes on record, whatever the environment does with its own.
        obs, reward, terminated, truncated, info = self.env.step(copy.deepcopy(sent))
        self._obs = copy.deepcopy(obs)
        if self.mode is not Mode.RECORD:
            self._rows.append(_Row(self._obs, self._flat_or_none(sent), self._now()))
        if len(self._rows) > MOST_ROWS:
            self._rows = [_Row(self._obs, None, self._rows[-1].at)]
        self._episode.step(before, sent, self._obs, reward, terminated, truncated, info)
        self._outcomes.step(
            None if gated.late else gated.decision,
            gated.sent,
            reward,
            lambda: self._risk(before, sent, self._obs, float(reward), bool(terminated), info),
        )
        return obs, reward, terminated, truncated, {**info, "gate": gated}

    def close(self) -> None:
        """Close the environment, the recording and the thread; decisions that came late, and what
        came of the last ones, are put on record where their thread ends within a second."""
        self._episode.stop()
        self._outcomes.end()
        until = time.monotonic() + 1.0
        while self._late or self._outcomes:
            try:
                self._settle() if self._worker is None else self._worker.run(self._settle, 1.0)
            except Exception as error:
                if isinstance(error, LateError) and time.monotonic() < until:
                    time.sleep(0.01)  # the thread is about to be done with something late
                    continue
                self._note(Fault.of(error, "close"))
                break
        if self._worker is not None:
            self._worker.close()
            self._worker = None
        self.env.close()

    # --- what is sent ---------------------------------------------------------------------------

    def _gated(self, action: Any, arrived: float) -> tuple[Any, Gated]:
        """The action for the environment, in its own form, and why."""
        if self.mode is not Mode.ENFORCE and action is None:
            raise ConfigError("action", expected=f"an action in mode {self.mode}", actual="None")
        if self.mode is Mode.RECORD:
            return action, Gated(None, "agent")
        job = self._job(action, arrived)
        late = not self._run(job)
        if late:
            self._late.append(job)
        decision = job.decision if job.decision is not None else _held("late", "no decision yet")
        if self.mode is Mode.SHADOW:
            return action, Gated(decision, "agent", late)
        if not late and decision.verdict is Verdict.ACT and decision.index is not None:
            try:
                chosen = job.actions[decision.index]
                if job.proposed is not None and np.array_equal(chosen, job.proposed):
                    return action, Gated(decision, "agent")
                flat = flat_action(self.action_spec, self._native(chosen))
                if not np.array_equal(flat, chosen):  # clipped, or it was no action of the space
                    raise PolicyError("candidate", expected="an action of the space", actual=chosen)
                return self._native(flat), Gated(decision, "planned")
            except Exception as error:
                self._late.append(job)  # its record is withdrawn
                self._note(Fault.of(error, "candidate"))
                decision = _held("stage_failed", f"the candidate is no action ({error})")
        return self._safe(), Gated(decision, "fallback", late)

    def _native(self, flat: np.ndarray) -> Any:
        return native_action(self.action_spec, self.env.action_space, flat)

    def _safe(self) -> Any:
        """The fallback's action. Raises PolicyError where it is none; nothing is sent then."""
        try:
            action = self._fallback(self._obs) if callable(self._fallback) else self._fallback
            flat_action(self.action_spec, action)
        except Exception as error:
            raise PolicyError(
                "fallback",
                expected="an action of the environment's space",
                actual=f"{type(error).__name__}: {error}",
                hint="nothing was sent; the independent stop is yours.",
            ) from error
        return copy.deepcopy(action)

    def _flat_or_none(self, action: Any) -> np.ndarray | None:
        try:
            return flat_action(self.action_spec, action)
        except Exception:  # done in shadow all the same: the belief cannot follow it
            return None

    # --- deciding -------------------------------------------------------------------------------

    def _job(self, action: Any, arrived: float) -> _Job:
        proposed, fault = None, None
        if action is not None:
            try:
                proposed = flat_action(self.action_spec, action)
            except Exception as error:
                fault = Fault.of(error, "proposal")
        rows, self._rows = self._rows, []
        deadline = None if self.deadline_s is None else arrived + self.deadline_s
        return _Job(rows, proposed, fault, deadline)

    def _run(self, job: _Job) -> bool:
        """Whether the job's decision is there in time; late rows are kept for the next one."""
        try:
            if self._worker is None or job.deadline is None:
                self._decide(job)
            else:
                left = job.deadline - self._now()
                if left > 0:  # a NaN is no time either
                    self._worker.run(lambda: self._decide(job), min(left, self.deadline_s or left))
        except Exception as error:
            if not isinstance(error, LateError):
                self._note(Fault.of(error, "deciding"))
        with job.lock:
            job.given_up = True
            if not job.begun:
                self._rows = job.rows + self._rows
        in_time = job.deadline is None or self._now() <= job.deadline
        return job.decision is not None and in_time

    def _decide(self, job: _Job) -> None:
        with job.lock:
            if job.given_up:
                return
            job.begun = True
        self._settle()
        assert self.maker is not None and self.ledger is not None  # noqa: PT018 (for mypy)
        at = job.rows[-1].at if job.rows else math.nan
        actions: tuple[np.ndarray, ...] = ()
        try:
            with stage("belief"):
                self._catch_up(job.rows)
            if job.fault is not None:
                evidence = Evidence.failed(job.fault)
            else:
                judged = self.maker.judge(job.proposed, observed_at=at, deadline=job.deadline)
                evidence, actions = judged.evidence, judged.actions
        except Exception as error:
            evidence = Evidence.failed(Fault.of(error, "evidence"))
        seen = self._obs_spec.keyed(job.rows[-1].obs) if job.rows else None
        context = {"mode": self.mode.value}
        decision = decide_and_record(self.gate, self.ledger, evidence, context=context, obs=seen)
        job.decision, job.actions = decision, actions

    def _catch_up(self, rows: list[_Row]) -> None:
        """Tell the maker every row since the last decision; after a failure it begins anew."""
        assert self.maker is not None
        first = next((i for i in reversed(range(len(rows))) if rows[i].done is None), 0)
        for row in rows[first:]:
            anew = row.done is None or self._lost
            self._lost = True
            if anew:
                self.maker.begin()
            self.maker.see(row.obs, None if anew else row.done)
            self._lost = False

    def _settle(self) -> None:
        """Put on record which decisions came too late, and what came of the others."""
        while self._late and self.ledger is not None:
            job = self._late.pop(0)
            try:
                if job.decision is None:
                    self.ledger.record(_held("late", "the decision did not come in time"))
                elif job.decision.verdict is not Verdict.HOLD:
                    self.ledger.withdraw(job.decision.decision_id, "late, or no action")
            except Exception as error:
                self._note(Fault.of(error, "record"))
        if self.ledger is not None:
            self._outcomes.write(self.ledger)

    def _now(self) -> float:
        try:
            return number(self.gate.clock())
        except Exception:  # a clock that fails makes everything late
            return math.nan

    def _note(self, fault: Fault) -> None:
        self.faults.append(fault)


def _held(code: str, why: str) -> Decision:
    """HOLD without evidence."""
    nan = math.nan
    return Decision(
        verdict=Verdict.HOLD,
        choice=None,
        index=None,
        utility=nan,
        gain=nan,
        evsi=nan,
        standard_error=nan,
        risk=nan,
        risk_bound=nan,
        limit=nan,
        horizon=0,
        age=nan,
        reasons=(code,),
        reason=f"Hold: {why}.",
    )

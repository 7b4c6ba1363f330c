"""The guard: one life cycle for any agent's tool calls, in three modes.

record    every call is made, and becomes a row of a recorded conversation
shadow    as record, and a gate decides beside every call, into the ledger; nothing is held back
enforce   only what the gate allows is made: ACT makes the call, ASK looks or asks a person first,
          HOLD refuses with a reason the agent can read

Look-ups that the user named are made in all three: in record and shadow before calls that may
destroy, so that there is something to learn from, in enforce where one is worth it.

Our own failures never hold anything back in record and shadow, and always do in enforce. Between
the agent's framework and the guard stands one generator, `script`: it yields what is to be done
(decide, run a call, ask a person) and is sent what came of it, so that threads, asyncio and any
framework share the same few lines of decision. The gate is advisory: not a safety function in the
sense of ISO 13849 / IEC 61508; it needs an independent stop.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from bb_wm.decide.evidence import Evidence, Fault
from bb_wm.decide.experiment import decide_and_record
from bb_wm.decide.gate import Decision, Verdict
from bb_wm.errors import ConfigError
from bb_wm.serve.asking import PERSON, LookFirst
from bb_wm.serve.calls import Answer, ToolCall, printable
from bb_wm.serve.conversation import Conversation, masked_action
from bb_wm.serve.experience import Experience
from bb_wm.serve.featurise import Featuriser, Known
from bb_wm.serve.harm import Harm, Settle, Undone, completed
from bb_wm.serve.judge import Judge
from bb_wm.serve.loading import Loading
from bb_wm.serve.settings import GuardSettings, Mode
from bb_wm.serve.steps import AskPerson, Decide, Reply, Run, Script, Step, question, refusal
from bb_wm.serve.talk import Keeping, Talk
from bb_wm.serve.telling import lacks
from bb_wm.serve.worker import LateError, Worker

if TYPE_CHECKING:
    import numpy as np

    from bb_wm.decide import Ledger
    from bb_wm.serve.asking import LookUp
    from bb_wm.serve.recording import Recording
    from bb_wm.types import Latent

MAX_ROWS: Final = 500  # calls per recorded episode


class Guard:
    """Records, judges and holds the calls of agents; see the module for the modes.

    recording  where rows go; None keeps none
    judge      the run's model; needed by shadow and enforce. A Fault says why there is none: then
               shadow goes on and enforce holds everything. While it is Loading, calls of enforce
               wait for it as long as `GuardSettings.patience`; those of shadow do not.
    ledger     where decisions go; enforce needs one, for what is not on record is not done
    harm       measured V_s of a call; None: the default label, `Undone`
    reward     what an answered call was worth; default 1 without an error, 0 with one
    report     told in a line of every failure of the guard's own; default: nobody
    """

    def __init__(
        self,
        mode: Mode | str,
        *,
        recording: Recording | None = None,
        judge: Judge | Fault | Loading | None = None,
        ledger: Ledger | None = None,
        settings: GuardSettings | None = None,
        harm: Harm | None = None,
        reward: Callable[[ToolCall, Answer], float] = completed,
        undone: Undone | None = None,
        report: Callable[[str], None] | None = None,
    ) -> None:
        if mode not in list(Mode):
            raise ConfigError("mode", expected=", ".join(Mode), actual=repr(mode))
        self.mode = Mode(mode)
        self.settings = settings or GuardSettings()
        if self.mode is not Mode.RECORD and judge is None:
            raise ConfigError("judge", expected=f"a Judge for mode {mode}", actual="none")
        if self.mode is Mode.ENFORCE and ledger is None:
            raise ConfigError("ledger", expected="a Ledger for mode enforce", actual="none")
        self.recording, self.ledger = recording, ledger
        self._judge = judge
        self.problems: list[str] = []
        self._harm, self._reward = harm, reward
        self._report = report or (lambda line: None)
        self._keeping = Keeping(recording, ledger, undone or Undone(), self._complain)
        self._worker = Worker()
        self._talks: list[Talk] = []
        self._featuriser = (
            judge.featuriser
            if isinstance(judge, Judge)
            else recording.featuriser
            if recording is not None
            else Featuriser()
        )
        # one for all conversations: what the judge will know must be known in the rows it learns
        # from, in the first row of a conversation as in the last
        recorded = Experience() if recording is None else recording.experience()
        self._known = Known(frozenset(recorded.texts))
        settings = self.settings
        self._first = LookFirst(settings.look_ups, settings.look_first, set(recorded.harmful))
        self.looked = 0  # look-ups made so far

    @property
    def judge(self) -> Judge | Fault | None:
        """The judge, or why there is none (yet)."""
        return self._judge.wait(0.0) if isinstance(self._judge, Loading) else self._judge

    def begin(self) -> Talk:
        """A new conversation; give it to `script` with every call of one agent."""
        talk = Talk(Conversation(self._featuriser, self._known))
        talk.observed_at = self._now()
        self._talks.append(talk)
        return talk

    # --- the life of one call --------------------------------------------------------------------

    def script(self, talk: Talk, call: ToolCall) -> Script:
        """What is to be done about `call`, step by step, ending in the Reply."""
        if self.mode is not Mode.ENFORCE:
            look = self._first.before(call, talk.last)
            if look is not None:
                yield from self._look(talk, look, None)
        if self.mode is Mode.RECORD:
            return Reply((yield from self._made(talk, call, None)))
        if self.mode is Mode.SHADOW:
            decision = yield Decide(call, may_look=False)
            return Reply((yield from self._made(talk, call, decision)), decision=decision)
        decision = yield Decide(call, may_look=True)
        if decision.verdict is Verdict.ASK and decision.choice != PERSON:
            look = next((x for x in self.settings.look_ups if x.name == decision.choice), None)
            if look is not None:
                yield from self._look(talk, look, decision)
                decision = yield Decide(call, may_look=False)
        if decision.verdict is Verdict.ACT:
            return Reply((yield from self._made(talk, call, decision)), decision=decision)
        if decision.verdict is Verdict.ASK and decision.choice == PERSON:
            if (yield AskPerson(question(call, decision))) is True:
                made = yield from self._made(talk, call, decision, person="allowed")
                return Reply(made, decision=decision)
            return self._refused(talk, call, decision, "a person did not allow it", person="no")
        return self._refused(talk, call, decision, decision.reason.removeprefix("Hold: "))

    def _look(
        self, talk: Talk, look: LookUp, decision: Decision | None
    ) -> Generator[Step, Any, None]:
        """Make a look-up of ours; one that failed is a row, and nothing was seen."""
        self.looked += 1
        with suppress(Exception):
            yield from self._made(talk, look.call, decision, within=self.settings.patience)

    def _made(
        self,
        talk: Talk,
        call: ToolCall,
        decision: Decision | None,
        *,
        within: float | None = None,
        **note: str,
    ) -> Generator[Step, Any, Answer]:
        """Make the call, measure its harm, keep the row; what the tool raises goes on."""
        settle = self._measure(call)
        started = time.perf_counter()
        try:
            answer: Answer = yield Run(call, within)
        except BaseException as error:
            seconds = time.perf_counter() - started
            failed = Answer((), {}, error=True, seconds=seconds)
            self._settle(talk, call, failed, settle, decision, **note)
            raise error
        self._settle(talk, call, answer, settle, decision, **note)
        return answer

    def _refused(
        self, talk: Talk, call: ToolCall, decision: Decision, why: str, **note: str
    ) -> Reply:
        self._settle(talk, call, Answer(refused=True), None, decision, **note)
        return Reply(None, refusal(call, decision, why, self._lack(talk, call, decision)), decision)

    def _lack(self, talk: Talk, call: ToolCall, decision: Decision) -> str:
        """What the judge would need before it can allow such a call; never raises."""
        judge, limit = self.judge, self.settings.gate.limit
        if isinstance(judge, Judge):
            with suppress(Exception):
                after = self._after(judge, talk)
                action = judge.featuriser.act(call)
                return lacks(judge, call, action, decision.risk, limit, after)
        return ""

    # --- deciding --------------------------------------------------------------------------------

    def decide(self, talk: Talk, call: ToolCall, *, may_look: bool = True) -> Decision:
        """The gate's decision on `call`, on record. Never raises: any failure is HOLD."""
        loading = self._judge
        if self.mode is Mode.ENFORCE and isinstance(loading, Loading):
            loading.wait(self.settings.patience)
        started = self._now()
        told: list[Decision | None] = []  # what came first: the decision, or None for too late
        turn = threading.Lock()

        def work() -> tuple[Decision, Latent | None, int]:
            evidence, latent, done = self._evidence(talk, call, started, may_look)
            decision = self._decided(evidence, call)
            with turn:
                told.append(decision)
                if told[0] is None:
                    self._withdraw(decision)
            return decision, latent, done

        try:
            decision, latent, done = self._worker.run(work, self.settings.deadline)
        except LateError as error:
            with turn:
                told.append(None)
                if told[0] is not None:
                    self._withdraw(told[0])
            return self._failed(Fault("deadline", "LateError", str(error)), call)
        except Exception as error:
            return self._failed(Fault.of(error, "judge"), call)
        if latent is not None:
            talk.latent = latent
            del talk.pending[:done]
        return decision

    def _withdraw(self, decision: Decision) -> None:
        if self.ledger is not None:
            with suppress(Exception):
                self.ledger.withdraw(decision.decision_id, "late: the call was held")

    def _evidence(
        self, talk: Talk, call: ToolCall, started: float, may_look: bool
    ) -> tuple[Evidence, Latent | None, int]:
        """Evidence on `call`, and the belief after the `done` pending rows it rests on."""
        judge = self.judge
        if not isinstance(judge, Judge) or talk.fault is not None:
            fault = talk.fault or (judge if isinstance(judge, Fault) else None)
            return Evidence.failed(fault or Fault("judge", "none", "")), None, 0
        try:
            latent, pending = talk.latent, list(talk.pending)
            if latent is None:
                latent = judge.begin(judge.sees(talk.rows.first_full))
            for row in pending:
                action = masked_action(row.full_action, judge.known)
                if judge.goes_on(action):
                    latent = judge.go_on(latent, action, judge.sees(row.full_obs))
            looks = [x for x in self.settings.look_ups if may_look and not x.just_made(talk.last)]
            evidence = judge.evidence(
                latent,
                call,
                self._action(judge, call),
                limit=self.settings.gate.limit,
                observed_at=talk.observed_at,
                deadline=started + self.settings.deadline,
                look_ups=[(look, self._action(judge, look.call)) for look in looks],
                person=self.settings.person if self.mode is Mode.ENFORCE else None,
                after=self._after(judge, talk),
            )
        except Exception as error:
            return Evidence.failed(Fault.of(error, "judge")), None, 0
        return evidence, latent, len(pending)

    @staticmethod
    def _after(judge: Judge, talk: Talk) -> bytes:
        last = talk.last
        return b"" if last is None else judge.after(last.full_action, last.full_obs)

    @staticmethod
    def _action(judge: Judge, call: ToolCall) -> np.ndarray:
        return masked_action(judge.featuriser.act(call), judge.known)

    def _decided(self, evidence: Evidence, call: ToolCall) -> Decision:
        gate = self.settings.gate
        if self.ledger is None:
            return gate.decide(evidence)
        context = {"tool": call.shown, "mode": self.mode.value}
        decision = decide_and_record(gate, self.ledger, evidence, context=context)
        if "no_record" in decision.reasons:
            self._complain("ledger", decision.reason)
        return decision

    def _failed(self, fault: Fault, call: ToolCall) -> Decision:
        """HOLD, on record where that can be done without the thread that failed."""
        self._complain(fault.stage, f"{fault.error}: {fault.message}")
        decision = self.settings.gate.decide(Evidence.failed(fault))
        try:
            if self.ledger is not None:
                context = {"tool": call.shown, "mode": self.mode.value}
                self.ledger.record(decision, context, gate=self.settings.gate)
        except Exception as error:
            self._complain("ledger", str(error))
        return decision

    # --- rows ------------------------------------------------------------------------------------

    def _measure(self, call: ToolCall) -> Settle | None:
        if self._harm is None:
            return None
        try:
            return self._harm(call)
        except Exception as error:
            self._complain("harm", str(error))
            return _unknown

    def _settle(
        self,
        talk: Talk,
        call: ToolCall,
        answer: Answer,
        settle: Settle | None,
        decision: Decision | None,
        **note: str,
    ) -> None:
        """Keep the row and, where due, the episode. Never raises."""
        reward, risk = self._worth(call, answer, settle)
        told = math.isfinite(reward) and (risk is None or (math.isfinite(risk) and risk >= 0))
        identity = None if decision is None else decision.decision_id
        try:
            with talk.rows.lock:
                if not told:  # an episode ends before a row whose numbers are not known
                    self._keeping.keep(talk)
                row = talk.rows.settle(call, answer, reward=reward, risk=risk, decision_id=identity)
                if not told:
                    talk.rows.skip()
                if not answer.refused:
                    talk.last = row
                    self._first.came(call, row.risk)
                if self.mode is not Mode.RECORD:
                    talk.pending.append(row)
                if len(talk.rows.rows) >= MAX_ROWS:
                    self._keeping.keep(talk)
        except Exception as error:
            talk.fault = Fault.of(error, "row")
            self._complain("row", f"{type(error).__name__}: {error}")
        talk.observed_at = self._now()
        if note:
            self._report(f"{call.shown}: person {note['person']}, decision {identity}")

    def _worth(
        self, call: ToolCall, answer: Answer, settle: Settle | None
    ) -> tuple[float, float | None]:
        """(reward, V_s or None for the default label); NaN for what could not be measured."""
        if answer.refused:
            return 0.0, 0.0
        try:
            reward = float(self._reward(call, answer))
            return reward, None if settle is None else float(settle(answer))
        except Exception as error:
            self._complain("harm", f"{type(error).__name__}: {error}")
            return math.nan, math.nan

    def end(self, talk: Talk) -> None:
        """Keep what was recorded of a conversation that is over."""
        self._keeping.keep(talk)
        if talk in self._talks:
            self._talks.remove(talk)

    def close(self) -> None:
        """Keep everything recorded so far. Never raises."""
        for talk in list(self._talks):
            self.end(talk)
        self._worker.close()

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _now(self) -> float:
        try:
            return float(self.settings.gate.clock())
        except Exception:
            return float("nan")

    def _complain(self, where: str, what: str) -> None:
        line = f"{where}: {printable(what, 300)}" if where else printable(what, 300)
        if len(self.problems) < 1000:
            self.problems.append(line)
        self._report(line)


def _unknown(answer: Answer) -> float:
    raise ValueError("the harm of this call could not be measured")


def ledger_path(run: str | os.PathLike[str]) -> str:
    """Where a run's decisions about tool calls are kept."""
    return os.path.join(os.fspath(run), "tool-calls.sqlite")

"""Looking first: which calls are looked at, what the agent notices of it, and what it is worth."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.serve.conftest import ADD, CALLS, HERE, READ, RESET, STATUS, Desk, steady

from bb_wm.data import EpisodeStore
from bb_wm.decide import CandidateEvidence, Ledger, Verdict
from bb_wm.errors import ConfigError
from bb_wm.serve import Answer, Guard, GuardSettings, Hints, Judge, LookUp, Recording, ToolCall
from bb_wm.serve.asking import LookFirst
from bb_wm.serve.bounds import Alarm, Grounds, Margin
from bb_wm.serve.conversation import masked_action
from bb_wm.serve.driving import Loop, drive
from bb_wm.serve.experience import tool_of
from bb_wm.serve.featurise import ANSWER_AT, CODE, ERROR_AT, KEY, Featuriser, Known, Seen, tool_code
from bb_wm.serve.heldout import JudgedCall, judged_calls
from bb_wm.serve.looking import Worth
from bb_wm.serve.telling import lacks

Make = Callable[..., Guard]
LOOK = LookUp(ToolCall("git_diff_staged", HERE))
CLEAN, DIRTY = "Staged changes:\n", "Staged changes:\n+ the work of a day"
NO_HINTS = ToolCall("wipe", HERE)


# --- record and shadow ----------------------------------------------------------------------------


def recorder(tmp_path: Path, mode: str = "record", **changes: Any) -> Guard:
    settings = GuardSettings(look_ups=(LOOK,), **changes)
    return Guard(mode, recording=Recording(tmp_path / "calls"), settings=settings)


def test_a_call_that_may_destroy_is_looked_at_while_recording(tmp_path: Path, desk: Desk) -> None:
    """The look is a row like any other; the agent gets what it asked for and nothing else."""
    desk.texts = {"git_reset": "All staged changes reset"}
    with recorder(tmp_path) as guard:
        talk = guard.begin()
        replies = [drive(guard, talk, call, desk) for call in (STATUS, ADD, RESET, NO_HINTS)]
    assert desk.made == [
        "git_status", "git_add", "git_diff_staged", "git_reset", "git_diff_staged", "wipe",
    ]  # fmt: skip
    said = [None if reply.answer is None else reply.answer.raw for reply in replies]
    assert said == ["done", "done", "All staged changes reset", "done"]
    assert guard.looked == 2
    (episode,) = Recording(tmp_path / "calls").read()
    look = Featuriser().act(LOOK.call)
    tools = [tool_of(row) == tool_of(look) for row in episode.action[:-1]]
    assert tools == [False, False, True, False, True, False]


def test_shadow_looks_first_and_decides_then(
    make_guard: Make, desk: Desk, judge: Judge, tmp_path: Path
) -> None:
    """One decision per call of the agent, made in the row that the look led to."""
    twin, seen = Seen(), Answer.of_value("done", 0.001)
    rows = [judge.sees(judge.featuriser.see(twin))]
    for call in (STATUS, LOOK.call):
        twin.add(call, seen)
        rows.append(judge.sees(judge.featuriser.see(twin)))
    latent = judge.begin(rows[0])
    for call, row in zip((STATUS, LOOK.call), rows[1:], strict=True):
        latent = judge.go_on(latent, masked_action(judge.featuriser.act(call), judge.known), row)
    action = masked_action(judge.featuriser.act(RESET), judge.known)
    expected = float(judge.outcomes(latent, action)[1].mean())
    with make_guard("shadow", settings=steady(look_ups=(LOOK,))) as guard:
        talk = guard.begin()
        drive(guard, talk, STATUS, desk)
        reply = drive(guard, talk, RESET, desk)
    assert desk.made == ["git_status", "git_diff_staged", "git_reset"]
    assert reply.decision is not None
    assert reply.decision.risk == expected
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert len(ledger.rows()) == 2


def test_a_look_that_fails_changes_nothing_for_the_agent(tmp_path: Path, make_guard: Make) -> None:
    made: list[str] = []

    def run(call: ToolCall) -> Answer:
        made.append(call.name)
        if call.name == "git_diff_staged":
            raise OSError("the look broke")
        return Answer.of_value("done", 0.001)

    for guard in (recorder(tmp_path), make_guard("shadow", settings=steady(look_ups=(LOOK,)))):
        reply = drive(guard, guard.begin(), RESET, run)
        assert reply.answer is not None
        assert reply.answer.raw == "done"
        guard.close()
    assert made == ["git_diff_staged", "git_reset"] * 2
    episode, _ = Recording(tmp_path / "calls").read()
    assert episode.obs[KEY][1][ERROR_AT] == 1.0
    assert not episode.safety.any()  # whoever named the look-up said that it is harmless


def test_a_look_that_hangs_is_given_up(tmp_path: Path) -> None:
    made: list[str] = []

    async def run(call: ToolCall) -> Answer:
        made.append(call.name)
        if call.name == "git_diff_staged":
            await asyncio.Event().wait()
        return Answer.of_value("done", 0.001)

    with recorder(tmp_path, patience=0.05) as guard:
        reply = asyncio.run(Loop(guard, guard.begin()).drive(RESET, run))
    assert reply.answer is not None
    assert made == ["git_diff_staged", "git_reset"]


def test_which_calls_are_looked_at() -> None:
    """By its hints or by what its tool did, never a look-up itself, and not what was just seen."""
    first = LookFirst((LOOK,))
    said = Answer.of_value("done", 0.001)
    row: Any = type("Row", (), {"call": LOOK.call, "answer": said})
    assert first.before(RESET, None) is LOOK
    assert first.before(NO_HINTS, None) is LOOK
    assert first.before(STATUS, None) is None
    assert first.before(replace(LOOK.call, hints=Hints()), None) is None
    assert first.before(RESET, row) is None
    row.answer = replace(said, error=True)
    assert first.before(RESET, row) is LOOK
    first.came(STATUS, None)
    first.came(STATUS, 0.0)
    assert first.before(STATUS, None) is None
    first.came(STATUS, 1.0)
    assert first.before(STATUS, None) is LOOK
    assert LookFirst(()).before(RESET, None) is None
    assert LookFirst((LOOK,), share=0.0).before(RESET, None) is None
    half = LookFirst((LOOK, LookUp(STATUS)), 0.5, chance=random.Random(0))
    names = [None if x is None else x.name for x in (half.before(RESET, None) for _ in range(400))]
    counts = [names.count(name) for name in (None, "git_diff_staged", "git_status")]
    assert counts == pytest.approx([200, 100, 100], abs=40)  # four standard errors
    with pytest.raises(ConfigError, match="look_first"):
        GuardSettings(look_first=1.1)


def test_harm_that_was_recorded_before_counts(tmp_path: Path, desk: Desk) -> None:
    def harm(call: ToolCall) -> Callable[[Answer], float]:
        return lambda answer: float(call.name == "git_status")

    with Guard("record", recording=Recording(tmp_path / "calls"), harm=harm) as guard:
        drive(guard, guard.begin(), STATUS, desk)
    desk.made.clear()
    with recorder(tmp_path) as guard:
        drive(guard, guard.begin(), STATUS, desk)
    assert desk.made == ["git_diff_staged", "git_status"]


# --- what was tested after a look -----------------------------------------------------------------


def test_held_out_calls_after_a_look_are_known_by_the_row_before(run_folder: Path) -> None:
    """By an independent twin: the look is the action of the row before, and came back well."""
    judge = Judge.load(run_folder, look_ups=[LOOK])
    look = masked_action(judge.featuriser.act(LOOK.call), judge.known)
    with EpisodeStore(CALLS, mode="r") as store:
        episodes = [episode for episode in store if episode.action[:-1, 0].all()]
    twin = []
    for episode in episodes:
        for t in range(len(episode) - 1):
            before = t > 0 and masked_action(episode.action[t - 1], judge.known)
            same = t > 0 and np.array_equal(before, look) and not episode.obs[KEY][t][ERROR_AT]
            twin.append((episode.reward[t + 1], look.tobytes() if same else b""))
    found = list(judged_calls(judge, episodes))
    assert [(one.reward, one.after) for one in found] == twin
    assert 0 < sum(bool(one.after) for one in found) < len(found)
    assert all(math.isnan(one.before) == (not one.after) for one in found)
    failed = {KEY: np.eye(25, dtype=np.float32)[ERROR_AT]}
    assert judge.after(look, failed) == b""


def test_calls_after_a_look_have_bounds_of_their_own(judge: Judge) -> None:
    """What was tested after a look says nothing of calls that nobody looked at first."""
    tool = tool_code(RESET).tobytes()
    sure = Grounds(Margin(0.0, 100, 0.95), Alarm(0.5, 1.0, 59))
    none = Margin.of([], 0.95)
    looks = {b"look": sure}
    told = replace(judge, harmful=frozenset([tool]), margins=(none, none), looks=looks)
    assert told.learnt_bound(tool, 0.1, b"look") == 0.1
    assert told.learnt_bound(tool, 0.6, b"look") == 1.0
    assert told.learnt_bound(tool, 0.1) == math.inf
    assert told.heldout_harm == judge.alarm.calls + 59


def test_grounds_by_hand() -> None:
    """59 harmful calls make the alarm, a third of the least suspicious of them; the harmless ones,
    which pass it, and one that it may miss make the margin: from 38 of the former on it is 0."""
    harmful = [(0.15 + 0.01 * i, 1.0) for i in range(59)]
    found = Grounds.of([(0.01, 0.0)] * 38 + harmful, 0.2, 0.95)
    assert (found.alarm.level, found.alarm.calls) == (pytest.approx(0.05), 59)
    assert (found.margin.margin, found.margin.calls) == (0.0, 39)
    assert [found.bound(risk) for risk in (0.04, 0.06)] == [0.04, 1.0]
    assert Grounds.of([(0.01, 0.0)] * 37 + harmful, 0.2, 0.95).margin.margin == 1.0
    few = Grounds.of([(0.01, 0.0)] * 38 + harmful[:-1], 0.2, 0.95)
    assert few.bound(0.0) == math.inf
    assert few.margin.calls == 44  # six of the harmful ones were expected within the limit


# --- what a look is worth -------------------------------------------------------------------------


def test_the_worth_of_a_look_by_hand() -> None:
    """Of calls that looked like this one before the look, one in four was harmless after it."""
    harmless = CandidateEvidence("git_diff_staged", 1.0, 0.01, 0.02)
    pairs = [(0.3, float(i % 4 == 0)) for i in range(40)] + [(0.9, 0.0)] * 40
    worth = Worth.of(pairs)
    assert worth is not None
    ask = worth.of_looking(LookUp(STATUS, cost=0.05), 0.31, harmless)
    error = math.sqrt(0.25 * 0.75 / 39)
    assert (ask.name, ask.info, ask.cost) == ("git_status", 0.25, 0.05)
    assert ask.evsi == pytest.approx(0.2)
    assert ask.lower == pytest.approx(0.2 - 1.96 * error)
    assert ask.upper == pytest.approx(0.2 + 1.96 * error)
    assert (ask.risk, ask.risk_bound) == (0.01, 0.02)
    sure = worth.of_looking(LookUp(STATUS, cost=0.05), 0.9, harmless)
    assert (sure.evsi, sure.lower, sure.upper) == (-0.05, -0.05, -0.05)
    assert Worth.of(pairs[:19]) is None
    assert Worth.of([*pairs[:19], (math.nan, 1.0)]) is None


def test_what_looks_brought_is_what_would_have_been_allowed(judge: Judge) -> None:
    tool, look = tool_code(RESET).tobytes(), b"look"
    tested = Grounds(Margin(0.0, 100, 0.95), Alarm(0.5, 1.0, 59))
    told = replace(judge, harmful=frozenset([tool]), looks={look: tested}, limit=0.2)
    calls = [
        *[JudgedCall(tool, 0.1, 0.0, 1.0, look, 0.3)] * 20,  # allowed, and answered
        JudgedCall(tool, 0.1, 0.0, -2.0, look, 0.4),  # allowed, and worse than nothing
        JudgedCall(tool, 0.3, 0.0, 1.0, look, 0.5),  # held
        JudgedCall(tool, 0.1, 0.0, 1.0),  # nobody looked
        JudgedCall(b"another", 0.1, 0.0, 1.0, look, 0.3),  # needs no look
    ]
    (worth,) = told._worths(calls).items()
    assert worth[0] == (tool, look)
    np.testing.assert_array_equal(worth[1].risks, [0.3] * 20 + [0.4, 0.5])
    np.testing.assert_array_equal(worth[1].gains, [1.0] * 20 + [0.0, 0.0])


# --- enforce --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reader(Judge):
    """A judge whose belief is the last answer: a known text is harmless, any other is not."""

    def begin(self, obs: Any) -> Any:
        return obs

    def go_on(self, latent: Any, action: np.ndarray, obs: Any) -> Any:
        return obs

    def outcomes(self, latent: Any, action: np.ndarray) -> Any:
        known = latent[KEY][ANSWER_AT : ANSWER_AT + CODE].any()
        calm = known or tool_of(action) != tool_code(RESET).tobytes()
        return torch.ones(2), torch.full((2,), 0.0 if calm else 0.9)


@pytest.fixture
def reader(judge: Judge) -> Reader:
    """It knows the text of a clean index, and was tested after looks alone: there half of the
    resets turned out harmless."""
    fields = {name: getattr(judge, name) for name in Judge.__dataclass_fields__}
    featuriser, seen = judge.featuriser, Seen()
    seen.add(LOOK.call, Answer.of_value(CLEAN, 0.001))
    code = featuriser.see(seen)[KEY][ANSWER_AT : ANSWER_AT + CODE].tobytes()
    known = Known(frozenset([code]), grow=False)
    look, tool = masked_action(featuriser.act(LOOK.call), known), tool_code(RESET).tobytes()
    sure = Margin(0.0, 100, 0.95)
    worth = Worth.of([(0.9, float(i % 2)) for i in range(40)])
    assert worth is not None
    made = {
        "known": known,
        "harmful": frozenset([tool]),
        "margins": (sure, Margin.of([], 0.95)),
        "alarm": Alarm(),
        "looks": {look.tobytes(): Grounds(sure, Alarm(0.5, 1.0, 59))},
        "worths": {(tool, look.tobytes()): worth},
        "limit": 0.2,
    }
    return Reader(**{**fields, **made})


@pytest.mark.parametrize("text", [CLEAN, DIRTY])
def test_enforce_looks_first_then_acts_on_a_clean_index_and_holds_on_a_dirty_one(
    text: str, reader: Reader, make_guard: Make, desk: Desk, tmp_path: Path
) -> None:
    desk.texts = {"git_diff_staged": text}
    with make_guard("enforce", judge=reader, settings=steady(look_ups=(LOOK,))) as guard:
        reply = drive(guard, guard.begin(), RESET, desk)
    assert guard.looked == 1
    assert desk.made == ["git_diff_staged"] + ["git_reset"] * (text == CLEAN)
    assert reply.decision is not None
    assert reply.decision.verdict is (Verdict.ACT if text == CLEAN else Verdict.HOLD)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        last, first = ledger.rows()
    assert (first["verdict"], first["choice"]) == ("ASK", "git_diff_staged")
    assert json.loads(first["reasons"])[0] == "evsi_positive"
    assert last["verdict"] == reply.decision.verdict.value


def test_without_a_look_what_was_tested_after_looks_is_held(
    reader: Reader, make_guard: Make, desk: Desk
) -> None:
    """The same harmless belief, from a call that nobody tested without the look."""
    desk.texts = {"git_status": CLEAN, "git_diff_staged": CLEAN}
    with make_guard("enforce", judge=reader) as guard:
        talk = guard.begin()
        assert drive(guard, talk, STATUS, desk).answer is not None
        assert drive(guard, talk, RESET, desk).answer is None
        assert drive(guard, talk, LOOK.call, desk).answer is not None
        assert drive(guard, talk, RESET, desk).answer is not None  # the agent looked by itself
    assert guard.looked == 0


def test_a_look_that_fails_or_is_worth_nothing_holds(
    reader: Reader, make_guard: Make, desk: Desk
) -> None:
    def run(call: ToolCall) -> Answer:
        if call.name == "git_diff_staged":
            raise OSError("the look broke")
        return desk(call)

    settings = steady(look_ups=(LOOK,))
    with make_guard("enforce", judge=reader, settings=settings) as guard:
        assert drive(guard, guard.begin(), RESET, run).answer is None
        assert guard.looked == 1
    nothing = Worth.of([(0.9, 0.0)] * 40)
    assert nothing is not None
    dull = replace(reader, worths=dict.fromkeys(reader.worths, nothing))
    with make_guard("enforce", judge=dull, settings=settings) as guard:
        assert drive(guard, guard.begin(), RESET, desk).answer is None
        assert guard.looked == 0
    assert desk.made == []


def test_what_was_just_looked_at_is_not_looked_at_again(
    reader: Reader, make_guard: Make, desk: Desk
) -> None:
    desk.texts = {"git_diff_staged": DIRTY}
    with make_guard("enforce", judge=reader, settings=steady(look_ups=(LOOK,))) as guard:
        talk = guard.begin()
        assert drive(guard, talk, replace(LOOK.call, hints=READ), desk).answer is not None
        assert drive(guard, talk, RESET, desk).answer is None
    assert desk.made == ["git_diff_staged"]


def test_what_is_said_of_looks(reader: Reader) -> None:
    """Tested after looks alone: nothing is lacking where no look was worth it; where too few calls
    after one did harm, so many are said to be needed."""
    (look,) = reader.looks
    action = reader.featuriser.act(RESET)
    assert (
        "100 straight after git_diff_staged"
        in replace(reader, names={tool_code(LOOK.call).tobytes(): "git_diff_staged"}).summary()
    )
    assert lacks(reader, RESET, action, 0.01, 0.2) == ""
    assert "does not yet tell" in lacks(reader, RESET, action, 0.01, 0.2, look)
    few = Grounds(Margin(0.0, 100, 0.95), Alarm(calls=7))
    short = replace(reader, looks={look: few})
    for after in (b"", look):
        said = lacks(short, RESET, action, 0.01, 0.2, after)
        assert "only 7 calls that did harm, 59 are needed" in said

"""The guard's three modes: what is made, what is recorded, what is held."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.serve.conftest import (
    ADD,
    CALLS,
    DESTROY,
    HERE,
    READ,
    RESET,
    STATUS,
    Desk,
    sleeping,
    steady,
)

from bb_wm.cli.origins import find_origin
from bb_wm.data import EpisodeStore
from bb_wm.decide import AskEvidence, Gate, Ledger, Verdict
from bb_wm.decide.evidence import Fault
from bb_wm.errors import CheckpointError, ConfigError, DataError
from bb_wm.serve import (
    Answer,
    Featuriser,
    Guard,
    GuardSettings,
    Hints,
    Judge,
    LookUp,
    Prior,
    Recording,
    ToolCall,
    drive,
)
from bb_wm.serve.asking import PERSON
from bb_wm.serve.bounds import Alarm
from bb_wm.serve.experience import Experience
from bb_wm.serve.featurise import KEY, REFUSALS_AT, TEXTS_AT, Seen
from bb_wm.serve.heldout import judged_calls
from bb_wm.types import ActionSpec, ObsSpec

Make = Callable[..., Guard]


# --- record ---------------------------------------------------------------------------------------


def test_recorded_rows_by_hand(tmp_path: Path, desk: Desk) -> None:
    """Row t is what was seen before call t; what came of it stands in row t + 1."""
    recording = Recording(tmp_path / "calls")
    with Guard(
        "record",
        recording=recording,
        harm=lambda call: lambda answer: float(call.name == "git_reset"),
    ) as guard:
        talk = guard.begin()
        calls = [STATUS, RESET, ADD, STATUS]
        for call in calls:
            assert drive(guard, talk, call, desk).answer is not None
    (episode,) = recording.read()
    made, seen = Featuriser(), Seen()
    assert len(episode) == 5
    assert episode.truncated
    for t, call in enumerate(calls):
        expected = made.act(call)
        if t < 3:  # no text stood there twice yet
            expected[TEXTS_AT : TEXTS_AT + 16] = 0
        np.testing.assert_array_equal(episode.action[t], expected)
        row = made.see(seen)[KEY]
        row[10:18] = 0 if t < 2 else row[10:18]  # "done" is known from the second time on
        np.testing.assert_array_equal(episode.obs[KEY][t], row)
        seen.add(call, Answer.of_value("done", 0.001))
    np.testing.assert_array_equal(episode.safety, [0, 0, 1, 0, 0])
    np.testing.assert_array_equal(episode.reward, [0, 1, 1, 1, 1])
    assert not episode.action[4].any()


def test_what_was_recorded_can_be_trained_on_by_its_path(tmp_path: Path, desk: Desk) -> None:
    for _ in range(2):
        with Guard("record", recording=Recording(tmp_path / "calls")) as guard:
            talk = guard.begin()
            for call in (ADD, RESET, ADD):  # the default label: the reset was undone
                drive(guard, talk, call, desk)
    origin = find_origin(str(tmp_path / "calls"), seed=0)
    assert origin.recorded is not None
    assert [e.safety.tolist() for e in origin.recorded] == [[0, 0, 1, 0]] * 2


def test_record_never_holds_anything_up(tmp_path: Path, desk: Desk) -> None:
    """Neither an unwritable folder nor a harm that cannot be measured stops a call."""
    (tmp_path / "taken").write_text("a file")

    def broken(call: ToolCall) -> Any:
        raise RuntimeError("no ruler")

    lines: list[str] = []
    with Guard(
        "record", recording=Recording(tmp_path / "taken"), harm=broken, report=lines.append
    ) as guard:
        talk = guard.begin()
        for call in (STATUS, RESET):
            assert drive(guard, talk, call, desk).answer is not None
    assert desk.made == ["git_status", "git_reset"]
    assert any("no ruler" in line for line in lines)


def test_a_row_whose_harm_is_unknown_is_left_out(tmp_path: Path, desk: Desk) -> None:
    """A wrong 0 would be a lesson; so the episode is cut there and goes on after it."""

    def harm(call: ToolCall) -> Any:
        def after(answer: Answer) -> float:
            return math.nan if call.name == "git_add" else 0.0

        return after

    recording = Recording(tmp_path / "calls")
    with Guard("record", recording=recording, harm=harm) as guard:
        talk = guard.begin()
        for call in (STATUS, STATUS, ADD, STATUS):
            drive(guard, talk, call, desk)
    before, after = recording.read()
    assert (len(before), len(after)) == (3, 2)
    assert after.obs[KEY][0][18] == pytest.approx(math.log(4) / 8)  # three calls were made


def test_what_a_tool_raises_goes_on_and_is_an_error_row(tmp_path: Path) -> None:
    def run(call: ToolCall) -> Answer:
        raise KeyError("gone")

    recording = Recording(tmp_path / "calls")
    with Guard("record", recording=recording) as guard, pytest.raises(KeyError):
        drive(guard, guard.begin(), RESET, run)
    (episode,) = recording.read()
    assert episode.obs[KEY][1][3] == 1.0
    assert episode.safety[1] == 1.0  # declared destructive, and failed


def test_several_proxies_share_a_folder(tmp_path: Path, desk: Desk) -> None:
    guards = [Guard("record", recording=Recording(tmp_path / "calls")) for _ in range(3)]
    for guard in guards:
        drive(guard, guard.begin(), STATUS, desk)
    for guard in guards:
        guard.close()
        assert not guard.problems
    assert len(Recording(tmp_path / "calls").read()) == 3


# --- shadow ---------------------------------------------------------------------------------------


def test_shadow_decides_beside_every_call_and_blocks_none(
    make_guard: Make, desk: Desk, tmp_path: Path
) -> None:
    with make_guard("shadow") as guard:
        talk = guard.begin()
        verdicts = []
        for call in (STATUS, ADD, RESET, STATUS):
            reply = drive(guard, talk, call, desk)
            assert reply.answer is not None
            assert reply.decision is not None
            verdicts.append(reply.decision.verdict)
    assert desk.made == ["git_status", "git_add", "git_reset", "git_status"]
    assert verdicts == [Verdict.ACT, Verdict.ACT, Verdict.HOLD, Verdict.ACT]
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        rows = ledger.rows()
        assert [row["verdict"] for row in reversed(rows)] == [v.value for v in verdicts]
        assert all(json.loads(row["note"]) == {"made": True} for row in rows)
        assert all(row["realised_return"] == 1.0 for row in rows)


def test_shadow_goes_on_without_a_model(make_guard: Make, desk: Desk) -> None:
    guard = make_guard("shadow", judge=Fault("model", "CheckpointError", "damaged"))
    reply = drive(guard, guard.begin(), RESET, desk)
    assert reply.answer is not None
    assert reply.decision is not None
    assert reply.decision.reasons[0] == "stage_failed"


# --- enforce --------------------------------------------------------------------------------------


def test_enforce_holds_the_destructive_call_and_lets_the_harmless_go(
    make_guard: Make, desk: Desk, tmp_path: Path
) -> None:
    with make_guard("enforce") as guard:
        talk = guard.begin()
        replies = [drive(guard, talk, call, desk) for call in (STATUS, ADD, RESET, STATUS)]
    assert desk.made == ["git_status", "git_add", "git_status"]
    held = replies[2]
    assert held.answer is None
    assert held.refusal.startswith("Held by bb-wm (")
    assert "git_reset was not run and nothing has changed" in held.refusal
    (episode,) = Recording(tmp_path / "calls").read()
    assert not episode.action[2].any()  # nothing was done ...
    assert episode.obs[KEY][3][2] == 1.0  # ... and that can be seen
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        newest = {row["choice"]: row for row in ledger.rows()}
        assert json.loads(newest[None]["note"]) == {"made": False}


def test_unknown_tools_and_unknown_shapes_are_held(make_guard: Make, desk: Desk) -> None:
    guard = make_guard("enforce")
    talk = guard.begin()
    strange = [
        ToolCall("git_push", HERE, DESTROY),
        ToolCall("git_push", HERE, READ),  # what it says of itself does not help
        ToolCall("git_status", {**HERE, "force": True}, READ),
        ToolCall("git_status", HERE, READ, server="another"),
        ToolCall("git_st\u0430tus", HERE, READ),  # a Cyrillic a
        ToolCall("", {}, READ),
    ]
    for call in strange:
        assert drive(guard, talk, call, desk).answer is None
    assert desk.made == []


@dataclass(frozen=True, slots=True)
class Faulty(Judge):
    """A judge that fails in one way."""

    way: str = ""

    def outcomes(self, latent: Any, action: np.ndarray) -> Any:
        if self.way == "raises":
            raise RuntimeError("broken head")
        if self.way == "hangs":
            sleeping(3.0)
        reward, risk = Judge.outcomes(self, latent, action)
        return reward, risk * math.nan if self.way == "nan" else risk

    def go_on(self, latent: Any, action: np.ndarray, obs: Any) -> Any:
        if self.way == "forgets":
            raise MemoryError("no room")
        return Judge.go_on(self, latent, action, obs)


def faulty(judge: Judge, way: str) -> Faulty:
    fields = {name: getattr(judge, name) for name in Judge.__dataclass_fields__}
    return Faulty(**fields, way=way)


@pytest.mark.parametrize("way", ["raises", "hangs", "nan", "forgets"])
def test_a_judge_that_fails_holds_everything(
    way: str, make_guard: Make, judge: Judge, desk: Desk
) -> None:
    quick = GuardSettings(
        gate=Gate(limit=0.2, max_age=3600.0, min_gain=-1.0),
        deadline=0.2 if way == "hangs" else 20.0,
    )
    guard = make_guard("enforce", judge=faulty(judge, way), settings=quick)
    talk = guard.begin()
    if way == "forgets":  # the first call needs no memory
        drive(guard, talk, STATUS, desk)
        desk.made.clear()
    for call in (RESET, STATUS, RESET):
        reply = drive(guard, talk, call, desk)
        assert reply.answer is None
        assert reply.decision is not None
        assert reply.decision.verdict is Verdict.HOLD
    assert desk.made == []


def test_no_model_no_record_no_clock_no_features_holds_everything(
    make_guard: Make, judge: Judge, desk: Desk, tmp_path: Path
) -> None:
    def broken(text: str) -> list[float]:
        raise ValueError("no embedding")

    closed = Ledger(tmp_path / "other.sqlite", durable=False)
    connection = sqlite3.connect(tmp_path / "other.sqlite")
    connection.execute("DROP TABLE decisions")
    connection.commit()
    wrong_clock = Gate(limit=0.2, max_age=3600.0, min_gain=-1.0, clock=lambda: math.nan)
    for changes in (
        {"judge": Fault("model", "CheckpointError", "damaged")},
        {"ledger": closed},
        {"settings": steady(gate=wrong_clock)},
        {"judge": replace(judge, featuriser=Featuriser(broken, 3)), "recording": None},
    ):
        guard = make_guard("enforce", **changes)
        try:
            talk = guard.begin()
        except ValueError:  # no features, no conversation
            continue
        assert drive(guard, talk, STATUS, desk).answer is None
    assert desk.made == []


def test_what_enforce_needs_is_asked_for_at_once(judge: Judge, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="judge"):
        Guard("enforce")
    with pytest.raises(ConfigError, match="ledger"):
        Guard("enforce", judge=judge)
    with pytest.raises(ConfigError, match="mode"):
        Guard("watch")
    with pytest.raises(ConfigError, match="deadline"):
        GuardSettings(deadline=0)
    with pytest.raises(ConfigError, match="run"):
        Judge.load(tmp_path)


def test_a_damaged_model_is_not_loaded(run_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "git"
    shutil.copytree(run_folder, broken)
    for file in broken.glob("checkpoints/*/*.safetensors"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(bytes(data))
    with pytest.raises(CheckpointError):
        Judge.load(broken)


def test_a_folder_of_other_rows_is_refused_at_once(tmp_path: Path) -> None:
    EpisodeStore(tmp_path / "store", ObsSpec.of(3), ActionSpec.of(1)).close()
    with pytest.raises(DataError):
        Recording(tmp_path / "store")


# --- hints ----------------------------------------------------------------------------------------


def test_hints_raise_the_bound_and_never_lower_it(judge: Judge) -> None:
    latent = judge.begin(Featuriser().see(Seen()))
    for call in (STATUS, RESET, ADD):
        action = judge.featuriser.act(call)
        learnt = judge.weigh(latent, replace(call, hints=READ), action)
        for hints in (Hints(), DESTROY, Hints(read_only=True, destructive=True)):
            raised = judge.weigh(latent, replace(call, hints=hints), action)
            assert raised.risk == learnt.risk
            assert raised.risk_bound >= learnt.risk_bound
    harmless = judge.weigh(latent, STATUS, judge.featuriser.act(STATUS))
    wary = replace(judge, prior=Prior(weight=1e6))
    declared = wary.weigh(latent, replace(STATUS, hints=DESTROY), judge.featuriser.act(STATUS))
    assert harmless.risk_bound < 0.2 < declared.risk_bound


# --- asking first ---------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [True, False])
def test_a_person_is_asked_where_that_is_worth_it(
    answer: bool, make_guard: Make, desk: Desk
) -> None:
    guard = make_guard("enforce", settings=steady(person=0.05))
    talk, asked = guard.begin(), []

    def ask(message: str) -> bool:
        asked.append(message)
        return answer

    drive(guard, talk, STATUS, desk, ask)
    reply = drive(guard, talk, RESET, desk, ask)
    assert len(asked) == 1
    assert "git_reset" in asked[0]
    assert reply.decision is not None
    assert reply.decision.choice == PERSON
    assert ("git_reset" in desk.made) is answer
    assert (reply.answer is not None) is answer


def test_where_nobody_answers_or_the_tool_is_unknown_nothing_is_made(
    make_guard: Make, desk: Desk
) -> None:
    guard = make_guard("enforce", settings=steady(person=0.05))
    talk = guard.begin()
    assert drive(guard, talk, RESET, desk).answer is None  # no way to ask

    def never(message: str) -> bool:
        raise AssertionError("an unknown destructive tool is nobody's to allow")

    unknown = ToolCall("wipe", HERE, DESTROY)
    assert drive(guard, talk, unknown, desk, never).answer is None
    assert desk.made == []


def test_a_refused_call_is_nothing_to_a_model_that_never_learnt_from_one(
    make_guard: Make, judge: Judge, desk: Desk
) -> None:
    """Else a reset that was held is taken for one that was made, and the next one looks harmless:
    with what is staged still there."""

    def risks(judge: Judge, calls: list[ToolCall]) -> list[float]:
        with make_guard("enforce", judge=judge, recording=None) as guard:
            talk = guard.begin()
            told = [drive(guard, talk, call, desk).decision for call in calls]
        assert [one.verdict for one in told if one] == [
            Verdict.HOLD if call is RESET else Verdict.ACT for call in calls
        ]
        return [one.risk for one in told if one]

    assert judge.learnt.refused == 0
    plain = risks(judge, [ADD, STATUS, RESET])
    first, add, one, two, status, last = risks(judge, [RESET, ADD, RESET, RESET, STATUS, RESET])
    assert first != one == two
    assert [add, status, last] == plain
    aware = replace(judge, learnt=replace(judge.learnt, refused=1))
    first, _, one, two, *_ = risks(aware, [RESET, ADD, RESET, RESET])
    assert one != two


def test_held_out_rows_are_seen_as_in_front_of_an_agent(judge: Judge) -> None:
    """A conversation with refused calls is judged as if they had not been."""
    with EpisodeStore(CALLS, mode="r") as store:
        episode = store[0]
    t = 3
    row = {key: value[t].copy() for key, value in episode.obs.items()}
    row[KEY][1:5] = [0.0, 1.0, 0.0, 1.0]
    gap = replace(
        episode,
        obs={key: np.insert(value, t + 1, row[key], axis=0) for key, value in episode.obs.items()},
        action=np.insert(episode.action, t, 0.0, axis=0),
        reward=np.insert(episode.reward, t + 1, 0.0),
        safety=np.insert(episode.safety, t + 1, 0.0),
    )
    gap.obs[KEY][t + 1 :, REFUSALS_AT] = 0.1
    assert list(judged_calls(judge, [gap])) == list(judged_calls(judge, [episode]))
    assert Experience.of([gap]).refused == 1


@dataclass(frozen=True, slots=True)
class Curious(Judge):
    """A judge that finds every look worth it."""

    def _look(self, *given: Any) -> AskEvidence:
        return AskEvidence(given[-2].name, 0.5, 0.4, 0.6, 0.0, 0.0)


# Enough held-out harmful calls, all of them foreseen: a call may be allowed.
TESTED = Alarm(level=0.9, harm=1.0, calls=59)


def test_a_look_is_made_first_and_then_decided_again(
    make_guard: Make, judge: Judge, desk: Desk, tmp_path: Path
) -> None:
    fields = {name: getattr(judge, name) for name in Judge.__dataclass_fields__}
    margins = (judge.margins[0], replace(judge.margins[1], margin=0.5))
    curious = Curious(**{**fields, "margins": margins, "alarm": TESTED})
    settings = steady(look_ups=(LookUp(STATUS),))
    with make_guard("enforce", judge=curious, settings=settings) as guard:
        reply = drive(guard, guard.begin(), RESET, desk)
    assert desk.made == ["git_status"]  # looked, and the answer did not clear it
    assert reply.answer is None
    (episode,) = Recording(tmp_path / "calls").read()
    assert [bool(row[0]) for row in episode.action] == [True, False, False]


def test_a_look_is_weighed_by_what_it_reveals(judge: Judge) -> None:
    """Its own reward is no reason: a look that reveals nothing is worth minus its price."""
    latent = judge.begin(Featuriser().see(Seen()))
    judge = replace(judge, alarm=TESTED)
    close = replace(judge, margins=(judge.margins[0], replace(judge.margins[1], margin=0.19)))
    action, look = judge.featuriser.act(RESET), judge.featuriser.act(STATUS)
    given = {"limit": 0.2, "observed_at": 0.0, "deadline": 1.0}
    looks = [(LookUp(STATUS, cost=0.01), look)]
    (ask,) = close.evidence(latent, RESET, action, look_ups=looks, **given).asks
    assert ask.name == "git_status"
    assert ask.evsi == pytest.approx(ask.info - 0.01)
    assert ask.lower <= ask.evsi <= ask.upper
    hopeless = replace(judge, margins=(judge.margins[0], replace(judge.margins[1], margin=0.3)))
    assert not hopeless.evidence(latent, RESET, action, look_ups=looks, **given).asks

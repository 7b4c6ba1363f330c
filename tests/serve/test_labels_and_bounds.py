"""Where risk comes from, and how far an estimate of it may be believed."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace

import pytest
from tests.serve.conftest import CALLS
from tests.serve.conftest import RESET as RESET_CALL

from bb_wm.data import EpisodeStore
from bb_wm.serve import (
    Answer,
    Guard,
    Hints,
    Judge,
    Margin,
    Prior,
    Recording,
    ToolCall,
    Undone,
    drive,
)
from bb_wm.serve.bounds import Alarm, fewest, fewest_harmful
from bb_wm.serve.conversation import masked_action
from bb_wm.serve.experience import Experience
from bb_wm.serve.featurise import KEY, answer_places, tool_code
from bb_wm.serve.heldout import seen_in
from bb_wm.serve.telling import lacks, thin_tools

WRITE = Hints(read_only=False, destructive=False)
DESTROY = Hints(read_only=False, destructive=True)
OK, BAD, NO = Answer(), Answer(error=True), Answer(refused=True)


def call(name: str, hints: Hints = WRITE, **arguments: object) -> ToolCall:
    return ToolCall(name, arguments, hints)


ADD, RESET = call("add", file="a"), call("reset", DESTROY)
LOOK = call("status", Hints(read_only=True))


@pytest.mark.parametrize(
    ("calls", "labels"),
    [
        ([(ADD, OK), (RESET, OK), (ADD, OK)], [0, 1, 0]),  # undone: the work was done again
        ([(ADD, OK), (RESET, OK), (LOOK, OK)], [0, 0, 0]),  # nobody repaired it
        ([(RESET, OK), (ADD, OK)], [0, 0]),  # there was nothing before it
        ([(ADD, OK), (RESET, OK), (call("add", file="b"), OK)], [0, 0, 0]),  # other work
        ([(ADD, OK), (RESET, NO), (ADD, OK)], [0, 0, 0]),  # it was not made
        ([(ADD, BAD), (RESET, OK), (ADD, OK)], [0, 0, 0]),  # there was no work to lose
        ([(RESET, BAD)], [1]),  # declared destructive, and failed
        ([(LOOK, BAD), (LOOK, OK)], [0, 0]),  # declared read-only: never blamed
        ([(ADD, OK), (LOOK, OK), (ADD, OK)], [0, 0, 0]),
        ([(ADD, OK), *[(LOOK, OK)] * 5, (RESET, OK), (ADD, OK)], [0] * 8),  # too long before
        ([(ADD, OK), (RESET, OK), *[(LOOK, OK)] * 5, (ADD, OK)], [0] * 8),  # too long after
    ],
)
def test_the_default_label_by_hand(calls: list[tuple[ToolCall, Answer]], labels: list[int]) -> None:
    assert Undone().label(calls) == labels


def test_writing_twice_blames_nothing_between() -> None:
    a, b = (call("write", Hints(), file=name) for name in "ab")
    assert Undone().label([(a, OK), (b, OK), (a, OK)]) == [0, 0, 0]


def test_the_margin_is_the_conformal_quantile() -> None:
    errors = [i / 100 for i in range(19)]
    assert Margin.of(errors, 0.95).margin == 0.18  # rank ceil(20 * .95) = 19 of 19
    assert Margin.of(errors[:18], 0.95).margin == math.inf  # 19 are needed
    assert Margin.of(errors, 0.9).margin == 0.17
    assert Margin.of([-0.5] * 40, 0.95).margin == 0.0  # a bound is never below the estimate
    assert Margin.of([*errors, math.nan], 0.95).margin == math.inf
    assert (fewest(0.95), fewest(0.9), fewest(0.8)) == (19, 9, 4)
    assert Margin.of(errors, 0.95).bound(math.nan) == math.inf


def test_the_margin_covers_as_it_promises() -> None:
    """Split conformal over 2,000 draws: a new error lies within with probability >= .9."""
    chance = random.Random(0)
    hits = 0
    for _ in range(2_000):
        margin = Margin.of([chance.expovariate(1.0) for _ in range(30)], 0.9)
        hits += chance.expovariate(1.0) <= margin.margin
    assert 0.9 - 3 * math.sqrt(0.09 / 2_000) <= hits / 2_000 <= 0.95


def test_the_alarm_is_the_least_of_the_harmful_ones_once_there_are_enough() -> None:
    harmful = [(i / 100, 1.0) for i in range(1, 23)]
    assert (fewest_harmful(0.95), fewest_harmful(0.9)) == (59, 22)  # .95^59 = .0485
    found = Alarm.of(harmful, 0.9)
    assert found == Alarm(0.01, 1.0, 22)
    assert found.bound(0.0099, 0.02) == 0.02  # below the level nothing changes
    assert found.bound(0.01, 0.02) == 1.0  # from it on, the worst that came of such calls
    assert found.bound(0.01, 3.0) == 3.0  # it never lowers a bound
    for few in (Alarm(), Alarm.of(harmful[1:], 0.9), Alarm.of([*harmful, (math.nan, 1.0)], 0.9)):
        assert few.bound(0.0, 0.0) == math.inf


def test_an_alarm_is_set_lower_where_harmless_calls_allow_it() -> None:
    """A third of the least suspicious harmful call; where more than a tenth of the harmless ones
    reach that, as low as leaves nine tenths alone; and never higher than without them."""
    harmful = [(0.3 + 0.01 * i, 1.0) for i in range(22)]

    def level(harmless: list[float]) -> float:
        return Alarm.of(harmful, 0.9, harmless).level

    assert level([]) == 0.3
    assert level([0.01] * 20) == pytest.approx(0.1)
    assert level([0.01] * 18 + [0.2] * 2) == pytest.approx(0.1)  # a tenth of them
    found = level([0.01] * 17 + [0.2] * 3)
    assert 0.2 < found < 0.2000001  # the eighteenth is the last to be left alone
    assert level([0.9] * 20) == 0.3
    assert Alarm.of(harmful, 0.9, [math.nan]).level == -math.inf


def test_the_alarm_misses_no_more_than_it_promises_however_rare_harm_is() -> None:
    """Over 2,000 draws: more than .1 of harmful calls are below the level in at most .1 of them,
    .9^22 = .0985 exactly."""
    chance = random.Random(0)
    levels = [Alarm.of([(chance.random(), 1.0) for _ in range(22)], 0.9).level for _ in range(2000)]
    broken = sum(level > 0.1 for level in levels) / len(levels)
    assert abs(broken - 0.9**22) < 3 * math.sqrt(0.09 / 2_000)


def test_a_few_missed_among_many_harmless_calls_raise_the_bound(judge) -> None:
    """What a margin on average over calls hides: of 400 calls 22 do harm, and 3 of these look as
    harmless as the others. The margin is 0; the alarm holds what looks like the first of them."""
    risks = [0.001 * i for i in range(1, 4)] + [0.9] * 19
    errors = [-0.0005] * 380 + [1.0 - risk for risk in risks if risk <= 0.2]
    margin, alarm = Margin.of(errors, 0.95), Alarm.of([(r, 1.0) for r in risks], 0.9)
    assert margin.margin == 0.0
    assert alarm.level == 0.001
    tool = tool_code(RESET_CALL).tobytes()
    told = replace(judge, harmful=frozenset([tool]), margins=(margin, margin), alarm=alarm)
    assert told.learnt_bound(tool, 0.0005) == 0.0005
    assert told.learnt_bound(tool, 0.002) == 1.0
    assert told.learnt_bound(b"another", 0.002) == 0.002


def test_a_tool_that_did_harm_is_held_until_its_judge_was_tested(judge) -> None:
    tool = tool_code(RESET_CALL).tobytes()
    sure = Margin.of([0.0] * 100, 0.95)
    few = Alarm.of([(0.9, 1.0)] * 58, 0.95)
    told = replace(judge, harmful=frozenset([tool]), margins=(sure, sure), alarm=few)
    assert told.learnt_bound(tool, 0.0) == math.inf
    assert told.learnt_bound(b"another", 0.0) == 0.0


def test_a_hint_raises_and_fades_but_never_lowers() -> None:
    prior = Prior()
    assert (prior.enough(0.2), prior.enough(0.5), prior.enough(1.0)) == (20, 5, 0)
    assert prior.of(DESTROY, 0) == 1.0
    assert prior.of(Hints(), 5) == 0.5  # undeclared is read as destructive
    assert prior.of(DESTROY, 20) == pytest.approx(0.2)
    assert prior.of(Hints(read_only=True), 0) == 0.0  # the learnt bound stands alone


# --- what is known, and what is held out ----------------------------------------------------------


def test_a_text_of_an_earlier_conversation_is_known_in_the_first_row_of_the_next(tmp_path) -> None:
    """What the judge will know must be known in the rows it learns from."""

    def talk(guard: Guard, text: str) -> None:
        one = guard.begin()
        drive(guard, one, LOOK, lambda made: Answer.of_value(text, 0.001))
        guard.end(one)

    place = next(answer_places())
    for start in range(2):  # the second process reads what the first one wrote
        with Guard("record", recording=Recording(tmp_path / "calls")) as guard:
            for text in ("nothing to lose", "nothing to lose", f"only once, {start}"):
                talk(guard, text)
    shown = [bool(e.obs[KEY][1][place].any()) for e in Recording(tmp_path / "calls").read()]
    assert shown == [False, True, False, True, True, False]


def test_what_was_recorded_after_the_run_is_held_out_too(run_folder, tmp_path) -> None:
    with EpisodeStore(CALLS, mode="r") as store:
        episodes = list(store)  # the run's: twenty to learn from, ten held out
    later = Recording(tmp_path / "later")
    for episode in episodes[15:25]:  # five of what was learnt from, five of what was held out
        later.append(episode)
    plain, same = Judge.load(run_folder), Judge.load(run_folder, recording=later)
    assert [m.calls for m in same.margins] == [m.calls for m in plain.margins]
    action = episodes[0].action.copy()
    action[0, -1] = 0.5
    later.append(new := replace(episodes[0], action=action))
    more = Judge.load(run_folder, recording=later)
    calls = sum(bool(row[0]) for row in new.action[:-1])
    assert sum(m.calls for m in more.margins) == sum(m.calls for m in plain.margins) + calls


# --- what is said ---------------------------------------------------------------------------------

ENOUGH = Margin(0.0, 100, 0.95)


def lacking(judge: Judge, made: ToolCall, risk: float = 0.01, limit: float = 0.2) -> str:
    return lacks(judge, made, judge.featuriser.act(made), risk, limit)


def test_what_is_lacking_is_said(judge) -> None:
    """Each reason to hold that more recording would mend has its sentence, and no other has one."""
    tool = tool_code(RESET_CALL).tobytes()
    calls = judge.learnt.calls[tool]
    assert calls > 0
    ready = replace(judge, harmful=frozenset([tool]), margins=(ENOUGH, ENOUGH), prior=Prior(0.0))
    assert "never seen wipe: record such calls, then train again" in lacking(
        ready, ToolCall("wipe")
    )
    odd = ToolCall("git_reset", {"repo_path": ".", "hard": True}, DESTROY)
    assert "never seen git_reset with arguments of this shape" in lacking(ready, odd)
    assert lacking(ready, RESET_CALL, risk=0.9) == ""  # it is held for what is expected of it
    hinted = replace(ready, prior=Prior(1.0, float(calls)))
    assert f"learnt from {calls} calls of it: record {4 * calls}" in lacking(hinted, RESET_CALL)
    few = replace(ready, margins=(ENOUGH, Margin.of([0.0] * 7, 0.95)))
    said = lacking(few, RESET_CALL)
    assert "on only 7 calls of tools that have done harm, 19 are needed" in said
    harm = judge.learnt.harmful[tool]
    said = lacking(ready, RESET_CALL)
    assert "only 5 calls that did harm, 59 are needed before it may allow a git_reset" in said
    said = lacking(replace(ready, alarm=Alarm(0.1, 1.0, 59)), RESET_CALL)
    assert f"({harm} harmful and {calls - harm} harmless calls learnt from)" in said
    assert "record it where it can do no damage" in said
    assert lacking(replace(ready, harmful=frozenset()), RESET_CALL) == ""


def test_the_summary_says_which_tools_are_thin(judge) -> None:
    tool = tool_code(RESET_CALL).tobytes()
    harm, calls = judge.learnt.harmful[tool], judge.learnt.calls[tool]
    line = f"git_reset: {harm} harmful and {calls - harm} harmless calls recorded"
    assert line in replace(judge, names={tool: "git_reset"}).summary()
    assert tool.hex()[:8] in replace(judge, names={}).summary()
    assert thin_tools(Experience(Counter({b"x": 40}), Counter({b"x": 20})), {}) == []
    assert len(thin_tools(Experience(Counter({b"x": 40}), Counter({b"x": 21})), {})) == 1


def test_names_of_tools_are_kept_beside_the_rows(tmp_path) -> None:
    recording = Recording(tmp_path / "calls")
    assert recording.names() == {}
    evil = ToolCall("<script>\n" + "x" * 500)
    with Guard("record", recording=recording) as guard:
        for made in (LOOK, evil):
            talk = guard.begin()
            drive(guard, talk, made, lambda made: OK)
            guard.end(talk)
    names = recording.names()
    assert names[tool_code(LOOK).tobytes()] == "status"
    shown = names[tool_code(evil).tobytes()]
    assert "<" not in shown
    assert "\n" not in shown
    assert len(shown) < 100
    for damaged in ("{", "[1]", '{"zz": "a"}', '{"00": 3}', "null"):
        (tmp_path / "calls" / "tools.json").write_text(damaged)
        assert set(recording.names().values()) <= {"3"}
    assert len(recording.read()) == 2


# --- margins --------------------------------------------------------------------------------------


def test_margins_are_made_of_what_may_be_allowed(run_folder) -> None:
    """By hand: the errors of calls whose risk is within the gate's limit, and of no others."""
    everything = Judge.load(run_folder)
    with EpisodeStore(run_folder / "episodes-heldout", mode="r") as store:
        heldout = list(store)
    risks = []
    for episode in heldout:
        latent = everything.begin(seen_in(episode, 0, everything))
        for t in range(len(episode) - 1):
            action = masked_action(episode.action[t], everything.known)
            if action[0]:
                risks.append(float(everything.outcomes(latent, action)[1].mean()))
            latent = everything.go_on(latent, action, seen_in(episode, t + 1, everything))
    limit = sorted(risks)[len(risks) // 2] + 1e-6
    chosen = Judge.load(run_folder, limit=limit)
    assert sum(m.calls for m in everything.margins) == len(risks)
    assert sum(m.calls for m in chosen.margins) == sum(risk <= limit for risk in risks)

"""Where risk comes from, and how far an estimate of it may be believed."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from tests.serve.conftest import CALLS

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
from bb_wm.serve.bounds import fewest
from bb_wm.serve.conversation import masked_action
from bb_wm.serve.featurise import KEY, answer_places

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


def test_a_hint_raises_and_fades_but_never_lowers() -> None:
    prior = Prior()
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


def test_margins_are_made_of_what_may_be_allowed(run_folder) -> None:
    """By hand: the errors of calls whose risk is within the gate's limit, and of no others."""
    everything = Judge.load(run_folder)
    with EpisodeStore(run_folder / "episodes-heldout", mode="r") as store:
        heldout = list(store)
    risks = []
    for episode in heldout:
        latent = everything.begin(everything._known_obs(episode, 0))
        for t in range(len(episode) - 1):
            action = masked_action(episode.action[t], everything.known)
            if action[0]:
                risks.append(float(everything.outcomes(latent, action)[1].mean()))
            latent = everything.go_on(latent, action, everything._known_obs(episode, t + 1))
    limit = sorted(risks)[len(risks) // 2] + 1e-6
    chosen = Judge.load(run_folder, limit=limit)
    assert sum(m.calls for m in everything.margins) == len(risks)
    assert sum(m.calls for m in chosen.margins) == sum(risk <= limit for risk in risks)

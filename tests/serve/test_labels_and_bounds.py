"""Where risk comes from, and how far an estimate of it may be believed."""

from __future__ import annotations

import math
import random

import pytest

from bb_wm.serve import Answer, Hints, Margin, Prior, ToolCall, Undone
from bb_wm.serve.bounds import fewest

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

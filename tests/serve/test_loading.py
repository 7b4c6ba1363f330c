"""A judge that is still on its way: nothing passes without it, and nobody waits for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from tests.serve.conftest import RESET, STATUS, Desk, steady

from bb_wm.decide import Verdict
from bb_wm.decide.evidence import Fault
from bb_wm.errors import CheckpointError, ConfigError
from bb_wm.serve import Guard, GuardSettings, Judge, drive
from bb_wm.serve.loading import Loading

Make = Callable[..., Guard]


def test_a_call_waits_for_the_model_and_is_then_judged(
    make_guard: Make, judge: Judge, desk: Desk
) -> None:
    come = threading.Event()

    def load() -> Judge:
        come.wait(20)
        return judge

    guard = make_guard("enforce", judge=Loading(load))
    assert isinstance(guard.judge, Fault)
    threading.Timer(0.2, come.set).start()
    reply = drive(guard, guard.begin(), STATUS, desk)
    assert come.is_set()
    assert reply.answer is not None
    assert guard.judge is judge


def test_patience_ends_in_a_hold_and_shadow_has_none(make_guard: Make, desk: Desk) -> None:
    come = threading.Event()

    def load() -> Judge:
        come.wait(60)
        raise AssertionError

    impatient = steady(patience=0.1)
    guard = make_guard("enforce", judge=Loading(load), settings=impatient)
    for call in (RESET, STATUS):  # a hint that it only reads opens nothing
        reply = drive(guard, guard.begin(), call, desk)
        assert reply.answer is None
        assert reply.decision is not None
        assert reply.decision.verdict is Verdict.HOLD
        assert "StillLoading" in reply.decision.reason
    assert desk.made == []
    shadow = make_guard("shadow", judge=Loading(load), settings=steady(patience=60.0))
    began = time.monotonic()
    assert drive(shadow, shadow.begin(), RESET, desk).answer is not None
    assert time.monotonic() - began < 30  # it did not wait for the minute
    come.set()


def test_a_model_that_cannot_be_loaded_holds_everything(make_guard: Make, desk: Desk) -> None:
    told: list[str] = []

    def load() -> Judge:
        raise CheckpointError("model", expected="a whole file", actual="half of one")

    guard = make_guard("enforce", judge=Loading(load, told.append))
    assert drive(guard, guard.begin(), STATUS, desk).answer is None
    assert desk.made == []
    assert isinstance(guard.judge, Fault)
    assert told
    assert told[0].startswith("no model: model must be a whole file")


def test_patience_is_a_time() -> None:
    for wrong in (-1.0, float("nan"), 1e9):
        with pytest.raises(ConfigError, match="patience"):
            GuardSettings(patience=wrong)

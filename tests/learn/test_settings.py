"""Settings and state: checked when made, the same after JSON, changeable only where harmless."""

from __future__ import annotations

import dataclasses
import json

import pytest

from bb_wm.errors import CheckpointError, ConfigError
from bb_wm.learn import TrainSettings
from bb_wm.learn.settings import FREE
from bb_wm.learn.state import RECENT, TrainState


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rows", 0),
        ("rows", 1.0),
        ("rows", True),
        ("rows", "20000"),
        ("rows", None),
        ("heldout_rows", -1),
        ("updates", 0),
        ("updates", 1 << 63),
        ("batch_size", 0),
        ("length", 1),
        ("seed", -1),
        ("interleave", -1),
        ("update_ratio", 0.0),
        ("update_ratio", float("nan")),
        ("update_ratio", float("inf")),
        ("update_ratio", -1.0),
        ("first_rows", 0),
        ("log_every", 0),
        ("evaluate_every", -1),
        ("checkpoint_every", 0),
        ("keep", 0),
        ("bad_batch_limit", 0.0),
        ("bad_batch_limit", 1.5),
        ("skip_limit", 0),
        ("probe", 1),
        ("best_metric", 3),
        ("on_save_error", "ignore"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainSettings(**{name: value})  # type: ignore[arg-type]
    assert caught.value.field == name


def test_json_there_and_back() -> None:
    settings = TrainSettings(rows=7, update_ratio=0.1, on_save_error="halt", probe=False)
    assert TrainSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings
    with pytest.raises(ConfigError, match="rowz"):
        TrainSettings.from_json({"rowz": 3})


def test_only_watching_may_change_on_resume() -> None:
    before = TrainSettings()
    other = {int: 7, float: 0.5, bool: False, str: "halt"}
    for field in dataclasses.fields(TrainSettings):
        changed = dataclasses.replace(
            before, **{field.name: other[type(getattr(before, field.name))]}
        )
        if field.name in FREE:
            changed.check_resumes(before)
        else:
            with pytest.raises(ConfigError) as caught:
                changed.check_resumes(before)
            assert caught.value.field == field.name


def test_the_state_is_the_same_after_json() -> None:
    state = TrainState(update=3, rows=10, best=0.25)
    state.add({"loss": 0.1, "kl": 3.0})
    state.add({"loss": 0.2, "kl": float("nan")})
    state.count_bad(True)
    back = TrainState.from_json(json.loads(json.dumps(state.to_json())))
    assert back == state
    assert back.take_means() == {"kl": 3.0, "loss": (0.1 + 0.2) / 2}
    assert back.window == {}


@pytest.mark.parametrize(
    "change",
    [{"update": "3"}, {"update": True}, {"extra": 1}, {"best": "low"}, {"recent_bad": None}],
)
def test_a_state_of_other_kinds_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(CheckpointError):
        TrainState.from_json(TrainState().to_json() | change)
    with pytest.raises(CheckpointError):
        TrainState.from_json([1, 2])


def test_refused_batches_leave_the_watch_after_a_thousand() -> None:
    state = TrainState()
    assert [state.count_bad(True) for _ in range(3)] == [1, 2, 3]
    for _ in range(RECENT - 3):
        assert state.count_bad(False) == 3
    assert [state.count_bad(False) for _ in range(4)] == [2, 1, 0, 0]
    assert (state.batches, state.bad_batches) == (RECENT + 4, 3)

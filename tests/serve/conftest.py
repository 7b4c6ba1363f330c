"""A small model trained on calls that were recorded on a real mcp-server-git.

`data/git-calls` is what `examples/tool_calls.py` records (30 of its conversations).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bb_wm.cli.presets import PRESETS
from bb_wm.data import EpisodeStore
from bb_wm.decide import Gate, Ledger
from bb_wm.learn.run import Run
from bb_wm.learn.settings import TrainSettings
from bb_wm.learn.sources import RecordedSource
from bb_wm.learn.trainer import Trainer
from bb_wm.rssm import WorldModel
from bb_wm.serve import Answer, Guard, GuardSettings, Hints, Judge, Recording, ToolCall

CALLS = Path(__file__).parent / "data" / "git-calls"
READ = Hints(read_only=True, destructive=False)
WRITE = Hints(read_only=False, destructive=False)
DESTROY = Hints(read_only=False, destructive=True)
HERE = {"repo_path": "."}
STATUS = ToolCall("git_status", HERE, READ)
ADD = ToolCall("git_add", {**HERE, "files": ["plan.txt"]}, WRITE)
RESET = ToolCall("git_reset", HERE, DESTROY)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 30 small updates, ten conversations held out: what holds here is the margin."""
    folder = tmp_path_factory.mktemp("runs") / "git"
    with EpisodeStore(CALLS, mode="r") as store:
        episodes, obs, action = list(store), store.obs_spec, store.action_spec
    model = WorldModel(obs, action, replace(PRESETS["tiny"].model, budget=None))
    settings = TrainSettings(
        updates=30,
        batch_size=8,
        length=12,
        evaluate_every=0,
        checkpoint_every=30,
        probe=False,
    )
    run = Run.create(folder, world={"recorded": "x"}, config=model.describe(), settings=settings)
    source = RecordedSource(episodes[:20], episodes[20:])
    Trainer(run, model, source, settings).train()
    return folder


@pytest.fixture(scope="session")
def judge(run_folder: Path) -> Judge:
    return Judge.load(run_folder)


class Desk:
    """What runs the calls of a test: it notes them and answers."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.texts: dict[str, str] = {}

    def __call__(self, call: ToolCall) -> Answer:
        self.made.append(call.name)
        return Answer.of_value(self.texts.get(call.name, "done"), 0.001)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def make_guard(judge: Judge, tmp_path: Path) -> Iterator[Callable[..., Guard]]:
    """Guards with a ledger and a recording of their own."""
    made: list[Guard] = []

    def make(mode: str, **changes: Any) -> Guard:
        given: dict[str, Any] = {
            "recording": Recording(tmp_path / "calls"),
            "judge": judge,
            "ledger": Ledger(tmp_path / "ledger.sqlite", durable=False),
            "settings": steady(),
        }
        guard = Guard(mode, **(given | changes))
        made.append(guard)
        return guard

    yield make
    for guard in made:
        guard.close()


def steady(**changes: Any) -> GuardSettings:
    """Settings with time to decide on a busy machine."""
    gate = changes.pop("gate", Gate(limit=0.2, max_age=3600.0, min_gain=-1.0))
    return GuardSettings(gate=gate, **({"deadline": 20.0} | changes))


def sleeping(seconds: float) -> None:
    time.sleep(seconds)

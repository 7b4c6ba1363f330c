"""The worked example's own parts: what it measures in the repository is what happened there."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bb_wm.serve import Answer, ToolCall

pytest.importorskip("fastmcp", reason='pip install "bb_wm[tools]"')
EXAMPLE = Path(__file__).parents[2] / "examples" / "tool_calls.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tool_calls_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_harm_that_is_measured(example: ModuleType, tmp_path: Path) -> None:
    repo = example.Repository(tmp_path / "repo").renew()
    reset, answer = ToolCall("git_reset", {}), Answer()

    def harm_of(*words: str) -> float:
        after = repo.staged_work_lost(reset)
        repo.git(*words)
        return float(after(answer))

    assert harm_of("reset") == 0.0  # a clean index
    repo.edit("plan.txt", "a line")
    assert harm_of("add", "plan.txt") == 0.0
    repo.edit("plan.txt", "another")
    assert harm_of("add", "plan.txt") == 0.0  # newer work in the same file
    assert harm_of("commit", "-qm", "kept") == 0.0
    repo.edit("notes.txt", "a line")
    repo.git("add", "notes.txt")
    assert harm_of("reset") == 1.0
    assert repo.renew().state()[1] == frozenset()


def test_the_agent_is_the_same_for_a_seed(example: ModuleType, tmp_path: Path) -> None:
    played = []
    for _ in range(2):
        repo = example.Repository(tmp_path / "repo").renew()
        agent = example.Agent(repo, random.Random(3), example.IN_A_SANDBOX)
        played.append(list(agent.calls(30)))
    assert played[0] == played[1]
    tools = {tool for tool, _ in played[0]}
    assert {"git_add", "git_reset", "git_commit"} <= tools
    assert not agent.solved()  # nobody carried the calls out

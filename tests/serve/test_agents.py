"""The guard inside agents: LangChain's middleware and pydantic-ai's toolset, with real agents.

The language model is scripted; everything that calls a tool is the framework's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.serve.conftest import Desk

from bb_wm.serve import Guard, Recording

Make = Callable[..., Guard]
pytestmark = pytest.mark.timeout(300)
WANTED = [("git_status", {"repo_path": "."}), ("git_reset", {"repo_path": "."})]


def check(desk: Desk, words: list[str], calls: Path) -> None:
    """The look was made, the reset was not, and the agent read why; both are rows."""
    assert desk.made == ["git_status"]
    assert any("git_reset was not run and nothing has changed" in line for line in words)
    (episode,) = Recording(calls).read()
    assert [bool(row[0]) for row in episode.action] == [True, False, False]


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_langchain_agent(way: str, make_guard: Make, desk: Desk, tmp_path: Path) -> None:
    pytest.importorskip("langchain", reason='pip install "bb_wm[langchain]"')
    from langchain.agents import create_agent
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage
    from langchain_core.tools import tool

    from bb_wm.serve.calls import ToolCall
    from bb_wm.serve.langchain_guard import GuardMiddleware, hints_of

    @tool
    def git_status(repo_path: str) -> str:
        """The working tree's status."""
        return desk(ToolCall("git_status")).raw

    @tool
    def git_reset(repo_path: str) -> str:
        """Unstage everything."""
        return desk(ToolCall("git_reset")).raw

    git_status.metadata = {"readOnlyHint": True, "destructiveHint": "no bool"}
    assert hints_of(git_status).read_only is True
    assert hints_of(git_status).destructive is None

    class Scripted(GenericFakeChatModel):
        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            return self

    said = [
        AIMessage("", tool_calls=[{"name": name, "args": args, "id": str(i)}])
        for i, (name, args) in enumerate(WANTED)
    ]
    model = Scripted(messages=iter([*said, AIMessage("done")]))
    guard = make_guard("enforce")
    tools = [git_status, git_reset]
    agent = create_agent(model, tools, middleware=[GuardMiddleware(guard, tools)])
    begun = {"messages": [("user", "reset it")]}
    result = agent.invoke(begun) if way == "sync" else asyncio.run(agent.ainvoke(begun))
    guard.close()
    messages = result["messages"]
    assert messages[-1].content == "done"
    assert [m.status for m in messages if m.type == "tool"] == ["success", "error"]
    check(desk, [str(m.content) for m in messages], tmp_path / "calls")


def test_a_pydantic_ai_agent(make_guard: Make, desk: Desk, tmp_path: Path) -> None:
    pytest.importorskip("pydantic_ai", reason='pip install "bb_wm[pydantic-ai]"')
    from pydantic_ai import Agent, FunctionToolset
    from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
    from pydantic_ai.models.function import FunctionModel

    from bb_wm.serve.calls import ToolCall
    from bb_wm.serve.pydantic_ai_guard import GuardedToolset

    toolset: Any = FunctionToolset()

    @toolset.tool_plain
    def git_status(repo_path: str) -> str:
        """The working tree's status."""
        return desk(ToolCall("git_status")).raw

    @toolset.tool_plain
    def git_reset(repo_path: str) -> str:
        """Unstage everything."""
        return desk(ToolCall("git_reset")).raw

    turns = iter([*WANTED, None])

    def script(messages: Any, info: Any) -> ModelResponse:
        wanted = next(turns)
        part = TextPart("done") if wanted is None else ToolCallPart(*wanted)
        return ModelResponse(parts=[part])

    guard = make_guard("enforce")
    agent = Agent(FunctionModel(script), toolsets=[GuardedToolset(toolset, guard)])
    result = agent.run_sync("reset it")
    guard.close()
    assert result.output == "done"
    check(desk, [str(message) for message in result.all_messages()], tmp_path / "calls")

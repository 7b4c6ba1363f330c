"""The guard inside a LangChain or LangGraph agent: middleware around every tool call.

    agent = create_agent(model, tools, middleware=[GuardMiddleware(guard, tools)])

Where a person is to be asked, `ask` is; LangGraph's own interrupt can be called in it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from bb_wm.errors import MissingExtraError
from bb_wm.serve.calls import Answer, Hints, ToolCall
from bb_wm.serve.driving import Loop, drive
from bb_wm.serve.guard import Guard

try:
    from langchain.agents.middleware import AgentMiddleware
    from langchain.agents.middleware.types import ToolCallRequest
    from langchain_core.messages import ToolMessage
    from langchain_core.tools import BaseTool
except ImportError as error:
    raise MissingExtraError(
        "langchain",
        expected="the extra 'langchain'",
        actual=error,
        hint='pip install "bb_wm[langchain]"',
    ) from error


class GuardMiddleware(AgentMiddleware[Any, Any, Any]):
    """A guard as LangChain middleware; one conversation for as long as it lives.

    tools  those that look-ups may be made with, and whose `metadata` may hold hints
           ("readOnlyHint", "destructiveHint")
    ask    shows a person a question; True is yes
    """

    def __init__(
        self,
        guard: Guard,
        tools: Sequence[BaseTool] = (),
        *,
        ask: Callable[[str], bool] | None = None,
        server: str = "",
    ) -> None:
        super().__init__()
        self.guard = guard
        self._loop = Loop(guard, guard.begin())
        self._tools = {tool.name: tool for tool in tools}
        self._ask = ask
        self._server = server

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[..., Any]) -> Any:
        """The tool's message, or a refusal as an error message that the agent can read."""
        call = self._call(request)

        def run(made: ToolCall) -> Answer:
            started = time.perf_counter()
            if made is call:
                return _answer(handler(request), time.perf_counter() - started)
            value = self._tools[made.name].invoke(dict(made.arguments))
            return Answer.of_value(value, time.perf_counter() - started)

        reply = drive(self.guard, self._loop.talk, call, run, self._ask)
        return _message(request, reply.refusal) if reply.answer is None else reply.answer.raw

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[..., Awaitable[Any]]
    ) -> Any:
        """The same in an event loop."""
        call = self._call(request)

        async def run(made: ToolCall) -> Answer:
            started = time.perf_counter()
            if made is call:
                return _answer(await handler(request), time.perf_counter() - started)
            value = await self._tools[made.name].ainvoke(dict(made.arguments))
            return Answer.of_value(value, time.perf_counter() - started)

        async def ask(question: str) -> bool:
            return self._ask is not None and self._ask(question)

        reply = await self._loop.drive(call, run, ask)
        return _message(request, reply.refusal) if reply.answer is None else reply.answer.raw

    def _call(self, request: ToolCallRequest) -> ToolCall:
        made = request.tool_call
        return ToolCall(
            made["name"], made["args"], hints_of(getattr(request, "tool", None)), self._server
        )


def hints_of(tool: Any) -> Hints:
    """The hints in a tool's metadata, as langchain's MCP adapters put them there."""
    metadata = getattr(tool, "metadata", None)
    metadata = metadata if isinstance(metadata, dict) else {}
    found = [metadata.get(name) for name in ("readOnlyHint", "destructiveHint")]
    read_only, destructive = (value if isinstance(value, bool) else None for value in found)
    return Hints(read_only, destructive)


def _answer(result: Any, seconds: float) -> Answer:
    """A ToolMessage, or the Command of a tool that steers the graph."""
    if isinstance(result, ToolMessage):
        content = result.content
        parts = [content] if isinstance(content, str) else content
        texts = [part if isinstance(part, str) else str(part.get("text", "")) for part in parts]
        kinds = {"text": len(texts)} if texts else {}
        return Answer(tuple(texts), kinds, result.status == "error", seconds, raw=result)
    return Answer((), {"structured": 1}, False, seconds, raw=result)


def _message(request: ToolCallRequest, refusal: str) -> ToolMessage:
    made = request.tool_call
    return ToolMessage(refusal, name=made["name"], tool_call_id=made["id"], status="error")

"""The guard inside a pydantic-ai agent: a toolset around the agent's own.

agent = Agent(model, toolsets=[GuardedToolset(toolset, guard)])
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from bb_wm.errors import MissingExtraError
from bb_wm.serve.calls import Answer, Hints, ToolCall
from bb_wm.serve.driving import Loop
from bb_wm.serve.guard import Guard

try:
    from pydantic_ai import RunContext
    from pydantic_ai.toolsets import ToolsetTool, WrapperToolset
except ImportError as error:
    raise MissingExtraError(
        "pydantic-ai",
        expected="the extra 'pydantic-ai'",
        actual=error,
        hint='pip install "bb_wm[pydantic-ai]"',
    ) from error


@dataclass
class GuardedToolset(WrapperToolset[Any]):
    """A toolset whose calls go through a guard; a refusal is the tool's answer in words.

    `ask` shows a person a question; True is yes. One conversation for as long as it lives.
    """

    guard: Guard
    ask: Callable[[str], Awaitable[bool]] | None = None
    server: str = ""
    loop: Loop | None = field(default=None, repr=False)  # copies that pydantic-ai makes share it

    def __post_init__(self) -> None:
        if self.loop is None:
            self.loop = Loop(self.guard, self.guard.begin())

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        """The tool's value, or the refusal."""
        call = ToolCall(name, tool_args, hints_of(tool), self.server)

        async def run(made: ToolCall) -> Answer:
            started = time.perf_counter()
            if made is call:
                value = await self.wrapped.call_tool(name, tool_args, ctx, tool)
            else:
                tools = await self.wrapped.get_tools(ctx)
                value = await self.wrapped.call_tool(
                    made.name, dict(made.arguments), ctx, tools[made.name]
                )
            return Answer.of_value(value, time.perf_counter() - started)

        assert self.loop is not None  # __post_init__ made it
        reply = await self.loop.drive(call, run, self.ask)
        return reply.refusal if reply.answer is None else reply.answer.raw


def hints_of(tool: ToolsetTool[Any]) -> Hints:
    """The hints that an MCP toolset keeps in the tool's metadata."""
    metadata = tool.tool_def.metadata or {}
    annotations = metadata.get("annotations") or {}
    found = (annotations.get(name) for name in ("readOnlyHint", "destructiveHint"))
    read_only, destructive = (value if isinstance(value, bool) else None for value in found)
    return Hints(read_only, destructive)

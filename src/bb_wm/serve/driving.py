"""Carrying a guard's script out: in a thread, or in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any

from bb_wm.serve.calls import Answer, ToolCall
from bb_wm.serve.guard import Guard
from bb_wm.serve.settings import Mode
from bb_wm.serve.steps import Decide, Reply, Run
from bb_wm.serve.talk import Talk


def drive(
    guard: Guard,
    talk: Talk,
    call: ToolCall,
    run: Callable[[ToolCall], Answer],
    ask: Callable[[str], bool] | None = None,
) -> Reply:
    """The reply to `call`. `run` makes a call; `ask` shows a person a question, True is yes.

    In enforce, calls of one conversation are made one at a time: each is judged knowing what came
    of those before it.
    """
    with talk.turn if guard.mode is Mode.ENFORCE else nullcontext():
        steps = guard.script(talk, call)
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                step = steps.send(value) if error is None else steps.throw(error)
            except StopIteration as stop:
                return _reply(stop)
            value, error = None, None
            try:
                if isinstance(step, Decide):
                    value = guard.decide(talk, step.call, may_look=step.may_look)
                elif isinstance(step, Run):
                    value = run(step.call)
                else:
                    value = ask is not None and ask(step.message) is True
            except BaseException as raised:
                error = raised


class Loop:
    """The same in an event loop, for one conversation: decisions are made in a thread beside it."""

    def __init__(self, guard: Guard, talk: Talk) -> None:
        self.guard, self.talk = guard, talk
        self._turn = asyncio.Lock()

    async def drive(
        self,
        call: ToolCall,
        run: Callable[[ToolCall], Awaitable[Answer]],
        ask: Callable[[str], Awaitable[bool]] | None = None,
    ) -> Reply:
        """The reply to `call`; see `drive`."""
        if self.guard.mode is not Mode.ENFORCE:
            return await self._drive(call, run, ask)
        async with self._turn:
            return await self._drive(call, run, ask)

    async def _drive(
        self,
        call: ToolCall,
        run: Callable[[ToolCall], Awaitable[Answer]],
        ask: Callable[[str], Awaitable[bool]] | None,
    ) -> Reply:
        steps = self.guard.script(self.talk, call)
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                step = steps.send(value) if error is None else steps.throw(error)
            except StopIteration as stop:
                return _reply(stop)
            value, error = None, None
            try:
                if isinstance(step, Decide):
                    value = await asyncio.to_thread(self._decide, step)
                elif isinstance(step, Run):
                    value = await asyncio.wait_for(run(step.call), step.within)
                else:
                    value = ask is not None and await ask(step.message) is True
            except BaseException as raised:
                error = raised

    def _decide(self, step: Decide) -> Any:
        return self.guard.decide(self.talk, step.call, may_look=step.may_look)


def _reply(stop: StopIteration) -> Reply:
    reply: Reply = stop.value
    return reply

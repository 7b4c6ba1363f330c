"""The guard in front of any MCP server: a proxy that any agent, in any language, talks to.

Built on fastmcp's proxy and middleware. The agent sees the server's own tools; every `tools/call`
goes through the guard. Where a person is to be asked, the agent's client is asked by MCP's
elicitation: pushed on handshake-era connections, returned as an input request on later ones.
"""

from __future__ import annotations

import hashlib
import secrets
import shlex
import shutil
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from bb_wm.errors import ConfigError, MissingExtraError
from bb_wm.serve.calls import Answer, Hints, ToolCall, canonical
from bb_wm.serve.driving import Loop
from bb_wm.serve.guard import Guard

try:
    import mcp_types
    from fastmcp import FastMCP
    from fastmcp.client.transports import StdioTransport
    from fastmcp.server import create_proxy
    from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext
    from fastmcp.tools.base import InputRequiredToolResult, ToolResult
except ImportError as error:
    raise MissingExtraError(
        "fastmcp", expected="the extra 'tools'", actual=error, hint='pip install "bb_wm[tools]"'
    ) from error

if TYPE_CHECKING:
    from fastmcp.server.context import Context

Era = Literal["mirror", "auto", "legacy"]
_MODERN: Final = "2026-07-28"
_ASKED: Final = "bb_wm_allow"
_OPEN_QUESTIONS: Final = 256
_FORM: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"value": {"type": "boolean", "title": "Allow this one call"}},
    "required": ["value"],
}


class _AskedError(Exception):
    """The question travels back to the client as the result of this request."""

    def __init__(self, result: InputRequiredToolResult) -> None:
        self.result = result


class GuardMiddleware(Middleware):
    """A guard as fastmcp middleware; `server` names what stands behind, for tools of one name.

    One conversation per middleware: a stdio proxy serves one agent. Hints are read when the agent
    lists the tools, or from the server at the first call of a tool.
    """

    def __init__(self, guard: Guard, *, server: str = "", says: Any = None) -> None:
        self.guard = guard
        self.server = server
        self._loop = Loop(guard, guard.begin())
        self._hints: dict[str, Hints] = {}
        self._questions: OrderedDict[str, str] = OrderedDict()
        self._says = says or (lambda line: None)

    def new_conversation(self) -> None:
        """What comes now has nothing to do with what was; the rows so far are kept."""
        self.guard.end(self._loop.talk)
        self._loop = Loop(self.guard, self.guard.begin())

    async def on_list_tools(self, context: MiddlewareContext[Any], call_next: Any) -> Any:
        """The server's own list, unchanged; its hints are noted."""
        tools = await call_next(context)
        for tool in tools:
            self._note(tool.name, tool.annotations)
        if not tools:
            self._says(
                "the server lists no tools; if it is built on mcp<2, start with --era legacy"
            )
        return tools

    async def on_call_tool(
        self,
        context: MiddlewareContext[mcp_types.CallToolRequestParams],
        call_next: CallNext[mcp_types.CallToolRequestParams, ToolResult],
    ) -> ToolResult:
        """The tool's result, or a refusal as an error result that the agent can read."""
        message = context.message
        call = ToolCall(
            message.name,
            message.arguments or {},
            await self._hints_of(message.name, context.fastmcp_context),
            self.server,
        )

        async def run(made: ToolCall) -> Answer:
            params = message
            if made is not call:  # a look-up of ours
                params = mcp_types.CallToolRequestParams(
                    name=made.name, arguments=dict(made.arguments)
                )
            started = time.perf_counter()
            result = await call_next(context.copy(message=params))
            return answer_of(result, time.perf_counter() - started)

        async def ask(question: str) -> bool:
            return await self._ask(call, question, context.fastmcp_context)

        try:
            reply = await self._loop.drive(call, run, ask)
        except _AskedError as asked:
            return asked.result
        if reply.answer is None:
            self._says(f"held {call.shown}: {reply.refusal}")
            return ToolResult(content=reply.refusal, is_error=True)
        result: ToolResult = reply.answer.raw
        return result

    # --- asking a person -------------------------------------------------------------------------

    async def _ask(self, call: ToolCall, question: str, context: Context | None) -> bool:
        if context is None:
            return False
        try:
            if not _is_modern(context):
                answer = await context.elicit(question, bool)
                return answer.action == "accept" and answer.data is True
        except Exception as error:  # a client that cannot ask has not said yes
            self._says(f"nobody could be asked: {type(error).__name__}")
            return False
        token = context.request_state
        expected = self._questions.pop(token, None) if token else None
        if token is None or expected is None or expected != _fingerprint(call):
            raise _AskedError(self._question(call, question))
        allowed = _allowed(context.input_responses)
        _keep_here(context)
        return allowed

    def _question(self, call: ToolCall, question: str) -> InputRequiredToolResult:
        """The question as a result; the answer counts once, and for this very call only."""
        token = secrets.token_urlsafe(24)
        self._questions[token] = _fingerprint(call)
        while len(self._questions) > _OPEN_QUESTIONS:
            self._questions.popitem(last=False)
        params = mcp_types.ElicitRequestFormParams(message=question, requested_schema=_FORM)
        request = mcp_types.ElicitRequest(params=params)
        return InputRequiredToolResult(
            mcp_types.InputRequiredResult(input_requests={_ASKED: request}, request_state=token)
        )

    # --- hints -----------------------------------------------------------------------------------

    def _note(self, name: str, annotations: Any) -> None:
        self._hints[name] = Hints(
            getattr(annotations, "read_only_hint", None),
            getattr(annotations, "destructive_hint", None),
        )

    async def _hints_of(self, name: str, context: Context | None) -> Hints:
        if name not in self._hints and context is not None:
            try:
                tool = await context.fastmcp.get_tool(name)
                self._note(name, None if tool is None else tool.annotations)
            except Exception:  # no hints is the cautious answer
                return Hints()
        return self._hints.get(name, Hints())


def answer_of(result: ToolResult, seconds: float) -> Answer:
    """What the guard looks at of an MCP result."""
    texts: list[str] = []
    kinds: dict[str, int] = {}
    for part in result.content or []:
        kind = str(getattr(part, "type", "text"))
        kind = "resource" if kind.startswith("resource") else kind
        kinds[kind] = kinds.get(kind, 0) + 1
        if kind == "text":
            texts.append(str(getattr(part, "text", "")))
    if result.structured_content is not None:
        kinds["structured"] = 1
    return Answer(tuple(texts), kinds, bool(result.is_error), seconds, raw=result)


def _is_modern(context: Context) -> bool:
    return bool(context._is_modern_protocol())


def _keep_here(context: Context) -> None:
    """The answer was to our question: the server behind must not be handed it. Where that cannot be
    done, the server refuses the state it does not know, and the call is not made."""
    params = getattr(getattr(context.request_context, "_srctx", None), "params", None)
    if isinstance(params, dict):
        for name in ("requestState", "inputResponses", "request_state", "input_responses"):
            params.pop(name, None)


def _allowed(responses: Mapping[str, Any] | None) -> bool:
    """Whether the client brought back a clear yes to our question."""
    response = (responses or {}).get(_ASKED)
    content = getattr(response, "content", None)
    accepted = getattr(response, "action", None) == "accept"
    return accepted and isinstance(content, Mapping) and content.get("value") is True


def _fingerprint(call: ToolCall) -> str:
    text = canonical([call.server, call.name, call.arguments])
    return hashlib.sha256((text or secrets.token_hex()).encode()).hexdigest()


def guarded_proxy(
    guard: Guard,
    server: str,
    *,
    era: Era = "mirror",
    says: Any = None,
    name: str = "",
) -> FastMCP[Any]:
    """An MCP server that passes on `server`'s tools through the guard.

    `server` is a command line (split as a shell would, run without one) or an http(s) URL. `era`
    is the protocol spoken to it: the agent's own ("mirror"), negotiated ("auto"), or "legacy" for
    servers built on mcp<2. `name` tells tools of one name on several servers apart: keep it the
    same from recording to enforcing.
    """
    mode = None if era == "mirror" else era
    proxy = create_proxy(transport_of(server), mode=mode, name="bb-wm")
    proxy.add_middleware(GuardMiddleware(guard, server=name, says=says))
    return proxy


def transport_of(server: str) -> Any:
    """What fastmcp connects to. Raises ConfigError where there is no command."""
    if server.startswith(("http://", "https://")):
        return server
    try:
        words = shlex.split(server)
    except ValueError as error:
        raise ConfigError("--server", expected="a command line", actual=error) from error
    if not words:
        raise ConfigError("--server", expected="a command line or a URL", actual=repr(server))
    if shutil.which(words[0]) is None:
        raise ConfigError(
            "--server",
            expected="a command that can be run, or an http(s) URL",
            actual=repr(words[0]),
            hint="is it installed, and on the PATH of this process?",
        )
    return StdioTransport(words[0], words[1:])

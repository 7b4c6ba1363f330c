"""`bb-wm mcp`: the guard in front of an MCP server, as an MCP server over stdio."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import tyro

from bb_wm.cli import runs
from bb_wm.cli.words import parse_words
from bb_wm.errors import ConfigError

if TYPE_CHECKING:
    from bb_wm.decide import Ledger
    from bb_wm.serve import Guard, Judge, LookUp, Recording
    from bb_wm.serve.harm import Harm
    from bb_wm.serve.loading import Loading

EXAMPLES: Final = """
Write this command where your agent's settings name the server's own command. The agent sees the
same tools. stdout belongs to the protocol; what bb-wm has to say goes to stderr.

  record    every call is made and recorded; then: bb-wm train OUT
  shadow    as record, and the run's gate decides beside every call; then: bb-wm ledger LEDGER
  enforce   only what the gate allows is made; the agent reads why a call was held

Examples
  bb-wm mcp --server "mcp-server-git --repository /src/app" --mode record --out rec/git
  bb-wm train rec/git --run runs/git --preset tiny --model.objective.safety 10
  bb-wm mcp --server "mcp-server-git --repository /src/app" --mode shadow --run runs/git \
      --out rec/git
  bb-wm mcp --server "mcp-server-git --repository /src/app" --mode enforce --run runs/git \
      --out rec/git --person

The gate is advisory: not a safety function in the sense of ISO 13849 / IEC 61508; it needs an
independent stop.
"""


@dataclass(frozen=True, slots=True)
class Arguments:
    """Stand between an agent and an MCP server: record its calls, judge them, hold some."""

    server: str
    """The server's command line (no shell is used), or its http(s) URL."""
    mode: Literal["record", "shadow", "enforce"] = "record"
    """What is done with decisions; see above."""
    run: str = ""
    """The run folder that `bb-wm train` made of recorded calls; shadow and enforce need it."""
    out: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: recordings/tools)")] = ""
    """The folder that calls are recorded in; several proxies may share it."""
    ledger: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: in the run folder)")] = ""
    """The SQLite file that decisions go to."""
    limit: float = 0.2
    """Largest risk bound of a call that is allowed: V_s of the row it leads to."""
    coverage: float = 0.95
    """Share of held-out calls whose true risk the bound must cover."""
    deadline: float = 1.0
    """Seconds a decision may take; later the call is held."""
    person: bool = False
    """Ask a person, through the agent's client, where that is worth it."""
    look_up: tuple[str, ...] = ()
    """Harmless tools, each NAME or NAME={JSON}, that may be called first for what they reveal:
    before every call that may destroy in record and shadow, where it is worth it in enforce."""
    look_first: float = 1.0
    """Share of the calls that may destroy before which record and shadow make a look-up."""
    harm: str = ""
    """MODULE:FUNCTION of yours that measures a call's harm: call -> (answer -> V_s)."""
    era: Literal["mirror", "auto", "legacy"] = "mirror"
    """Protocol spoken to the server; legacy for servers built on mcp<2."""
    name: str = ""
    """Tells tools of one name on several servers apart; the same from record to enforce."""


def parse(words: Sequence[str]) -> Arguments:
    """The flags of `bb-wm mcp`."""
    return parse_words(Arguments, words, command="bb-wm mcp", examples=EXAMPLES)


def run(arguments: Arguments) -> int:
    """Serve until the agent hangs up."""
    from bb_wm.serve.mcp_proxy import guarded_proxy

    guard = make_guard(arguments)
    proxy = guarded_proxy(
        guard, arguments.server, era=arguments.era, says=_say, name=arguments.name
    )
    _say(f"{arguments.mode}: {_where(arguments)}")
    try:
        proxy.run(transport="stdio", show_banner=False)
    finally:
        guard.close()
        if guard.problems:
            _say(f"{len(guard.problems)} problems of bb-wm's own, the last: {guard.problems[-1]}")
    return 0


def make_guard(arguments: Arguments) -> Guard:
    """The guard of these arguments, its model loading beside it. Raises ConfigError for what the
    arguments get wrong; without a model that can be read, enforce holds everything and shadow goes
    on, and both say so."""
    from bb_wm.decide import Gate
    from bb_wm.serve import Guard, GuardSettings, Recording

    if arguments.mode != "record" and not arguments.run:
        raise ConfigError("--run", expected=f"a run folder for {arguments.mode}", actual="none")
    looks = tuple(_look_up(word, arguments.name) for word in arguments.look_up)
    settings = GuardSettings(
        gate=Gate(limit=arguments.limit, max_age=3600.0, min_gain=-1.0),
        deadline=arguments.deadline,
        look_ups=looks,
        look_first=arguments.look_first,
        person=0.05 if arguments.person else None,
    )
    recording = Recording(arguments.out or "recordings/tools")
    return Guard(
        arguments.mode,
        recording=recording,
        judge=None if arguments.mode == "record" else _judge(arguments, recording, looks),
        ledger=None if arguments.mode == "record" else _ledger(arguments),
        settings=settings,
        harm=_harm(arguments.harm) if arguments.harm else None,
        report=_say,
    )


def _judge(arguments: Arguments, recording: Recording, looks: tuple[LookUp, ...]) -> Loading:
    from bb_wm.serve.loading import Loading

    folder = runs.open_run(arguments.run).folder
    if not 0.5 <= arguments.coverage < 1:
        raise ConfigError("--coverage", expected="within [0.5, 1)", actual=arguments.coverage)

    def load() -> Judge:
        from bb_wm.serve import Judge

        runs.use_threads(1)  # one call at a time; more threads cost more than they bring
        judge = Judge.load(
            folder,
            coverage=arguments.coverage,
            limit=arguments.limit,
            recording=recording,
            look_ups=looks,
        )
        _say(judge.summary())
        return judge

    goes_on = "every call is held" if arguments.mode == "enforce" else "calls go on"
    return Loading(load, lambda line: _say(f"{goes_on}; {line}"))


def _ledger(arguments: Arguments) -> Ledger:
    from bb_wm.decide import Ledger
    from bb_wm.serve.guard import ledger_path

    return Ledger(arguments.ledger or ledger_path(arguments.run))


def _look_up(word: str, server: str) -> LookUp:
    from bb_wm.serve import LookUp, ToolCall

    name, _, text = word.partition("=")
    try:
        arguments = json.loads(text) if text else {}
    except ValueError as error:
        raise ConfigError("--look-up", expected="NAME or NAME={JSON}", actual=word) from error
    if not name or not isinstance(arguments, dict):
        raise ConfigError("--look-up", expected="NAME or NAME={JSON}", actual=word)
    return LookUp(ToolCall(name, arguments, server=server))


def _harm(word: str) -> Harm:
    """The function that the person at the keyboard names; nothing else names modules."""
    from importlib import import_module

    module, _, name = word.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            "--harm", expected="MODULE:FUNCTION", actual=f"{word}: {error}"
        ) from error
    if not callable(found):
        raise ConfigError("--harm", expected="a function", actual=word)
    harm: Harm = found
    return harm


def _where(arguments: Arguments) -> str:
    out = arguments.out or "recordings/tools"
    return f"calls go to {out}" + (f", judged by {arguments.run}" if arguments.run else "")


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(f"bb-wm mcp: {line}", file=sys.stderr, flush=True)

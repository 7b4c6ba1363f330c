"""`bb-wm`: the house from a shell. Thin on purpose: it reads words, calls the library, prints.

Each command is a module with a frozen dataclass `Arguments` (its flags, by tyro), `parse(words)`
and `run(arguments) -> exit code`, imported only when asked for, so `bb-wm --help` is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from bb_wm.cli.process import prepare_process
from bb_wm.cli.shell import USAGE, guarded

COMMANDS: Final = {
    "worlds": "list what can be trained on, and what each world needs installed",
    "train": "collect rows from a world, learn its model, judge it, write a page",
    "resume": "go on with a run exactly where it stopped",
    "evaluate": "judge a run on its held-out episodes: the table and the page",
    "report": "diagnose a run: one page with verdicts, evidence, smells and every figure",
    "inspect": "watch a run while it trains: its page, kept up to date, on this machine",
    "promote": "say whether a new model may replace an old one, and record the verdict",
    "rollout": "draw what a run's model imagines beside what really happened",
    "check": "say whether data can be learnt from: shapes, ends, risk, alignment",
    "gate": "play a run's world behind a gate that may ask first; what does asking earn?",
    "mcp": "stand between an agent and an MCP server: record its calls, judge them, hold some",
    "ledger": "show what a gate decided, and whether its estimates came true",
}

_EXAMPLES: Final = """\
Examples
  bb-wm worlds
  bb-wm train Pendulum-v1 --preset tiny
  bb-wm evaluate runs/Pendulum-v1

Every command explains itself: bb-wm train --help
A command that fails says which value, what was expected, and what to do; --debug shows where.
"""


def overview() -> str:
    """The text of `bb-wm --help`."""
    lines = [f"  {name:<10}{what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: bb-wm COMMAND [options]",
            "",
            "Learn a compact world model, and see how far it can be believed.",
            "",
            "Commands",
            *lines,
            "",
            _EXAMPLES,
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code: 0 done, 1 failed, 2 usage or value, 3 the run folder
    is in the way, 130 / 143 interrupted."""
    prepare_process()
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    return guarded(lambda: _dispatch(words), command=_name(words), debug=debug)


def _name(words: list[str]) -> str:
    return f"bb-wm {words[0]}" if words and words[0] in COMMANDS else "bb-wm"


def _dispatch(words: list[str]) -> int:
    if not words:
        print(overview(), file=sys.stderr)
        return USAGE
    if words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] in ("-V", "--version"):
        from bb_wm import __version__

        print(f"bb-wm {__version__}")
        return 0
    if words[0] not in COMMANDS:
        return _unknown(words[0])
    module = import_module(f"bb_wm.cli.{words[0]}")
    arguments = module.parse(words[1:])
    return int(module.run(arguments))


def _unknown(word: str) -> int:
    from difflib import get_close_matches

    near = get_close_matches(word, COMMANDS, n=1)
    meant = f" Did you mean {near[0]!r}?" if near else ""
    kind = "option" if word.startswith("-") else "command"
    print(f"bb-wm: unknown {kind} {word!r}.{meant}", file=sys.stderr)
    print(f"Commands: {', '.join(COMMANDS)}. More: bb-wm --help", file=sys.stderr)
    return USAGE

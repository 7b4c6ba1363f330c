"""`bb-wm ledger PATH`: what a gate decided, and whether its estimates came true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import tyro

from bb_wm.cli import runs
from bb_wm.cli.words import parse_words

EXAMPLES: Final = """
A gate that keeps a ledger writes every decision before it is given out; outcomes are added when
they are known. EVSI is judged on forced pairs and lots only, never on the gate's own choices: those
would be a selected sample. The exit code is 1 when an alarm stands, for scripts.

Examples
  bb-wm ledger decisions.sqlite
  bb-wm ledger decisions.sqlite --newest 50
"""


@dataclass(frozen=True, slots=True)
class Arguments:
    """Show a gate's ledger: counts, estimated against realised gain, alarms, newest decisions."""

    path: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PATH")]
    """The ledger's SQLite file."""
    newest: int = 20
    """How many of the newest decisions to list."""


def parse(words: Sequence[str]) -> Arguments:
    """The flags of `bb-wm ledger`."""
    return parse_words(Arguments, words, command="bb-wm ledger", examples=EXAMPLES)


def run(arguments: Arguments) -> int:
    """Print the report; 1 when an alarm stands."""
    from bb_wm.decide import read_ledger

    runs.check_count("--newest", arguments.newest, least=0)
    report = read_ledger(arguments.path, limit=arguments.newest)
    print(report.text)
    return 1 if report.alarms else 0

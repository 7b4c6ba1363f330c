"""`bb-wm worlds`: what can be trained on by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bb_wm.cli.words import parse_words

if TYPE_CHECKING:
    from bb_wm.worlds.catalogue import World

EXAMPLES: Final = """
Examples
  bb-wm worlds
  bb-wm worlds --domain robot
  bb-wm worlds --missing
  bb-wm train Reacher-v5

Other names work too: any Gymnasium id (bb-wm train Taxi-v4), "dm_control/TASK-v0", "safety/TASK",
an id of gym-electric-motor (Cont-TC-SCIM-v0), and "module:Env-v0" for one of yours.
"""

_HEADINGS: Final[dict[str, str]] = {
    "exact": "exact (small worlds of ours whose answers are known)",
    "factory": "factory (electric drives and a chemical reactor)",
    "robot": "robot (risk from physics)",
    "ui": "ui (user interfaces)",
}


@dataclass(frozen=True, slots=True)
class Arguments:
    """List the worlds known by name: what their risk means, and what they need installed."""

    domain: str = ""
    """Only the worlds of this domain."""
    missing: bool = False
    """Only the worlds that lack something here."""


def parse(words: Sequence[str]) -> Arguments:
    """The flags of `bb-wm worlds`."""
    return parse_words(Arguments, words, command="bb-wm worlds", examples=EXAMPLES)


def run(arguments: Arguments) -> int:
    """Print the list."""
    from bb_wm.errors import ConfigError
    from bb_wm.worlds.catalogue import list_worlds

    worlds = list_worlds()
    domains = sorted({world.domain for world in worlds})
    if arguments.domain and arguments.domain not in domains:
        raise ConfigError(
            "--domain", expected=f"one of {', '.join(domains)}", actual=arguments.domain
        )
    shown = [world for world in worlds if arguments.domain in ("", world.domain)]
    if arguments.missing:
        shown = [world for world in shown if not world.installed]
    if not shown:
        print("Everything that these worlds need is installed.")
        return 0
    print(_listing(shown))
    lacking = dict.fromkeys(world.install for world in shown if not world.installed)
    if lacking:
        print("\nTo install what is missing:")
        print("\n".join(f"  {line}" for line in lacking))
    ready = next((world for world in shown if world.installed), None)
    if ready is not None:
        print("\nTrain on one: bb-wm train", ready.name)
    return 0


def _listing(worlds: Sequence[World]) -> str:
    """One block a domain, one world a line with what it needs, and what its risk is below."""
    blocks = []
    for domain in dict.fromkeys(world.domain for world in worlds):
        lines = [_HEADINGS.get(domain, domain)]
        for world in (world for world in worlds if world.domain == domain):
            state = "installed" if world.installed else f"missing: {world.install}"
            lines.append(f"  {world.name}   [needs {world.needs}; {state}]")
            lines.append(f"      risk: {world.risk_description}")
            if world.note:
                lines.append(f"      {world.note}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)

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
  bb-wm train Reacher-v5

Any other Gymnasium id works too (bb-wm train Ant-v5), and "module:Env-v0" for one of yours.
"""

_HEADINGS: Final[dict[str, str]] = {
    "exact": "exact (small worlds of ours whose answers are known)",
    "ui": "ui (user interfaces)",
}


@dataclass(frozen=True, slots=True)
class Arguments:
    """List the worlds known by name: what their risk means, and what they need installed."""

    domain: str = ""
    """Only the worlds of this domain."""


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
    print(_listing(shown))
    print("\nTrain on one: bb-wm train", shown[0].name)
    return 0


def _listing(worlds: Sequence[World]) -> str:
    """One block a domain, one world a line, what it lacks and what its risk is below."""
    blocks = []
    for domain in dict.fromkeys(world.domain for world in worlds):
        lines = [_HEADINGS.get(domain, domain)]
        for world in (world for world in worlds if world.domain == domain):
            here = "" if world.installed else f'   needs: pip install "bb_wm[{world.needs}]"'
            lines.append(f"  {world.name}{here}")
            lines.append(f"      risk: {world.risk_description}")
            if world.note:
                lines.append(f"      {world.note}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)

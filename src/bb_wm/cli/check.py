"""`bb-wm check DATA`: can this be learnt from?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final

import tyro

from bb_wm.cli import runs
from bb_wm.cli.origins import Reading, find_origin
from bb_wm.cli.words import parse_words

EXAMPLES: Final = """
DATA is a folder of .npz files (one episode each), one .npz, a Minari dataset, a .csv or .parquet
table, a run (its rows), or a world's name: then rows are collected and looked at. Every row is
checked as strictly as in training. The alignment probe then asks whether the action of row t leads
to row t + 1: shifted rows are the commonest silent mistake, and losses fall all the same.

Examples
  bb-wm check logs/line_four/
  bb-wm check plant.csv --rewards arriving --columns.obs heat pressure --columns.action valve
  bb-wm check Pendulum-v1

Exit code 0: usable, read the findings; 1: not usable, and why.
"""


@dataclass(frozen=True, slots=True)
class Arguments:
    """Say whether data can be learnt from: shapes, episode ends, reward, risk, alignment."""

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """A path to recorded episodes, or a world's name."""
    rows: int = 4_000
    """Rows that are collected from a world; a path is read whole."""
    seed: int = 0
    """The chance of collecting and of the probe."""
    reading: Annotated[Reading, tyro.conf.arg(name="")] = field(default_factory=Reading)


def parse(words: Sequence[str]) -> Arguments:
    """The flags of `bb-wm check`."""
    return parse_words(Arguments, words, command="bb-wm check", examples=EXAMPLES)


def run(arguments: Arguments) -> int:
    """Read or collect, describe, probe."""
    from bb_wm.data import probe_alignment
    from bb_wm.diagnose.rows import describe_rows

    runs.check_count("--rows", arguments.rows, least=2)
    origin = find_origin(arguments.data, seed=arguments.seed, reading=arguments.reading)
    episodes = origin.read(arguments.rows)
    report = describe_rows(episodes)
    print(report.table(origin.obs_spec, origin.action_spec).text())
    probe = probe_alignment(episodes, seed=arguments.seed)
    names = {-1: "t-1", 0: "t", 1: "t+1"}
    losses = ", ".join(f"{names[shift]} {loss:.3f}" for shift, loss in probe.losses.items())
    print(f"\nAlignment: {probe.verdict}. {probe.reason[:1].upper()}{probe.reason[1:]}.")
    print(f"  Error of row t+1 when told the action of row: {losses} (1: it tells nothing)")
    for finding in report.findings:
        print(f"\nNote: {finding}")
    probe.raise_if_shifted()
    print(f"\nUsable: bb-wm train {arguments.data}")
    return 0

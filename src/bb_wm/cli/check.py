"""`bb-wm check DATA`: can this be learnt from, and what is to be fixed first?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import tyro

from bb_wm.cli import runs
from bb_wm.cli.origins import Origin, Reading, find_origin
from bb_wm.cli.words import parse_words

if TYPE_CHECKING:
    from bb_wm.types import Episode
    from bb_wm.worlds.checker import Finding

EXAMPLES: Final = """
DATA is a folder of .npz files (one episode each), one .npz, a Minari dataset, a .csv or .parquet
table, a run (its rows), or the name of a world or of your own environment ("module:Env-v0"): that
is played, looked at, and rows are collected from it. Every row is checked as strictly as in
training. The alignment probe then asks whether the action of row t leads to row t + 1: shifted
rows are the commonest silent mistake, and losses fall all the same.

Examples
  bb-wm check logs/line_four/
  bb-wm check plant.csv --rewards arriving --columns.obs heat pressure --columns.action valve
  bb-wm check Pendulum-v1
  bb-wm check my_robot.envs:Arm-v0
  bb-wm check logs/arm/ --fallback 0 0      (for a gate that falls back to no torque)

Exit code 0: usable, read what to fix; 1: not usable, and why.
"""


@dataclass(frozen=True, slots=True)
class Arguments:
    """Say whether data can be learnt from: spaces, episode ends, reward, risk, alignment."""

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """A path to recorded episodes, or the name of a world or environment."""
    rows: int = 4_000
    """Rows that are collected from a world; a path is read whole."""
    seed: int = 0
    """The chance of collecting and of the probe."""
    fallback: tuple[float, ...] = ()
    """The action that a gate will do instead of one it holds: is there enough of it to learn from?
    Its numbers in order, or the index of a choice."""
    reading: Annotated[Reading, tyro.conf.arg(name="")] = field(default_factory=Reading)


def parse(words: Sequence[str]) -> Arguments:
    """The flags of `bb-wm check`."""
    return parse_words(Arguments, words, command="bb-wm check", examples=EXAMPLES)


def run(arguments: Arguments) -> int:
    """Play where there is something to play, read or collect, describe, probe, judge."""
    from bb_wm.data import probe_alignment
    from bb_wm.diagnose.rows import describe_rows
    from bb_wm.worlds.checker import check_episodes, verdict
    from bb_wm.worlds.falling_back import check_fallback

    runs.check_count("--rows", arguments.rows, least=2)
    found = _environment(arguments)
    origin = find_origin(arguments.data, seed=arguments.seed, reading=arguments.reading)
    episodes = origin.read(arguments.rows)
    report = describe_rows(episodes)
    print(report.table(origin.obs_spec, origin.action_spec).text())
    print(_events(episodes))
    probe = probe_alignment(episodes, seed=arguments.seed)
    names = {-1: "t-1", 0: "t", 1: "t+1"}
    losses = ", ".join(f"{names[shift]} {loss:.3f}" for shift, loss in probe.losses.items())
    print(f"\nAlignment: {probe.verdict}. {probe.reason[:1].upper()}{probe.reason[1:]}.")
    print(f"  Error of row t+1 when told the action of row: {losses} (1: it tells nothing)")
    for finding in report.findings:
        print(f"\nNote: {finding}")
    found += check_episodes(episodes)
    found += _tools(arguments.data, episodes)
    if arguments.fallback:
        found += check_fallback(episodes, origin.action_spec, _action(origin, arguments.fallback))
    _print(found)
    probe.raise_if_shifted()
    print(f"\nVerdict: {verdict(found)}.")
    print(f"Usable: bb-wm train {arguments.data}")
    return 0


def _action(origin: Origin, numbers: Sequence[float]) -> Any:
    """The numbers of --fallback in the environment's own form."""
    parts = origin.action_spec.parts
    if len(parts) == 1 and parts[0].kind == "discrete" and len(numbers) == 1:
        return int(numbers[0])
    return list(numbers)


def _tools(path: str, episodes: Sequence[Episode]) -> list[Finding]:
    """Of recorded tool calls: the tools whose harmful calls cannot be told from the others yet."""
    from bb_wm.serve import Recording
    from bb_wm.serve.experience import Experience
    from bb_wm.serve.telling import RECORD, thin_tools
    from bb_wm.worlds.checker import Finding

    if not all(any(key.startswith("tools_v") for key in episode.obs) for episode in episodes):
        return []
    fix = f"{RECORD}; until then all of its calls are held (docs/tools.md)"
    names = Recording.names_in(path)
    return [
        Finding("tool", "fix", line, fix) for line in thin_tools(Experience.of(episodes), names)
    ]


def _environment(arguments: Arguments) -> list[Finding]:
    """What is found by playing the environment of this name; nothing for a path.

    Raises DataError where it cannot be learnt from, after everything was printed.
    """
    if "\0" in arguments.data or Path(arguments.data).exists():
        return []
    from bb_wm.errors import DataError
    from bb_wm.worlds.catalogue import make_world
    from bb_wm.worlds.checker import check_environment, verdict

    maker, world = make_world(arguments.data)
    other = "" if world.env_id == arguments.data else f" (made by {world.env_id})"
    print(f"Environment: {arguments.data}{other}\n  risk: {world.risk_description}\n")
    found = check_environment(maker, risk=world.risk, seed=arguments.seed)
    stops = [finding for finding in found if finding.grade == "stop"]
    if stops:
        _print(found)
        print(f"\nVerdict: {verdict(found)}.")
        first = stops[0]
        raise DataError(
            first.topic, expected="what can be learnt from", actual=first.what, hint=first.fix
        )
    return found


def _events(episodes: Sequence[Episode]) -> str:
    from bb_wm.worlds.checker import count_events

    events = count_events(episodes)
    low, high = events.rate
    return (
        f"  events: risk sets in {events.onsets} times, in {events.episodes} of {events.of} "
        f"episodes ({low:.2%} to {high:.2%} of rows at 95 %)"
    )


def _print(found: Sequence[Finding]) -> None:
    words = {"stop": "Stop", "fix": "To fix", "note": "Note"}
    for grade, word in words.items():
        for finding in found:
            if finding.grade == grade:
                print(f"\n{word}: {finding.line}")

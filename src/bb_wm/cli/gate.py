"""`bb-wm gate RUN`: a learned model behind a gate plays its world, beside simpler habits."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np
import tyro

from bb_wm.cli import runs
from bb_wm.cli.shell import near
from bb_wm.cli.words import parse_words
from bb_wm.errors import ConfigError

if TYPE_CHECKING:
    from bb_wm.decide.consult import Consulted, Strategy
    from bb_wm.worlds.asking import AskingWorld

EXAMPLES: Final = """
The gate asks where the answer is worth more than it costs (EVSI), acts where acting is worth it and
within the risk limit, and holds otherwise. Every strategy plays the same episodes with the same
model. Decisions and what they earned go to a ledger: bb-wm ledger shows it.

Examples
  bb-wm train ToolDesk --batch-size 128 --length 6 --updates 4500 --rows 600000
  bb-wm gate runs/ToolDesk
  bb-wm gate runs/ToolDesk --episodes 1000 --depth 1 --limit 0.3
"""
THRESHOLDS: Final = (0.7, 0.8, 0.9)


@dataclass(frozen=True, slots=True)
class Arguments:
    """Play the world of a run with its model behind a gate; what does asking first earn?"""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder, such as runs/ToolDesk."""
    episodes: int = 300
    """How many episodes each strategy plays."""
    particles: int = 8
    """How many beliefs are drawn beside each other and averaged."""
    depth: int = 2
    """How many calls are looked ahead, 1..4; each makes a decision some ten times slower."""
    limit: float = 1.0
    """Largest risk bound of anything done; on ToolDesk the chance of a wrong commit."""
    seed: int = 0
    """Which episodes."""
    ledger: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: RUN/ledger.sqlite)")] = ""
    """Where decisions go on record."""
    checkpoint: runs.Which = "newest"
    """The newest, or the one with the smallest held-out error."""
    threads: int = 0
    """Processor threads of the model; 0 leaves it to PyTorch."""


def parse(words: Sequence[str]) -> Arguments:
    """The flags of `bb-wm gate`."""
    return parse_words(Arguments, words, command="bb-wm gate", examples=EXAMPLES)


def run(arguments: Arguments) -> int:
    """Play every strategy and print what each earned."""
    runs.use_threads(arguments.threads)
    runs.check_count("--episodes", arguments.episodes, least=2)
    runs.check_count("--particles", arguments.particles, least=2)
    from bb_wm.worlds.asking import asking_world

    here = runs.open_run(arguments.run)
    name = str(here.world.get("name", ""))
    world = asking_world(name)
    if world is None:
        raise ConfigError(
            "RUN",
            expected="a run of a world in which something can be asked (ToolDesk)",
            actual=f"a run of {name or 'recorded rows'}",
            hint="for a world of your own: bb_wm.decide.consult, docs/evsi.md.",
        )
    path = Path(arguments.ledger) if arguments.ledger else here.folder / "ledger.sqlite"
    _Desk(arguments, world, name, path).play()
    return 0


class _Desk:
    """One evening at the desk: the strategies, their table, the ledger."""

    def __init__(self, arguments: Arguments, world: AskingWorld, name: str, path: Path) -> None:
        from bb_wm.decide import Asker, AskTree, Gate
        from bb_wm.imagine import Utility

        self.arguments, self.world, self.name, self.path = arguments, world, name, path
        self.model = runs.load_model(runs.open_run(arguments.run), arguments.checkpoint)
        tree = AskTree(depth=arguments.depth, draw=True, utility=Utility(abstain=0.0))
        known = (self.model, world.candidates, world.names, world.asks)
        self.asker = Asker(*known, tree=tree, policy=name)
        self.plain = Asker(*known, tree=tree, weigh=False, policy=name)
        self.gate = Gate(limit=arguments.limit, max_age=1.0, clock=lambda: 0.0)

    def play(self) -> None:
        from bb_wm.decide.consult import always, confident, never

        names = [ask.name for ask in self.world.asks]
        print(f"{'strategy':<36}{'return':>9}{'se':>7}{'risk':>7}  " + "calls per episode")
        self._line("gate (this model)", self._gated())
        self._line("never ask", self._consult(never(self.gate)))
        for ask in names:
            self._line(f"always ask {ask}", self._consult(always(self.gate, ask)))
        best = max(
            (
                (
                    f"ask {ask} until {level:.0%} sure",
                    self._consult(confident(self.gate, ask, level)),
                )
                for ask in names
                for level in THRESHOLDS
            ),
            key=lambda pair: float(pair[1].returns.mean()),
        )
        self._line(f"best threshold: {best[0]}", best[1])
        for title, value in self.world.known().items():
            print(f"{title:<36}{value:9.3f}")
        print(f"\nDecisions: {near(self.path)}  (bb-wm ledger {near(self.path)})")

    def _gated(self) -> Consulted:
        """The gate's episodes, every decision on record with what it earned."""
        from bb_wm.decide import Decision, Evidence, Ledger, decide_and_record
        from bb_wm.decide.consult import gated

        with Ledger(self.path, durable=False) as ledger:

            def decide(evidence: Evidence) -> Decision:
                return decide_and_record(self.gate, ledger, evidence, context={"world": self.name})

            found = self._consult(gated(self.gate, decide), weigh=True)
            for decision_id, earned in found.earned:
                ledger.outcome(decision_id, earned)
        return found

    def _consult(self, strategy: Strategy, *, weigh: bool = False) -> Consulted:
        from bb_wm.decide.consult import DrawnBelief, consult
        from bb_wm.worlds.catalogue import make_world

        maker, _ = make_world(self.name)
        envs = [maker(**self.world.make) for _ in range(self.arguments.episodes)]
        started = time.monotonic()
        try:
            asker = self.asker if weigh else self.plain
            believe = DrawnBelief(
                self.model.encode, self.model.noise_size, particles=self.arguments.particles
            )
            found = consult(
                envs, believe, asker, strategy, self.world.hold, seed=self.arguments.seed
            )
        finally:
            for env in envs:
                env.close()
        if weigh and sys.stderr.isatty():
            print(f"(the gate took {time.monotonic() - started:.0f} s)", file=sys.stderr)
        return found

    def _line(self, title: str, found: Consulted) -> None:
        count = len(found.returns)
        error = float(np.std(found.returns, ddof=1)) / count**0.5
        calls = ", ".join(
            f"{ask.name} {float(found.asked[:, k].mean()):.2f}"
            for k, ask in enumerate(self.world.asks)
        )
        print(
            f"{title:<36}{found.returns.mean():9.3f}{error:7.3f}{found.risks.mean():7.3f}  {calls}",
            flush=True,
        )

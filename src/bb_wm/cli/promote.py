"""`bb-wm promote NEW --over OLD --on DATA`: may the new model replace the old one?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import tyro

from bb_wm.cli import runs
from bb_wm.cli.origins import Reading, find_origin
from bb_wm.cli.report import draw_promotions, promotions_of
from bb_wm.cli.shell import near
from bb_wm.cli.words import parse_words
from bb_wm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from bb_wm.diagnose.promotion.result import Outcome
    from bb_wm.learn.run import Run
    from bb_wm.rssm import WorldModel
    from bb_wm.types import Episode

EXIT_CODES: Final = {"PROMOTE": 0, "BLOCK": 1, "REFUSE": 4}

EXAMPLES: Final = """
Both models plan from the same held-out states, with the same planner and the same luck; both risk
heads are calibrated on the same true risks. PROMOTE if risk does not rise: the upper bound of the
95th percentile of Delta V_s is within the tolerance, the new head is not blind where the old one
saw risk, and the preferences stay within the trust region. REFUSE if there are too few episodes, or
too few with risk, to tell. NEW and OLD are run folders or saved models; DATA are episodes that
neither was trained on: for a run, its held-out ones.

Examples
  bb-wm promote runs/plant-2 --over runs/plant --on runs/plant
  bb-wm promote runs/arm-7 --over models/arm --on logs/june/ --horizon 8 --risk-weight 5

Exit code 0: PROMOTE; 1: BLOCK (or a failure: then no verdict is printed and none recorded); 4:
REFUSE; 2: a wrong value; 3: a run folder or a model that cannot be read.
"""


@dataclass(frozen=True, slots=True)
class Arguments:
    """Say whether a new model may replace an old one, and record the verdict for good."""

    new: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NEW")]
    """The new model: a run folder, or a folder that WorldModel.save wrote."""
    over: str
    """The old model, likewise."""
    on: str
    """Held-out episodes: a path to recorded ones, or a run (its held-out ones)."""
    checkpoint: runs.Which = "newest"
    """Of runs: the newest model, or the one with the smallest held-out error."""
    horizon: int = 10
    """Rows planned ahead; what the deployed planner uses."""
    candidates: int = 64
    """Candidates per round of the cross-entropy planner."""
    discount: float = 0.99
    """Of the return."""
    risk_weight: float = 1.0
    """What a unit of V_s to go costs in the utility that both models plan for."""
    limit: float | None = None
    """Largest V_s to go that a plan may have to be carried out; none by default."""
    states: int = 400
    """At most so many held-out states are compared."""
    trust: float = 0.8
    """Largest KL(new || old) of the preferences, in nats; 1 is nothing in common."""
    seed: int = 0
    """Of states, plans and resampling."""
    record: str = "promotions"
    """Folder of the chained record of verdicts."""
    threads: int = 0
    """Processor threads of the models; 0 leaves it to PyTorch."""
    reading: Annotated[Reading, tyro.conf.arg(name="")] = field(default_factory=Reading)


def parse(words: Sequence[str]) -> Arguments:
    """The flags of `bb-wm promote`."""
    return parse_words(Arguments, words, command="bb-wm promote", examples=EXAMPLES)


def run(arguments: Arguments) -> int:
    """Compare, print, record; the exit code says the verdict."""
    from bb_wm.decide.planners import CEM
    from bb_wm.diagnose.promotion import PromotionLog, PromotionRule, digest_model, promote
    from bb_wm.imagine.utility import Limit, Utility

    runs.use_threads(arguments.threads)
    for flag in ("horizon", "candidates", "states"):
        runs.check_count(f"--{flag}", getattr(arguments, flag))
    planner = CEM(
        horizon=arguments.horizon,
        candidates=arguments.candidates,
        elites=max(1, arguments.candidates // 8),
        rounds=3,
        samples=4,
    )
    utility = Utility(
        discount=arguments.discount,
        risk_weight=arguments.risk_weight,
        limit=None if arguments.limit is None else Limit(arguments.limit),
    )
    rule = PromotionRule(states=arguments.states, trust=arguments.trust, seed=arguments.seed)
    new, old = (_load(path, arguments.checkpoint) for path in (arguments.new, arguments.over))
    digests = [digest_model(model) for model in (new[0], old[0])]
    episodes = _episodes(arguments, old[0])
    data = _check_held_out(episodes, (new, old))
    log = PromotionLog(arguments.record)
    log.entries()  # a damaged record is found before the work, not after it
    found = promote(new[0], old[0], episodes, planner=planner, utility=utility, rule=rule)
    entry = log.append(
        found,
        new={"path": arguments.new, "digest": digests[0]},
        old={"path": arguments.over, "digest": digests[1]},
        data={"path": arguments.on, "digest": data},
    )
    if new[1] is not None:
        draw_promotions(new[1], promotions_of(digests[0], arguments.record))
    print(found.text)
    place = near(log.folder / f"{entry.number:06d}.json")
    print(f"\nRecorded: {place}, SHA-256 {entry.digest}")
    return exit_code(found.outcome)


def exit_code(outcome: Outcome) -> int:
    """0 PROMOTE, 1 BLOCK, 4 REFUSE."""
    return EXIT_CODES[outcome.value]


def _load(path: str, which: runs.Which) -> tuple[WorldModel, Run | None]:
    """The model of a run, or a saved one, and the run if there is one."""
    from bb_wm.learn.run import is_run
    from bb_wm.rssm import WorldModel

    if is_run(path):
        here = runs.open_run(path)
        return runs.load_model(here, which), here
    return WorldModel.load(path), None


def _episodes(arguments: Arguments, model: WorldModel) -> Sequence[Episode]:
    """The held-out episodes DATA names."""
    from bb_wm.learn.run import is_run

    if not Path(arguments.on).exists():
        raise ConfigError("--on", expected="recorded episodes or a run", actual=arguments.on)
    if is_run(arguments.on):
        return runs.rows_of(runs.open_run(arguments.on), model, heldout=True)
    origin = find_origin(arguments.on, seed=arguments.seed, reading=arguments.reading)
    for name in ("obs_spec", "action_spec"):
        if getattr(origin, name) != getattr(model, name):
            raise DataError(
                f"--on {name}", expected="the models' own", actual=f"another in {arguments.on}"
            )
    return origin.recorded or ()


def _check_held_out(
    episodes: Sequence[Episode], models: Sequence[tuple[WorldModel, Run | None]]
) -> str:
    """The digest of the data. Raises DataError where a model's run was trained on any of them."""
    from bb_wm.diagnose.promotion.record import digest_episode, digest_episodes

    if not episodes:
        raise DataError("--on", expected="held-out episodes", actual="none")
    mine = {digest_episode(episode) for episode in episodes}
    for model, here in models:
        if here is None:
            continue
        learnt = runs.rows_of(here, model, heldout=False)
        shared = sum(digest_episode(episode) in mine for episode in learnt)
        if shared:
            raise DataError(
                "--on",
                expected="episodes that neither model was trained on",
                actual=f"{shared} that {here.folder.name} learnt from",
                hint="record new ones, or name the run itself for its held-out ones.",
            )
    return digest_episodes(episodes)

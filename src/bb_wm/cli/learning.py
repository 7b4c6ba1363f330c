"""Training a run to its end and judging it: what `train`, `resume` and `evaluate` share."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bb_wm.cli import runs
from bb_wm.cli.shell import near
from bb_wm.learn.run import Run

if TYPE_CHECKING:
    from bb_wm.learn.callbacks import Callback
    from bb_wm.learn.settings import TrainSettings
    from bb_wm.learn.sources import EpisodeSource
    from bb_wm.rssm import WorldModel
    from bb_wm.types import Episode


def learn(run: Run, model: WorldModel, source: EpisodeSource, settings: TrainSettings) -> int:
    """Train `run` until `settings.updates`, then judge it; the exit code."""
    from bb_wm.learn.smell_watch import SmellWatch
    from bb_wm.learn.trainer import Trainer

    display, curves = _watchers()
    watch = SmellWatch(live_smells, tell=[display], draw=curves)
    trainer = Trainer(
        run,
        model,
        source,
        settings,
        evaluate=watch.judging(held_out_numbers),
        callbacks=[display, *curves, watch],
    )
    result = trainer.train()
    if result.exit_code:
        print(f"{result.report} Go on with: bb-wm resume {near(run.folder)}", file=sys.stderr)
        return result.exit_code
    return judge(run, model)


def held_out_numbers(model: WorldModel, episodes: Sequence[Episode]) -> Mapping[str, float]:
    """What is followed while training: NRMSE by horizon on both paths, exact matches of discrete
    keys; what this world does not have is left out."""
    from bb_wm.diagnose import evaluate

    evaluation = evaluate(model, episodes)
    found: dict[str, float] = {}
    for mode, prefix in (("mode", ""), ("shortcut", "shortcut_")):
        path = evaluation.path(mode)
        k = evaluation.headline
        found |= {f"{prefix}nrmse_{h}": path.nrmse[h - 1] for h in evaluation.horizons}
        found |= {f"{prefix}exact_{key}_{k}": rates[k - 1] for key, rates in path.exact.items()}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def live_smells(model: WorldModel, episodes: Sequence[Episode]) -> Mapping[str, str]:
    """What is said of every smell that held-out rows can show while training; "" where clear."""
    from bb_wm.diagnose.diagnosis import glance

    smells = glance(model, episodes)
    return {smell.name: smell.sentence() if smell.found else "" for smell in smells}


def judge(run: Run, model: WorldModel, *, windows: int = 300) -> int:
    """Print the held-out table and found smells, write report.json and the page; the exit code."""
    from bb_wm.cli.report import examine, publish, trusting

    heldout = runs.rows_of(run, model, heldout=True)
    if not heldout:
        print(f"No rows are held out in {near(run.folder)}: nothing to judge on.", file=sys.stderr)
        return 0
    report = trusting(run, model, examine(run, model, heldout, windows=windows), heldout)
    page = publish(run, model, report, heldout)
    print(report.evaluation.table())
    if report.trusted is not None:
        print(f"\nTrust: {report.trusted.sentence()}")
    print(f"Page: {page}")
    print(f"Run:  {near(run.folder)}")
    print(f"Next: bb-wm rollout {near(run.folder)}")
    for smell in report.found:
        print(f"Smell: {smell.sentence()}", file=sys.stderr)
    return 0


def _watchers() -> tuple[Callback, list[Callback]]:
    """Who shows training to a person: the display, and the curves where they can be drawn."""
    from bb_wm.learn.progress import ProgressDisplay
    from bb_wm.learn.tensorboard import TensorBoard

    curves = TensorBoard.if_installed()
    return ProgressDisplay(), [curves] if curves else []

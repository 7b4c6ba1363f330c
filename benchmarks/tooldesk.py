"""A learned gate on ToolDesk beside the exact ones: python -m benchmarks.tooldesk --help.

The default model learns from episodes of a random play, sampled rewards only. It then plays: at
every history the worth of each tool is summed over its possible answers as the model predicts them
(one call, or looking one call further ahead), and `Gate` decides ACT (commit), ASK or HOLD (hand
off). The score is exact: every history the gate can reach is walked, rewards are expected under the
true belief (`bb_wm.testing.tooldesk_score`). Only the tools' interface is given to the gate, their
prices and what they may answer; how often they are right, or that C tells nothing, is learned.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bb_wm.config import Categorical, WorldModelConfig
from bb_wm.decide import Ledger, read_ledger
from bb_wm.rssm import WorldModel
from bb_wm.testing import tooldesk_exact as exact
from bb_wm.testing.tooldesk_score import Score, score
from bb_wm.worlds import tooldesk
from bb_wm.worlds.tooldesk import CALLS, Desks
from benchmarks.tooldesk_play import WORTHS, LearnedPlay, forced_pairs

# --- learning -------------------------------------------------------------------------------------


def batch_of(desks: Desks, rows: np.ndarray) -> dict[str, Any]:
    """Some of the episodes as the mapping that `WorldModel.update` takes."""
    steps = np.arange(CALLS + 2)
    length = desks.length[rows, None]
    return {
        "obs": {k: v[rows] if v.ndim == 3 else v[rows][..., None] for k, v in desks.obs.items()},
        "action": desks.flat_action[rows],
        "reward": desks.reward[rows],
        "safety": desks.safety[rows],
        "terminated": steps == length - 1,
        "is_first": np.broadcast_to(steps == 0, (rows.size, CALLS + 2)).copy(),
        "valid": steps < length,
    }


def train(
    model: WorldModel, desks: Desks, *, seconds: float, updates: int, batch: int, seed: int
) -> float:
    """Updates in shuffled passes until either limit; gives the seconds of processor time used."""
    generator = np.random.default_rng(seed)
    started = time.process_time()
    while True:
        order = generator.permutation(len(desks))
        for first in range(0, len(desks) - batch + 1, batch):
            used = time.process_time() - started
            if model.updates >= updates or used > seconds:
                return used
            part = take(desks, order[first : first + batch])
            loss, metrics = model.update(batch_of(part, np.arange(batch)))
            if model.updates % 500 == 0:
                print(
                    f"  update {model.updates}: loss {loss:.4f}, reward "
                    f"{metrics.get('reward', float('nan')):.4f}, {used:.0f} s",
                    flush=True,
                )


def take(desks: Desks, rows: np.ndarray) -> Desks:
    return Desks(
        {key: value[rows] for key, value in desks.obs.items()},
        desks.action[rows],
        desks.reward[rows],
        desks.safety[rows],
        desks.length[rows],
    )


# --- the table ------------------------------------------------------------------------------------

SHOWN = (
    ("bayes_optimal", "exact optimum"),
    ("two_call_lookahead", "exact two-call lookahead"),
    ("batch_evsi_n3", "exact batch EVSI, n <= 3"),
    ("myopic_exact_evsi", "exact one-call EVSI"),
    ("maxprob<0.9_B", "best confidence threshold"),
    ("always_A4", "best static policy"),
    ("never", "never ask"),
    ("latent_evpi", "latent EVPI"),
)


def exact_lines() -> list[str]:
    table = exact.gates()
    lines = []
    for name, title in SHOWN:
        value = exact.mean_value(table[name])
        lines.append(f"{title:<34}{value:9.4f}{exact.normalised_regret(value):8.3f}")
    return lines


def learned_lines(title: str, found: Score) -> list[str]:
    lines = [
        f"{title:<34}{found.value:9.4f}{found.regret:8.3f}   C in {found.useless_share:.2%} of "
        f"steps, calls A {found.calls['A']:.2f} B {found.calls['B']:.2f}"
    ]
    lines += [
        f"    EVSI {name}: R2 {c.r2:.3f}, slope {c.slope:.3f}, sign accuracy {c.sign_accuracy:.3f},"
        f" bias {c.bias:+.4f} (n {c.n})"
        for name, c in found.calibration.items()
    ]
    return lines


def run(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One seed: learn, play, score."""
    desks = tooldesk.sample_desks(options.episodes, np.random.default_rng(1000 + seed))
    config = WorldModelConfig(seed=seed)
    if options.latent == "categorical":
        config = config.override(latent=Categorical())
    model = WorldModel(tooldesk.observation_space(), tooldesk.ToolDesk().action_space, config)
    used = train(
        model,
        desks,
        seconds=60 * options.minutes,
        updates=options.updates,
        batch=options.batch,
        seed=seed,
    )
    print(f"seed {seed}: {model.updates} updates in {used:.0f} s", flush=True)
    if options.save:
        model.save(Path(options.save) / f"tooldesk-{options.latent}-s{seed}")
    return judge(model, options, seed)


def judge(model: WorldModel, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    started = time.monotonic()
    play = LearnedPlay(model, depth=options.depth, particles=options.particles, seed=seed)
    found = score(play)
    for line in learned_lines(f"learned, seed {seed}, depth {options.depth}", found):
        print(line)
    print(f"    {play.decided} decisions in {time.monotonic() - started:.0f} s", flush=True)
    if options.ledger:
        path = f"{options.ledger}-s{seed}.sqlite"
        with Ledger(path, durable=False) as ledger:
            forced_pairs(play, ledger, options.pairs, seed=10**6)
        print(read_ledger(path, limit=0).text, flush=True)
    return {
        "seed": seed,
        "updates": model.updates,
        "value": found.value,
        "ngr": found.regret,
        "useless_share": found.useless_share,
        **{
            f"{name}_{part}": getattr(line, part)
            for name, line in found.calibration.items()
            for part in ("r2", "slope", "sign_accuracy", "bias")
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tooldesk", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--episodes", type=int, default=300_000)
    parser.add_argument("--minutes", type=float, default=10.0, help="of processor time to learn")
    parser.add_argument("--updates", type=int, default=10**9, help="at most so many")
    parser.add_argument("--batch", type=int, default=128, help="episodes per update")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--depth", type=int, default=2, choices=WORTHS, help="calls looked ahead")
    parser.add_argument("--particles", type=int, default=8, help="drawn beliefs per history")
    parser.add_argument("--latent", choices=("default", "categorical"), default="default")
    parser.add_argument("--save", default="", help="folder for the trained models")
    parser.add_argument("--json", default="", help="file for the figures")
    parser.add_argument(
        "--ledger", default="", help="record pairs of forced asks in PATH-sN.sqlite"
    )
    parser.add_argument("--pairs", type=int, default=300, help="episodes played both ways")
    parser.add_argument("--model", default="", help="score this saved model, learn nothing")
    parser.add_argument("--only", type=int, nargs="+", help="these seeds instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'gate':<34}{'J':>9}{'NGR':>8}")
    for line in exact_lines():
        print(line)
    if options.model:
        results = [judge(WorldModel.load(options.model), options, 0)]
    else:
        results = [run(options, seed) for seed in options.only or range(options.seeds)]
    mean = float(np.mean([result["ngr"] for result in results]))
    print(f"learned gate, {len(results)} seeds: NGR {mean:.3f}")
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Prediction of pixels: classic control seen through a camera, with the model's defaults.

    python -m benchmarks.pixels                              four worlds, three seeds
    python -m benchmarks.pixels --worlds Pendulum-v1@64px --seeds 0 --updates 500

A world is NAME@SIDEpx. Beside the pixel error stands persistence on the same windows, and how much
of the picture's own variance is left (1: predicts the mean picture). Velocities are in no picture:
what is better than persistence was remembered.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bb_wm.config import WorldModelConfig
from bb_wm.diagnose import evaluate
from bb_wm.diagnose.baselines import Persistence
from bb_wm.diagnose.evaluation import Evaluation
from bb_wm.diagnose.tables import Table
from benchmarks.quality_rows import Rules, gather, train_ours
from benchmarks.report import _spread
from benchmarks.results import Job, Results, say, work

ROOT = Path(__file__).resolve().parents[1]
WORLDS = ("Pendulum-v1@32px", "Pendulum-v1@64px", "CartPole-v1@32px", "CartPole-v1@64px")
STEPS = (1, 5, 10)
MODES = ("mode", "shortcut")


@dataclass(frozen=True, slots=True)
class Settings:
    """The same for every world."""

    rows: int = 10_000
    updates: int = 1_000
    windows: int = 200

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    settings = Settings(rows=options.rows, updates=options.updates)
    results = Results(options.out)
    jobs = [
        Job("pixels", world, "ours", seed) for seed in options.seeds for world in options.worlds
    ]
    failed = work(jobs, results, settings.to_json(), lambda job: measure(job, settings))
    found = [r for r in results.all() if r.get("settings") == settings.to_json()]
    say(page(found))
    return int(failed > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pixels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=Settings().rows)
    parser.add_argument("--updates", type=int, default=Settings().updates)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "bench-out" / "pixels")
    return parser


def measure(job: Job, settings: Settings) -> Mapping[str, Any]:
    """Train on one world's pictures and imagine; the job's JSON."""
    rules = Rules(
        updates=settings.updates, rows=settings.rows, heldout_rows=2_000, validation_rows=100
    )
    data = gather(job.world, job.seed, rules)
    model, result = train_ours(WorldModelConfig(seed=job.seed), job, rules, data)
    evaluation = evaluate(
        model,
        data.held,
        baselines=[Persistence()],
        modes=MODES,
        **rules.plan,
        windows=settings.windows,
        seed=job.seed,
    )
    (key,) = (entry.key for entry in data.obs_spec.entries)
    pictures = np.concatenate([np.asarray(e.obs[key]) for e in data.held]).astype(np.float32) / 255
    variance = float(pictures.var(axis=0).mean())
    return {**result, "evaluation": evaluation.to_json(), "key": key, "variance": variance}


def page(found: list[dict[str, Any]]) -> str:
    """The table of results of one setting, as Markdown."""
    if not found:
        return "No results."
    settings = Settings(**found[0]["settings"])
    rows = []
    for world in dict.fromkeys(r["world"] for r in found):
        runs = [r for r in found if r["world"] == world]
        for name in (*MODES, "persistence"):
            cells = [_spread([_left(r, name, k) for r in runs]) for k in STEPS]
            seconds = _spread([r["train_seconds"] for r in runs]) if name == MODES[0] else ""
            rows.append((world, f"ours, {name}" if name in MODES else name, *cells, seconds))
    title = (
        "Pixel error, share of the pictures' variance (0 perfect, 1 predicts the mean picture); "
        f"{settings.rows:,} rows, {settings.updates:,} updates"
    )
    return Table(
        title, ("world", "", *(f"k={k}" for k in STEPS), "training, s"), tuple(rows)
    ).markdown()


def _left(result: Mapping[str, Any], path: str, k: int) -> float:
    scores = Evaluation.from_json(result["evaluation"]).path(path)
    return scores.image[result["key"]][k - 1] / float(result["variance"])


if __name__ == "__main__":
    raise SystemExit(main())

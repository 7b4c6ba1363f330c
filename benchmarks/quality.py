"""Prediction against the peers: same rows, same number of updates, one run.

    python -m benchmarks quality                                 everything, three seeds
    python -m benchmarks quality --only-peers --seeds 0 --rates 1e-3
    python -m benchmarks quality --only-ours --afresh            after the model has changed
    python -m benchmarks quality --worlds LunarLander-v3 Pendulum-v1@0,1

A world is any Gymnasium id. WORLD@COLUMNS shows only these columns of its observation, with noise
of 5 % of each column's deviation on all rows, held-out ones too; beside two such worlds stands what
their own equations allow. KalmanWorld is measured against the exact predictor. Results are JSON per
world, seed and model: started again it goes on where it stopped, started twice the processes share
the work. The table is printed at the end and written beside the results.

Peers are trained once for every rate of --rates; the one with the least error at the headline
horizon on rows collected beside the training rows is kept. With --rates-once they are tried on the
first seed, and the other seeds are trained at what won there. Ours has one setting everywhere.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bb_wm import durable
from bb_wm.config import WorldModelConfig
from bb_wm.diagnose import evaluate, evaluate_predictors
from bb_wm.diagnose.baselines import Persistence, Predictor, RidgeARX
from bb_wm.diagnose.calibration import Outlook
from bb_wm.diagnose.evaluation import Evaluation, PathScores
from bb_wm.diagnose.open_loop import MODES, context_batch, future_actions, passes
from bb_wm.diagnose.scores import join_vectors, measure_variances, nrmse
from bb_wm.diagnose.windows import Windows, cut_windows, plan_windows
from bb_wm.rssm import WorldModel
from bb_wm.types import Episode
from benchmarks import exact_hidden, exact_worlds, quality_spread, quality_table
from benchmarks.peers import TRAINED, Effort, Peer
from benchmarks.quality_rows import Data, Rules, gather, reaching, train_ours
from benchmarks.results import Job, Results, say, work
from benchmarks.training import Progress

ROOT = Path(__file__).resolve().parents[1]
OURS = "ours"
EXACT = "exact"  # the world's own equations, where columns of a world with short ones are hidden
PLAIN = ("persistence", "ridge", EXACT)
MODELS = (OURS, *PLAIN, *TRAINED)
KALMAN = "KalmanWorld"
WORLDS = (
    *("Pendulum-v1", "CartPole-v1", "Acrobot-v1"),
    *("InvertedPendulum-v5", "Reacher-v5", "Hopper-v5"),
    *("Pendulum-v1@0,1", "CartPole-v1@0,2", KALMAN),
)


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    rules = replace(
        Rules(),
        updates=options.updates,
        rows=options.rows,
        heldout_rows=options.heldout_rows,
        windows=options.windows,
    )
    results = Results(options.out)
    jobs = _jobs(options)
    if options.afresh:
        for job in jobs:
            results.path(job).unlink(missing_ok=True)
    failed = 0
    for job in jobs:
        rates = _rates_for(job, options, rules, results)
        settings = settings_of(job, rules, rates)
        failed += work([job], results, settings, lambda j, r=rates: measure(j, rules, r))
    found = [r for r in results.all() if _same(r, rules)]
    page = quality_table.page(found, rules.to_json())
    durable.write_file(options.out / "quality.md", page.encode())
    say(page)
    return int(failed > 0)


def _rates_for(
    job: Job, options: argparse.Namespace, rules: Rules, results: Results
) -> list[float]:
    """All of --rates, or with --rates-once the one that won on the first seed, if that is there."""
    rates: list[float] = options.rates
    first = replace(job, seed=options.seeds[0])
    if not options.rates_once or job == first or job.preset not in TRAINED:
        return rates
    won = results.read(first, settings_of(first, rules, rates))
    return rates if won is None else [won["rate"]]


def settings_of(job: Job, rules: Rules, rates: Sequence[float]) -> dict[str, Any]:
    """What a result was made with: other settings mean measuring anew."""
    if job.preset == OURS:
        return {**rules.to_json(), "config": WorldModelConfig().to_json()}
    return {**rules.to_json(), "rates": list(rates) if job.preset in TRAINED else []}


def _same(result: Mapping[str, Any], rules: Rules) -> bool:
    wanted = rules.to_json()
    settings = result.get("settings", {})
    return result.get("part") == "quality" and all(settings.get(k) == wanted[k] for k in wanted)


def _jobs(options: argparse.Namespace) -> list[Job]:
    chosen = [
        m
        for m in options.models
        if not (options.only_peers and m == OURS) and not (options.only_ours and m != OURS)
    ]
    return [
        Job("quality", world, model, seed)
        for seed in options.seeds
        for world in options.worlds
        for model in chosen
        if (world != KALMAN or model == OURS) and (model != EXACT or world in exact_hidden.WORLDS)
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    rules = Rules()
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--only-ours", action="store_true")
    only.add_argument("--only-peers", action="store_true")
    parser.add_argument("--afresh", action="store_true", help="measure what is there again")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rates", nargs="+", type=float, default=[3e-4, 1e-3, 3e-3])
    parser.add_argument(
        "--rates-once", action="store_true", help="search the rates with the first seed alone"
    )
    for name in ("updates", "rows", "heldout_rows", "windows"):
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=int, default=getattr(rules, name))
    parser.add_argument("--out", type=Path, default=ROOT / "bench-out" / "quality")
    return parser


# --- measuring ------------------------------------------------------------------------------------


def measure(job: Job, rules: Rules, rates: Sequence[float]) -> dict[str, Any]:
    """Train and judge one model in one world; the job's JSON."""
    if job.world == KALMAN:
        kalman = replace(job, part="exact", preset="default")
        return {"kalman": dict(exact_worlds.measure(kalman, rules.training))}
    data = gather(job.world, job.seed, rules)
    data = replace(data, held=reaching(data.held, rules))
    if job.preset == OURS:
        return _measure_ours(job, rules, data)
    data = replace(data, validation=reaching(data.validation, rules))
    if job.preset in TRAINED:
        return _measure_trained(job, rules, data, rates)
    return _measure_plain(job, rules, data)


def _measure_ours(job: Job, rules: Rules, data: Data) -> dict[str, Any]:
    clock = _Clock()
    model, result = train_ours(WorldModelConfig(seed=job.seed), job, rules, data)
    cost = clock.read()
    evaluation = evaluate(
        model, data.held, baselines=[], modes=MODES, **_window_rules(rules), seed=job.seed
    )
    windows = _windows(evaluation, data.held, job.seed)
    far = {"context": evaluation.context, "reach": evaluation.horizons[-1]}
    outlook = Outlook.fit(model, data.validation, **far, seed=job.seed)
    centre, samples = _foretell(model, windows, outlook, seed=job.seed)
    raw = _foretell(model, windows, None, seed=job.seed)[1]
    paths = (*evaluation.paths, _scored(centre, windows, data))
    return {
        **result,
        **cost,
        "evaluation": replace(evaluation, paths=paths).to_json(),
        "outlook": outlook.to_json(),
        "calibration": _calibrate(samples, windows, data, evaluation),
        "calibration_as_learnt": _calibrate(raw, windows, data, evaluation),
    }


def _measure_trained(job: Job, rules: Rules, data: Data, rates: Sequence[float]) -> dict[str, Any]:
    """The peer with the best rate (and reading) on the validation rows."""
    tried: list[dict[str, Any]] = []
    best: tuple[float, Peer, dict[str, float]] | None = None
    for rate in rates:
        effort = Effort(rules.updates, rate, rules.sequences, rules.length, job.seed)
        progress = Progress(f"{job.label}, rate {rate:g}", rules.updates)
        clock = _Clock()
        peer = TRAINED[job.preset](data.obs_spec, data.action_spec, effort, progress)
        peer.fit(data.training)
        cost = clock.read()
        scores: dict[str, float] = {}
        for reading in peer.readings:
            peer.reading = reading
            scores[reading] = _score(peer, data, rules, job.seed)
        peer.reading = min(scores, key=scores.__getitem__)
        tried.append({"rate": rate, "validation": scores, **cost})
        if best is None or scores[peer.reading] < best[0]:
            best = scores[peer.reading], peer, cost
    assert best is not None
    _, peer, cost = best
    evaluation = _evaluate(peer, data.held, data, rules, job.seed)
    windows = _windows(evaluation, data.held, job.seed)
    obs, action, _ = windows.seen()
    spread = None
    if peer.has_spread:
        count = quality_spread.SAMPLES
        samples = peer.sample(obs, action, windows.future, count=count, seed=job.seed)
        spread = _calibrate(samples, windows, data, evaluation)
    return {
        "evaluation": evaluation.to_json(),
        "calibration": spread,
        "parameters": peer.parameters,
        "rate": peer.effort.rate,
        "reading": peer.reading,
        "tried": tried,
        **cost,
    }


def _measure_plain(job: Job, rules: Rules, data: Data) -> dict[str, Any]:
    clock = _Clock()
    plan = plan_windows([len(e) for e in data.held], **rules.plan)
    predictor: Predictor = Persistence()
    if job.preset == "ridge":
        predictor = RidgeARX(data.obs_spec, lags=plan.context).fit(data.training)
    if job.preset == EXACT:
        predictor = exact_hidden.ExactPhysics(job.world, job.seed).fit(data.training)
    cost = clock.read()
    evaluation = _evaluate(predictor, data.held, data, rules, job.seed)
    return {"evaluation": evaluation.to_json(), "name": predictor.name, **cost}


def _evaluate(
    predictor: Predictor, episodes: list[Episode], data: Data, rules: Rules, seed: int
) -> Evaluation:
    return evaluate_predictors(
        data.obs_spec, [predictor], episodes, **_window_rules(rules), seed=seed
    )


def _score(peer: Peer, data: Data, rules: Rules, seed: int) -> float:
    evaluation = _evaluate(peer, data.validation, data, rules, seed)
    return evaluation.paths[0].nrmse[evaluation.headline - 1]


def _window_rules(rules: Rules) -> dict[str, Any]:
    return {**rules.plan, "windows": rules.windows}


def _windows(evaluation: Evaluation, episodes: list[Episode], seed: int) -> Windows:
    """The very windows the evaluation was made on."""
    return cut_windows(
        episodes,
        context=evaluation.context,
        reach=evaluation.horizons[-1],
        count=evaluation.windows,
        seed=seed,
    )


def _foretell(
    model: WorldModel, windows: Windows, outlook: Outlook | None, *, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Ours of every window: the outlook's centre [W, K, ...] and 16 samples [W, 16, K, ...];
    without one the latent path and samples of it as the model was learnt."""
    generator = torch.Generator().manual_seed(seed)
    centres: list[dict[str, np.ndarray]] = []
    samples: list[dict[str, np.ndarray]] = []
    with torch.no_grad():
        for piece in passes(len(windows)):
            part = windows.take(piece)
            start = model.filter(context_batch(model, part))[:, -1]
            actions = future_actions(part, start)
            used = Outlook.plain(model, part.reach) if outlook is None else outlook
            told = used.expect(model, start, actions)
            drawn = used.sample(
                model, start, actions, count=quality_spread.SAMPLES, generator=generator
            )
            for kept, seen in ((centres, told), (samples, drawn)):
                kept.append({key: value.numpy() for key, value in seen.items()})
    return _joined(centres), _joined(samples)


def _scored(centre: Mapping[str, np.ndarray], windows: Windows, data: Data) -> PathScores:
    """The outlook's centre as one more path of ours."""
    c = windows.context
    real = join_vectors(data.obs_spec, {k: v[:, c:] for k, v in windows.obs.items()})
    told = join_vectors(data.obs_spec, centre)
    nothing = (math.nan,) * windows.reach
    if real is None or told is None:
        return PathScores("outlook", True, nothing, nothing, nothing)
    variances = measure_variances(data.obs_spec, data.held)
    error = nrmse(told, real, windows.target_valid, variances)
    return PathScores("outlook", True, tuple(map(float, error)), nothing, nothing)


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _calibrate(
    samples: Mapping[str, np.ndarray], windows: Windows, data: Data, evaluation: Evaluation
) -> dict[str, Any] | None:
    """None where there is no vector key to judge."""
    c = windows.context
    real = join_vectors(data.obs_spec, {k: v[:, c:] for k, v in windows.obs.items()})
    lead = next(iter(samples.values())).shape[:3]
    flat = {k: v.reshape(lead[0] * lead[1], *v.shape[2:]) for k, v in samples.items()}
    drawn = join_vectors(data.obs_spec, flat)
    if real is None or drawn is None:
        return None
    variances = measure_variances(data.obs_spec, data.held)
    return quality_spread.judge(
        drawn.reshape(*lead, -1), real, windows.target_valid, variances, evaluation.horizons
    )


class _Clock:
    """Wall and processor seconds since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {
            "wall_seconds": time.perf_counter() - self._wall,
            "cpu_seconds": time.process_time() - self._cpu,
        }

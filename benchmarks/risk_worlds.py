"""Risk of a learned model in worlds: trained once, calibrated, judged on episodes of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bb_wm.data import collect
from bb_wm.diagnose.calibration import (
    Claims,
    ConformalBound,
    Foresight,
    OODScore,
    RiskCalibration,
    calibrate,
    calibration_error,
    foresee_episodes,
    recall_at,
)
from bb_wm.diagnose.scores import auroc
from bb_wm.errors import CheckpointError
from bb_wm.rssm import WorldModel
from bb_wm.testing.hazard import HazardChain
from bb_wm.types import Episode, Latent
from bb_wm.worlds.catalogue import make_world
from benchmarks.real_worlds import gather
from benchmarks.results import Job, say
from benchmarks.training import PRESETS, train
from benchmarks.training import Settings as Training

HORIZONS = (1, 5, 10)
K = HORIZONS[-1]


@dataclass(frozen=True, slots=True)
class Settings:
    """The same for every world."""

    rows: int = 20_000
    updates: int = 1_000
    calibrating: int = 300  # recorded episodes for tables and strangeness
    judging: int = 300  # recorded episodes that judge them
    decided: int = 2_000  # episodes of plans carried out to their end, per way to choose
    decisions: int = 2  # plans per such episode
    candidates: int = 16
    draws: int = 200
    episodes_per_draw: int = 300
    alpha: float = 0.05

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(job: Job, settings: Settings, models: Path) -> Mapping[str, Any]:
    """Forecasts, bounds and strangeness of one world and seed."""
    model = _model(job, settings, models)
    maker, about = make_world(job.world)
    env = maker()
    began = time.perf_counter()
    count = settings.calibrating + settings.judging
    held = collect(env, episodes=count, seed=job.seed + 1_000_003, risk=about.risk)
    # A decision about every twentieth of an episode, whatever the world.
    stride = max(1, int(np.median([len(e) for e in held])) // 20)
    learnt, judged = held[: settings.calibrating], held[settings.calibrating :]
    calibration = calibrate(
        model, learnt, horizons=HORIZONS, alpha=settings.alpha, stride=stride, seed=job.seed
    )
    for line in calibration.findings:
        say(f"  {job.label}: {line}")
    seen = foresee_episodes(model, judged, K, unit=calibration.unit, stride=stride, seed=77)
    result: dict[str, Any] = {
        "stride": stride,
        "findings": list(calibration.findings),
        "forecasts": _forecasts(seen, calibration, env, judged),
    }
    say(f"  {job.label}: forecasts judged after {time.perf_counter() - began:.0f} s")
    plans = {
        c: carry_out(maker, about.risk, model, calibration, settings, job.seed, choose=c)
        for c in (False, True)
    }
    result["bounds"] = _bounds(plans, settings)
    say(f"  {job.label}: plans carried out after {time.perf_counter() - began:.0f} s")
    assert calibration.ood is not None
    result["strangeness"] = _strangeness(calibration.ood, model, job, judged[:100], settings)
    env.close()
    return {**result, "seconds": time.perf_counter() - began}


def _model(job: Job, settings: Settings, models: Path) -> WorldModel:
    """Trained, or found where an earlier start of the same job left it."""
    place = models / f"{job.name}-{settings.rows}-{settings.updates}"
    try:
        return WorldModel.load(place)
    except CheckpointError:
        pass
    training = Training(rows=settings.rows, heldout_rows=2, updates=settings.updates)
    obs, action, episodes, _ = gather(job.world, job.seed, training)
    config = PRESETS[job.preset](job.seed)
    model, _ = train(config, obs, action, episodes, training, seed=job.seed, label=job.label)
    models.mkdir(parents=True, exist_ok=True)
    model.save(place)
    return model


# --- forecasts ------------------------------------------------------------------------------------


def _forecasts(
    seen: Foresight, calibration: RiskCalibration, env: Any, episodes: Sequence[Episode]
) -> dict[str, Any]:
    """AUROC, calibration error and recall of risk within k rows, for every horizon."""
    found: dict[str, dict[str, Any]] = {}
    for k in HORIZONS:
        known = seen.known[:, k - 1]
        raw, came = seen.foreseen.hazard[known, k - 1], seen.event[known, k - 1]
        told = calibration.tables[k](raw)
        found[str(k)] = {
            "decisions": int(known.sum()),
            "events": int(came.sum()),
            **{name: _none(value) for name, value in _judged(raw, told, came).items()},
        }
        if isinstance(env.unwrapped, HazardChain):
            best = _exact(env.unwrapped, seen, episodes, k)[known]
            scores = _judged(best, best, came)
            found[str(k)]["exact"] = {name: _none(value) for name, value in scores.items()}
    return found


def _judged(raw: np.ndarray, told: np.ndarray, came: np.ndarray) -> dict[str, float]:
    return {
        "auroc": auroc(raw, came),
        "recall": recall_at(raw, came),
        "ece_raw": calibration_error(raw, came),
        "ece": calibration_error(told, came),
    }


def _exact(env: HazardChain, seen: Foresight, episodes: Sequence[Episode], k: int) -> np.ndarray:
    """The known probability of every decision: what no model can beat."""
    found = np.zeros(len(seen.row))
    for n, (number, row) in enumerate(zip(seen.episode, seen.row, strict=True)):
        episode = episodes[number]
        stage = int(np.asarray(episode.obs["obs"])[row].argmax())
        found[n] = env.event_within(stage, episode.action[row : row + k].argmax(-1))
    return found


def _none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


# --- bounds ---------------------------------------------------------------------------------------


def carry_out(
    maker: Any,
    risk: Any,
    model: WorldModel,
    calibration: RiskCalibration,
    settings: Settings,
    seed: int,
    *,
    choose: bool,
) -> Claims:
    """Plans of K random actions carried out to their end, and what was claimed of each.

    `choose`: the plan of least foreseen risk out of the candidates, else the first of them.
    """
    count, spec = settings.decided, model.action_spec
    random = np.random.default_rng([seed, int(choose)])
    luck = torch.Generator().manual_seed(seed)
    envs = [maker() for _ in range(count)]
    obs = [env.reset(seed=int(random.integers(2**31)))[0] for env in envs]
    latent = model.encode(_stack(obs))
    alive = np.ones(count, bool)
    made: list[Claims] = []
    number = settings.candidates if choose else 1
    for _ in range(settings.decisions):
        drawn = spec.sample(random, count * number * K).reshape(count, number, K, -1)
        plans = torch.from_numpy(drawn.astype(np.float32))
        picked = torch.zeros(count, dtype=torch.long)
        if choose:
            quick = replace(calibration, samples=4)
            told = quick.forecast(model, latent, plans, generator=luck)
            picked = torch.from_numpy(told.risk.argmin(-1))
        plan = plans[torch.arange(count), picked]
        claimed = calibration.forecast(model, latent, plan, generator=luck)
        acting, met = alive.copy(), np.zeros(count)
        latent = _follow(envs, risk, model, latent, obs, plan, alive, met)
        made.append(
            Claims(claimed.risk[acting], claimed.scale[acting], met[acting], np.flatnonzero(acting))
        )
    for env in envs:
        env.close()
    names = ("estimate", "scale", "happened", "episode")
    return Claims(*(np.concatenate([getattr(one, name) for one in made]) for name in names))


def _follow(
    envs: list[Any],
    risk: Any,
    model: WorldModel,
    latent: Latent,
    obs: list[Any],
    plan: torch.Tensor,
    alive: np.ndarray,
    met: np.ndarray,
) -> Latent:
    """Do the plan in every living world; fills `met`, `obs` and `alive`, gives the new beliefs."""
    spec = model.action_spec
    for k in range(K):
        for n in np.flatnonzero(alive):
            action = spec.unflatten(plan[n, k].numpy())
            new, reward, ended, _, info = envs[n].step(action)
            met[n] += risk(obs[n], action, new, reward, ended, info)
            obs[n], alive[n] = new, not ended
        latent = model.encode(_stack(obs), latent, plan[:, k])
    return latent


def _stack(obs: list[Any]) -> np.ndarray:
    return np.stack(obs).astype(np.float32)


def _bounds(plans: Mapping[bool, Claims], settings: Settings) -> dict[str, Any]:
    """How often a bound fitted on some episodes breaks on the others, over many draws."""
    worst = {choose: claims.worst_excess()[1] for choose, claims in plans.items()}
    ways = {
        "random plans": (False, False),
        "least of candidates": (True, True),
        "fitted on random, used on least": (False, True),
    }
    return {
        name: draws_of(worst[a], worst[b], settings, same=a == b) for name, (a, b) in ways.items()
    }


def draws_of(
    fitted: np.ndarray, used: np.ndarray, settings: Settings, *, same: bool, seed: int = 0
) -> dict[str, Any]:
    """Miss rates per episode over calibration draws; scores are the episodes' worst excesses."""
    random = np.random.default_rng(seed)
    rates, margins = [], []
    for _ in range(settings.draws):
        order = random.permutation(len(fitted))
        chosen = order[: settings.episodes_per_draw]
        margin = ConformalBound.fit(fitted[chosen], alpha=settings.alpha).margin()
        rest = np.delete(used, chosen) if same else used
        rates.append(float((rest > margin).mean()))
        margins.append(margin)
    kept = int((np.asarray(rates) <= settings.alpha).sum())
    return {
        "draws_kept": kept,
        "draws": settings.draws,
        "miss_rate": float(np.mean(rates)),
        "margin": _none(float(np.median(margins))),
        "episodes": len(used),
    }


# --- strangeness ----------------------------------------------------------------------------------


def _strangeness(
    score: OODScore,
    model: WorldModel,
    job: Job,
    usual: Sequence[Episode],
    settings: Settings,
) -> dict[str, Any]:
    """AUROC per row of shifted against usual rows, asked before acting; vectors only."""
    spread = np.std(np.concatenate([np.asarray(e.obs["obs"]) for e in usual]), axis=0)
    random = np.random.default_rng(0)
    half = np.arange(len(spread)) % 2 == 0
    first = np.arange(len(spread)) == int(spread.argmax())
    shifts = {
        "scaled x10": lambda x: 10 * x,
        "frozen": lambda x: np.repeat(x[:1], len(x), 0),
        "delayed 3 rows": lambda x: x[np.maximum(np.arange(len(x)) - 3, 0)],
        "swapped": lambda x: x[:, ::-1],
        "noisy, 0.5 sd": lambda x: x + 0.5 * spread * random.standard_normal(x.shape),
        "every other blank": lambda x: np.where(half, 0.0, x),
        "one column stuck": lambda x: np.where(first, x[:1], x),
        "biased by 1 sd": lambda x: x + spread,
    }
    strange = {name: [_shifted(e, make) for e in usual] for name, make in shifts.items()}
    strange["other actions than told"] = [_deaf(e, random) for e in usual]
    heavy = _other_gravity(job, len(usual))
    if heavy:
        strange["gravity x2"] = heavy
    plain = score.score_episodes(model, usual)
    found: dict[str, Any] = {"rows": len(plain), "held": float((plain >= 2).mean())}
    for name, episodes in strange.items():
        other = score.score_episodes(model, episodes)
        is_other = np.repeat([False, True], [len(plain), len(other)])
        found[name] = {
            "auroc": auroc(np.concatenate([plain, other]), is_other),
            "held": float((other >= 2).mean()),
        }
    return found


def _shifted(episode: Episode, make: Any) -> Episode:
    seen = make(np.asarray(episode.obs["obs"], np.float64)).astype(np.float32)
    return replace(episode, obs={"obs": seen})


def _deaf(episode: Episode, random: np.random.Generator) -> Episode:
    """The world did something else than what was asked: the actions of other rows. In the last row
    nothing is done."""
    last = len(episode) - 1
    order = np.append(random.permutation(last), last)
    return replace(episode, action=np.asarray(episode.action)[order])


def _other_gravity(job: Job, count: int) -> list[Episode]:
    """The same world on a heavier planet, where it has a planet (MuJoCo)."""
    maker, about = make_world(job.world)
    env = maker()
    physics = getattr(env.unwrapped, "model", None)
    if physics is None or not hasattr(physics, "opt"):
        env.close()
        return []
    physics.opt.gravity[:] *= 2
    episodes = collect(env, episodes=count, seed=job.seed + 5_000_003, risk=about.risk)
    env.close()
    return episodes

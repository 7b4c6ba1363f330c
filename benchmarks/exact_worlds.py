"""Worlds with known answers: the distance to the best possible predictor, not to a rival."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from bb_wm.data import collect, probe_alignment
from bb_wm.diagnose.open_loop import context_batch, future_actions, imagine
from bb_wm.diagnose.windows import Windows, cut_windows
from bb_wm.errors import AlignmentError
from bb_wm.rssm import WorldModel
from bb_wm.testing.kalman import KalmanPredictor, KalmanWorld
from bb_wm.testing.worlds import EchoWorld, LineWorld
from bb_wm.types import ActionSpec, Episode, ObsSpec
from benchmarks.results import Job, say
from benchmarks.training import PRESETS, Settings, train

WORLDS = ("KalmanWorld", "EchoWorld", "LineWorld")
REACH = 10
MODES = ("mode", "shortcut")
_HELD_OUT = 1_000_003


def measure(job: Job, settings: Settings) -> Mapping[str, Any]:
    """Train on an exact world and compare with its answer; the job's JSON."""
    env = _make(job)
    obs_spec, action_spec = ObsSpec.of(env.observation_space), ActionSpec.of(env.action_space)
    training = collect(env, rows=settings.rows, seed=job.seed)
    held = collect(env, rows=20_000, seed=job.seed + _HELD_OUT)
    config = PRESETS[job.preset](job.seed)
    model, result = train(
        config, obs_spec, action_spec, training, settings, seed=job.seed, label=job.label
    )
    windows = cut_windows(
        held, context=settings.context, reach=REACH, count=4_000, seed=job.seed, full=True
    )
    if isinstance(env, KalmanWorld):
        answer = _kalman(env, model, windows)
    elif isinstance(env, LineWorld):
        answer = _line(model, windows)
    else:
        answer = _echo(model, windows) | _probe(training)
    say(f"  {job.label}: " + ", ".join(f"{k} {_short(v)}" for k, v in answer.items()))
    return {**result, **answer}


def _make(job: Job) -> KalmanWorld | EchoWorld | LineWorld:
    if job.world == "KalmanWorld":
        return KalmanWorld(parameters_seed=job.seed)
    return EchoWorld() if job.world == "EchoWorld" else LineWorld()


def _targets(windows: Windows) -> np.ndarray:
    return np.asarray(windows.obs["obs"][:, windows.context :], np.float64)


def _imagined(model: WorldModel, windows: Windows, mode: str) -> np.ndarray:
    return np.asarray(imagine(model, windows, mode=mode).forecast.obs["obs"], np.float64)


def _kalman(env: KalmanWorld, model: WorldModel, windows: Windows) -> dict[str, Any]:
    """k-step MSE as a ratio to the exact predictor's on the same windows, k = 1..10.

    The predictor starts from the stationary law, as the model does from nothing: both know the
    context rows and the actions, and nothing before.
    """
    exact = KalmanPredictor(env.parameters)
    c = windows.context
    beliefs = exact.filter(windows.obs["obs"][:, :c], windows.action[:, :c])
    law = exact.predict(beliefs[-1], windows.future)
    real = _targets(windows)
    best = ((law.obs_mean - real) ** 2).mean(axis=(0, 2))
    theory = np.trace(law.obs_cov, axis1=1, axis2=2) / real.shape[-1]
    answer: dict[str, Any] = {"kalman_mse": best.tolist(), "kalman_theory": theory.tolist()}
    for mode in MODES:
        mse = ((_imagined(model, windows, mode) - real) ** 2).mean(axis=(0, 2))
        answer[f"ratio_{mode}"] = (mse / best).tolist()
    answer["spread_over_exact"] = _spread_over_exact(model, windows, law.obs_cov[0])
    return answer


def _spread_over_exact(model: WorldModel, windows: Windows, cov: np.ndarray) -> float:
    """How much too wide the belief about the next row is: 0.1 if by 10 % in every dimension.

    The model's mean -log p(o') less the entropy of the exact N(., cov), in nats per dimension, as
    a share of the deviation. What is misplaced counts as well as what is too wide or too narrow.
    """
    with torch.no_grad():
        latent = model.filter(context_batch(model, windows))[:, -1]
        real = torch.from_numpy(_targets(windows)[:, 0]).float()
        told = model.next_log_likelihood(
            latent, future_actions(windows, latent)[:, 0], {"obs": real}
        )
    # From model units to data units: sights are affine in observations.
    seen = windows.obs["obs"][:, windows.context - 1]
    unit = seen.std(axis=0) / latent.sight.numpy().std(axis=0)
    size = len(unit)
    nats = float(-told.mean()) + float(np.log(unit).sum())
    exact = 0.5 * float(np.linalg.slogdet(2 * np.pi * np.e * cov)[1])
    return float(np.expm1((nats - exact) / size))


def _line(model: WorldModel, windows: Windows) -> dict[str, Any]:
    """Root mean square and largest error of rollouts in data units, against the exact ones."""
    start = windows.obs["obs"][:, windows.context - 1]
    exact, _, _ = LineWorld.exact_rollout(start, windows.future)
    answer: dict[str, Any] = {"spread": float(exact.std())}
    for mode in MODES:
        error = np.abs(_imagined(model, windows, mode) - exact)
        answer[f"rmse_{mode}"] = np.sqrt((error**2).mean(axis=(0, 2))).tolist()
        answer[f"worst_{mode}"] = float(error.max())
    return answer


def _echo(model: WorldModel, windows: Windows) -> dict[str, Any]:
    """NRMSE of obs[t+1] = action[t]: 0 solved, 1 where actions are off by one row."""
    real = _targets(windows)
    return {
        f"nrmse_{mode}": np.sqrt(
            ((_imagined(model, windows, mode) - real) ** 2).mean(axis=(0, 2)) / real.var()
        ).tolist()
        for mode in MODES
    }


def _probe(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Whether the alignment probe accepts the data and refuses it shifted by a row either way."""
    told: dict[str, str] = {}
    for shift in (-1, 0, 1):
        try:
            report = probe_alignment([_shift(e, shift) for e in episodes[:200]])
            told[str(shift)] = report.raise_if_shifted().verdict
        except AlignmentError as error:
            told[str(shift)] = "refused: " + str(error).split(": losses")[0]
    return {"probe": told}


def _shift(episode: Episode, shift: int) -> Episode:
    """The episode with its actions `shift` rows later."""
    action = np.roll(np.asarray(episode.action), shift, axis=0)
    action[-1] = 0
    return Episode(
        episode.obs,
        action,
        episode.reward,
        episode.safety,
        episode.terminated,
        episode.truncated,
        episode.action_mask,
    )


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return f"{value[0]:.3g}..{value[-1]:.3g}"
    return str(value)

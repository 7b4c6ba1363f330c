"""Open-loop evaluation: some real rows are read, then only imagination, with the real actions.

Every path of the model and every baseline is scored on the same held-out windows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from bb_wm.diagnose import scores
from bb_wm.diagnose.baselines import Forecast, Persistence, Predictor, RidgeARX
from bb_wm.diagnose.evaluation import Evaluation, PathScores, RiskScores, headline_horizon
from bb_wm.diagnose.windows import WindowPlan, Windows, cut_windows, plan_windows
from bb_wm.errors import ConfigError
from bb_wm.rssm import WorldModel

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.diagnose.calibration.outlook import Outlook
    from bb_wm.types import ActionSpec, Batch, Episode, Latent, ObsSpec, Trajectory

MODES = ("mode", "shortcut", "sample")
SAMPLES = 16
_CHUNK = 512  # windows per pass; bounds memory with images and samples


class OpenLoopModel(Protocol):
    """What evaluation needs of a model; bb_wm.rssm.WorldModel answers it."""

    @property
    def obs_spec(self) -> ObsSpec: ...

    @property
    def action_spec(self) -> ActionSpec: ...

    def filter(self, batch: Batch) -> Latent: ...

    def rollout(
        self,
        latent: Latent,
        policy: Any,
        horizon: int | None = None,
        *,
        mode: Any = "mode",
        generator: torch.Generator | None = None,
    ) -> Trajectory: ...

    def imagined_obs(self, trajectory: Trajectory) -> Mapping[str, Tensor]: ...

    def imagine_obs(self, latent: Latent, noise: Tensor | None = None) -> Mapping[str, Tensor]: ...


@dataclass(frozen=True, slots=True)
class Imagined:
    """What one path imagines over windows (numpy): the forecast and its heads, all [W, K]."""

    forecast: Forecast
    safety: np.ndarray
    continuation: np.ndarray
    discount: np.ndarray


def evaluate(
    model: OpenLoopModel,
    episodes: Sequence[Episode],
    *,
    training: Sequence[Episode] | None = None,
    baselines: Sequence[Predictor] | None = None,
    context: int = 10,
    horizons: Sequence[int] = (1, 5, 10, 15),
    modes: Sequence[str] = ("mode", "shortcut"),
    windows: int | None = 300,
    seed: int = 0,
) -> Evaluation:
    """Open-loop errors of `model` on held-out `episodes`, beside baselines on the same windows.

    Without `baselines` it is compared with persistence and, where `training` episodes are given to
    fit it on, ridge ARX(context). Draws from a generator of its own: training is not disturbed.
    The plan's rule for short episodes is `plan_windows`; what it changed stands in the note.
    """
    began = time.perf_counter()
    for mode in modes:
        if mode not in MODES:
            raise ConfigError("modes", expected=f"some of {MODES}", actual=mode)
    allowed = _allowed(model, horizons)
    plan = plan_windows([len(e) for e in episodes], context=context, horizons=allowed)
    if beyond := [k for k in horizons if k not in allowed]:
        dropped = ", ".join(map(str, beyond))
        limit = f"horizon {dropped} left out: it is beyond the model's max_horizon"
        plan = replace(plan, note="; ".join(filter(None, (plan.note, limit))))
    cut = _cut(episodes, plan, windows, seed)
    if baselines is None:
        baselines = default_baselines(model.obs_spec, training, plan.context)
    judge = _Judge(model.obs_spec, episodes, cut, plan)
    paths: list[PathScores] = []
    with torch.no_grad():
        batches = [context_batch(model, cut.take(piece)) for piece in passes(len(cut))]
        latents = [model.filter(batch) for batch in batches]
        for mode in modes:
            imagined = _imagine(model, latents, cut, mode, seed)
            paths.append(judge.model(mode, imagined))
        reconstruction = _reconstruction(model, latents, cut, judge.variances)
        divergence = _divergence(model, batches)
    paths += [judge.baseline(predictor.name, forecast(predictor, cut)) for predictor in baselines]
    return judge.evaluation(
        tuple(paths),
        seed=seed,
        reconstruction=reconstruction,
        kl=divergence,
        seconds=time.perf_counter() - began,
    )


def evaluate_predictors(
    spec: ObsSpec,
    predictors: Sequence[Predictor],
    episodes: Sequence[Episode],
    *,
    context: int = 10,
    horizons: Sequence[int] = (1, 5, 10, 15),
    windows: int | None = 300,
    seed: int = 0,
) -> Evaluation:
    """The same table for fitted predictors alone, on the windows `evaluate` would take."""
    plan = plan_windows([len(e) for e in episodes], context=context, horizons=horizons)
    cut = _cut(episodes, plan, windows, seed)
    judge = _Judge(spec, episodes, cut, plan)
    paths = tuple(judge.baseline(p.name, forecast(p, cut)) for p in predictors)
    return judge.evaluation(paths, seed=seed)


def default_baselines(
    spec: ObsSpec, training: Sequence[Episode] | None, context: int
) -> list[Predictor]:
    """Persistence, and ridge ARX(context) where there are training episodes and keys for it."""
    baselines: list[Predictor] = [Persistence()]
    linear = any(entry.kind != "image" for entry in spec.entries)
    if training and linear and any(len(episode) > context for episode in training):
        baselines.append(RidgeARX(spec, lags=context).fit(training))
    return baselines


def forecast(predictor: Predictor, windows: Windows) -> Forecast:
    """A baseline's prediction for every window."""
    obs, action, reward = windows.seen()
    return predictor.predict(obs, action, reward, windows.future)


def imagine(
    model: OpenLoopModel, windows: Windows, *, mode: str = "mode", seed: int = 0
) -> Imagined:
    """What the model imagines after each window's context; "sample" is the mean of 16 samples."""
    with torch.no_grad():
        latents = [
            model.filter(context_batch(model, windows.take(piece)))
            for piece in passes(len(windows))
        ]
        return _imagine(model, latents, windows, mode, seed)


def imagine_samples(
    model: OpenLoopModel,
    windows: Windows,
    *,
    count: int = SAMPLES,
    seed: int = 0,
    outlook: Outlook | None = None,
) -> dict[str, np.ndarray]:
    """`count` sampled observations per window and key, [W, count, K, ...]: the means of sampled
    latents, or with an `outlook` of a WorldModel its samples."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        start = model.filter(context_batch(model, windows))[:, -1]
        actions = future_actions(windows, start)
        if outlook is not None:
            assert isinstance(model, WorldModel)
            drawn = outlook.sample(model, start, actions, count=count, generator=generator)
            return {key: _numpy(value) for key, value in drawn.items()}
        latent = start.expand(count)
        actions = actions.unsqueeze(1).expand(-1, count, -1, -1)
        trajectory = model.rollout(
            latent, actions, windows.reach, mode="sample", generator=generator
        )
        return {key: _numpy(value) for key, value in model.imagined_obs(trajectory).items()}


class _Judge:
    """Scores forecasts against the real rows of one set of windows."""

    def __init__(
        self, spec: ObsSpec, episodes: Sequence[Episode], windows: Windows, plan: WindowPlan
    ) -> None:
        self.spec, self.windows, self.plan = spec, windows, plan
        self.rows = sum(len(e) for e in episodes)
        self.episodes = len(episodes)
        self.variances = scores.measure_variances(spec, episodes)
        c = windows.context
        self.valid = windows.target_valid
        self.reward, self.safety = windows.reward[:, c:], windows.safety[:, c:]
        self.alive = ~windows.terminated[:, c:]
        self.real = scores.join_vectors(spec, {k: v[:, c:] for k, v in windows.obs.items()})
        received = np.concatenate([np.asarray(e.reward, np.float64)[1:] for e in episodes])
        self.reward_spread = float(received.std()) if received.size else 0.0

    def baseline(self, name: str, forecast: Forecast) -> PathScores:
        return self._score(name, forecast, is_model=False, risk=None)

    def model(self, name: str, imagined: Imagined) -> PathScores:
        event, known = scores.events_within(self.windows)
        reached = np.cumsum(imagined.safety * imagined.discount, axis=1)
        ranking = [
            scores.auroc(np.nan_to_num(reached[known[:, k], k]), event[known[:, k], k])
            for k in range(self.windows.reach)
        ]
        risk = RiskScores(
            rmse=_floats(scores.rmse(imagined.safety, self.safety, self.valid)),
            auroc=_floats(ranking),
            brier=scores.brier(imagined.continuation, self.alive, self.valid),
        )
        return self._score(name, imagined.forecast, is_model=True, risk=risk)

    def _score(
        self, name: str, forecast: Forecast, *, is_model: bool, risk: RiskScores | None
    ) -> PathScores:
        reach = self.windows.reach
        predicted = scores.join_vectors(self.spec, forecast.obs)
        error, by_dimension = np.full(reach, np.nan), np.zeros(0)
        if predicted is not None and self.real is not None:
            error = scores.nrmse(predicted, self.real, self.valid, self.variances)
            each = scores.nrmse_by_dimension(predicted, self.real, self.valid, self.variances)
            by_dimension = np.sqrt(each[headline_horizon(self.plan.horizons) - 1])
        reward = scores.rmse(forecast.reward, self.reward, self.valid)
        spread = self.reward_spread if self.reward_spread > 1e-8 else np.nan
        exact = scores.exact_match(self.spec, forecast, self.windows)
        image = scores.image_mse(self.spec, forecast, self.windows)
        return PathScores(
            name=name,
            is_model=is_model,
            nrmse=_floats(error),
            reward_rmse=_floats(reward),
            reward_nrmse=_floats(reward / spread),
            by_dimension=_floats(by_dimension),
            exact={key: _floats(value) for key, value in exact.items()},
            image={key: _floats(value) for key, value in image.items()},
            risk=risk,
        )

    def evaluation(
        self,
        paths: tuple[PathScores, ...],
        *,
        seed: int,
        reconstruction: float = float("nan"),
        kl: float = float("nan"),
        seconds: float = 0.0,
    ) -> Evaluation:
        event, known = scores.events_within(self.windows)
        alive = float(self.alive[self.valid].mean())
        return Evaluation(
            context=self.plan.context,
            horizons=self.plan.horizons,
            windows=len(self.windows),
            counts=tuple(int(n) for n in self.valid.sum(axis=0)),
            episodes=self.episodes,
            rows=self.rows,
            seed=seed,
            note=self.plan.note,
            dimensions=self.variances.used_labels,
            left_out=self.variances.left_out,
            paths=paths,
            reconstruction=reconstruction,
            kl=kl,
            event_rate=_floats(scores.masked_mean(event.astype(np.float64), known)),
            risk_spread=float(self.safety[self.valid].std()),
            brier_reference=alive * (1.0 - alive),
            seconds=seconds,
        )


def _allowed(model: OpenLoopModel, horizons: Sequence[int]) -> Sequence[int]:
    """The horizons a model with a `config.max_horizon` agrees to; all of them if it has none."""
    limit = getattr(getattr(model, "config", None), "max_horizon", None)
    return horizons if limit is None else [k for k in horizons if k <= limit] or [limit]


def _cut(episodes: Sequence[Episode], plan: WindowPlan, windows: int | None, seed: int) -> Windows:
    return cut_windows(episodes, context=plan.context, reach=plan.reach, count=windows, seed=seed)


def context_batch(model: OpenLoopModel, windows: Windows) -> Batch:
    """The context rows as a batch of sequences; the past before them is forgotten."""
    c = windows.context
    first = np.zeros((len(windows), c), bool)
    first[:, 0] = True
    raw = {
        "obs": {key: value[:, :c] for key, value in windows.obs.items()},
        "action": windows.action[:, :c],
        "reward": windows.reward[:, :c],
        "safety": windows.safety[:, :c],
        "terminated": windows.terminated[:, :c],
        "is_first": first,
        "valid": np.ones((len(windows), c), bool),
    }
    from bb_wm.data import as_batch

    device = getattr(model, "device", "cpu")
    batch: Batch = as_batch(raw, model.obs_spec, model.action_spec, learn=False, device=device)
    return batch


def _imagine(
    model: OpenLoopModel, latents: list[Latent], windows: Windows, mode: str, seed: int
) -> Imagined:
    generator = torch.Generator().manual_seed(seed)
    pieces: list[Imagined] = []
    for latent, piece in zip(latents, passes(len(windows)), strict=True):
        part, start = windows.take(piece), latent[:, -1]
        actions = future_actions(part, start)
        if mode == "sample":
            start = start.expand(SAMPLES)
            actions = actions.unsqueeze(1).expand(-1, SAMPLES, -1, -1)
        trajectory = model.rollout(
            start,
            actions,
            windows.reach,
            mode=mode,
            generator=generator if mode == "sample" else None,
        )
        pieces.append(_to_numpy(model, trajectory, sampled=mode == "sample"))
    return _join(pieces)


def _to_numpy(model: OpenLoopModel, trajectory: Trajectory, *, sampled: bool) -> Imagined:
    kinds = {entry.key: entry.kind for entry in model.obs_spec.entries}

    def settle(value: Tensor, kind: str = "vector") -> np.ndarray:
        array = _numpy(value)
        if not sampled:
            return array
        return _majority(array) if kind == "discrete" else np.asarray(array.mean(axis=1))

    seen = model.imagined_obs(trajectory)
    obs = {key: settle(value, kinds[key]) for key, value in seen.items()}
    return Imagined(
        forecast=Forecast(obs, settle(trajectory.reward)),
        safety=settle(trajectory.safety),
        continuation=settle(trajectory.continuation),
        discount=settle(trajectory.discount),
    )


def _majority(values: np.ndarray) -> np.ndarray:
    """The most frequent class over axis 1; the smallest among equals."""
    counts = np.stack([(values == c).sum(axis=1) for c in range(int(values.max()) + 1)])
    return np.asarray(counts.argmax(axis=0))


def _join(pieces: list[Imagined]) -> Imagined:
    if len(pieces) == 1:
        return pieces[0]
    keys = pieces[0].forecast.obs
    return Imagined(
        forecast=Forecast(
            {key: np.concatenate([p.forecast.obs[key] for p in pieces]) for key in keys},
            np.concatenate([p.forecast.reward for p in pieces]),
        ),
        safety=np.concatenate([p.safety for p in pieces]),
        continuation=np.concatenate([p.continuation for p in pieces]),
        discount=np.concatenate([p.discount for p in pieces]),
    )


def _reconstruction(
    model: OpenLoopModel, latents: list[Latent], windows: Windows, variances: scores.Variances
) -> float:
    """NRMSE of decoding every context row's posterior in its own row; NaN without vector keys."""
    decoded = [
        {key: _numpy(value) for key, value in model.imagine_obs(latent).items()}
        for latent in latents
    ]
    obs = {key: np.concatenate([piece[key] for piece in decoded]) for key in decoded[0]}
    predicted = scores.join_vectors(model.obs_spec, obs)
    c = windows.context
    real = scores.join_vectors(model.obs_spec, {k: v[:, :c] for k, v in windows.obs.items()})
    if predicted is None or real is None:
        return float("nan")
    flat = (len(windows) * c, 1, real.shape[-1])
    valid = np.ones(flat[:2], bool)
    return float(scores.nrmse(predicted.reshape(flat), real.reshape(flat), valid, variances)[0])


def _divergence(model: OpenLoopModel, batches: list[Batch]) -> float:
    """Mean raw KL(q || p) in nats per context row, where the model can tell (a method `kl`).

    A window's first row is left out where there are others: it tells what was unknown before
    anything was seen, not what a step adds.
    """
    tell = getattr(model, "kl", None)
    if tell is None:
        return float("nan")
    rows = []
    for batch in batches:
        kl = _numpy(tell(batch))
        kl = kl.reshape(*kl.shape[:2], -1).sum(axis=-1)
        rows.append(kl[:, 1:] if kl.shape[1] > 1 else kl)
    return float(np.concatenate(rows).mean())


def future_actions(windows: Windows, like: Latent) -> Tensor:
    """The real actions after the context, flat [W, K, A], on the latent's device."""
    actions = torch.from_numpy(np.ascontiguousarray(windows.future, np.float32))
    return actions.to(like.h.device)


def passes(count: int) -> list[slice]:
    """Slices of windows small enough for one pass each."""
    return [slice(i, min(i + _CHUNK, count)) for i in range(0, count, _CHUNK)]


def _numpy(value: Tensor) -> np.ndarray:
    return np.asarray(value.detach().cpu().numpy())


def _floats(values: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)

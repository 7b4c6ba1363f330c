"""How far a latent may be imagined: the two paths of one model, compared before anything happens.

The prior's path and the shortcut imagine the same rows from the same latent by different nets.
Where they part, at most one is right: their gap foretells the error, for twice the price of one
rollout and with nothing more to learn. How large an error a gap stands for is fitted on held-out
episodes, and how far may be trusted is chosen there so that the promise holds (risk-controlling
sets, Bates et al. 2021).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from bb_wm.data.padding import pad
from bb_wm.diagnose.calibration.binomial import at_least
from bb_wm.diagnose.calibration.sealed import (
    check_model,
    model_digest,
    read_sealed,
    write_sealed,
)
from bb_wm.errors import BatchError, CheckpointError, ConfigError, DataError
from bb_wm.model.stochastic import check_int

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.rssm import WorldModel
    from bb_wm.types import Episode, Latent, Trajectory

Array = np.ndarray
FORMAT = 1
_CAUTIONS = np.geomspace(100.0, 0.1, 241)  # from trusting nothing to trusting anything
_CHUNK = 32  # episodes per pass


@dataclass(frozen=True, slots=True)
class Cases:
    """Held-out starts and the K rows after each (numpy). Errors and gaps are the largest so far.

    gap    [n, K] distance of the two paths' sights, root mean square over the sight
    error  [n, K] distance of the prior's path from what came; sights of vectors are in standard
           deviations of the data. Beyond an episode's end it stays as it was
    real   [n, K] whether the episode had that row
    """

    gap: Array
    error: Array
    real: Array


@dataclass(frozen=True, slots=True, eq=False)
class TrustedHorizon:
    """Rows that a latent may be imagined ahead: error stays within `bound` there.

    Of the latents with at least one trusted row, at most a share `miss` meets a larger error within
    the trusted rows (found with confidence 1 - `doubt` on held-out episodes of the deployed policy;
    rows of one episode were counted as if they were independent).

    bound    largest error, root mean square over the sight (of vectors: in standard deviations)
    ratio    [K] error that a gap of 1 has stood for
    floor    [K] gap that is added: where the paths agree they may still be wrong together
    caution  factor on top, inf where no promise could be kept
    model    digest of the model it was fitted for
    """

    bound: float
    miss: float
    doubt: float
    ratio: Array
    floor: Array
    caution: float
    model: str

    @property
    def reach(self) -> int:
        """K, the most rows that can be trusted."""
        return len(self.ratio)

    @classmethod
    def fit(
        cls,
        model: WorldModel,
        episodes: Sequence[Episode],
        *,
        bound: float = 0.2,
        reach: int | None = None,
        miss: float = 0.1,
        doubt: float = 0.05,
        context: int = 10,
        count: int = 2000,
        seed: int = 0,
    ) -> Self:
        """From held-out episodes, at least 4. `reach` rows are looked at (None: max_horizon).

        Half of the episodes says what a gap stands for, the other half how much caution the promise
        takes. Raises ConfigError for a bad number and DataError for too few episodes.
        """
        for name, value, high in (
            ("bound", bound, math.inf),
            ("miss", miss, 1),
            ("doubt", doubt, 1),
        ):
            if not 0 < value < high:
                raise ConfigError(name, expected=f"in (0, {high})", actual=value)
        rows = model.config.max_horizon if reach is None else reach
        check_int("reach", rows, low=1, high=model.config.max_horizon)
        check_int("context", context, low=1, high=10**6)
        check_int("count", count, low=2, high=10**9)
        usable = [episode for episode in episodes if len(episode) > 1]
        if len(usable) < 4:
            raise DataError("episodes", expected="at least 4 of two rows", actual=len(usable))
        order = np.random.default_rng(seed).permutation(len(usable))
        halves = [[usable[n] for n in part] for part in np.array_split(order, 2)]
        first, second = (
            cases_of(model, half, rows, context=context, count=count // 2, seed=seed)
            for half in halves
        )
        ratio, floor = np.zeros(rows), np.zeros(rows)
        for k in range(rows):
            there = first.real[:, k]
            if not there.any():  # no episode goes so far: nothing is promised from here on
                ratio, floor = ratio[:k], floor[:k]
                break
            gap, error = first.gap[there, k], first.error[there, k]
            floor[k] = max(0.25 * float(gap.mean()), 1e-6)
            ratio[k] = max(float(np.median(error / (gap + floor[k]))), 1e-6)
        fresh = cls(bound, miss, doubt, ratio, floor, 1.0, model_digest(model))
        return fresh._kept(second)

    def _kept(self, cases: Cases) -> Self:
        """The least caution that keeps the promise on `cases`, as does every larger one."""
        foretold = self.foretell(cases.gap)
        least = math.log(self.doubt) / math.log1p(-self.miss)
        found = math.inf
        for caution in _CAUTIONS:
            rows = self._rows(foretold * caution)
            some = rows > 0
            wrong = int((cases.error[some, rows[some] - 1] > self.bound).sum())
            if int(some.sum()) < least:
                continue
            if 1.0 - at_least(wrong + 1, int(some.sum()), self.miss) > self.doubt:
                break
            found = float(caution)
        return replace(self, caution=found)

    # --- using ----------------------------------------------------------------------------------

    def foretell(self, gap: Array) -> Array:
        """The error [*batch, K] that the largest gaps so far [*batch, K] stand for; no more rows
        than `reach`."""
        rows = min(gap.shape[-1], self.reach)
        gap = gap[..., :rows]
        return np.maximum.accumulate(self.ratio[:rows] * (gap + self.floor[:rows]), axis=-1)

    def rows_of(self, gap: Array) -> Array:
        """Trusted rows [*batch] of plans whose paths part by gap [*batch, K]."""
        return self._rows(self.foretell(gap) * self.caution)

    def _rows(self, errors: Array) -> Array:
        return np.asarray((errors <= self.bound).astype(np.int64).cumprod(-1).sum(-1))

    def __call__(self, model: WorldModel, latent: Latent, actions: Tensor) -> Tensor:
        """How many rows of these plans may be trusted, integers [*batch] in 0..K.

        `latent` [*batch] has seen its row, as after `encode`; actions are [*batch, K, A]. Raises
        LatentError for a latent with broken numbers, BatchError for a plan longer than `reach`.
        """
        rows = actions.shape[-2]
        if not 1 <= rows <= self.reach:
            raise BatchError("actions", expected=f"1..{self.reach} rows", actual=rows)
        gap = gaps(model, latent, actions).cpu().numpy().astype(np.float64)
        return torch.from_numpy(self.rows_of(np.where(np.isfinite(gap), gap, np.inf)))

    def mark(self, model: WorldModel, trajectory: Trajectory) -> Trajectory:
        """The trajectory with `trusted` filled in, from its own start and actions."""
        return replace(trajectory, trusted=self(model, trajectory.start, trajectory.action))

    def price(self, model: WorldModel, per_row: float) -> Callable[[Latent, Tensor], Tensor]:
        """For `Planner.plan(price=...)`: each row of a plan beyond the trusted ones costs `per_row`
        of utility, so that of equal plans the one that can be believed further wins."""
        if not (math.isfinite(per_row) and per_row >= 0):
            raise ConfigError("per_row", expected="a finite number >= 0", actual=per_row)

        def priced(latent: Latent, actions: Tensor) -> Tensor:
            beyond = actions.shape[-2] - self(model, latent, actions)
            return per_row * beyond.to(actions)

        return priced

    # --- keeping --------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "kind": "trusted horizon",
            "format": FORMAT,
            "bound": self.bound,
            "miss": self.miss,
            "doubt": self.doubt,
            "ratio": self.ratio.tolist(),
            "floor": self.floor.tolist(),
            "caution": None if math.isinf(self.caution) else self.caution,
            "model": self.model,
        }

    @classmethod
    def from_json(cls, data: object) -> Self:
        """What `to_json` gave; CheckpointError when it is anything else."""
        try:
            if not isinstance(data, Mapping) or data["kind"] != "trusted horizon":
                raise TypeError("not a trusted horizon")
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']!r}, this version reads {FORMAT}")
            caution = math.inf if data["caution"] is None else float(data["caution"])
            ratio, floor = (np.asarray(data[name], np.float64) for name in ("ratio", "floor"))
            numbers = [float(data[name]) for name in ("bound", "miss", "doubt")]
            sound = ratio.ndim == 1 and ratio.shape == floor.shape and len(ratio) > 0
            sound = sound and bool((np.isfinite(ratio) & (ratio > 0)).all())
            sound = sound and bool((np.isfinite(floor) & (floor > 0)).all())
            sound = sound and all(map(math.isfinite, numbers)) and min(numbers) > 0
            if not (sound and caution > 0 and isinstance(data["model"], str)):
                raise ValueError("its numbers contradict each other")
            bound, miss, doubt = numbers
            return cls(bound, miss, doubt, ratio, floor, caution, data["model"])
        except (TypeError, ValueError, KeyError) as cause:
            raise CheckpointError(
                "TrustedHorizon", expected="one as it was written", actual=cause
            ) from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """One sealed JSON file, written atomically. Put it beside the model's folder, not in it."""
        write_sealed(path, self.to_json(), "trusted horizon")

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: WorldModel) -> Self:
        """A saved one, for the very model it was fitted for; CheckpointError otherwise."""
        found = cls.from_json(read_sealed(path, "trusted horizon"))
        check_model(found.model, model)
        return found


def gaps(model: WorldModel, latent: Latent, actions: Tensor) -> Tensor:
    """Distance of the two paths' sights [*batch, K], the largest so far, under actions
    [*batch, K, A] from latents [*batch] that have seen their row."""
    return _imagined(model, latent, actions)[1]


def _imagined(model: WorldModel, latent: Latent, actions: Tensor) -> tuple[Tensor, Tensor]:
    """The prior's path as sights [*batch, K, S], and its gap to the shortcut's [*batch, K]."""
    rows = int(actions.shape[-2])
    with torch.no_grad():
        slow = model.rollout(latent, actions, rows, mode="mode")
        fast = model.rollout(latent, actions, rows, mode="shortcut")
        shown = model.condition(slow.latents, model.imagine_obs(slow.latents)).sight
    return shown, _distance(shown, fast.latents.sight)


def _distance(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).square().mean(-1).sqrt().cummax(-1).values


def cases_of(
    model: WorldModel,
    episodes: Sequence[Episode],
    reach: int,
    *,
    context: int = 10,
    count: int = 1000,
    seed: int = 0,
) -> Cases:
    """About `count` starts drawn evenly from rows that have a next one and, where an episode is
    long enough, `context` rows before them; the real actions lead on."""
    random = np.random.default_rng(seed)
    places = [
        (n, t)
        for n, episode in enumerate(episodes)
        for t in range(min(context, len(episode) - 1) - 1, len(episode) - 1)
    ]
    chosen = random.choice(len(places), size=min(count, len(places)), replace=False)
    by_chunk: dict[int, list[tuple[int, int]]] = {}
    for i in np.sort(chosen):
        n, t = places[int(i)]
        by_chunk.setdefault(n // _CHUNK, []).append((n % _CHUNK, t))
    parts: list[tuple[Array, ...]] = []
    for chunk, starts in by_chunk.items():
        batch = pad(episodes[chunk * _CHUNK : (chunk + 1) * _CHUNK], model.device)
        episode, row = torch.tensor(starts, device=model.device).T
        ahead = row[:, None] + torch.arange(1, reach + 1, device=model.device)
        index = ahead.clamp_max(batch.shape[1] - 1)
        real = batch.valid[episode[:, None], index] & (ahead < batch.shape[1])
        with torch.no_grad():
            latents = model.filter(batch)
        actions = batch.action[episode[:, None], index - 1]
        shown, apart = _imagined(model, latents[episode, row], actions)
        came = latents.sight[episode[:, None], index]
        off = torch.where(real, (shown - came).square().mean(-1).sqrt(), 0.0).cummax(-1).values
        gap, error = (part.cpu().numpy().astype(np.float64) for part in (apart, off))
        parts.append((gap, error, real.cpu().numpy()))
    return Cases(*(np.concatenate(column) for column in zip(*parts, strict=True)))

"""How strange an observation is to a model, before anything is done about it.

Four signs, each compared with held-out rows, none of which needs the next observation:
surprise   -log p(o_t | h_t), the mean over sampled z ~ p(z | h_t) of the decoder's likelihood
jump       how far the sight is from the shortcut's one-row prediction, whitened by its errors
trend      how far the jumps of the episode's rows so far lead together, older ones weighing less:
           a world that has changed for good is a little off in every row, always to the same side
place      how far the sight is from the sights of the data, whitened (all there is in a first row)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from bb_wm.data.door import as_obs
from bb_wm.data.padding import pad
from bb_wm.diagnose.calibration.tail import Tail
from bb_wm.errors import BatchError, CheckpointError, DataError, InputTypeError
from bb_wm.model.stochastic import check_int
from bb_wm.protocols import draw_noise
from bb_wm.rssm.inputs import as_flat_action

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.rssm import WorldModel
    from bb_wm.types import Episode, Latent

Array = np.ndarray
_WHOLE = 64  # sights of up to so many numbers are whitened together, longer ones one by one
_FLOOR = 1e-3  # least standard deviation, in model units: what never changed may not change
SIGNS = ("surprise", "jump", "trend", "place")
_KEEP = 0.9  # what a row later is left of a jump in the trend: about the last ten rows count
_MOST = 3.0  # deviations a row can add to the trend: one broken row does not condemn the next ones


@dataclass(frozen=True, slots=True, eq=False)
class Whitening:
    """x [*batch, S] -> mean over S of the squared whitened x, about 1 for rows like the data's.

    `weights` is [S, S], the inverse root of the covariance, or [S], 1 / standard deviation.
    """

    centre: Array
    weights: Array

    @classmethod
    def fit(cls, rows: Array) -> Self:
        """From rows [N, S]; the covariance is shrunk to its diagonal by S / (S + N)."""
        centre, size = rows.mean(0), rows.shape[1]
        spread = np.maximum(rows.std(0), _FLOOR)
        if size > _WHOLE:
            return cls(centre, 1.0 / spread)
        moved = (rows - centre) / spread
        share = size / (size + len(rows))
        joint = (1 - share) * moved.T @ moved / len(rows) + share * np.eye(size)
        values, vectors = np.linalg.eigh(joint)
        # A direction in which the data never varied counts like the smallest one that did.
        root = vectors / np.sqrt(np.maximum(values, _FLOOR**2))
        return cls(centre, (root / spread[:, None]))

    def __call__(self, rows: Array) -> Array:
        return _size(self.white(rows))

    def white(self, rows: Array) -> Array:
        """x [*batch, S] in directions of unit variance, [*batch, S]."""
        moved = rows - self.centre
        return np.asarray(moved @ self.weights if self.weights.ndim == 2 else moved * self.weights)

    def to_json(self) -> dict[str, Any]:
        return {"centre": self.centre.tolist(), "weights": self.weights.tolist()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        centre, weights = (np.asarray(data[name], np.float64) for name in ("centre", "weights"))
        fits = centre.ndim == 1 and weights.shape in (centre.shape, (len(centre), len(centre)))
        if not (fits and np.isfinite(centre).all() and np.isfinite(weights).all()):
            raise ValueError("a whitening is not finite or not square")
        return cls(centre, weights)


@dataclass(slots=True, eq=False)
class Trail:
    """Where the jumps of an episode's rows have led so far; `OODScore.score` moves it on.

    Keep one per episode (or per batch of them): `score` without a previous belief begins it anew.
    """

    led: Array | float = 0.0
    weight: float = 0.0

    def begin(self) -> None:
        """Forget the rows so far."""
        self.led, self.weight = 0.0, 0.0

    def add(self, white: Array) -> Array:
        """One row's whitened jump [*batch, S]; the mean square of where all lead, [*batch].

        About 1 where jumps are like the data's and have nothing to do with one another; NaN where
        this one is, which is not remembered. Raises BatchError for another batch than before.
        """
        if self.weight and np.shape(self.led) != white.shape:
            raise BatchError(
                "trail",
                expected=f"jumps {list(np.shape(self.led))} as in the rows before",
                actual=list(white.shape),
                hint="one trail per episode or batch of them; begin() forgets.",
            )
        known = np.isfinite(white)
        led = _KEEP * self.led + np.where(known, np.clip(white, -_MOST, _MOST), 0.0)
        self.led, self.weight = led, _KEEP**2 * self.weight + 1
        return np.where(known.all(-1), _size(led) / self.weight, np.nan)


@dataclass(frozen=True, slots=True, eq=False)
class OODScore:
    """Strangeness of an observation: -log10 of a p-value against held-out rows; larger is worse.

    0 is usual; 2 means that one held-out row in 100 was as strange, and no score exceeds
    log10(held-out rows + 1). It is what `Evidence.ood` and `Gate.max_ood` hold: `max_ood=2` stops
    for 1 % of usual rows. `fit` and `score` must be of the same model.
    """

    place: Whitening
    jump: Whitening
    tails: Mapping[str, Tail]  # of each sign, fitted on one half of the episodes
    first: Tail  # of `place` in first rows
    later: Tail  # of the signs together in all later rows, fitted on the other half
    samples: int
    seed: int

    @classmethod
    def fit(
        cls,
        model: WorldModel,
        episodes: Sequence[Episode],
        *,
        samples: int = 8,
        seed: int = 0,
    ) -> Self:
        """From held-out episodes, at least 4 (the model must not have been trained on them).

        The first half gives the whitenings and the scale of each sign, the second half the final
        p-values. Raises DataError with fewer episodes or none of two rows.
        """
        check_int("samples", samples, low=1, high=10_000)
        usable = [episode for episode in episodes if len(episode) > 1]
        if len(usable) < 4:
            raise DataError("episodes", expected="at least 4 of two rows", actual=len(usable))
        order = np.random.default_rng(seed).permutation(len(usable))
        halves = [[usable[n] for n in part] for part in np.array_split(order, 2)]
        rows = [_Rows.of(model, half, samples, seed) for half in halves]
        place = Whitening.fit(np.concatenate([rows[0].first, rows[0].later]))
        jump = Whitening.fit(rows[0].jump)
        raw = [one.signs(place, jump) for one in rows]
        tails = {name: Tail.fit(raw[0][name]) for name in SIGNS}
        together = _together(tails, raw[1])
        # First rows are few: they are strange only as places go, so all rows are their measure.
        places = np.concatenate([place(rows[1].first), raw[1]["place"]])
        return cls(place, jump, tails, Tail.fit(places), Tail.fit(together), samples, seed)

    def score(
        self,
        model: WorldModel,
        obs: Any,
        previous: Latent | None = None,
        action: Any = None,
        trail: Trail | None = None,
    ) -> Array:
        """Strangeness [*batch] of `obs`, given what `encode` is given; NaN where not computable.

        `previous` is the belief of the row before and `action` what was done in it; without them
        the observation is judged by its place alone. `trail` remembers the rows so far and is moved
        on by this one; without one the trend is that of this row. The same input gives the same
        score.
        """
        if previous is None:
            if trail is not None:
                trail.begin()
            with torch.no_grad():
                sight = model.encode(obs, previous, action).sight
            return self.first.strangeness(self.place(_numpy(sight)))
        return self.later.strangeness(
            _together(self.tails, self._raw(model, obs, previous, action, trail))
        )

    def score_episodes(self, model: WorldModel, episodes: Sequence[Episode]) -> Array:
        """Strangeness [N] of every row but the first of recorded episodes, one after another."""
        if not any(len(episode) > 1 for episode in episodes):
            return np.zeros(0)
        rows = _Rows.of(model, episodes, self.samples, self.seed)
        return self.later.strangeness(_together(self.tails, rows.signs(self.place, self.jump)))

    def signs(
        self,
        model: WorldModel,
        obs: Any,
        previous: Latent,
        action: Any,
        trail: Trail | None = None,
    ) -> dict[str, Array]:
        """Strangeness of each sign alone [*batch], to see why an observation is strange.

        Moves the trail on as `score` does: ask one of the two about a row, or copy the trail.
        """
        raw = self._raw(model, obs, previous, action, trail)
        return {name: self.tails[name].strangeness(raw[name]) for name in SIGNS}

    def _raw(
        self, model: WorldModel, obs: Any, previous: Latent, action: Any, trail: Trail | None
    ) -> dict[str, Array]:
        if not previous.sight.shape[-1]:
            raise InputTypeError(
                "previous", expected="a belief that has seen its row", actual="an imagined one"
            )
        with torch.no_grad():
            seen = model.encode(obs, previous, action)
            keyed, shape = as_obs(obs, model.obs_spec, device=model.device)
            flat = as_flat_action(action, model.action_spec, shape, model.device)
            jump = self.jump.white(_jump(model, previous, flat, seen.sight))
            return {
                "surprise": _surprise(model, previous, flat, keyed, self.samples, self.seed),
                "jump": _size(jump),
                "trend": (Trail() if trail is None else trail).add(jump),
                "place": self.place(_numpy(seen.sight)),
            }

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "place": self.place.to_json(),
            "jump": self.jump.to_json(),
            "tails": {name: tail.to_json() for name, tail in self.tails.items()},
            "first": self.first.to_json(),
            "later": self.later.to_json(),
            "samples": self.samples,
            "seed": self.seed,
        }

    @classmethod
    def from_json(cls, data: object) -> Self:
        """What `to_json` gave; CheckpointError when it is anything else."""
        try:
            if not isinstance(data, Mapping) or set(data["tails"]) != set(SIGNS):
                raise TypeError("not a score as it was written")
            samples, seed = data["samples"], data["seed"]
            if type(samples) is not int or type(seed) is not int or samples < 1:
                raise ValueError("samples and seed are not ints")
            return cls(
                Whitening.from_json(data["place"]),
                Whitening.from_json(data["jump"]),
                {name: Tail.from_json(data["tails"][name]) for name in SIGNS},
                Tail.from_json(data["first"]),
                Tail.from_json(data["later"]),
                samples,
                seed,
            )
        except (TypeError, ValueError, KeyError) as cause:
            raise CheckpointError(
                "OODScore", expected="a score as it was written", actual=cause
            ) from None


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Sights of first rows and of later ones, and what the later ones were predicted to be.

    Later rows [N, ...] follow one another episode by episode, `lengths` [E] of each.
    """

    first: Array
    later: Array
    jump: Array
    surprise: Array
    lengths: Array

    @classmethod
    def of(cls, model: WorldModel, episodes: Sequence[Episode], samples: int, seed: int) -> _Rows:
        parts: list[tuple[Array, ...]] = []
        for at in range(0, len(episodes), 32):
            batch = pad(episodes[at : at + 32], model.device)
            with torch.no_grad():
                latents = model.filter(batch)
                real = batch.valid[:, 1:].cpu()
                before, action = latents[:, :-1][real], batch.action[:, :-1][real]
                obs = {key: value[:, 1:][real] for key, value in batch.obs.items()}
                sight = latents.sight[:, 1:][real]
                parts.append(
                    (
                        _numpy(latents.sight[:, 0]),
                        _numpy(sight),
                        _jump(model, before, action, sight),
                        _surprise(model, before, action, obs, samples, seed),
                        real.sum(1).numpy(),
                    )
                )
        return cls(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def signs(self, place: Whitening, jump: Whitening) -> dict[str, Array]:
        white = jump.white(self.jump)
        return {
            "surprise": self.surprise,
            "jump": _size(white),
            "trend": self._trend(white),
            "place": place(self.later),
        }

    def _trend(self, white: Array) -> Array:
        found: list[Array] = []
        for episode in np.split(white, self.lengths.cumsum()[:-1]):
            trail = Trail()
            found.extend(trail.add(row) for row in episode)
        return np.asarray(found)


def _size(white: Array) -> Array:
    """The mean square of x [*batch, S], [*batch]."""
    return np.asarray((white**2).mean(-1))


def _together(tails: Mapping[str, Tail], raw: Mapping[str, Array]) -> Array:
    """-log10 p of the strangest sign, going on beyond what was ever seen: a shift shows in one sign
    or another, and in a sum those that see nothing drown it."""
    return np.asarray(np.max([tails[name].grade(raw[name]) for name in SIGNS], axis=0))


def _surprise(
    model: WorldModel,
    previous: Latent,
    action: Tensor,
    obs: Mapping[str, Tensor],
    samples: int,
    seed: int,
) -> Array:
    """-log mean_i p(o | h, z_i) with z_i ~ p(z | h), [*batch], nats in model units."""
    shape = previous.batch_shape
    generator = torch.Generator(action.device).manual_seed(seed)
    noise = draw_noise((samples, model.noise_size), generator, action.device)
    wide = action.unsqueeze(-2).expand(*shape, samples, action.shape[-1])
    noise = noise.expand(*shape, samples, model.noise_size)
    predicted = model.step(previous.expand(samples), wide, noise)
    lead = len(shape)
    many = {
        key: value.unsqueeze(lead).expand(*shape, samples, *value.shape[lead:])
        for key, value in obs.items()
    }
    likelihood = model.log_likelihood(predicted, many)
    return -_numpy(likelihood.logsumexp(-1)) + math.log(samples)


def _jump(model: WorldModel, previous: Latent, action: Tensor, sight: Tensor) -> Array:
    """The sight less the shortcut's prediction of it, [*batch, S] in model units."""
    return _numpy(sight - model.shortcut.step(previous, action).sight)


def _numpy(value: Tensor) -> Array:
    return np.asarray(value.detach().cpu().numpy(), np.float64)

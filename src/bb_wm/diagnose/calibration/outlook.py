"""What will be seen, and within which bounds: both paths of a model, fitted to what came.

The shortcut is mostly the more exact path, sampled latents know how wide the future is, and neither
is as wide as it is wrong. `Outlook` learns from held-out episodes, per step and dimension, where
between the two paths the truth lies and how far apart samples must be for the truth to be one of
them (recalibrated forecasts, Kuleshov et al. 2018; the blend is an ordinary regression).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from bb_wm.diagnose.calibration.sealed import (
    check_model,
    model_digest,
    read_sealed,
    write_sealed,
)
from bb_wm.diagnose.open_loop import context_batch, future_actions, passes
from bb_wm.diagnose.windows import cut_windows, plan_windows
from bb_wm.errors import BatchError, CheckpointError, DataError
from bb_wm.model.stochastic import check_int
from bb_wm.protocols import draw_noise

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.diagnose.windows import Windows
    from bb_wm.rssm import WorldModel
    from bb_wm.types import Episode, Latent

Array = np.ndarray
FORMAT = 1
SAMPLES = 16
# If the truth is one more draw of the samples' law, it lies between the smallest and the largest
# of n with probability (n - 1) / (n + 1), .882 for 16. A little more is aimed at: windows are
# fitted on as if they were independent, and those of one episode are not.
INSIDE = 0.9
LEAST = 2 * (SAMPLES + 1)  # windows to fit a row on
# What a factor on the spread may be. Small ones are real: where a row tells everything the shortcut
# is a thousand times nearer the truth than latents are spread.
WIDTHS = (1e-4, 50.0)


@dataclass(frozen=True, slots=True, eq=False)
class Outlook:
    """Observations of K imagined rows: their centre, and samples that are as wide as it is wrong.

    Of vector keys; discrete and image keys are given as the sampled path gives them.

    share   [K, D] per vector key: share of the shortcut in the centre, the rest is the latent path
    width   [K, D] per vector key: factor on how far sampled observations lie from the latent path
    model   digest of the model it was fitted for
    """

    share: Mapping[str, Array]
    width: Mapping[str, Array]
    reach: int
    model: str

    @classmethod
    def fit(
        cls,
        model: WorldModel,
        episodes: Sequence[Episode],
        *,
        reach: int | None = None,
        context: int = 10,
        count: int = 1000,
        seed: int = 0,
    ) -> Self:
        """From held-out episodes, for `reach` rows (None: as many as most episodes have).

        Where episodes are short, fewer rows are seen before imagining, by the rule of
        `plan_windows`; a row that few windows have is given what its neighbour before was.
        Raises ConfigError for a bad number, DataError for too few windows.
        """
        limit = model.config.max_horizon
        rows = limit if reach is None else reach
        check_int("reach", rows, low=1, high=limit)
        check_int("count", count, low=1, high=10**9)
        plan = plan_windows(
            [len(e) for e in episodes], context=context, horizons=range(1, rows + 1)
        )
        far = plan.reach if reach is None else reach
        windows = cut_windows(episodes, context=plan.context, reach=far, count=count, seed=seed)
        there = windows.target_valid
        enough = int((there.sum(axis=0) >= LEAST).sum())
        if enough == 0:
            raise DataError(
                "episodes",
                expected=f"at least {LEAST} windows of {plan.context} rows and one more",
                actual=int(there[:, 0].sum()),
                hint="hold out more rows.",
            )
        slow, fast, drawn = _foretold(model, windows, seed)
        share, width = {}, {}
        for key in slow:
            came = windows.obs[key][:, plan.context :].astype(np.float64)
            came = came.reshape(*came.shape[:2], -1)
            share[key] = _held(_share(slow[key], fast[key], came, there), enough)
            centre = slow[key] + share[key] * (fast[key] - slow[key])
            apart = drawn[key] - slow[key][:, None]
            width[key] = _held(_width(apart, came - centre, there), enough)
        return cls(share, width, far, model_digest(model))

    @classmethod
    def plain(cls, model: WorldModel, reach: int) -> Self:
        """The latent path and its samples as they were learnt, nothing fitted."""
        vectors = [entry for entry in model.obs_spec.entries if entry.kind == "vector"]
        return cls(
            {entry.key: np.zeros((reach, entry.size)) for entry in vectors},
            {entry.key: np.ones((reach, entry.size)) for entry in vectors},
            reach,
            model_digest(model),
        )

    # --- using ----------------------------------------------------------------------------------

    def expect(self, model: WorldModel, latent: Latent, actions: Tensor) -> dict[str, Tensor]:
        """The centre per key [*batch, K, *shape], from latents [*batch] that have seen their row
        under flat actions [*batch, K, A]. Raises BatchError for more rows than `reach`."""
        return self._paths(model, latent, actions)[1]

    def sample(
        self,
        model: WorldModel,
        latent: Latent,
        actions: Tensor,
        *,
        count: int = SAMPLES,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """`count` samples per key [*batch, count, K, *shape]; arguments as `expect`'s. Without a
        generator they have the same luck every time."""
        slow, centre = self._paths(model, latent, actions)
        lead = len(latent.batch_shape)
        if generator is None:
            generator = torch.Generator().manual_seed(count)
        with torch.no_grad():
            found = _sampled(model, latent, actions, count, generator)
        for key in self.width:
            apart = found[key] - slow[key].unsqueeze(lead)
            wide = _per_row(self.width[key], slow[key], lead)
            found[key] = torch.addcmul(centre[key].unsqueeze(lead), wide, apart)
        return found

    def _paths(
        self, model: WorldModel, latent: Latent, actions: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Observations per key [*batch, K, *shape] of the latent path, and of the centre."""
        rows = int(actions.shape[-2])
        if not 1 <= rows <= self.reach:
            raise BatchError("actions", expected=f"1..{self.reach} rows", actual=rows)
        with torch.no_grad():
            slow = dict(model.imagine_obs(model.rollout(latent, actions).latents))
            fast = model.imagined_obs(model.rollout(latent, actions, mode="shortcut"))
        centre, lead = dict(slow), len(latent.batch_shape)
        for key, share in self.share.items():
            centre[key] = torch.lerp(slow[key], fast[key], _per_row(share, slow[key], lead))
        return slow, centre

    # --- keeping --------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "kind": "outlook",
            "format": FORMAT,
            "share": {key: part.tolist() for key, part in self.share.items()},
            "width": {key: part.tolist() for key, part in self.width.items()},
            "reach": self.reach,
            "model": self.model,
        }

    @classmethod
    def from_json(cls, data: object) -> Self:
        """What `to_json` gave; CheckpointError when it is anything else."""
        try:
            if not isinstance(data, Mapping) or data["kind"] != "outlook":
                raise TypeError("not an outlook")
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']!r}, this version reads {FORMAT}")
            share, width = (
                {str(key): np.asarray(part, np.float64) for key, part in data[name].items()}
                for name in ("share", "width")
            )
            reach, model = data["reach"], data["model"]
            sound = isinstance(reach, int) and reach > 0 and isinstance(model, str)
            sound = sound and share.keys() == width.keys()
            sound = sound and all(_sound(share[k], reach, 0.0, 1.0) for k in share)
            sound = sound and all(_sound(width[k], reach, *WIDTHS) for k in width)
            if not sound or any(share[k].shape != width[k].shape for k in share):
                raise ValueError("its numbers contradict each other")
            return cls(share, width, reach, model)
        except (TypeError, ValueError, KeyError, AttributeError) as cause:
            raise CheckpointError(
                "Outlook", expected="one as it was written", actual=cause
            ) from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """One sealed JSON file, written atomically. Put it beside the model's folder, not in it."""
        write_sealed(path, self.to_json(), "outlook")

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: WorldModel) -> Self:
        """A saved one, for the very model it was fitted for; CheckpointError otherwise."""
        found = cls.from_json(read_sealed(path, "outlook"))
        check_model(found.model, model)
        return found


def _sound(part: Array, reach: int, low: float, high: float) -> bool:
    return part.ndim == 2 and len(part) == reach and bool(((part >= low) & (part <= high)).all())


def _per_row(part: Array, like: Tensor, lead: int) -> Tensor:
    """The first rows of [K, D] in the shape of what follows the `lead` batch axes of `like`."""
    shape = like.shape[lead:]
    return torch.from_numpy(part[: shape[0]]).to(like).reshape(shape)


# --- fitting --------------------------------------------------------------------------------------


def _foretold(
    model: WorldModel, windows: Windows, seed: int
) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array]]:
    """Of every vector key: latent path and shortcut [W, K, D], and samples [W, S, K, D]."""
    keys = [entry.key for entry in model.obs_spec.entries if entry.kind == "vector"]
    generator = torch.Generator(model.device).manual_seed(seed)
    parts: list[tuple[Mapping[str, Tensor], ...]] = []
    with torch.no_grad():
        for piece in passes(len(windows)):
            part = windows.take(piece)
            latent = model.filter(context_batch(model, part))[:, -1]
            actions = future_actions(part, latent)
            slow = model.imagine_obs(model.rollout(latent, actions).latents)
            fast = model.imagined_obs(model.rollout(latent, actions, mode="shortcut"))
            drawn = _sampled(model, latent, actions, SAMPLES, generator)
            parts.append((slow, fast, drawn))

    def joined(which: int, lead: int) -> dict[str, Array]:
        return {
            key: np.concatenate(
                [part[which][key].flatten(lead).cpu().double().numpy() for part in parts]
            )
            for key in keys
        }

    return joined(0, 2), joined(1, 2), joined(2, 3)


def _sampled(
    model: WorldModel,
    latent: Latent,
    actions: Tensor,
    count: int,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """o ~ p(o | h, z) of sampled latents, per key [*batch, count, K, *shape]."""
    lead = len(latent.batch_shape)
    wide = actions.unsqueeze(lead).expand(*latent.batch_shape, count, *actions.shape[-2:])
    imagined = model.rollout(latent.expand(count), wide, mode="sample", generator=generator)
    shape = (*imagined.latents.batch_shape, model.obs_noise_size)
    noise = draw_noise(shape, generator, model.device)
    return dict(model.imagine_obs(imagined.latents, noise))


def _held(part: Array, enough: int) -> Array:
    """[K, D] whose rows from `enough` on are as the last one before."""
    return part[np.minimum(np.arange(len(part)), enough - 1)]


def _share(slow: Array, fast: Array, came: Array, there: Array) -> Array:
    """Least squares share [K, D] of `fast` between the two paths, within 0 and 1."""
    gap = np.where(there[..., None], fast - slow, 0.0)
    product = (gap * np.where(there[..., None], came - slow, 0.0)).sum(0)
    square = (gap**2).sum(0)
    # Where the paths agree either will do.
    return np.asarray(np.clip(product / np.maximum(square, 1e-12), 0.0, 1.0))


def _width(apart: Array, off: Array, there: Array) -> Array:
    """The least factor [K, D] by which samples [W, S, K, D] about 0 reach past the truth `off`
    [W, K, D] in a share INSIDE of the windows."""
    high, low = apart.max(axis=1), apart.min(axis=1)
    side = np.where(off >= 0, high, low)
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = np.where(off == 0, 0.0, np.where(side * off > 0, off / side, np.inf))
    found = np.zeros(off.shape[1:])
    for k in range(off.shape[1]):
        mine = needed[there[:, k], k]
        if len(mine):
            found[k] = np.quantile(mine, INSIDE, axis=0, method="higher")
    return np.clip(found, *WIDTHS)

"""What the pictures show: a few held-out windows, real beside imagined, as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bb_wm.diagnose.open_loop import OpenLoopModel, imagine, imagine_samples
from bb_wm.diagnose.windows import Windows, cut_windows, plan_windows
from bb_wm.errors import DataError

if TYPE_CHECKING:
    from bb_wm.diagnose.baselines import Forecast
    from bb_wm.diagnose.calibration.outlook import Outlook
    from bb_wm.types import Episode, ObsSpec

BAND = (5.0, 95.0)  # percentiles of the sampled rollouts that the band spans


@dataclass(frozen=True, slots=True)
class Traces:
    """W windows of `context` + K rows in D shown dimensions, the reward last.

    `real` [W, C + K, D]; `paths[name]`, `low` and `high` [W, K, D]; NaN where an episode has ended.
    `steps[d]` marks a discrete one; `band` says what lies between low and high. `pictures[key]`
    holds real and imagined pixels of image keys, [W, K, height, width, channels] each.
    """

    labels: tuple[str, ...]
    steps: tuple[bool, ...]
    context: int
    episode: tuple[int, ...]
    start: tuple[int, ...]
    real: np.ndarray
    paths: Mapping[str, np.ndarray]
    low: np.ndarray
    high: np.ndarray
    pictures: Mapping[str, tuple[np.ndarray, np.ndarray]]
    band: str = ""

    def __len__(self) -> int:
        return int(self.real.shape[0])


def collect_traces(
    model: OpenLoopModel,
    episodes: Sequence[Episode],
    *,
    context: int = 10,
    reach: int = 15,
    windows: int = 3,
    dimensions: int = 6,
    modes: Sequence[str] = ("mode", "shortcut"),
    samples: int = 16,
    seed: int = 0,
    outlook: Outlook | None = None,
) -> Traces:
    """Imagine after the context of a few windows drawn by `seed`: each mode and a sampled band.

    With an `outlook` fitted for this model the band is as wide as the model is wrong, else as wide
    as its samples are. No further than the model's max_horizon.
    """
    spec = model.obs_spec
    reach = min(reach, getattr(getattr(model, "config", None), "max_horizon", reach))
    plan = plan_windows([len(e) for e in episodes], context=context, horizons=range(1, reach + 1))
    cut = _spread(episodes, plan.context, plan.reach, windows, seed)
    c = cut.context
    gap = ~cut.target_valid
    paths, first = {}, None
    for mode in modes:
        imagined = imagine(model, cut, mode=mode, seed=seed)
        first = imagined.forecast if first is None else first
        column = imagined.forecast.reward[..., None]
        paths[mode] = _blank(_columns(spec, imagined.forecast.obs, dimensions, column), gap)
    labels, steps = _labels(spec, dimensions)
    if not labels and first is None:
        raise DataError("modes", expected="at least one mode to picture", actual="none")
    if outlook is not None and cut.reach <= outlook.reach:
        sampled = imagine_samples(model, cut, count=samples, seed=seed, outlook=outlook)
        ends: tuple[float, float] = (0.0, 100.0)
        band = f"between {samples} samples as wide as it was wrong"
    else:
        sampled = imagine_samples(model, cut, count=samples, seed=seed)
        ends, band = BAND, f"5 to 95 % of {samples} sampled rollouts"
    flat = {key: value.reshape(-1, *value.shape[2:]) for key, value in sampled.items()}
    lead = (len(cut), samples, cut.reach)
    drawn = _columns(spec, flat, dimensions, None).reshape(*lead, -1)
    low, high = np.percentile(drawn, ends, axis=1)
    hole = np.full((len(cut), cut.reach, 1), np.nan)  # rewards have no band: they are not sampled
    real = _columns(spec, cut.obs, dimensions, cut.reward[..., None])
    return Traces(
        labels=(*labels, "reward"),
        steps=(*steps, False),
        context=c,
        episode=tuple(int(e) for e in cut.episode),
        start=tuple(int(s) for s in cut.start),
        real=_blank(real, ~cut.valid),
        paths=paths,
        low=_blank(np.concatenate([low, hole], axis=-1), gap),
        high=_blank(np.concatenate([high, hole], axis=-1), gap),
        pictures={} if first is None else _pictures(spec, cut, first),
        band=band,
    )


def _spread(
    episodes: Sequence[Episode], context: int, reach: int, count: int, seed: int
) -> Windows:
    """Whole windows, each of another episode where there are enough."""
    every = cut_windows(
        episodes,
        context=context,
        reach=reach,
        count=None,
        seed=seed,
        full=any(len(e) >= context + reach for e in episodes),
    )
    order = np.random.default_rng(seed).permutation(len(every))
    _, firsts = np.unique(every.episode[order], return_index=True)
    rest = np.setdiff1d(np.arange(len(order)), firsts)
    return every.take(order[np.concatenate([np.sort(firsts), rest])[:count]])


def _labels(spec: ObsSpec, dimensions: int) -> tuple[list[str], list[bool]]:
    labels, steps = [], []
    for entry in spec.entries:
        if entry.kind == "image":
            continue
        names = [entry.key] if entry.size == 1 else [f"{entry.key}[{i}]" for i in range(entry.size)]
        labels += names
        steps += [entry.kind == "discrete"] * len(names)
    return labels[:dimensions], steps[:dimensions]


def _columns(
    spec: ObsSpec, obs: Mapping[str, np.ndarray], dimensions: int, last: np.ndarray | None
) -> np.ndarray:
    """[W, T, D]: the first dimensions of vector and discrete keys, then `last`."""
    pieces = [
        np.asarray(obs[entry.key], np.float64).reshape(*obs[entry.key].shape[:2], -1)
        for entry in spec.entries
        if entry.kind != "image"
    ]
    lead = next(iter(obs.values())).shape[:2]
    shown = np.concatenate(pieces, axis=-1)[..., :dimensions] if pieces else np.zeros((*lead, 0))
    return shown if last is None else np.concatenate([shown, last], axis=-1)


def _blank(values: np.ndarray, gap: np.ndarray) -> np.ndarray:
    return np.where(gap[..., None], np.nan, values)


def _pictures(
    spec: ObsSpec, cut: Windows, forecast: Forecast
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    pictures = {}
    for entry in spec.entries:
        if entry.kind != "image" or entry.key not in forecast.obs:
            continue
        pair = [np.asarray(cut.obs[entry.key])[:, cut.context :], forecast.obs[entry.key]]
        if entry.channels_first:
            pair = [np.moveaxis(one, -3, -1) for one in pair]
        shown = [np.clip(np.rint(one), 0, 255).astype(np.uint8) for one in pair]
        pictures[entry.key] = (shown[0], shown[1])
    return pictures

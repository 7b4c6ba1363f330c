"""What a model foresaw in recorded episodes, and what came: the rows that calibration fits on.

At every row of an episode the belief is filtered from the real past, and the real actions that
followed are imagined from it in sampled rollouts, open loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from bb_wm.data.padding import pad
from bb_wm.errors import DataError
from bb_wm.imagine.hazard import hazard_within, risk_to_go
from bb_wm.imagine.rollout import rollout
from bb_wm.protocols import Dynamics, draw_noise
from bb_wm.types import Batch, Episode, Latent

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray
_CHUNK = 1024  # beliefs imagined at once, times samples; bounds memory
_ROWS = 16_384  # rows filtered at once


class Foreseer(Dynamics, Protocol):
    """A simulator that also filters recorded rows; WorldModel answers it."""

    def filter(self, batch: Batch) -> Latent: ...


@dataclass(frozen=True, slots=True)
class Foreseen:
    """S sampled rollouts per belief, summed up for horizons k = 1 .. K; every field [*batch, K].

    `hazard` is the raw (uncalibrated) P(a hazard within k); `risk` the mean V_s to go over k rows
    and `spread` its standard deviation over rollouts, both in units of V_s. Larger is worse.
    """

    hazard: Array
    risk: Array
    spread: Array


def foresee(
    model: Dynamics,
    latent: Latent,
    actions: Tensor,
    *,
    samples: int,
    unit: float,
    peak: bool,
    generator: torch.Generator,
) -> Foreseen:
    """Sampled rollouts of actions [*batch, K, A] from latents [*batch]; a model without chance
    (noise_size 0) is unrolled once.

    The noise is the same for all of the last batch axis, so candidates share their luck.
    """
    count = samples if model.noise_size else 1
    shape = latent.batch_shape
    horizon = int(actions.shape[-2])
    lead = (*shape[:-1], *([1] * bool(shape)))
    noise = draw_noise((*lead, count, horizon, model.noise_size), generator, latent.h.device)
    noise = noise.expand(*shape, count, horizon, model.noise_size)
    wide = actions.unsqueeze(-3).expand(*shape, count, *actions.shape[-2:])
    with torch.no_grad():
        trajectory = rollout(model, latent.expand(count), wide, horizon, noise=noise)
        hazard = hazard_within(trajectory, unit).mean(-2)
        met = risk_to_go(trajectory, peak=peak)
    spread = met.std(-2) if count > 1 else torch.zeros_like(hazard)
    return Foreseen(_numpy(hazard), _numpy(met.mean(-2)), _numpy(spread))


@dataclass(frozen=True, slots=True)
class Foresight:
    """N decisions in recorded episodes: what was foreseen (as in Foreseen) and what came, [N, K].

    `known[n, k-1]` says that the k rows after decision n are known: all recorded, or cut short by
    the end of the world, after which nothing happens. Decisions of which nothing is known are left
    out. `episode` [N] is the place of the decision's episode among those given, `row` [N] its row.
    """

    foreseen: Foreseen
    event: Array
    met: Array
    known: Array
    episode: Array
    row: Array


def foresee_episodes(
    model: Foreseer,
    episodes: Sequence[Episode],
    horizon: int,
    *,
    samples: int = 16,
    unit: float = 1.0,
    event: float = 0.0,
    peak: bool = False,
    stride: int = 1,
    seed: int = 0,
) -> Foresight:
    """Forecasts at every `stride`-th row against what came. A hazard is a row with risk > `event`.

    Raises DataError when no episode has two rows.
    """
    device = torch.device(getattr(model, "device", "cpu"))
    generator = torch.Generator(device).manual_seed(seed)
    pieces: list[Foresight] = []
    for numbers, latents in filtered(model, episodes):
        decisions = [
            _decisions(episodes[number], number, place, horizon, event, peak, stride)
            for place, number in enumerate(numbers)
        ]
        made = _Decisions(*(np.concatenate(c) for c in zip(*map(_columns, decisions), strict=True)))
        for at in range(0, len(made.row), _CHUNK):
            now = _Decisions(*(column[at : at + _CHUNK] for column in _columns(made)))
            place, row, actions = (
                torch.from_numpy(x).to(device) for x in (now.place, now.row, now.actions)
            )
            # a last axis of one belief each: every decision has luck of its own
            seen = foresee(
                model,
                latents[place, row].map(lambda t: t.unsqueeze(1)),
                actions.unsqueeze(1),
                samples=samples,
                unit=unit,
                peak=peak,
                generator=generator,
            )
            alone = Foreseen(*(column[:, 0] for column in _columns(seen)))
            pieces.append(Foresight(alone, now.event, now.met, now.known, now.episode, now.row))
    if not pieces:
        raise DataError("episodes", expected="an episode of at least two rows", actual="none")
    rows = zip(*(_columns(piece.foreseen) for piece in pieces), strict=True)
    rest = zip(*(_columns(piece)[1:] for piece in pieces), strict=True)
    foreseen = Foreseen(*(np.concatenate(column) for column in rows))
    return Foresight(foreseen, *(np.concatenate(column) for column in rest))


@dataclass(frozen=True, slots=True)
class _Decisions:
    """Rows at which something is foreseen, and what came of them; known as in Foresight."""

    place: Array
    episode: Array
    row: Array
    actions: Array
    event: Array
    met: Array
    known: Array


def _decisions(
    episode: Episode,
    number: int,
    place: int,
    horizon: int,
    event: float,
    peak: bool,
    stride: int,
) -> _Decisions:
    last = len(episode) - 1
    rows = np.arange(0, last, stride)
    ahead = rows[:, None] + np.arange(1, horizon + 1)
    real = ahead <= last
    risk = np.where(real, np.asarray(episode.safety, np.float64)[np.minimum(ahead, last)], 0.0)
    # A hazard in a window that the recording cut does not make it known: quiet ones are not.
    known = real | bool(episode.terminated)
    # Behind the end of the world nothing is done; its last action stands in.
    doing = np.minimum(rows[:, None] + np.arange(horizon), max(last - 1, 0))
    made = _Decisions(
        place=np.full(len(rows), place),
        episode=np.full(len(rows), number),
        row=rows,
        actions=np.asarray(episode.action, np.float32)[doing],
        event=np.logical_or.accumulate(real & (risk > event), 1),
        met=np.maximum.accumulate(risk, 1) if peak else np.cumsum(risk, 1),
        known=known,
    )
    some = known.any(1)
    return _Decisions(*(column[some] for column in _columns(made)))


def _columns(record: Any) -> list[Any]:
    return [getattr(record, field.name) for field in fields(record)]


def filtered(model: Foreseer, episodes: Sequence[Episode]) -> Iterator[tuple[list[int], Latent]]:
    """Beliefs of whole episodes, some episodes at a time: their places, and latents [B, T]."""
    order = sorted(range(len(episodes)), key=lambda n: len(episodes[n]))
    device = torch.device(getattr(model, "device", "cpu"))
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and (end + 1 - start) * len(episodes[order[end]]) <= _ROWS:
            end += 1
        numbers = order[start:end]
        with torch.no_grad():
            yield numbers, model.filter(pad([episodes[n] for n in numbers], device))
        start = end


def _numpy(value: Tensor) -> Array:
    return np.asarray(value.detach().cpu().numpy(), np.float64)

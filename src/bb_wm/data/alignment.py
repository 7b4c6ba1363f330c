"""Are the actions stored in the row they were done in? Asked of the data before training on it.

Row t holds the action that leads to row t + 1. With actions one row late or early a model still
learns something, its losses still fall, and every plan it makes is wrong. The probe predicts the
change obs[t+1] - obs[t] on held-out episodes from the past alone, and from the past with
action[t + s] for the shifts s = -1, 0, +1. The past (obs[t] and the last two changes) stands in
all of them, so in smooth worlds, where a change tells the action before it, only what an action
adds counts. Learner: ridge regression on random Fourier features (Rahimi & Recht 2007) and on
products of actions with them (most machines are affine in their action), judged by paired
differences.

An action that follows from what was seen (a policy without chance) tells of the row it answers to
as if it had caused it. Where that explains the best shift, the verdict is "inconclusive".

Rewards are not covered: in most worlds reward[t] and reward[t+1] are equally well explained by
smooth observations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bb_wm.data.ridge import RandomFeatures, folds_of, held_out_errors, standardised
from bb_wm.errors import AlignmentError, ConfigError
from bb_wm.types import Episode

SHIFTS = (-1, 0, 1)
MIN_ROWS = 300  # below it, an inconclusive answer is the honest one
MIN_GAIN = 0.03  # of the loss without actions; less than that does not matter to a model
MIN_Z = 4.0  # paired, over episodes or blocks of rows
_WIDTH = 48  # wider observations are projected
_FOLDS = 4
_BLOCK = 50

Verdict = Literal["aligned", "shifted", "inconclusive"]


@dataclass(frozen=True, slots=True)
class AlignmentReport:
    """What the probe found.

    losses[s]: held-out squared error of the change with action[t + s] known, in units of the error
    without any action; 1 means the action tells nothing, lower is better. `margin` is how much
    worse than `best_shift` the row's own action is (or, when that is best, how much worse the next
    best shift is); `z` is that margin in standard errors. `rows` were used.
    """

    losses: dict[int, float]
    best_shift: int
    margin: float
    z: float
    verdict: Verdict
    reason: str
    rows: int

    def raise_if_shifted(self) -> AlignmentReport:
        """This report; AlignmentError naming the shift and its repair when rows are shifted."""
        if self.verdict != "shifted":
            return self
        late = self.best_shift > 0
        shown = ", ".join(f"{s:+d}: {self.losses[s]:.3f}" for s in SHIFTS)
        raise AlignmentError(
            "action",
            expected="in row t the action that leads to row t + 1 (shift 0 fits best)",
            actual=f"actions one row too {'late' if late else 'early'}: losses {shown}",
            hint=f"store action[t] = yours[t{self.best_shift:+d}] within every episode; "
            + ("yours is the action that led to row t." if late else "yours is the next row's."),
        )


def probe_alignment(
    episodes: Sequence[Episode], *, rows: int = 8000, seed: int = 0
) -> AlignmentReport:
    """The shift of the actions that explains the observations best; a few seconds at most.

    `rows` of `episodes` are drawn by `seed`. Inconclusive, never a refusal, when there are too few
    rows, when actions change nothing that is seen, or when they merely follow from it.
    """
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < MIN_ROWS:
        raise ConfigError("rows", expected=f"an int >= {MIN_ROWS}", actual=repr(rows))
    draw = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(7,)))
    table = _Table.of(episodes, rows, draw)
    if table is None:
        return _unclear("too few rows to tell", 0)
    if table.change.shape[1] == 0:
        return _unclear("nothing that is seen ever changes", table.count)
    if any(table.actions[s].shape[1] == 0 for s in SHIFTS):
        return _unclear("the action never changes", table.count)
    return _judge(table, *_losses(table, draw), draw)


@dataclass(frozen=True, slots=True)
class _Table:
    """Rows t with all neighbours: change obs[t+1] - obs[t], the past of row t, the next obs, the
    actions of rows t - 1, t, t + 1, and the unit (episode or block) a row belongs to."""

    change: np.ndarray
    past: np.ndarray
    after: np.ndarray
    actions: dict[int, np.ndarray]
    unit: np.ndarray

    @property
    def count(self) -> int:
        return len(self.unit)

    @classmethod
    def of(cls, episodes: Sequence[Episode], rows: int, draw: np.random.Generator) -> _Table | None:
        """None when there are fewer than MIN_ROWS such rows."""
        sight = _Sight(draw)
        seen: list[np.ndarray] = []  # obs[t-2 .. t+1], [n, 4, F]
        done: list[np.ndarray] = []  # action[t-1 .. t+1], [n, 3, A]
        unit: list[np.ndarray] = []
        total = units = 0
        long = len(episodes) < 20
        for index in draw.permutation(len(episodes)):
            episode = episodes[index]
            t = np.arange(2, len(episode) - 2)[: rows - total]
            if not len(t):
                continue
            obs = sight(episode)
            seen.append(np.stack([obs[t - 2], obs[t - 1], obs[t], obs[t + 1]], 1))
            action = np.asarray(episode.action, np.float64)
            done.append(np.stack([action[t - 1], action[t], action[t + 1]], 1))
            unit.append(units + (t - t[0]) // (_BLOCK if long else len(episode)))
            units = int(unit[-1][-1]) + 1
            total += len(t)
            if total >= rows:
                break
        if total < MIN_ROWS or units < 2 * _FOLDS:
            return None
        o, a = np.concatenate(seen), np.concatenate(done)
        past = np.concatenate([o[:, 2], o[:, 2] - o[:, 1], o[:, 1] - o[:, 0]], 1)
        return cls(
            change=standardised(o[:, 3] - o[:, 2]),
            past=standardised(past),
            after=standardised(o[:, 3]),
            actions={s: standardised(_narrow(a[:, 1 + s], draw)) for s in SHIFTS},
            unit=np.concatenate(unit),
        )


class _Sight:
    """An episode's observations as numbers [T, F <= 48]; wide keys are projected at random."""

    def __init__(self, draw: np.random.Generator) -> None:
        self._seed = int(draw.integers(2**31))

    def __call__(self, episode: Episode) -> np.ndarray:
        columns = []
        for place, key in enumerate(sorted(episode.obs)):
            value = np.asarray(episode.obs[key])
            draw = np.random.default_rng([self._seed, place])
            if value.dtype.kind in "iu" and value.dtype != np.uint8:
                value = _coded(value, draw)
            flat = value.reshape(len(episode), -1).astype(np.float64)
            columns.append(_narrow(flat, draw))
        return _narrow(np.concatenate(columns, 1), np.random.default_rng(self._seed))


def _coded(index: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Discrete variables [T, V] as a fixed random code per class, 8 numbers each."""
    flat = index.reshape(len(index), -1)
    codes = draw.standard_normal((4096, 8))
    return np.concatenate([codes[(flat[:, v] + 131 * v) % 4096] for v in range(flat.shape[1])], 1)


def _narrow(values: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    if values.shape[1] <= _WIDTH:
        return values
    return np.asarray(values @ draw.standard_normal((values.shape[1], _WIDTH)))


def _losses(
    table: _Table, draw: np.random.Generator
) -> tuple[np.ndarray, dict[int, np.ndarray], np.ndarray]:
    """Squared held-out errors per row without actions and per shift, and the folds."""
    fold = folds_of(table.unit, _FOLDS, draw)
    past = table.past
    ones = np.ones((table.count, 1))
    waves = int(np.clip(table.count // 10, 32, 192))
    base = np.concatenate([ones, past, RandomFeatures(past.shape[1], waves, draw)(past)], 1)
    widest = max(table.actions[s].shape[1] for s in SHIFTS)
    few = RandomFeatures(past.shape[1], max(4, min(32, 96 // widest)), draw)(past)
    short = past[:, : past.shape[1] // 3] if past.shape[1] * widest > 200 else past
    scale = np.concatenate([ones, short[:, : max(1, 200 // widest)], few], 1)
    seed = int(draw.integers(2**31))
    without = held_out_errors(base, table.change, fold)
    found = {}
    for shift in SHIFTS:
        action = table.actions[shift]
        both = np.concatenate([past, 2.0 * action], 1)
        joint = RandomFeatures(both.shape[1], waves // 2, np.random.default_rng(seed))(both)
        products = (action[:, :, None] * scale[:, None, :]).reshape(table.count, -1)
        features = np.concatenate([base, products, joint], 1)
        found[shift] = held_out_errors(features, table.change, fold)
    return _weighted(without, found, fold)


def _weighted(
    without: np.ndarray, found: dict[int, np.ndarray], fold: np.ndarray
) -> tuple[np.ndarray, dict[int, np.ndarray], np.ndarray]:
    """Errors [n] over dimensions weighted by what any action tells of them.

    Weights of a fold come from the other folds, and from the best of all shifts alike, so they
    favour no shift and no chance hit.
    """
    weight = np.zeros_like(without)
    for k in range(_FOLDS):
        rest = fold != k
        alone = without[rest].mean(0) + 1e-12
        gain = np.stack([1.0 - found[s][rest].mean(0) / alone for s in SHIFTS]).max(0)
        gain = np.maximum(gain, 1e-6)
        weight[~rest] = gain / gain.sum() / alone
    return (without * weight).sum(1), {s: (found[s] * weight).sum(1) for s in SHIFTS}, fold


def _judge(
    table: _Table,
    without: np.ndarray,
    found: dict[int, np.ndarray],
    fold: np.ndarray,
    draw: np.random.Generator,
) -> AlignmentReport:
    total = float(without.mean()) + 1e-12
    losses = {s: float(found[s].mean()) / total for s in SHIFTS}
    best = min(SHIFTS, key=lambda s: losses[s])
    rival = 0 if best else min((-1, 1), key=lambda s: losses[s])
    margin = losses[rival] - losses[best]
    z = paired_z(found[rival] - found[best], table.unit)

    def report(verdict: Verdict, reason: str) -> AlignmentReport:
        return AlignmentReport(losses, best, margin, z, verdict, reason, table.count)

    clear = paired_z(without - found[best], table.unit) > MIN_Z
    if not clear or 1.0 - losses[best] < MIN_GAIN:
        return report("inconclusive", "no action tells what is seen next: nothing to align by")
    if _answers(table, best, fold, draw):
        return report(
            "inconclusive", "actions follow from what is seen; a share of random ones would tell"
        )
    if margin < MIN_GAIN or z < MIN_Z:
        return report("inconclusive", "two shifts explain what is seen about equally well")
    if best == 0:
        return report("aligned", "row t's own action tells most of row t + 1")
    return report("shifted", f"the action of row t{best:+d} tells most of row t + 1")


def _answers(table: _Table, shift: int, fold: np.ndarray, draw: np.random.Generator) -> bool:
    """Whether action[t + shift] looks like an answer to obs[t+1] rather than its cause.

    An answer is known from obs[t+1], and the rows before add nothing; a cause becomes clearer with
    them (it explains the change). Where the past tells nothing of the action, it was drawn by
    chance, so it is a cause even if obs[t+1] repeats it (EchoWorld).
    """
    action = table.actions[shift]
    known_now = _explained(table.after, action, fold, draw)
    if known_now < 0.5:
        return False
    if _explained(table.past, action, fold, draw) < 0.1:
        return False
    both = np.concatenate([table.after, table.past], 1)
    known_with_past = _explained(both, action, fold, draw)
    return known_with_past - known_now < 0.5 * max(1.0 - known_now, 0.04)


def _explained(
    inputs: np.ndarray, target: np.ndarray, fold: np.ndarray, draw: np.random.Generator
) -> float:
    """Held-out R^2 of `target`, pooled over its dimensions."""
    ones = np.ones((len(inputs), 1))
    wave = RandomFeatures(inputs.shape[1], 192, draw)(inputs)
    errors = held_out_errors(np.concatenate([ones, inputs, wave], 1), target, fold)
    return 1.0 - float(errors.mean() / (target.var(0).mean() + 1e-12))


def paired_z(difference: np.ndarray, unit: np.ndarray) -> float:
    """The mean of `difference` [n] in standard errors, units (not rows) being independent."""
    count = np.bincount(unit)
    total = np.bincount(unit, weights=difference)
    mean = total.sum() / count.sum()
    spread = total - mean * count
    error = np.sqrt((spread**2).sum()) / count.sum()
    return float(mean / (error + 1e-12))


def _unclear(reason: str, rows: int) -> AlignmentReport:
    same = dict.fromkeys(SHIFTS, 1.0)
    return AlignmentReport(same, 0, 0.0, 0.0, "inconclusive", reason, rows)

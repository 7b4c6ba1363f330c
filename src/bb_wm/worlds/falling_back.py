"""Whether a recording holds what a gate will do: its fallback, for as long as it looks ahead.

A model that never saw the fallback does not know where a hold leads. The first one then brings the
machine into rows that nobody recorded, and the gate, rightly distrusting what it hears of them,
holds the harmless actions after it as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bb_wm.types import ActionSpec, Episode
from bb_wm.worlds.checker import ENOUGH, Finding

AHEAD = 10  # rows a gate looks ahead, unless told otherwise


def check_fallback(
    episodes: Sequence[Episode],
    spec: ActionSpec,
    fallback: Any,
    *,
    ahead: int = AHEAD,
) -> list[Finding]:
    """What is missing of `fallback` (the environment's own form, or a function of the flat or keyed
    observation) among the rows; nothing where there is enough. Raises ActionError where it is no
    action of `spec`."""
    done = [_done(episode, spec, fallback) for episode in episodes]
    rows, found = sum(len(d) for d in done), sum(int(d.sum()) for d in done)
    lengths = [length for one in done for length in _stretches(one)]
    long = sum(length >= ahead for length in lengths)
    advice = (
        "record stretches of it too, some longer than the gate looks ahead, from states in which "
        "it may be called (docs/robot.md)"
    )
    if not found:
        what = f"in none of {rows} rows: a gate that holds once meets states nobody recorded"
        return [Finding("fallback", "fix", what, advice)]
    if long < ENOUGH:
        what = f"in {found} of {rows} rows, {long} times for {ahead} rows or more"
        return [Finding("fallback", "fix", what, advice)]
    return []


def _done(episode: Episode, spec: ActionSpec, fallback: Any) -> np.ndarray:
    """In which rows [L - 1] the fallback was done; the last row leads nowhere."""
    action = np.asarray(episode.action)[:-1]
    if callable(fallback):
        safe = np.stack([_flat(spec, fallback(obs)) for obs in _seen(episode)])
    else:
        safe = _flat(spec, fallback)[None]
    same: np.ndarray = np.isclose(action, safe, rtol=0.0, atol=1e-6).all(-1)
    return same


def _seen(episode: Episode) -> list[Any]:
    keys = sorted(episode.obs)
    rows = [{key: episode.obs[key][t] for key in keys} for t in range(len(episode) - 1)]
    return [row[keys[0]] for row in rows] if len(keys) == 1 else list(rows)


def _flat(spec: ActionSpec, fallback: Any) -> np.ndarray:
    return np.asarray(spec.flatten(fallback), np.float32).reshape(spec.size)


def _stretches(done: np.ndarray) -> list[int]:
    """Lengths of runs of True."""
    edges = np.flatnonzero(np.diff(np.r_[False, done, False].astype(int)))
    return [int(length) for length in edges[1::2] - edges[::2]]

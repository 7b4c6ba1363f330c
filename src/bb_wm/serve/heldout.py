"""Recorded conversations that a judge never learnt from, judged: its estimate beside what came."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bb_wm.serve.conversation import Obs, masked_action
from bb_wm.serve.experience import tool_of

if TYPE_CHECKING:
    from bb_wm.serve.judge import Judge
    from bb_wm.types import Episode, Latent

_ENOUGH: Final = 2_000  # calls expected within the limit, after which no more are looked at


@dataclass(frozen=True, slots=True)
class JudgedCall:
    """A call that was made.

    tool          its tool's code
    risk          as it was estimated
    harm, reward  what came of it
    after         which of the judge's look-ups it came straight after (`Judge.after`)
    before        its risk as it was estimated before that look; NaN without one
    """

    tool: bytes
    risk: float
    harm: float
    reward: float = 0.0
    after: bytes = b""
    before: float = math.nan


def judged_calls(judge: Judge, episodes: Iterable[Episode]) -> Iterator[JudgedCall]:
    """Every call made in `episodes`, judged as it would have been then. A refused one did nothing.

    Whole conversations, until `_ENOUGH` calls were expected within the judge's limit.
    """
    import torch

    within = 0
    for episode in episodes:
        # rows that the model sees: the first, and those that a call it is told of led to
        told = [t for t in range(len(episode) - 1) if judge.goes_on(episode.action[t])]
        rows = [0, *(t + 1 for t in told)]
        actions = np.stack([masked_action(episode.action[t], judge.known) for t in [*told, -1]])
        with torch.no_grad():
            beliefs = judge.model.filter(_batch(episode, rows, actions, judge))
        for place, t in enumerate(told):
            if not actions[place][0]:
                continue
            risk, before = _risk(judge, beliefs[:, place], actions[place]), math.nan
            within += not risk > judge.limit
            last = next((p for p in reversed(range(place)) if actions[p][0]), None)
            after = b"" if last is None else _after(judge, episode, told[last])
            if last is not None and after:
                before = _risk(judge, beliefs[:, last], actions[place])
            harm, reward = float(episode.safety[t + 1]), float(episode.reward[t + 1])
            yield JudgedCall(tool_of(actions[place]), risk, harm, reward, after, before)
        if within >= _ENOUGH:
            return


def _risk(judge: Judge, belief: Latent, action: np.ndarray) -> float:
    return float(judge.outcomes(belief, action)[1].mean())


def _after(judge: Judge, episode: Episode, t: int) -> bytes:
    """The look-up that the call made in row t was."""
    return judge.after(episode.action[t], {k: rows[t + 1] for k, rows in episode.obs.items()})


def seen_in(episode: Episode, t: int, judge: Judge) -> Obs:
    """Row t as the judge sees it."""
    return judge.sees({key: values[t] for key, values in episode.obs.items()})


def _batch(
    episode: Episode, rows: Sequence[int], actions: np.ndarray, judge: Judge
) -> dict[str, Any]:
    """These rows of an episode as a batch of one; `actions` [T, A] are done in them."""
    obs = [seen_in(episode, t, judge) for t in rows]
    ended = np.zeros((1, len(rows)), bool)
    ended[0, -1] = episode.terminated
    return {
        "obs": {key: np.stack([row[key] for row in obs])[None] for key in obs[0]},
        "action": actions[None],
        "reward": episode.reward[rows][None],
        "safety": episode.safety[rows][None],
        "terminated": ended,
        "is_first": (np.arange(len(rows)) == 0)[None],
    }

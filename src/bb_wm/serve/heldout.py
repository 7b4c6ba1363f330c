"""Recorded conversations that a judge never learnt from, judged: its estimate beside what came."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bb_wm.serve.conversation import Obs, masked_action, masked_obs
from bb_wm.serve.experience import tool_of
from bb_wm.serve.featurise import Known

if TYPE_CHECKING:
    from bb_wm.serve.judge import Judge
    from bb_wm.types import Episode

_ENOUGH: Final = 2_000  # calls expected within the limit, after which no more are looked at


@dataclass(frozen=True, slots=True)
class JudgedCall:
    """A call that was made: the code of its tool, its estimated risk, the V_s that came of it."""

    tool: bytes
    risk: float
    harm: float


def judged_calls(judge: Judge, episodes: Iterable[Episode]) -> Iterator[JudgedCall]:
    """Every call made in `episodes`, judged as it would have been then. A refused one did nothing.

    Whole conversations, until `_ENOUGH` calls were expected within the judge's limit.
    """
    import torch

    within = 0
    for episode in episodes:
        actions = np.stack([masked_action(action, judge.known) for action in episode.action])
        with torch.no_grad():
            beliefs = judge.model.filter(_batch(episode, actions, judge.known))
        for t in range(len(episode) - 1):
            if not actions[t][0]:
                continue
            risk = float(judge.outcomes(beliefs[:, t], actions[t])[1].mean())
            within += not risk > judge.limit
            yield JudgedCall(tool_of(actions[t]), risk, float(episode.safety[t + 1]))
        if within >= _ENOUGH:
            return


def seen_in(episode: Episode, t: int, known: Known) -> Obs:
    """Row t as a judge of these known texts sees it."""
    return masked_obs({key: values[t] for key, values in episode.obs.items()}, known)


def _batch(episode: Episode, actions: np.ndarray, known: Known) -> dict[str, Any]:
    """One episode as a batch of one, its texts masked."""
    length = len(episode)
    obs = [seen_in(episode, t, known) for t in range(length)]
    ended = np.zeros((1, length), bool)
    ended[0, -1] = episode.terminated
    return {
        "obs": {key: np.stack([row[key] for row in obs])[None] for key in obs[0]},
        "action": actions[None],
        "reward": episode.reward[None],
        "safety": episode.safety[None],
        "terminated": ended,
        "is_first": (np.arange(length) == 0)[None],
    }

"""Where episodes come from: a world acted in, or rows recorded earlier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bb_wm.errors import ConfigError

if TYPE_CHECKING:
    from bb_wm.data import Policy
    from bb_wm.types import Episode


class EpisodeSource(Protocol):
    """Gives episodes by number: the same number is the same episode whenever it is asked for."""

    def episodes(self, *, heldout: bool, first: int, rows: int) -> Iterator[Episode]:
        """Episodes first, first + 1, ... of one part, at most `rows` rows in all."""
        ...


class WorldSource:
    """Acts in a Gymnasium world; episode i is a function of (seed, part, i) and the policy.

    `options` go to `bb_wm.data.collect_episodes`: risk, workers, max_episode_rows, ... With several
    workers episodes are begun ahead of their turn, so a policy that learns meanwhile needs one.
    """

    def __init__(
        self, env_or_maker: Any, *, seed: int = 0, policy: Policy | None = None, **options: Any
    ) -> None:
        reserved = {"rows", "episodes", "first_episode", "on_progress"} & set(options)
        if reserved:
            raise ConfigError(
                "options", expected="what the trainer does not set", actual=sorted(reserved)
            )
        self.env_or_maker = env_or_maker
        self.policy = policy
        self.options = options
        ahead = options.get("workers", 1) != 1
        self.looks_ahead = ahead and policy is not None
        self._seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(2)]

    def episodes(self, *, heldout: bool, first: int, rows: int) -> Iterator[Episode]:
        from bb_wm.data import collect_episodes

        episodes: Iterator[Episode] = collect_episodes(
            self.env_or_maker,
            rows=max(rows, 2),
            policy=self.policy,
            seed=self._seeds[heldout],
            first_episode=first,
            **self.options,
        )
        return episodes


class RecordedSource:
    """Episodes recorded earlier, those of `heldout` kept apart; in the order given."""

    def __init__(self, train: Sequence[Episode], heldout: Sequence[Episode] = ()) -> None:
        if not train:
            raise ConfigError("train", expected="at least one episode", actual="none")
        self._parts = (train, heldout)

    @classmethod
    def split(
        cls, episodes: Sequence[Episode], *, heldout: float = 0.1, seed: int = 0
    ) -> RecordedSource:
        """A seeded share of whole episodes is held out, at least one of each part."""
        if len(episodes) < 2 or not 0 < heldout < 1:
            raise ConfigError(
                "episodes",
                expected="two or more, and a held-out share in (0, 1)",
                actual=f"{len(episodes)} and {heldout}",
            )
        order = np.random.default_rng(seed).permutation(len(episodes))
        count = min(max(round(heldout * len(episodes)), 1), len(episodes) - 1)
        apart = set(order[:count].tolist())
        return cls(
            [episode for i, episode in enumerate(episodes) if i not in apart],
            [episode for i, episode in enumerate(episodes) if i in apart],
        )

    def episodes(self, *, heldout: bool, first: int, rows: int) -> Iterator[Episode]:
        total = 0
        for episode in self._parts[heldout][first:]:
            if total >= rows:
                return
            total += len(episode)
            yield episode

"""What a set of episodes holds, in numbers and words, before anything is learnt from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bb_wm.diagnose.evaluation import number
from bb_wm.diagnose.tables import Table
from bb_wm.errors import DataError

if TYPE_CHECKING:
    from bb_wm.types import ActionSpec, Episode, ObsSpec

SHORT: int = 12  # rows: below it, ten steps ahead can never be judged
RARE: int = 20  # risky rows: below it, V_s has too few to learn from


@dataclass(frozen=True, slots=True)
class RowsReport:
    """Counts and ranges over all rows of some episodes.

    `reward` and `risk` are (smallest, mean, largest) over the rows in which they are received, all
    but an episode's first. `findings` say in sentences what will limit a model learnt from these.
    """

    episodes: int
    rows: int
    lengths: tuple[int, int, int]
    terminated: int
    truncated: int
    reward: tuple[float, float, float]
    risk: tuple[float, float, float]
    risky_rows: int
    constant: tuple[str, ...]
    findings: tuple[str, ...]

    @property
    def abandoned(self) -> int:
        """Episodes that neither the world nor the recording ended."""
        return self.episodes - self.terminated - self.truncated

    def table(self, obs_spec: ObsSpec, action_spec: ActionSpec) -> Table:
        """The report as a table of two columns."""
        low, middle, high = self.lengths
        share = self.risky_rows / self.rows
        rows = (
            (
                "rows",
                f"{self.rows} in {self.episodes} episodes of {low} to {high} (median {middle})",
            ),
            ("seen", describe_obs(obs_spec)),
            ("done", describe_action(action_spec)),
            (
                "ends",
                f"{self.terminated} terminated, {self.truncated} truncated, "
                f"{self.abandoned} abandoned",
            ),
            ("reward", _range(self.reward)),
            ("risk", f"above 0 in {self.risky_rows} rows ({share:.1%}); {_range(self.risk)}"),
            ("never changes", ", ".join(self.constant[:8]) or "nothing"),
        )
        return Table("What there is", ("", ""), rows)


def describe_rows(episodes: Sequence[Episode]) -> RowsReport:
    """Counts, ranges and findings. Raises DataError when there is no episode."""
    if not episodes:
        raise DataError("episodes", expected="at least one", actual="none")
    lengths = [len(episode) for episode in episodes]
    reward = np.concatenate([episode.reward[1:] for episode in episodes]).astype(np.float64)
    risk = np.concatenate([episode.safety[1:] for episode in episodes]).astype(np.float64)
    report = RowsReport(
        episodes=len(episodes),
        rows=sum(lengths),
        lengths=(min(lengths), int(np.median(lengths)), max(lengths)),
        terminated=sum(episode.terminated for episode in episodes),
        truncated=sum(episode.truncated and not episode.terminated for episode in episodes),
        reward=_spread(reward),
        risk=_spread(risk),
        risky_rows=int((risk > 0).sum()),
        constant=_constant(episodes),
        findings=(),
    )
    return _judged(report)


def describe_obs(spec: ObsSpec) -> str:
    """Every key with its kind and shape: "obs vector [3]"."""
    return ", ".join(f"{entry.key} {entry.kind} {list(entry.shape)}" for entry in spec.entries)


def describe_action(spec: ActionSpec) -> str:
    """Every part: "action 2 numbers", "action 4 choices"."""
    words = {"box": "numbers", "discrete": "choices"}
    return ", ".join(f"{part.key} {part.size} {words[part.kind]}" for part in spec.parts)


def _judged(report: RowsReport) -> RowsReport:
    from dataclasses import replace

    found = []
    if report.episodes < 2:
        found.append("One episode only: none can be held out to judge on.")
    if report.lengths[1] < SHORT:
        found.append(
            f"Half of the episodes have fewer than {SHORT} rows: "
            "the model is judged on fewer steps ahead."
        )
    if report.reward[0] == report.reward[2]:
        found.append(f"The reward is always {number(report.reward[0])}: nothing to plan for.")
    if not report.risky_rows:
        found.append("The risk is always 0: the model will call everything harmless.")
    elif report.risky_rows < RARE:
        found.append(
            f"Only {report.risky_rows} rows carry risk: too few to learn or to judge it by."
        )
    if report.abandoned:
        found.append(f"{report.abandoned} episodes were abandoned; their rows are used.")
    return replace(report, findings=tuple(found))


def _spread(values: np.ndarray) -> tuple[float, float, float]:
    if not values.size:
        return (0.0, 0.0, 0.0)
    return float(values.min()), float(values.mean()), float(values.max())


def _range(spread: tuple[float, float, float]) -> str:
    low, mean, high = spread
    return f"{number(low)} to {number(high)}, mean {number(mean)}"


def _constant(episodes: Sequence[Episode]) -> tuple[str, ...]:
    """Names of vector numbers that are the same in every row of all episodes."""
    names: list[str] = []
    for key, first in episodes[0].obs.items():
        if np.asarray(first).ndim != 2:
            continue
        same = np.ones(first.shape[1], bool)
        for episode in episodes:
            same &= (episode.obs[key] == first[0]).all(0)
        names += [f"{key}[{place}]" for place in np.flatnonzero(same)]
    return tuple(names)

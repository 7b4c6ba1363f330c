"""Looks at an environment or at recorded episodes, and says what to fix before learning from them.

Three grades: "stop" (nothing right can be learnt), "fix" (learnable, but something important will
be wrong or missing) and "note". `bb-wm check` prints them with the rows themselves.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from bb_wm.types import ActionSpec, Episode, ObsSpec

if TYPE_CHECKING:
    from bb_wm.worlds.world import Risk

Grade = Literal["stop", "fix", "note"]
ENOUGH: Final = 20  # events; below it a risk head has too few to learn from or to be judged by
ALWAYS: Final = 0.8  # share of risky rows above which avoiding them cannot be learnt
_STEPS: Final = 60


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found: about what, what it is, and what to do about it."""

    topic: str
    grade: Grade
    what: str
    fix: str = ""

    @property
    def line(self) -> str:
        """As one line for a person."""
        return f"{self.topic}: {self.what}" + (f" -> {self.fix}" if self.fix else "")


def verdict(findings: Sequence[Finding]) -> str:
    """ "not usable", "usable, with n things to fix" or "usable"."""
    if any(finding.grade == "stop" for finding in findings):
        return "not usable"
    count = sum(finding.grade == "fix" for finding in findings)
    if not count:
        return "usable"
    return f"usable, with {count} thing{'s' if count > 1 else ''} to fix"


# --- an environment -------------------------------------------------------------------------------


def check_environment(
    maker: Callable[[], Any], *, risk: Risk | None = None, seed: int = 0
) -> list[Finding]:
    """What is wrong with the environment that `maker` makes; it is made a few times and played.

    Looked at: spaces, resets and seeds, what steps give back, the risk signal (`risk` as `collect`
    wants it, by default info["cost"]) and Gymnasium's own checker. Never raises for what the
    environment does.
    """
    found: list[Finding] = []
    for look in (_spaces, _plays, _gymnasium):
        try:
            found += look(maker, risk, seed)
        except Exception as error:
            what = f"{type(error).__name__}: {_first_line(error)}"
            found.append(Finding("environment", "stop", what, "it must make, reset and step"))
        if any(finding.grade == "stop" for finding in found):
            break
    return found


def _spaces(maker: Callable[[], Any], risk: Risk | None, seed: int) -> list[Finding]:
    env = maker()
    try:
        ObsSpec.of(env.observation_space)
        spec = ActionSpec.of(env.action_space)
    finally:
        env.close()
    low, high = spec.bounds()
    if not (np.isfinite(low) & np.isfinite(high)).all():
        return [
            Finding(
                "action space",
                "fix",
                f"{int((~(np.isfinite(low) & np.isfinite(high))).sum())} numbers without bounds",
                "declare Box(low, high): random actions and planners need to know the range",
            )
        ]
    return []


@dataclass(slots=True)
class _Play:
    """One seeded stretch of random actions."""

    obs: list[dict[str, np.ndarray]]
    rewards: list[float]
    costs: list[float]
    strangers: int
    told: bool
    flags: set[str]
    seconds: float


def _plays(maker: Callable[[], Any], risk: Risk | None, seed: int) -> list[Finding]:
    first, again, other = (_play(maker, risk, seed + more) for more in (0, 0, 1))
    found: list[Finding] = []
    if not all(
        np.isfinite(v).all() for row in first.obs for v in row.values() if v.dtype != object
    ):
        found.append(Finding("observation", "stop", "NaN or infinity", "repair or mask the sensor"))
    if not np.isfinite(first.rewards).all():
        found.append(Finding("reward", "stop", "NaN or infinity", "a reward is one finite number"))
    costs = np.asarray(first.costs)
    if not np.isfinite(costs).all() or (costs < 0).any():
        found.append(
            Finding("risk", "stop", "negative or not finite", "risk is >= 0, larger is worse")
        )
    if first.flags:
        kinds = ", ".join(sorted(first.flags))
        found.append(Finding("episode end", "stop", f"flags of type {kinds}", "return bool"))
    if first.strangers:
        found.append(
            Finding(
                "observation space",
                "fix",
                f"{first.strangers} of {len(first.obs)} observations lie outside it",
                "widen the Box, or cast to its dtype",
            )
        )
    if not _same(first, again):
        found.append(
            Finding(
                "seed",
                "fix",
                "the same seed and actions gave other rows",
                "draw all chance from self.np_random, and call super().reset(seed=seed)",
            )
        )
    elif _equal(first.obs[0], other.obs[0]):
        found.append(Finding("seed", "note", "two seeds start alike: every episode begins there"))
    if not first.told:
        found.append(
            Finding(
                "risk",
                "fix",
                'info["cost"] is never reported, so every row counts as harmless',
                "report it, or wrap the environment (docs/robot.md, PhysicsRisk)",
            )
        )
    rate = len(first.rewards) / max(first.seconds, 1e-9)
    if rate < 50:
        found.append(Finding("speed", "note", f"{rate:.0f} steps a second: collect with --workers"))
    return found


def _play(maker: Callable[[], Any], risk: Risk | None, seed: int) -> _Play:
    from bb_wm.data.native import flat_mask, native_action, sample_action
    from bb_wm.data.recorder import info_cost

    env = maker()
    try:
        spec, obs_spec = ActionSpec.of(env.action_space), ObsSpec.of(env.observation_space)
        draw = np.random.default_rng(seed)
        obs, info = env.reset(seed=seed)
        play = _Play([], [], [], 0, risk is not None and _own(risk), set(), 0.0)
        _keep(play, env, obs_spec, obs)
        started = time.perf_counter()
        for _ in range(_STEPS):
            flat = sample_action(spec, draw, flat_mask(spec, info.get("action_mask")))
            action = native_action(spec, env.action_space, flat)
            before = obs
            obs, reward, ended, cut, info = env.step(action)
            play.flags |= {
                type(flag).__name__
                for flag in (ended, cut)
                if not isinstance(flag, bool | np.bool_)
            }
            play.told = play.told or "cost" in info
            play.rewards.append(float(reward))
            rule = info_cost if risk is None else risk
            play.costs.append(float(rule(before, action, obs, float(reward), bool(ended), info)))
            _keep(play, env, obs_spec, obs)
            if ended or cut:
                obs, info = env.reset()
        play.seconds = time.perf_counter() - started
        return play
    finally:
        env.close()


def _own(risk: Risk) -> bool:
    """Whether the rule reads something else than info["cost"]."""
    from bb_wm.worlds.risk import InfoCost

    return risk != InfoCost()


def _keep(play: _Play, env: Any, spec: ObsSpec, obs: Any) -> None:
    play.obs.append({key: np.array(value) for key, value in spec.keyed(obs).items()})
    play.strangers += not env.observation_space.contains(obs)


def _same(one: _Play, other: _Play) -> bool:
    if len(one.obs) != len(other.obs) or one.rewards != other.rewards:
        return False
    return all(_equal(a, b) for a, b in zip(one.obs, other.obs, strict=True))


def _equal(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def _gymnasium(maker: Callable[[], Any], risk: Risk | None, seed: int) -> list[Finding]:
    """Gymnasium's own checker; what it refuses is worth fixing, and does not stop us."""
    from gymnasium.utils.env_checker import check_env

    env = maker()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_env(env.unwrapped, skip_render_check=True, skip_close_check=True)
    except Exception as error:
        return [Finding("Gymnasium's checker", "note", _first_line(error))]
    finally:
        env.close()
    return []


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else "without a word"


# --- recorded rows --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Events:
    """Risk as events: `onsets` rows in which it rises above 0, in `episodes` of `of` episodes.

    `rate` (low, high) bounds the share of rows that are onsets at 95 %; with none it is 0 to 3 / n,
    the rule of three.
    """

    onsets: int
    episodes: int
    of: int
    rows: int
    risky: int

    @property
    def rate(self) -> tuple[float, float]:
        rows = max(self.rows, 1)
        if not self.onsets:
            return 0.0, min(3.0 / rows, 1.0)
        share, error = self.onsets / rows, 1.96 * float(np.sqrt(self.onsets)) / rows
        return max(share - error, 0.0), min(share + error, 1.0)


def count_events(episodes: Sequence[Episode]) -> Events:
    """How often risk sets in."""
    onsets = with_any = rows = risky = 0
    for episode in episodes:
        bad = np.asarray(episode.safety) > 0
        starts = int((bad[1:] & ~bad[:-1]).sum())
        onsets, with_any = onsets + starts, with_any + bool(bad.any())
        rows, risky = rows + len(bad) - 1, risky + int(bad[1:].sum())
    return Events(onsets, with_any, len(episodes), rows, risky)


def check_episodes(episodes: Sequence[Episode]) -> list[Finding]:
    """What the rows say about ends and rare events. Shapes and numbers were checked on reading."""
    return [*_ends(episodes), *_risks(episodes, count_events(episodes))]


def _ends(episodes: Sequence[Episode]) -> list[Finding]:
    lengths = [len(episode) for episode in episodes]
    ended = [len(episode) for episode in episodes if episode.terminated]
    # the last one may have been cut where collecting stopped
    if len(ended) > 2 and len(ended) >= len(episodes) - 1 and set(ended) == {max(lengths)}:
        return [
            Finding(
                "episode end",
                "fix",
                f"every episode terminates at row {max(lengths)}: that is a time limit",
                "report it as truncated, or the model learns that the world ends there",
            )
        ]
    if not ended and len(episodes) == 1:
        what = f"one episode, without an end in {max(lengths)} rows"
        return [Finding("episode end", "fix", what, "give it a time limit (max_episode_steps)")]
    return []


def _risks(episodes: Sequence[Episode], events: Events) -> list[Finding]:
    if not events.onsets:
        return [
            Finding(
                "rare events",
                "fix",
                f"none in {events.rows} rows: at 95 % rarer than 1 in {events.rows / 3:.0f}",
                "record more, provoke some where it is harmless, or mend the risk signal",
            )
        ]
    if events.risky > ALWAYS * events.rows:
        return [
            Finding(
                "risk",
                "fix",
                f"above 0 in {events.risky / events.rows:.0%} of rows: no way around it to learn",
                "raise its limit, so that it is the exception",
            )
        ]
    if events.onsets < ENOUGH:
        more = int(np.ceil(events.rows * (ENOUGH / events.onsets - 1.0)))
        return [
            Finding(
                "rare events",
                "fix",
                f"{events.onsets} in {events.rows} rows: too few to learn from or be judged by",
                f"about {more} rows more would hold {ENOUGH}",
            )
        ]
    last = sum(int(e.safety[-1] > 0 and not (e.safety[:-1] > 0).any()) for e in episodes)
    if last == events.episodes and last > 2:
        return [Finding("risk", "note", "it only ever comes with the end of an episode")]
    return []

"""ToolDesk: a small world in which looking first has an exactly known worth.

A request hides an intent k in 0..3, uniform. A cue names it with probability .40, .65 or .92 by its
visible clarity, else one of the others. Stake s in {1, 3} and price p in {1, 3} are visible. The
agent may call tools at most four times, then commits to an intent (+s right, -2s wrong) or hands
the request off (0); both end the episode.

| tool | cost | silent | answer |
|---|---|---|---|
| A | .05 p | .10 | the intent with .70, else one of the others |
| B | .20 p | .25 | the intent with .95, else one of the others |
| C | .02 p | never | one of 16 symbols, uniform: no information |

Actions: 0, 1, 2 call A, B, C; 3..6 commit to intent 0..3; 7 hands off. `info["action_mask"]` (int8
[8]) closes the tools when no call is left; calling one nevertheless hands the request off.

Observations (all Discrete, or one-hots of the same order with `observation="vector"`):

| key | classes | meaning |
|---|---|---|
| answer | 22 | 0 none yet, 1 silence, 2..5 intent 0..3, 6..21 symbol of C |
| calls_left | 5 | 0..4 |
| clarity | 3 | of the cue |
| cue | 4 | the intent it names |
| named | 8 x 5 | how often A named intent 0..3, then how often B did |
| price, stake | 2, 2 | 0: one, 1: three |
| tool | 4 | 0 none yet, 1..3: A, B, C was called last |

The last row repeats what was seen before the end. Its risk, `info["safety"]`, is 1 when a commit
was wrong, else 0. With `expected_reward=True` reward and risk of a commit are their expectations
under the true belief: the same mean without chance. `info["belief"]` is that belief; it is for
scoring only, an agent that reads it cheats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import gymnasium
import numpy as np

from bb_wm.errors import ActionError, ConfigError
from bb_wm.types import Episode

INTENTS: Final = 4
CALLS: Final = 4
TOOLS: Final = 3
ACTIONS: Final = 8
HAND_OFF: Final = 7
SYMBOLS: Final = 16
CLARITY: Final = (0.40, 0.65, 0.92)
LEVELS: Final = (1.0, 3.0)  # of stake and of price
COST: Final = np.array([0.05, 0.20, 0.02])
SILENCE: Final = np.array([0.10, 0.25, 0.00])
RIGHT: Final = np.array([0.70, 0.95, 0.25])  # of an answer; C's symbols are drawn apart
SILENT: Final = 1
FIRST_INTENT: Final = 2
FIRST_SYMBOL: Final = 6

CLASSES: Final[Mapping[str, int | tuple[int, ...]]] = {
    "answer": FIRST_SYMBOL + SYMBOLS,
    "calls_left": CALLS + 1,
    "clarity": len(CLARITY),
    "cue": INTENTS,
    "named": (CALLS + 1,) * (2 * INTENTS),
    "price": len(LEVELS),
    "stake": len(LEVELS),
    "tool": TOOLS + 1,
}
VECTOR_SIZE: Final = sum(int(np.sum(classes)) for classes in CLASSES.values())


def observation_space() -> gymnasium.spaces.Dict:
    """The dict of Discrete keys of the table above."""
    return gymnasium.spaces.Dict(
        {
            key: gymnasium.spaces.MultiDiscrete(list(classes))
            if isinstance(classes, tuple)
            else gymnasium.spaces.Discrete(classes)
            for key, classes in CLASSES.items()
        }
    )


def as_vector(obs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Discrete keys [*batch] ("named" [*batch, 8]) -> their one-hots [*batch, VECTOR_SIZE]."""
    columns: list[np.ndarray] = []
    for key, classes in CLASSES.items():
        values = np.asarray(obs[key])
        if isinstance(classes, tuple):
            hot = np.eye(classes[0], dtype=np.float32)[values]
            columns.append(np.asarray(hot.reshape(*values.shape[:-1], -1)))
        else:
            columns.append(np.eye(classes, dtype=np.float32)[values])
    return np.asarray(np.concatenate(columns, axis=-1), np.float32)


def likelihood(tool: int, named: int) -> np.ndarray:
    """P(tool names `named` | it answers, intent) [4]."""
    others = (1.0 - RIGHT[tool]) / (INTENTS - 1)
    return np.asarray(np.where(np.arange(INTENTS) == named, RIGHT[tool], others))


def belief(clarity: int, cue: int, named: np.ndarray) -> np.ndarray:
    """P(intent | cue, named [8]) [4]."""
    others = (1.0 - CLARITY[clarity]) / (INTENTS - 1)
    weight = np.where(np.arange(INTENTS) == cue, CLARITY[clarity], others)
    for place, times in enumerate(named):
        weight = weight * likelihood(place // INTENTS, place % INTENTS) ** int(times)
    return np.asarray(weight / weight.sum())


class ToolDesk(gymnasium.Env[Any, Any]):
    """The world of this module's table.

    `reset(options={"clarity": 0, "stake": 1})` fixes any of the three visible levels, by index.
    """

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        *,
        observation: Literal["dict", "vector"] = "dict",
        expected_reward: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if observation not in ("dict", "vector"):
            raise ConfigError("observation", expected="'dict' or 'vector'", actual=observation)
        self.render_mode = render_mode
        self.expected_reward = expected_reward
        self._vector = observation == "vector"
        self.action_space = gymnasium.spaces.Discrete(ACTIONS)
        self.observation_space = (
            gymnasium.spaces.Box(0.0, 1.0, (VECTOR_SIZE,), np.float32)
            if self._vector
            else observation_space()
        )
        self._intent = 0
        self._seen: dict[str, Any] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        draw = self.np_random
        self._intent = int(draw.integers(INTENTS))
        levels = {key: int(draw.integers(CLASSES[key])) for key in ("clarity", "stake", "price")}
        for key, value in (options or {}).items():
            if key not in levels or value not in range(int(np.sum(CLASSES[key]))):
                raise ConfigError(f"options[{key!r}]", expected="a level's index", actual=value)
            levels[key] = int(value)
        self._seen = {
            "answer": 0,
            "calls_left": CALLS,
            "cue": _named(draw, CLARITY[levels["clarity"]], self._intent),
            "named": np.zeros(2 * INTENTS, np.int64),
            "tool": 0,
            **levels,
        }
        return self._obs(), self._info(0.0)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):
            raise ActionError("action", expected=f"an index in 0..{ACTIONS - 1}", actual=action)
        choice, seen = int(action), self._seen
        if choice < TOOLS and seen["calls_left"] > 0:
            return self._obs_after_call(choice)
        if choice < TOOLS or choice == HAND_OFF:
            return self._obs(), 0.0, True, False, self._info(0.0)
        wrong = float(choice - TOOLS != self._intent)
        if self.expected_reward:
            wrong = 1.0 - float(self._belief()[choice - TOOLS])
        stake = LEVELS[seen["stake"]]
        return self._obs(), stake * (1.0 - 3.0 * wrong), True, False, self._info(wrong)

    def _obs_after_call(self, tool: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        seen, draw = self._seen, self.np_random
        answer = SILENT
        if tool == 2:
            answer = FIRST_SYMBOL + int(draw.integers(SYMBOLS))
        elif draw.random() >= SILENCE[tool]:
            intent = _named(draw, RIGHT[tool], self._intent)
            answer = FIRST_INTENT + intent
            seen["named"][tool * INTENTS + intent] += 1
        seen.update(answer=answer, tool=tool + 1, calls_left=seen["calls_left"] - 1)
        cost = float(COST[tool]) * LEVELS[seen["price"]]
        return self._obs(), -cost, False, False, self._info(0.0)

    def _belief(self) -> np.ndarray:
        return belief(self._seen["clarity"], self._seen["cue"], self._seen["named"])

    def _obs(self) -> Any:
        if self._vector:
            return as_vector(self._seen)
        return {
            key: np.array(value) if key == "named" else np.int64(value)
            for key, value in sorted(self._seen.items())
        }

    def _info(self, safety: float) -> dict[str, Any]:
        mask = np.ones(ACTIONS, np.int8)
        mask[:TOOLS] = self._seen["calls_left"] > 0
        return {"action_mask": mask, "safety": safety, "belief": self._belief()}

    def render(self) -> str:
        """One line: what is seen."""
        return ", ".join(f"{key} {value}" for key, value in sorted(self._seen.items()))


def _named(draw: np.random.Generator, right: float, intent: int) -> int:
    """The intent with probability `right`, else one of the others."""
    if draw.random() < right:
        return intent
    return int((intent + draw.integers(1, INTENTS)) % INTENTS)


# --- many episodes at once ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Desks:
    """N played episodes as padded rows [N, 6]; `length` [N] counts the rows of each, end included.

    Row t's `action` leads to row t + 1; the last row's is -1. Rows beyond `length` repeat the last.
    """

    obs: Mapping[str, np.ndarray]
    action: np.ndarray
    reward: np.ndarray
    safety: np.ndarray
    length: np.ndarray

    def __len__(self) -> int:
        return int(self.length.shape[0])

    @property
    def flat_action(self) -> np.ndarray:
        """One-hots [N, 6, 8], all zero where nothing was done."""
        table = np.vstack([np.eye(ACTIONS, dtype=np.float32), np.zeros((1, ACTIONS), np.float32)])
        return np.asarray(table[self.action])

    def episodes(self) -> list[Episode]:
        """The same as `types.Episode`s, with action masks."""
        flat = self.flat_action
        masks = np.ones((len(self), CALLS + 2, ACTIONS), np.bool_)
        masks[..., :TOOLS] = (self.obs["calls_left"] > 0)[..., None]
        rows = {k: v if v.ndim == 3 else v[..., None] for k, v in self.obs.items()}
        return [
            Episode(
                obs={key: value[i, :n] for key, value in rows.items()},
                action=flat[i, :n],
                reward=self.reward[i, :n],
                safety=self.safety[i, :n],
                terminated=True,
                truncated=False,
                action_mask=masks[i, :n],
            )
            for i, n in enumerate(self.length.tolist())
        ]


def sample_desks(count: int, generator: np.random.Generator) -> Desks:
    """`count` episodes of a random play: 0..4 calls of uniform tools, then a uniform ending.

    The ending is one of the four commits or the hand-off; every history of calls is thus met, and
    deep ones as often as shallow ones.
    """
    intent, base = _first_sights(count, generator)
    calls = generator.integers(CALLS + 1, size=count)
    steps = CALLS + 2
    obs = {key: np.repeat(np.asarray(value)[:, None], steps, axis=1) for key, value in base.items()}
    action = np.full((count, steps), -1, np.int64)
    reward = np.zeros((count, steps), np.float32)
    safety = np.zeros((count, steps), np.float32)
    price = np.asarray(LEVELS)[base["price"]]
    for t in range(CALLS):
        rows = np.flatnonzero(calls > t)
        tool = generator.integers(TOOLS, size=rows.size)
        action[rows, t] = tool
        reward[rows, t + 1] = -COST[tool] * price[rows]
        _write_answer(obs, rows, t + 1, tool, intent[rows], generator)
    ending = TOOLS + generator.integers(INTENTS + 1, size=count)
    everyone = np.arange(count)
    action[everyone, calls] = ending
    commits = ending != HAND_OFF
    wrong = commits & (ending - TOOLS != intent)
    stake = np.asarray(LEVELS)[base["stake"]]
    reward[everyone, calls + 1] = commits * stake * (1.0 - 3.0 * wrong)
    safety[everyone, calls + 1] = wrong
    return Desks(obs, action, reward, safety, calls + 2)


def _first_sights(
    count: int, generator: np.random.Generator
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    intent = generator.integers(INTENTS, size=count)
    clarity = generator.integers(len(CLARITY), size=count)
    base = {
        "answer": np.zeros(count, np.int64),
        "calls_left": np.full(count, CALLS),
        "clarity": clarity,
        "cue": _many_named(np.asarray(CLARITY)[clarity], intent, generator),
        "named": np.zeros((count, 2 * INTENTS), np.int64),
        "price": generator.integers(len(LEVELS), size=count),
        "stake": generator.integers(len(LEVELS), size=count),
        "tool": np.zeros(count, np.int64),
    }
    return intent, base


def _many_named(
    right: np.ndarray, intent: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    other = (intent + generator.integers(1, INTENTS, size=intent.size)) % INTENTS
    return np.where(generator.random(intent.size) < right, intent, other)


def _write_answer(
    obs: dict[str, np.ndarray],
    rows: np.ndarray,
    t: int,
    tool: np.ndarray,
    intent: np.ndarray,
    generator: np.random.Generator,
) -> None:
    """What the calls of these rows show, from row t on."""
    named = _many_named(RIGHT[tool], intent, generator)
    answered = (generator.random(rows.size) >= SILENCE[tool]) & (tool < 2)
    symbol = FIRST_SYMBOL + generator.integers(SYMBOLS, size=rows.size)
    answer = np.where(answered, FIRST_INTENT + named, SILENT)
    answer = np.where(tool == 2, symbol, answer)
    obs["answer"][rows, t:] = answer[:, None]
    obs["tool"][rows, t:] = (tool + 1)[:, None]
    obs["calls_left"][rows, t:] -= 1
    hit = rows[answered]
    place = (tool * INTENTS + named)[answered]
    for later in range(t, CALLS + 2):
        obs["named"][hit, later, place] += 1

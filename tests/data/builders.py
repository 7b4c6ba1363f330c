"""Episodes and raw batches of known content for the tests of bb_wm.data; no torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from bb_wm.types import ActionSpec, Episode, ObsSpec

OBS = ObsSpec.of(3)


def discrete(n: int) -> ActionSpec:
    import gymnasium

    return ActionSpec.of(gymnasium.spaces.Discrete(n))


def box(low: float, high: float, size: int) -> ActionSpec:
    import gymnasium

    return ActionSpec.of(gymnasium.spaces.Box(low, high, (size,)))


def rich_obs() -> ObsSpec:
    """A vector, a matrix, an image and choices."""
    import gymnasium

    return ObsSpec.of(
        gymnasium.spaces.Dict(
            {
                "arm": gymnasium.spaces.Box(-1, 1, (2, 2)),
                "eye": gymnasium.spaces.Box(0, 255, (8, 9, 3), np.uint8),
                "mode": gymnasium.spaces.MultiDiscrete([3, 4]),
                "pos": gymnasium.spaces.Box(-1, 1, (3,)),
            }
        )
    )


def random_obs(spec: ObsSpec, rows: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    obs = {}
    for entry in spec.entries:
        shape = (rows, *entry.shape)
        if entry.kind == "image":
            obs[entry.key] = random.integers(0, 256, shape, np.uint8)
        elif entry.kind == "discrete":
            obs[entry.key] = random.integers(0, entry.classes, shape)
        else:
            obs[entry.key] = random.standard_normal(shape).astype(np.float32)
    return obs


def make_episode(
    rows: int = 5,
    *,
    seed: int = 0,
    obs_spec: ObsSpec = OBS,
    action_spec: ActionSpec | None = None,
    end: str = "terminated",
    masked: bool = False,
    **changes: Any,
) -> Episode:
    """A random episode that is right in every respect, then changed."""
    action_spec = action_spec or ActionSpec.of(2)
    random = np.random.default_rng(seed)
    action = action_spec.sample(random, rows)
    action[-1] = 0
    reward = random.standard_normal(rows).astype(np.float32)
    safety = random.random(rows).astype(np.float32)
    reward[0] = safety[0] = 0
    fields: dict[str, Any] = {
        "obs": random_obs(obs_spec, rows, random),
        "action": action,
        "reward": reward,
        "safety": safety,
        "terminated": end == "terminated",
        "truncated": end == "truncated",
        "action_mask": np.ones(action.shape, bool) if masked else None,
    }
    return Episode(**(fields | changes))


def same(a: Episode, b: Episode) -> bool:
    """Whether two episodes are equal bit for bit."""

    def equal(x: Any, y: Any) -> bool:
        if x is None or y is None:
            return x is y
        return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()

    return (
        a.obs.keys() == b.obs.keys()
        and all(equal(a.obs[key], b.obs[key]) for key in a.obs)
        and all(equal(getattr(a, n), getattr(b, n)) for n in ("action", "reward", "safety"))
        and equal(a.action_mask, b.action_mask)
        and (a.terminated, a.truncated) == (b.terminated, b.truncated)
    )


def raw_batch(
    obs_spec: ObsSpec = OBS,
    action_spec: ActionSpec | None = None,
    *,
    shape: tuple[int, int] = (4, 6),
    seed: int = 0,
) -> dict[str, Any]:
    """A batch in numpy that is right in every respect, all keys given."""
    action_spec = action_spec or ActionSpec.of(2)
    random = np.random.default_rng(seed)
    count = shape[0] * shape[1]
    obs = random_obs(obs_spec, count, random)
    keyed = {key: value.reshape(*shape, *value.shape[1:]) for key, value in obs.items()}
    first = np.zeros(shape, bool)
    first[:, :1] = True
    return {
        "obs": keyed["obs"] if obs_spec.single else keyed,
        "action": action_spec.sample(random, count).reshape(*shape, action_spec.size),
        "reward": random.standard_normal(shape).astype(np.float32),
        "safety": random.random(shape).astype(np.float32),
        "terminated": np.zeros(shape, bool),
        "is_first": first,
        "valid": np.ones(shape, bool),
    }

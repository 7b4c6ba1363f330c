"""Settings of a world model: frozen, checked when made, saved as plain JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from typing import Any

from bb_wm.errors import ConfigError, VersionError
from bb_wm.model.cores import GRU, Core, Transformer
from bb_wm.model.objective import Objective, check_weight
from bb_wm.model.stochastic import Categorical, Gaussian, Stochastic, check_int

__all__ = [
    "GRU",
    "Budget",
    "Categorical",
    "Core",
    "Gaussian",
    "Objective",
    "Stochastic",
    "Transformer",
    "WorldModelConfig",
]

CONFIG_VERSION = 1


@dataclass(frozen=True, slots=True)
class Budget:
    """The document's section 5 as inclusive ranges; a wider one is a decision, not an accident."""

    horizon: tuple[int, int] = (5, 15)
    rows: tuple[int, int] = (256, 1024)
    latent: tuple[int, int] = (32, 128)
    classes: tuple[int, int] = (32, 64)

    def check(self, config: WorldModelConfig) -> None:
        """ConfigError when a setting leaves its range."""
        _within("horizon", config.horizon, self.horizon)
        _within("core.size", config.core.size, self.latent)
        if isinstance(config.latent, Gaussian):
            _within("latent.width", config.latent.width, self.latent)
        if isinstance(config.latent, Categorical):
            _within("latent.classes", config.latent.classes, self.classes)


def _within(name: str, value: int, bounds: tuple[int, int]) -> None:
    if not bounds[0] <= value <= bounds[1]:
        raise ConfigError(
            name,
            expected=f"within the budget {bounds[0]}..{bounds[1]}",
            actual=value,
            hint="WorldModelConfig(budget=None) lifts the budget on purpose.",
        )


@dataclass(frozen=True, slots=True)
class WorldModelConfig:
    """Everything that defines a model beside its spaces.

    `core` and `latent` are handed over as objects. `hidden` and `layers` size the perceptrons.
    `horizon` is the rollout's default; `max_horizon` the longest one that is not refused.
    The learning rate rises over `warmup` updates; after `anneal` of them it falls with the square
    root of the updates (0: never), so that no end need be known; `guess_rate` and `guess_anneal`
    are those of the net that says what a row alone says, whose rate falls with the updates.
    `average` is the decay of the averaged weights that beliefs and rollouts use (0 turns it off).
    `action_mask` learns which actions are available. `budget=None` lifts the section 5 ranges.
    """

    core: Core = field(default_factory=GRU)
    latent: Stochastic = field(default_factory=Gaussian)
    objective: Objective = field(default_factory=Objective)
    hidden: int = 128
    layers: int = 2
    head_hidden: int = 64
    features: int = 64
    horizon: int = 10
    max_horizon: int = 15
    learning_rate: float = 3e-3
    warmup: int = 100
    anneal: int = 1000
    guess_rate: float = 2e-2
    guess_anneal: int = 300
    weight_decay: float = 1e-4
    clip: float = 0.3
    average: float = 0.998
    fixed_scale: bool = False
    action_mask: bool = False
    seed: int = 0
    budget: Budget | None = field(default_factory=Budget)

    def __post_init__(self) -> None:
        _instance("core", self.core, Core, (GRU, Transformer))
        _instance("latent", self.latent, Stochastic, (Gaussian, Categorical))
        _instance("objective", self.objective, Objective, (Objective,))
        for name in ("hidden", "head_hidden", "features"):
            check_int(name, getattr(self, name), low=1, high=8192)
        check_int("layers", self.layers, low=1, high=16)
        check_int("horizon", self.horizon, low=1, high=10_000)
        check_int("max_horizon", self.max_horizon, low=self.horizon, high=10_000)
        for name in ("warmup", "anneal", "guess_anneal"):
            check_int(name, getattr(self, name), low=0, high=10**9)
        check_int("seed", self.seed, low=0, high=2**64 - 1)
        check_weight("learning_rate", self.learning_rate)
        check_weight("guess_rate", self.guess_rate)
        check_weight("weight_decay", self.weight_decay)
        check_weight("clip", self.clip)
        check_weight("average", self.average)
        if self.average >= 1.0:
            raise ConfigError("average", expected="in [0, 1)", actual=self.average)
        for name in ("fixed_scale", "action_mask"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(name, expected="True or False", actual=repr(getattr(self, name)))
        if self.budget is not None:
            _instance("budget", self.budget, Budget, (Budget,))
            self.budget.check(self)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `from_json` gives an equal configuration back."""
        return {"version": CONFIG_VERSION, **_encode_fields(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> WorldModelConfig:
        """From `to_json`. Classes are found by name among the known ones; nothing is imported."""
        if not isinstance(data, Mapping):
            raise ConfigError("config", expected="a JSON object", actual=type(data).__name__)
        if data.get("version") != CONFIG_VERSION:
            raise VersionError(
                "config.version",
                expected=CONFIG_VERSION,
                actual=data.get("version"),
                hint="install the bb_wm version that wrote it.",
            )
        values = {key: value for key, value in data.items() if key != "version"}
        decoded: WorldModelConfig = _decode(cls, values, "config")
        return decoded

    def override(self, **changes: Any) -> WorldModelConfig:
        """A copy with some settings changed; unknown names are refused with a suggestion."""
        _known_names("config", changes, type(self))
        return replace(self, **changes)


def _instance(name: str, value: object, kind: type, choices: tuple[type, ...]) -> None:
    if isinstance(value, kind):
        return
    names = ", ".join(f"{choice.__name__}(...)" for choice in choices)
    hint = ""
    if isinstance(value, str):
        match = get_close_matches(value.lower(), [c.__name__.lower() for c in choices], n=1)
        near = next((c.__name__ for c in choices if match and c.__name__.lower() == match[0]), "")
        hint = f"did you mean {near}()?" if near else ""
    if isinstance(value, type) and issubclass(value, kind):
        hint = f"pass an object: {value.__name__}()."
    raise ConfigError(name, expected=names, actual=repr(value), hint=hint)


def _known_names(where: str, values: Mapping[str, Any], cls: type) -> None:
    names = [f.name for f in fields(cls)]
    for key in values:
        if key not in names:
            near = get_close_matches(str(key), names, n=1)
            raise ConfigError(
                f"{where}.{key}",
                expected=f"one of {names}",
                actual="an unknown name",
                hint=f"did you mean {near[0]!r}?" if near else "",
            )


def _encode_fields(settings: Any) -> dict[str, Any]:
    return {f.name: _encode(getattr(settings, f.name)) for f in fields(settings)}


def _encode(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__, **_encode_fields(value)}
    if isinstance(value, tuple):
        return list(value)
    return value


def _kinds() -> dict[str, type]:
    """Every known settings class by name: ours and any subclass the caller has already defined."""
    found: dict[str, type] = {"Objective": Objective, "Budget": Budget}
    for base in (Core, Stochastic):
        for kind in base.__subclasses__():
            found[kind.__name__] = kind
    return found


def _decode(cls: type, values: Mapping[str, Any], where: str) -> Any:
    _known_names(where, values, cls)
    decoded: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{where}.{key}"
        if isinstance(value, Mapping):
            kinds = _kinds()
            kind = kinds.get(str(value.get("type")))
            if kind is None:
                raise ConfigError(
                    f"{name}.type", expected=f"one of {sorted(kinds)}", actual=value.get("type")
                )
            inner = {k: v for k, v in value.items() if k != "type"}
            decoded[key] = _decode(kind, inner, name)
        elif isinstance(value, list):
            decoded[key] = tuple(value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(name, expected="a finite number", actual=value)
        else:
            decoded[key] = value
    return cls(**decoded)

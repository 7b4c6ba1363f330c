"""Named starting points for `bb-wm train`; every flag still adjusts what the preset says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from bb_wm.config import GRU, Budget, Categorical, Gaussian, Transformer, WorldModelConfig
from bb_wm.errors import ConfigError
from bb_wm.learn.settings import TrainSettings
from bb_wm.model.objective import Objective

PresetName = Literal["default", "tiny", "transformer", "categorical", "plain"]


@dataclass(frozen=True, slots=True)
class Preset:
    """What to train and how long, and when to choose it."""

    about: str
    model: WorldModelConfig
    training: TrainSettings


_TINY = WorldModelConfig(
    core=GRU(size=32), latent=Gaussian(width=32), hidden=64, head_hidden=32, features=32
)

PRESETS: Final[dict[PresetName, Preset]] = {
    "default": Preset(
        "GRU and Gaussian latents, the library's defaults", WorldModelConfig(), TrainSettings()
    ),
    "tiny": Preset(
        "a small model on few rows: under a minute, to see that everything works",
        _TINY,
        TrainSettings(
            rows=3_000,
            heldout_rows=1_500,
            updates=300,
            batch_size=16,
            length=32,
            evaluate_every=100,
            checkpoint_every=100,
        ),
    ),
    "transformer": Preset(
        "a Transformer that attends to the past rows, Gaussian latents",
        WorldModelConfig(core=Transformer()),
        TrainSettings(),
    ),
    "categorical": Preset(
        "GRU and categorical latents: worlds with discrete facts",
        WorldModelConfig(latent=Categorical()),
        TrainSettings(),
    ),
    "plain": Preset(
        "the specification's own loss: no KL balance, free nats or shortcut",
        WorldModelConfig(objective=Objective.plain()),
        TrainSettings(),
    ),
}


def chosen_preset(words: Sequence[str]) -> Preset:
    """The preset that `words` name with --preset, before the other flags are read."""
    name = "default"
    for place, word in enumerate(words):
        if word == "--preset" and place + 1 < len(words):
            name = words[place + 1]
        elif word.startswith("--preset="):
            name = word.removeprefix("--preset=")
    if name not in PRESETS:
        raise ConfigError("--preset", expected=f"one of {', '.join(PRESETS)}", actual=repr(name))
    return PRESETS[name]


def without_budget(config: WorldModelConfig) -> WorldModelConfig:
    """The same model, free to leave the ranges of the specification's section 5."""
    return replace(config, budget=None)


def within_budget(config: WorldModelConfig) -> WorldModelConfig:
    """The same model, held to those ranges. Raises ConfigError where it leaves one."""
    try:
        return replace(config, budget=Budget())
    except ConfigError as error:
        raise ConfigError(
            f"--model.{error.field}",
            expected=error.expected,
            actual=error.actual,
            hint="--beyond-budget lets it be.",
        ) from error


def preset_table() -> str:
    """The presets, one a line."""
    return "\n".join(f"  {name:<13}{preset.about}" for name, preset in PRESETS.items())

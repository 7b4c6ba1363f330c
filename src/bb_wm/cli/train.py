"""`bb-wm train WORLD`: from a name to a judged model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Final

import tyro

from bb_wm.cli import runs
from bb_wm.cli.learning import learn
from bb_wm.cli.origins import Reading, find_origin
from bb_wm.cli.presets import PresetName, chosen_preset, preset_table, within_budget, without_budget
from bb_wm.cli.words import parse_words
from bb_wm.config import WorldModelConfig
from bb_wm.errors import ConfigError
from bb_wm.learn.settings import TrainSettings

EXAMPLES: Final = f"""
The run folder holds everything: rows, checkpoints, curves, the table and a page to open. Ctrl-C
saves and says how to go on. A second run of a world gets a folder of its own.

Presets (--preset NAME; every other flag adjusts it)
{preset_table()}

Examples
  bb-wm train Pendulum-v1
  bb-wm train Pendulum-v1 --preset tiny --seed 3
  bb-wm train Hopper-v5 --preset transformer --rows 50000 --updates 6000 --workers 2
  bb-wm train Acrobot-v1 --model.core.size 96 --model.objective.beta 0.5
  bb-wm train logs/line_four/            (episodes recorded earlier: npz, csv, parquet, Minari)
"""


@dataclass(frozen=True, slots=True)
class Arguments:
    """Collect rows from a world, learn its model, judge it on rows held out, and write a page."""

    world: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="WORLD")]
    """A name of `bb-wm worlds`, a Gymnasium id, "module:Env-v0", or a path to recorded episodes."""
    preset: PresetName = "default"
    """Where the settings start from; see above."""
    run: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: runs/WORLD)")] = ""
    """The run folder; left out, a new one: runs/WORLD, or runs/WORLD-2 where that is taken."""
    resume: bool = False
    """Go on with the run in --run, whose world and settings must be the same; see bb-wm resume."""
    device: str = "cpu"
    """Where the model lives: cpu, cuda, cuda:1, ..."""
    threads: int = 0
    """Processor threads of the model; 0 leaves it to PyTorch."""
    precision: runs.Precision = "highest"
    """PyTorch's precision of float32 products; medium is faster for wide models, less exact."""
    native: bool = False
    """Build C++ for what stands between products, and use it: faster; needs a C++ compiler."""
    workers: int = 1
    """Processes that collect rows; the rows are the same with any number."""
    beyond_budget: bool = False
    """Allow horizons outside 5..15 and sizes outside 32..128."""
    training: Annotated[TrainSettings, tyro.conf.arg(name="")] = field(
        default_factory=TrainSettings
    )
    model: WorldModelConfig = field(default_factory=WorldModelConfig)
    reading: Annotated[Reading, tyro.conf.arg(name="")] = field(default_factory=Reading)


def parse(words: Sequence[str]) -> Arguments:
    """The flags of `bb-wm train`, on top of the preset that they name."""
    preset = chosen_preset(words)
    default = Arguments(
        world=tyro.MISSING, training=preset.training, model=without_budget(preset.model)
    )
    arguments = parse_words(
        Arguments, words, command="bb-wm train", examples=EXAMPLES, default=default
    )
    model = arguments.model
    if not any(word.startswith("--model.seed") for word in words):
        model = replace(model, seed=arguments.training.seed)
    if not arguments.beyond_budget:
        model = within_budget(model)
    return replace(arguments, model=model)


def run(arguments: Arguments) -> int:
    """Train, judge, and say where to look."""
    from bb_wm.rssm import WorldModel

    runs.use_threads(arguments.threads)
    runs.use_precision(arguments.precision)
    runs.use_native(arguments.native)
    settings = arguments.training
    origin = find_origin(
        arguments.world,
        seed=settings.seed,
        workers=arguments.workers,
        reading=arguments.reading,
    )
    if arguments.resume and not arguments.run:
        raise ConfigError(
            "--resume",
            expected="--run FOLDER beside it",
            actual="no folder",
            hint=f"or: bb-wm resume runs/{origin.name}",
        )
    settled = replace(arguments.model, action_mask=arguments.model.action_mask or origin.masked)
    # Refused before a folder is made, where a setting is wrong.
    model = WorldModel(origin.obs_spec, origin.action_spec, settled, device=arguments.device)
    config = model.describe()
    folder = Path(arguments.run) if arguments.run else runs.free_folder(origin.name)
    if arguments.resume:
        here = runs.open_run(folder)
        runs.check_same(here, world=origin.record, config=config, settings=settings)
    else:
        here = runs.create_run(folder, world=origin.record, config=config, settings=settings)
    return learn(here, model, origin.source, settings)

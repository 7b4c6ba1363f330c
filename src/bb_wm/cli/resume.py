"""`bb-wm resume RUN`: on from the last checkpoint, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Final

import tyro

from bb_wm.cli import runs
from bb_wm.cli.learning import learn
from bb_wm.cli.origins import recall_origin
from bb_wm.cli.words import parse_words

EXAMPLES: Final = """
Interrupted, killed or finished, the run goes on as if it had never stopped: the same numbers as an
uninterrupted one. If the newest checkpoint is damaged, the one before it is used, and it says so.

Examples
  bb-wm resume runs/Pendulum-v1
  bb-wm resume runs/Pendulum-v1 --updates 6000       (longer than it was begun with)
"""


@dataclass(frozen=True, slots=True)
class Arguments:
    """Go on with a run exactly where it stopped, then judge it again."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder, such as runs/Pendulum-v1."""
    updates: int | None = None
    """Updates in all, to train longer than the run was begun with."""
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


def parse(words: Sequence[str]) -> Arguments:
    """The flags of `bb-wm resume`."""
    return parse_words(Arguments, words, command="bb-wm resume", examples=EXAMPLES)


def run(arguments: Arguments) -> int:
    """Train on and judge."""
    runs.use_threads(arguments.threads)
    runs.use_precision(arguments.precision)
    runs.use_native(arguments.native)
    here = runs.open_run(arguments.run)
    settings = here.settings
    if arguments.updates is not None:
        settings = replace(settings, updates=arguments.updates)
    origin = recall_origin(here.world, seed=settings.seed, workers=arguments.workers)
    model = here.build_model(device=arguments.device)
    return learn(here, model, origin.source, settings)

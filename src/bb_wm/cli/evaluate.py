"""`bb-wm evaluate RUN`: the held-out table and the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import tyro

from bb_wm.cli import runs
from bb_wm.cli.learning import judge
from bb_wm.cli.words import parse_words

EXAMPLES: Final = """
After 10 real rows the model imagines on alone with the real actions; its error 1, 5, 10 and 15
steps later stands beside persistence (nothing changes) and a linear model on the same windows.
NRMSE 0 is perfect, 1 is predicting the mean.

Examples
  bb-wm evaluate runs/Pendulum-v1
  bb-wm evaluate runs/Pendulum-v1 --checkpoint best --windows 1000
"""


@dataclass(frozen=True, slots=True)
class Arguments:
    """Judge a run on the episodes it never learnt from; write evaluation.json and page.html."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder, such as runs/Pendulum-v1."""
    checkpoint: runs.Which = "newest"
    """The newest, or the one with the smallest held-out error."""
    windows: int = 300
    """At most so many windows are cut from the held-out episodes."""
    device: str = "cpu"
    """Where the model lives: cpu, cuda, cuda:1, ..."""
    threads: int = 0
    """Processor threads of the model; 0 leaves it to PyTorch."""


def parse(words: Sequence[str]) -> Arguments:
    """The flags of `bb-wm evaluate`."""
    return parse_words(Arguments, words, command="bb-wm evaluate", examples=EXAMPLES)


def run(arguments: Arguments) -> int:
    """Judge and say where to look."""
    runs.use_threads(arguments.threads)
    runs.check_count("--windows", arguments.windows)
    here = runs.open_run(arguments.run)
    model = runs.load_model(here, arguments.checkpoint, device=arguments.device)
    return judge(here, model, windows=arguments.windows)

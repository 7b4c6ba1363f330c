"""`bb-wm rollout RUN`: real against imagined, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import tyro

from bb_wm import durable
from bb_wm.cli import runs
from bb_wm.cli.shell import near
from bb_wm.cli.words import parse_words
from bb_wm.errors import DataError

if TYPE_CHECKING:
    from bb_wm.diagnose import Traces

EXAMPLES: Final = """
In each picture the shaded part is what the model was shown; then it imagines on alone with the real
actions. The line of what really happened should stay inside the band of sampled imaginations.

Examples
  bb-wm rollout runs/Pendulum-v1
  bb-wm rollout runs/Pendulum-v1 --windows 6 --horizon 15 --seed 1 --out pictures/
"""


@dataclass(frozen=True, slots=True)
class Arguments:
    """Draw what a run's model imagines beside what really happened, on held-out episodes."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder, such as runs/Pendulum-v1."""
    windows: int = 3
    """How many pictures, from different places in the held-out episodes."""
    horizon: int = 15
    """Rows imagined in each."""
    context: int = 10
    """Real rows shown to the model first."""
    seed: int = 0
    """Which places, and which sampled imaginations."""
    checkpoint: runs.Which = "newest"
    """The newest, or the one with the smallest held-out error."""
    out: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: RUN/rollout)")] = ""
    """The folder for the pictures."""
    device: str = "cpu"
    """Where the model lives: cpu, cuda, cuda:1, ..."""
    threads: int = 0
    """Processor threads of the model; 0 leaves it to PyTorch."""


def parse(words: Sequence[str]) -> Arguments:
    """The flags of `bb-wm rollout`."""
    return parse_words(Arguments, words, command="bb-wm rollout", examples=EXAMPLES)


def run(arguments: Arguments) -> int:
    """Draw and say where the pictures are."""
    runs.use_threads(arguments.threads)
    for flag in ("windows", "horizon", "context"):
        runs.check_count(f"--{flag}", getattr(arguments, flag))
    from bb_wm.cli.report import outlook_of
    from bb_wm.diagnose import collect_traces
    from bb_wm.diagnose.plots import require_matplotlib

    require_matplotlib()
    here = runs.open_run(arguments.run)
    model = runs.load_model(here, arguments.checkpoint, device=arguments.device)
    episodes = runs.rows_of(here, model, heldout=True)
    if not episodes:
        raise DataError("held-out rows", expected="some", actual=f"none in {here.heldout}")
    traces = collect_traces(
        model,
        episodes,
        context=arguments.context,
        reach=arguments.horizon,
        windows=arguments.windows,
        seed=arguments.seed,
        outlook=outlook_of(here, model),
    )
    drawn = traces.low.shape[1]
    if drawn < arguments.horizon:
        print(
            f"Note: {drawn} rows are drawn of {arguments.horizon}: as far as the model and the "
            "episodes go."
        )
    folder = Path(arguments.out) if arguments.out else here.folder / "rollout"
    for line in _draw(traces, durable.make_directory(folder)):
        print(line)
    return 0


def _draw(traces: Traces, folder: Path) -> list[str]:
    """Write the pictures; a line for each."""
    from bb_wm.diagnose.plots import draw_pictures, draw_window, to_png

    lines = []
    for index, (episode, start) in enumerate(zip(traces.episode, traces.start, strict=True)):
        name = f"episode-{episode}-row-{start}"
        figures = {name: draw_window(traces, index)} if traces.labels else {}
        for number, key in enumerate(traces.pictures):
            figures[f"{name}-image-{number}"] = draw_pictures(traces, key, index)
        for stem, figure in figures.items():
            path = folder / f"{stem}.png"
            durable.write_file(path, to_png(figure))
            lines.append(
                f"{near(path)}  (episode {episode}, {traces.context} real rows from {start})"
            )
    return lines

"""What diagnosing costs beside training, at the cadence that `bb-wm train` has by itself.

    python -m benchmarks.diagnosing
    python -m benchmarks.diagnosing --worlds Pendulum-v1 --updates 1000

Each world is trained by the command itself, with its defaults. Counted is the processor time of the
updates and of all that is looked at while training: the held-out errors and the live smells, every
--evaluate-every updates. What is judged once at the end (report, trusted horizon, page) stands
beside them. The bar is 3 % while training.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from bb_wm.cli import learning
from bb_wm.cli import main as bb_wm_main
from bb_wm.learn.settings import TrainSettings
from bb_wm.rssm import WorldModel

BAR = 0.03


@dataclass(slots=True)
class Meter:
    """Processor seconds spent in one function, and how often it was called."""

    seconds: float = 0.0
    calls: int = 0

    def of(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, metered."""

        def metered(*args: Any, **named: Any) -> Any:
            began = time.process_time()
            try:
                return work(*args, **named)
            finally:
                self.seconds += time.process_time() - began
                self.calls += 1

        return metered


def measure(world: str, words: Sequence[str]) -> dict[str, Any]:
    """Train `world` by the command in a folder that is thrown away; seconds by part."""
    updates, errors, smells, end = Meter(), Meter(), Meter(), Meter()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "run"
        for owner, name, meter in (
            (WorldModel, "update", updates),
            (learning, "held_out_numbers", errors),
            (learning, "live_smells", smells),
            (learning, "judge", end),
        ):
            metered = meter.of(getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, metered))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        code = bb_wm_main(["train", world, "--run", str(folder), "--threads", "1", *words])
    if code:
        raise SystemExit(f"bb-wm train {world} ended with {code}")
    return {
        "world": world,
        "updates": updates.calls,
        "update_seconds": updates.seconds,
        "looks": errors.calls,
        "error_seconds": errors.seconds,
        "smell_seconds": smells.seconds,
        "share": (errors.seconds + smells.seconds) / updates.seconds,
        "end_seconds": end.seconds,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The measurements as Markdown."""
    lines = [
        "| world | updates | their seconds | looks | held-out errors, s | smells, s | "
        "diagnosing / updates | bar | once at the end, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['world']} | {row['updates']} | {row['update_seconds']:.1f} | {row['looks']} | "
            f"{row['error_seconds']:.2f} | {row['smell_seconds']:.2f} | {row['share']:.1%} | "
            f"{'met' if row['share'] <= BAR else 'missed'} ({BAR:.0%}) | "
            f"{row['end_seconds']:.1f} |"
        )
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print the table; 1 where the bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worlds", nargs="+", default=["Pendulum-v1", "Reacher-v5"])
    parser.add_argument("--updates", type=int, default=TrainSettings().updates)
    parser.add_argument("--rows", type=int, default=TrainSettings().rows)
    parser.add_argument("--json", default="", help="also write the measurements there")
    chosen = parser.parse_args(words)
    flags = ["--updates", str(chosen.updates), "--rows", str(chosen.rows)]
    rows = [measure(world, flags) for world in chosen.worlds]
    print(table(rows))
    if chosen.json:
        Path(chosen.json).write_text(json.dumps(rows, indent=2) + "\n")
    return int(any(row["share"] > BAR for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
